//! A second kernel, for tests that need two: Debian's own of the series that we build, as its cloud image, which has the
//! virtio drivers built in. Its package is kept, too: `--kernel` takes one.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::sh;

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
