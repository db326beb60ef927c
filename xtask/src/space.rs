//! Room on the disk, before anything is built that would fill it.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use rustix::fs::statvfs;

const GIB: u64 = 1 << 30;

/// What all checks leave in the target directory: 14 GiB were measured, without incremental builds.
const OF_CHECKS: u64 = 15 * GIB;

/// Refuses to begin the checks where they cannot end.
pub(crate) fn for_checks(target: &Path) -> Result<()> {
    let free = free_beneath(target)?;
    let there = used_by(target);
    enough(target, free, OF_CHECKS.saturating_sub(there))
}

fn enough(dir: &Path, free: u64, need: u64) -> Result<()> {
    ensure!(
        free >= need,
        "{} has {} MiB of free space, and what the checks build there takes {} MiB more; free some, or let CARGO_TARGET_DIR name a \
         directory of another file system",
        dir.display(),
        free >> 20,
        need >> 20
    );
    Ok(())
}

/// Free space for this user where `dir` is, or will be.
fn free_beneath(dir: &Path) -> Result<u64> {
    let there = dir.ancestors().find(|dir| dir.is_dir());
    let there = there.with_context(|| format!("no directory above {}", dir.display()))?;
    let found =
        statvfs(there).with_context(|| format!("asking for the space at {}", there.display()))?;
    Ok(found.f_bavail.saturating_mul(found.f_frsize))
}

/// Bytes of the files beneath `dir`, without following links; what cannot be read counts as nothing.
fn used_by(dir: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return 0;
    };
    let sizes = entries.filter_map(Result::ok).map(|entry| {
        let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if is_dir {
            used_by(&entry.path())
        } else {
            entry.metadata().map_or(0, |found| found.len())
        }
    });
    sizes.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_little_space_is_told_with_both_sizes() {
        let dir = Path::new("/build/target");
        enough(dir, 5 * GIB, 5 * GIB).unwrap();
        let error = enough(dir, 3 << 20, 7 << 20).unwrap_err().to_string();
        for part in ["/build/target", "3 MiB", "7 MiB", "CARGO_TARGET_DIR"] {
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn what_is_built_already_is_not_needed_again() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("debug")).unwrap();
        std::fs::write(dir.path().join("debug/a"), [0; 1000]).unwrap();
        std::fs::write(dir.path().join("b"), [0; 24]).unwrap();
        assert_eq!(used_by(dir.path()), 1024);
        assert_eq!(used_by(&dir.path().join("absent")), 0);
        assert!(free_beneath(&dir.path().join("not/yet")).unwrap() > 0);
    }
}
