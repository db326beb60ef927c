//! A newer QEMU than the system's, for the checks: Debian's package of another release, unpacked in the cache.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use ktstr::host::plan::config::cache_dir;

use crate::apt::Suite;
use crate::lab::quote;

/// Which one; the system's is 7.2 on Debian 12.
pub(crate) const SERIES: &str = "10.0";
/// Who has it, linked with the libraries of Debian 12.
const BACKPORTS: &str = "bookworm-backports";
const PACKAGES: [&str; 3] = ["qemu-system-x86", "qemu-system-common", "qemu-system-data"];

/// Fetches it once; a program to name in `KTSTR_QEMU`. The caller holds the lock of set-up.
pub(crate) fn fetch() -> Result<PathBuf> {
    let home = cache_dir().join("qemu");
    let program = home.join(SERIES).join("qemu-system-x86_64");
    if check(&program).is_ok() {
        return Ok(program);
    }
    fs::create_dir_all(&home).with_context(|| format!("failed to create {}", home.display()))?;
    let suite = Suite::update(BACKPORTS)?;
    let found = suite.version(PACKAGES[0])?;
    ensure!(
        found.contains(&format!("{SERIES}.")),
        "Debian's {BACKPORTS} has QEMU {found} instead of {SERIES}; change SERIES in xtask/src/qemu.rs once that one is proven"
    );
    let work = tempfile::tempdir_in(&home).context("failed to create a directory")?;
    let half = work.path().join("half");
    suite.unpack(&PACKAGES, &[], &half.join("root"))?;
    let whole = home.join(SERIES);
    write_wrapper(&half.join("qemu-system-x86_64"), &whole.join("root"))?;
    if whole.exists() {
        fs::remove_dir_all(&whole)
            .with_context(|| format!("failed to remove the damaged {}", whole.display()))?;
    }
    fs::rename(&half, &whole)
        .with_context(|| format!("failed to move {} into place", whole.display()))?;
    check(&program)?;
    Ok(program)
}

/// The program at the path that it will have. Its firmware lies beside it, but for SeaBIOS, which is the system's.
fn write_wrapper(path: &Path, root: &Path) -> Result<()> {
    let at = |name: &str| quote(&root.join(name).display().to_string());
    let script = format!(
        "#!/bin/sh\nexec {} -L {} -L /usr/share/seabios \"$@\"\n",
        at("usr/bin/qemu-system-x86_64"),
        at("usr/share/qemu")
    );
    fs::write(path, script).with_context(|| format!("failed to write {}", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
        .with_context(|| format!("failed to make {} a program", path.display()))
}

/// Whether it runs here and is of [`SERIES`].
fn check(program: &Path) -> Result<()> {
    let output = Command::new(program).arg("--version").output();
    let output = output.with_context(|| format!("failed to run {}", program.display()))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(
        output.status.success() && is_of_series(&text),
        "{} does not run as QEMU {SERIES}: {text}{}",
        program.display(),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

fn is_of_series(version: &str) -> bool {
    version.contains(&format!("version {SERIES}."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wrapper_adds_where_firmware_lies() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("it's root");
        fs::create_dir_all(root.join("usr/bin")).unwrap();
        std::os::unix::fs::symlink("/bin/echo", root.join("usr/bin/qemu-system-x86_64")).unwrap();
        let wrapper = dir.path().join("wrapper");
        write_wrapper(&wrapper, &root).unwrap();
        let output = Command::new("sh")
            .arg(&wrapper)
            .args(["-m", "a b"])
            .output();
        let said = String::from_utf8(output.unwrap().stdout).unwrap();
        let expected = format!(
            "-L {}/usr/share/qemu -L /usr/share/seabios -m a b\n",
            root.display()
        );
        assert_eq!(said, expected);
    }

    #[test]
    fn only_its_own_series_is_taken() {
        assert!(is_of_series(
            "QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)"
        ));
        assert!(!is_of_series(
            "QEMU emulator version 7.2.19 (Debian 1:7.2+dfsg-7)"
        ));
        assert!(!is_of_series("QEMU emulator version 10.01.2"));
    }
}
