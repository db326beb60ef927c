//! Debian's own kernels, as its cloud images, which have the virtio console built in: a second one for tests that need two,
//! of the series that we build (its package is kept, too: `--kernel` takes one), and one of the newest series.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use ktstr::host::plan::config::cache_dir;

use crate::apt::Suite;
use crate::sh;

/// The newest series that the checks run on, beside that of `Source::debian`.
pub(crate) const NEWEST_SERIES: &str = "7.3";
/// Who has sources of newer series than the machine's own release.
pub(crate) const BACKPORTS: &str = "trixie-backports";

/// Fetches Debian's kernel of the newest series once, with its ELF and debug information; its image. The caller holds the
/// lock of set-up.
pub(crate) fn fetch_newest() -> Result<PathBuf> {
    let home = cache_dir().join("series");
    let dir = home.join(format!("debian-{NEWEST_SERIES}"));
    let image = dir.join("bzImage");
    if image.is_file() {
        return Ok(image);
    }
    fs::create_dir_all(&home).with_context(|| format!("failed to create {}", home.display()))?;
    let suite = Suite::update(BACKPORTS)?;
    let series = NEWEST_SERIES.replace('.', r"\.");
    let names = suite.names(&format!(r"^linux-binary-{series}\..*-cloud-amd64$"))?;
    let Some(binary) = names.into_iter().max_by_key(|name| numbers(name)) else {
        bail!(
            "Debian's {BACKPORTS} has no cloud image of Linux {NEWEST_SERIES} any more; change NEWEST_SERIES in xtask/src/stock_kernel.rs"
        )
    };
    let debug = format!("{}-dbg", binary.replacen("binary", "image", 1));
    let work = tempfile::tempdir_in(&home).context("failed to create a directory")?;
    let out = work.path().join("out");
    suite.unpack(&[&binary, &debug], &["./usr/lib/*vmlinu?"], &out)?;
    let half = work.path().join("half");
    fs::create_dir(&half).with_context(|| format!("failed to create {}", half.display()))?;
    for (from, to) in [("vmlinuz", "bzImage"), ("vmlinux", "vmlinux.debug")] {
        let found = file_below(&out, from)
            .with_context(|| format!("there is no {from} in {binary} and {debug}"))?;
        fs::rename(&found, half.join(to))
            .with_context(|| format!("failed to move {}", found.display()))?;
    }
    // What we read has BTF and symbols; DWARF is for those who open a vmcore.
    let mut strip = Command::new("objcopy");
    strip
        .arg("--strip-debug")
        .arg(half.join("vmlinux.debug"))
        .arg(half.join("vmlinux"));
    sh::logged("strip-debian-vmlinux", &mut strip)?;
    if dir.exists() {
        fs::remove_dir_all(&dir).with_context(|| format!("failed to remove {}", dir.display()))?;
    }
    fs::rename(&half, &dir)
        .with_context(|| format!("failed to move {} into place", dir.display()))?;
    ensure!(image.is_file(), "{} is missing", image.display());
    Ok(image)
}

/// A plain file of that name, links passed over.
fn file_below(dir: &Path, name: &str) -> Option<PathBuf> {
    for entry in fs::read_dir(dir).ok()?.filter_map(Result::ok) {
        let kind = entry.file_type().ok()?;
        if kind.is_file() && entry.file_name() == name {
            return Some(entry.path());
        }
        if kind.is_dir()
            && let Some(found) = file_below(&entry.path(), name)
        {
            return Some(found);
        }
    }
    None
}

/// Fetches it once, to where tests look for it; its image.
pub(crate) fn fetch() -> Result<PathBuf> {
    let home = sh::target().join("tools/stock-kernel");
    let package_home = sh::target().join("tools/stock-package");
    let is_deb = |name: &str| name.ends_with(".deb");
    if let (Some(image), Some(_)) = (image_in(&home), entry_that(&package_home, is_deb)) {
        return Ok(image);
    }
    fs::create_dir_all(&package_home)
        .with_context(|| format!("failed to create {}", package_home.display()))?;
    fs::create_dir_all(&home).with_context(|| format!("failed to create {}", home.display()))?;
    let work = tempfile::tempdir_in(&home).context("failed to create a directory")?;
    let package = newest_package()?;
    let mut download = Command::new("apt-get");
    download
        .args(["download", &package])
        .current_dir(work.path());
    sh::logged("stock-kernel-download", &mut download)?;
    let deb = entry_that(work.path(), is_deb)
        .with_context(|| format!("apt-get left no package {package}"))?;
    let mut unpack = Command::new("dpkg-deb");
    unpack.arg("-x").arg(&deb).arg(work.path().join("out"));
    sh::logged("stock-kernel-unpack", &mut unpack)?;
    let unpacked = image_in(&work.path().join("out/boot"))
        .with_context(|| format!("there is no boot/vmlinuz-* in {package}"))?;
    let image = home.join(unpacked.file_name().unwrap_or_default());
    fs::rename(&unpacked, &image)
        .with_context(|| format!("failed to move {} into place", image.display()))?;
    let kept = package_home.join(deb.file_name().unwrap_or_default());
    fs::rename(&deb, &kept)
        .with_context(|| format!("failed to move {} into place", kept.display()))?;
    Ok(image)
}

fn newest_package() -> Result<String> {
    const PATTERN: &str = r"^linux-image-6\.12\..*-cloud-amd64-unsigned$";
    let output = Command::new("apt-cache")
        .args(["search", "--names-only", PATTERN])
        .output()
        .context("failed to run apt-cache; a second kernel comes from Debian's archive")?;
    let found = String::from_utf8_lossy(&output.stdout).into_owned();
    let names = found.lines().filter_map(|line| line.split(' ').next());
    match names.max_by_key(|name| numbers(name)) {
        Some(name) => Ok(name.to_owned()),
        None => bail!(
            "apt knows no package {PATTERN}; run `apt-get update`, with backports among the sources of Debian 12"
        ),
    }
}

/// Every number in a name, so that 6.12.9 stands before 6.12.117.
fn numbers(name: &str) -> Vec<u64> {
    name.split(|c: char| !c.is_ascii_digit())
        .filter_map(|part| part.parse().ok())
        .collect()
}

fn image_in(dir: &Path) -> Option<PathBuf> {
    entry_that(dir, |name| name.starts_with("vmlinuz-"))
}

fn entry_that(dir: &Path, wanted: impl Fn(&str) -> bool) -> Option<PathBuf> {
    let entries = fs::read_dir(dir).ok()?.filter_map(Result::ok);
    let mut names = entries.filter(|entry| wanted(&entry.file_name().to_string_lossy()));
    names.next().map(|entry| entry.path())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_numbers() {
        let names = [
            "linux-image-6.12.9+deb12-cloud",
            "linux-image-6.12.117+deb12-cloud",
        ];
        assert_eq!(
            names.into_iter().max_by_key(|name| numbers(name)),
            Some(names[1])
        );
    }
}
