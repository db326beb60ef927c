//! A kernel out of a local .deb or .rpm.
//!
//! Only what is built in counts: a guest has no modules. Debian's cloud images have it (disks and network cards apart); what
//! keeps its console in a module is refused by name of the option. A kernel without sched_ext runs tests of the kernel's own
//! schedulers; the others say what it lacks.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use ktstr_kernel::{Cache, WorkDir, sanitize_kernel_label};
use sha2::{Digest as _, Sha256};

use super::packages_dir;
use super::resolved::Resolved;

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
    let packages = Cache::at(packages_dir(cache));
    let _lock =
        packages.lock_exclusive(&key, || eprintln!("  waiting for another user of {name} …"))?;
    let dir = packages.root().join(&key);
    if !dir.is_dir() {
        let work = WorkDir::new_in(packages.root(), ".extract-").with_context(|| {
            format!(
                "failed to create a directory in {}",
                packages.root().display()
            )
        })?;
        unpack(package, work.path())?;
        let files = collect(package, work.path())?;
        fs::rename(&files, &dir).with_context(|| format!("failed to publish {}", dir.display()))?;
    }
    Ok(Resolved::image(&dir.join("bzImage"), &key))
}

fn unpack(package: &Path, into: &Path) -> Result<()> {
    let is_deb = package
        .extension()
        .is_some_and(|extension| extension == "deb");
    let (mut from, mut to) = if is_deb {
        let mut from = Command::new("dpkg-deb");
        from.arg("--fsys-tarfile").arg(package);
        let mut to = Command::new("tar");
        to.args(["-x", "--wildcards", "--no-wildcards-match-slash", "-C"])
            .arg(into)
            .args(["./boot/vmlinuz*", "./boot/config*"])
            .args(["./usr/lib/modules/*/vmlinuz", "./usr/lib/modules/*/config"]);
        (from, to)
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

/// Puts image and configuration into one directory, after a look at the configuration.
fn collect(package: &Path, work: &Path) -> Result<PathBuf> {
    let mut files = Vec::new();
    find(work, &mut files);
    let named = |prefix: &str| {
        files.iter().find(|path| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with(prefix))
        })
    };
    let Some(image) = named("vmlinuz") else {
        bail!(
            "{} holds no kernel (no vmlinuz); is it the image package?",
            package.display()
        );
    };
    let Some(config) = named("config") else {
        bail!(
            "{} holds no configuration, so nobody can tell whether it boots a test",
            package.display()
        );
    };
    let text = fs::read_to_string(config)
        .with_context(|| format!("failed to read {}", config.display()))?;
    let lacking = lacking(&text);
    if !lacking.is_empty() {
        bail!(
            "{} cannot boot a test: {}; a guest has no modules, these must be built in. Build from source instead: \
             `cargo ktstr kernel build`",
            package.display(),
            lacking.join(", ")
        );
    }
    let out = work.join("ktstr-files");
    fs::create_dir(&out).with_context(|| format!("failed to create {}", out.display()))?;
    for (from, name) in [(image, "bzImage"), (config, "config")] {
        fs::copy(from, out.join(name))
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
