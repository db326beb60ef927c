//! A kernel out of a local .deb or .rpm, or out of the newest packages of a distribution.
//!
//! Only what is built in counts: a guest has no modules. Debian's cloud images have it (disks and network cards apart); what
//! keeps its console in a module is refused by name of the option. A kernel without sched_ext runs tests of the kernel's own
//! schedulers; the others say what it lacks.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use ktstr::host::plan::kernel::distro_mirrors;
use ktstr_kernel::{Cache, Distro, Package, WorkDir, sanitize_kernel_label};
use sha2::{Digest as _, Sha256};

use super::packages_dir;
use super::resolved::Resolved;
use crate::interrupt::Unwinding;
use crate::progress::Bar;

/// Without these built in, no guest of ours gets to its first line.
const NEEDED: [&str; 5] = [
    "CONFIG_BLK_DEV_INITRD",
    "CONFIG_DEVTMPFS",
    "CONFIG_SERIAL_8250_CONSOLE",
    "CONFIG_VIRTIO_CONSOLE",
    "CONFIG_VIRTIO_PCI",
];

/// Takes image and configuration out, once.
///
/// # Errors
/// When the package cannot be read, has no kernel, or has one that cannot boot a test.
pub(super) fn extract(package: &Path, cache: &Cache) -> Result<Resolved> {
    let name = package
        .file_stem()
        .map(|stem| stem.to_string_lossy().into_owned())
        .unwrap_or_default();
    let mut hash = Sha256::new();
    let mut file =
        File::open(package).with_context(|| format!("failed to open {}", package.display()))?;
    std::io::copy(&mut file, &mut hash)
        .with_context(|| format!("failed to read {}", package.display()))?;
    let digest = format!("{:x}", hash.finalize());
    let key = format!(
        "{}-{}",
        sanitize_kernel_label(&name),
        digest.get(..12).unwrap_or_default()
    );
    once(cache, &key, |work| {
        unpack(package, work)?;
        collect(&package.display().to_string(), work)
    })
}

/// The kernel kept under `key`; `fill` makes it in a directory of its own where there is none, and says which of that
/// directory's directories it is.
fn once(cache: &Cache, key: &str, fill: impl FnOnce(&Path) -> Result<PathBuf>) -> Result<Resolved> {
    let packages = Cache::at(packages_dir(cache));
    let _lock =
        packages.lock_exclusive(key, || eprintln!("  waiting for another user of {key} …"))?;
    let dir = packages.root().join(key);
    if !dir.is_dir() {
        let work = WorkDir::new_in(packages.root(), ".extract-").with_context(|| {
            format!(
                "failed to create a directory in {}",
                packages.root().display()
            )
        })?;
        let files = fill(work.path())?;
        fs::rename(&files, &dir).with_context(|| format!("failed to publish {}", dir.display()))?;
    }
    Ok(Resolved::image(&dir.join("bzImage"), key))
}

/// The newest kernel of a distribution: fetched once, then kept. Without its mirror, the newest that was kept.
///
/// # Errors
/// When there is none, or it cannot boot a test.
pub(super) fn newest_of(distro: Distro, cache: &Cache) -> Result<Resolved> {
    let _unwinding = Unwinding::begin();
    let mut bar = Bar::new();
    let base = distro.mirror(distro_mirrors().as_deref());
    let listed = distro.newest(&base, &mut bar);
    bar.finish();
    let packages = match listed {
        Ok(packages) => packages,
        Err(error) => {
            let Some(key) = newest_kept(distro, &packages_dir(cache)) else {
                return Err(error).with_context(|| {
                    format!("the newest kernel of {distro} is not known, and none was fetched before; KTSTR_DISTRO_MIRROR={distro}=URL names another mirror")
                });
            };
            eprintln!("cargo ktstr: {error}; taking {key}, which was fetched before");
            return once(cache, &key, |_| bail!("{key} is gone meanwhile"));
        }
    };
    let version = packages.first().map(|package| version_of(package.file()));
    let version = version.unwrap_or_default();
    let key = sanitize_kernel_label(&format!("{distro}-{version}"));
    once(cache, &key, |work| {
        let mut bar = Bar::new();
        let made = gather(distro, &base, &packages, work, &mut bar);
        bar.finish();
        made
    })
    .with_context(|| format!("no test runs on {distro}'s kernel {version}"))
}

/// Fetches and unpacks packages until image and configuration are there; modules are megabytes that a guest has no use for.
fn gather(
    distro: Distro,
    base: &str,
    packages: &[Package],
    work: &Path,
    bar: &mut Bar,
) -> Result<PathBuf> {
    let unpacked = work.join("unpacked");
    fs::create_dir(&unpacked)
        .with_context(|| format!("failed to create {}", unpacked.display()))?;
    for package in packages {
        let file = distro.fetch(base, package, &work.join("fetched"), bar)?;
        unpack(&file, &unpacked)?;
        if Found::in_dir(&unpacked).is_whole() {
            break;
        }
    }
    collect(&format!("{distro}'s package"), &unpacked)
}

/// `7.2.13+deb14-amd64` of `linux-base-7.2.13+deb14-amd64_7.2.13-1_amd64.deb`.
fn version_of(file: &str) -> &str {
    let start = file.find(|c: char| c.is_ascii_digit()).unwrap_or_default();
    let rest = file.get(start..).unwrap_or_default();
    let ends = ["_", ".x86_64.rpm", "-x86_64.pkg"];
    let end = ends.iter().filter_map(|end| rest.find(end)).min();
    rest.get(..end.unwrap_or(rest.len())).unwrap_or_default()
}

/// The one of a distribution that was fetched last.
fn newest_kept(distro: Distro, packages: &Path) -> Option<String> {
    let kept = fs::read_dir(packages).into_iter().flatten().flatten();
    let ours = kept.filter(|entry| {
        let name = entry.file_name();
        let rest = name
            .to_str()
            .and_then(|name| name.strip_prefix(distro.name()));
        rest.is_some_and(|rest| rest.starts_with('-')) && entry.path().join("bzImage").is_file()
    });
    let newest = ours.max_by_key(|entry| {
        entry
            .metadata()
            .and_then(|metadata| metadata.modified())
            .ok()
    })?;
    newest.file_name().into_string().ok()
}

/// Image and configuration, where any distribution has them.
const IN_TAR: [&str; 8] = [
    "./boot/vmlinuz*",
    "./boot/config*",
    "./usr/lib/modules/*/vmlinuz",
    "./usr/lib/modules/*/config",
    "./lib/modules/*/vmlinuz",
    "./lib/modules/*/config",
    "usr/lib/modules/*/vmlinuz",
    "usr/lib/modules/*/build/.config",
];

fn unpack(package: &Path, into: &Path) -> Result<()> {
    let ends = |end: &str| {
        package
            .extension()
            .is_some_and(|extension| extension == end)
    };
    let from_tar = |program: &str, flag: &str| {
        let mut from = Command::new(program);
        from.arg(flag).arg(package);
        let mut to = Command::new("tar");
        to.args(["-x", "--wildcards", "--no-wildcards-match-slash", "-C"])
            .arg(into)
            .args(IN_TAR);
        (from, to)
    };
    let (mut from, mut to) = if ends("deb") {
        from_tar("dpkg-deb", "--fsys-tarfile")
    } else if ends("zst") {
        from_tar("zstd", "-dcq")
    } else {
        let mut from = Command::new("rpm2cpio");
        from.arg(package);
        let mut to = Command::new("cpio");
        to.args(["-idm", "--quiet", "*vmlinuz*", "*config*"])
            .current_dir(into);
        (from, to)
    };
    let missing = |tool: &Command| {
        format!(
            "failed to run {}; install it",
            tool.get_program().to_string_lossy()
        )
    };
    let mut source = from
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| missing(&from))?;
    let stdin = source.stdout.take().map_or_else(Stdio::null, Stdio::from);
    // Its own complaint is that a pattern matched nothing; `collect` says that better.
    let unpacked = to.stdin(stdin).output().with_context(|| missing(&to));
    let read = source
        .wait_with_output()
        .context("failed to wait for the package reader")?;
    unpacked?;
    if !read.status.success() {
        bail!(
            "{} cannot be read: {}",
            package.display(),
            String::from_utf8_lossy(&read.stderr).trim()
        );
    }
    Ok(())
}

/// What was unpacked.
#[derive(Debug, Default)]
struct Found {
    image: Option<PathBuf>,
    config: Option<PathBuf>,
}

impl Found {
    fn in_dir(dir: &Path) -> Self {
        let mut files = Vec::new();
        find(dir, &mut files);
        let named = |prefix: &str| {
            let is = |path: &&PathBuf| {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                name.trim_start_matches('.').starts_with(prefix)
            };
            files.iter().find(is).cloned()
        };
        Self {
            image: named("vmlinuz"),
            config: named("config"),
        }
    }

    fn is_whole(&self) -> bool {
        self.image.is_some() && self.config.is_some()
    }
}

/// Puts image and configuration into one directory, after a look at the configuration.
fn collect(package: &str, work: &Path) -> Result<PathBuf> {
    let Found { image, config } = Found::in_dir(work);
    let Some(image) = image else {
        bail!("{package} holds no kernel (no vmlinuz); is it the image package?");
    };
    let Some(config) = config else {
        bail!(
            "{package} holds no configuration, so ktstr cannot check that it has what tests need"
        );
    };
    let text = fs::read_to_string(&config)
        .with_context(|| format!("failed to read {}", config.display()))?;
    let lacking = lacking(&text);
    if !lacking.is_empty() {
        bail!(
            "{package} cannot boot a test: {}; a guest has no modules, these must be built in. Build from source instead: \
             `cargo ktstr kernel build`",
            lacking.join(", ")
        );
    }
    let out = work.join("ktstr-files");
    fs::create_dir(&out).with_context(|| format!("failed to create {}", out.display()))?;
    for (from, name) in [(image, "bzImage"), (config, "config")] {
        fs::copy(&from, out.join(name))
            .with_context(|| format!("failed to copy {}", from.display()))?;
    }
    Ok(out)
}

fn find(dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir)
        .into_iter()
        .flatten()
        .filter_map(Result::ok)
    {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => find(&entry.path(), files),
            Ok(kind) if kind.is_file() => files.push(entry.path()),
            _ => {}
        }
    }
}

/// What is needed and not built in, with what was found.
fn lacking(config: &str) -> Vec<String> {
    let value = |option: &str| {
        config
            .lines()
            .find_map(|line| line.strip_prefix(option)?.strip_prefix('='))
            .unwrap_or("not set")
    };
    NEEDED
        .iter()
        .map(|option| (option, value(option)))
        .filter(|(_, value)| *value != "y")
        .map(|(option, value)| format!("{option} is {value}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_read_off_each_kind_of_file() {
        for (file, version) in [
            (
                "linux-base-7.2.13+deb14-amd64_7.2.13-1_amd64.deb",
                "7.2.13+deb14-amd64",
            ),
            (
                "kernel-core-6.18.0-0.rc10.53.fc44.x86_64.rpm",
                "6.18.0-0.rc10.53.fc44",
            ),
            ("linux-6.17.8.arch1-1-x86_64.pkg.tar.zst", "6.17.8.arch1-1"),
            ("odd", "odd"),
        ] {
            assert_eq!(version_of(file), version);
        }
    }

    #[test]
    fn without_a_mirror_the_last_kept_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(newest_kept(Distro::Debian, dir.path()), None);
        for name in ["debian-7.2", "debian-half", "debianish-1", "fedora-6.18"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        for whole in ["debian-7.2", "debianish-1", "fedora-6.18"] {
            fs::write(dir.path().join(whole).join("bzImage"), "").unwrap();
        }
        assert_eq!(
            newest_kept(Distro::Debian, dir.path()).as_deref(),
            Some("debian-7.2")
        );
        assert_eq!(newest_kept(Distro::Arch, dir.path()), None);
    }

    #[test]
    fn modules_do_not_count() {
        let all: String = NEEDED
            .iter()
            .map(|option| format!("{option}=y\n"))
            .collect();
        assert!(lacking(&all).is_empty());
        let modules = all.replace("CONFIG_VIRTIO_CONSOLE=y", "CONFIG_VIRTIO_CONSOLE=m");
        assert_eq!(lacking(&modules), ["CONFIG_VIRTIO_CONSOLE is m"]);
        assert_eq!(lacking("").len(), NEEDED.len());
    }
}
