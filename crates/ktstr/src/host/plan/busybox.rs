//! A shell and its commands for guests, from the host's busybox.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use ktstr_initramfs::Builder;

/// Puts busybox and all of its commands into a guest's `/bin`.
///
/// # Errors
/// When the host has none, it cannot be run, or it has no shell.
pub(in crate::host) fn add_to(builder: &mut Builder) -> Result<()> {
    add_one(builder, &find()?)
}

fn add_one(builder: &mut Builder, busybox: &Path) -> Result<()> {
    let applets = applets(busybox)?;
    ensure!(
        applets.iter().any(|applet| applet == "sh"),
        "{} has no shell; install a whole one (Debian: apt-get install busybox-static)",
        busybox.display()
    );
    builder.binary("/bin/busybox", busybox)?;
    for applet in applets {
        builder.symlink(&format!("/bin/{applet}"), "busybox")?;
    }
    Ok(())
}

/// The host's busybox.
///
/// # Errors
/// When there is none.
pub(in crate::host) fn find() -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = [PathBuf::from("/bin"), PathBuf::from("/usr/bin")];
    find_in(std::env::split_paths(&path).chain(usual))
}

fn find_in(mut dirs: impl Iterator<Item = PathBuf>) -> Result<PathBuf> {
    let found = dirs.find_map(|dir| Some(dir.join("busybox")).filter(|path| path.is_file()));
    found.context(
        "there is no busybox on this host, whose shell the guest needs; install it (Debian: apt-get install busybox-static)",
    )
}

/// The commands that this busybox has. Its own name and anything that is no plain file name is left out.
fn applets(busybox: &Path) -> Result<Vec<String>> {
    let output = Command::new(busybox)
        .arg("--list")
        .output()
        .with_context(|| format!("failed to run {}", busybox.display()))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let plain = |name: &&str| !name.is_empty() && *name != "busybox" && !name.contains('/');
    Ok(text.lines().filter(plain).map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_without_one_is_told_the_package() {
        let error = find_in(std::iter::empty()).unwrap_err().to_string();
        assert!(error.contains("busybox-static"), "{error}");
    }

    #[test]
    fn one_without_a_shell_is_refused() {
        // It names one command, "--list". (A program that this process writes cannot always be run: a process that another thread
        // forks meanwhile has it open for writing.)
        let echo = Path::new("/bin/echo");
        assert_eq!(applets(echo).unwrap(), ["--list"]);
        let error = add_one(&mut Builder::new(), echo).unwrap_err().to_string();
        assert!(error.contains("has no shell"), "{error}");
    }
}
