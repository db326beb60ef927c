//! Files that a run leaves behind: where they go, and how they are written whole or not at all.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::SystemTime;

use crate::host::plan::config::HostConfig;
use crate::model::names::file_stem;

/// Suffixes of the files that one test may leave.
pub const ARTIFACT_SUFFIXES: [&str; 10] = [
    "json",
    "failure-dump.json",
    "repro.json",
    "timeline.json",
    "dmesg",
    "console",
    "output",
    "sched.log",
    "findings",
    "vmcore",
];

/// Where a test's artifact of that suffix lies: `<dir>/<test>.<suffix>`, with `__` for what parts the test's name.
#[must_use]
pub fn artifact_path(dir: &Path, test: &str, suffix: &str) -> PathBuf {
    dir.join(format!("{}.{suffix}", file_stem(test)))
}

/// Where a failing guest's memory goes, when it is wanted.
pub(in crate::host) fn vmcore_path(dir: &Path, test: &str) -> PathBuf {
    artifact_path(dir, test, "vmcore")
}

/// An artifact that could not be written or removed.
#[derive(Debug, thiserror::Error)]
#[error("failed to {action} {path}", path = path.display())]
pub struct ArtifactError {
    /// What was tried.
    pub action: &'static str,
    /// On which file.
    pub path: PathBuf,
    /// What the system said.
    #[source]
    pub source: io::Error,
}

/// The directory that holds one directory per run: `target/ktstr`.
///
/// The target directory is `CARGO_TARGET_DIR`, else the one that the running test binary lies in, else `./target`.
#[must_use]
pub fn runs_root(config: &HostConfig) -> PathBuf {
    let target = config
        .cargo_target_dir
        .clone()
        .or_else(|| target_of_exe(&std::env::current_exe().ok()?));
    target
        .unwrap_or_else(|| PathBuf::from("target"))
        .join("ktstr")
}

/// `…/target/debug/deps/test-hash` lies in `…/target`: cargo marks that directory with a `CACHEDIR.TAG`.
fn target_of_exe(exe: &Path) -> Option<PathBuf> {
    exe.ancestors()
        .skip(1)
        .find(|dir| dir.join("CACHEDIR.TAG").is_file())
        .map(Path::to_owned)
}

/// The run's directory: exactly `KTSTR_SIDECAR_DIR`, else `KTSTR_RUN_DIR`, else `<runs_root>/<run-id>`.
#[must_use]
pub fn sidecar_dir(config: &HostConfig, kernel_label: &str) -> PathBuf {
    if let Some(dir) = config.sidecar_dir.as_ref().or(config.run_dir.as_ref()) {
        return dir.clone();
    }
    let id = config
        .run_id
        .clone()
        .unwrap_or_else(|| format!("{kernel_label}-{}", commit_label()));
    runs_root(config).join(id)
}

/// The directory of one test's artifacts: the run's own, or a folder of the test binary's name in it when another binary's
/// test of the same name was there first. `KTSTR_SIDECAR_DIR` is taken as it is.
#[must_use]
pub fn test_dir(config: &HostConfig, run_dir: &Path, test: &str) -> PathBuf {
    let flat = run_dir.to_owned();
    if config.sidecar_dir.is_some() {
        return flat;
    }
    match claim(&run_dir.join(OWNERS), test, &config.binary) {
        Ok(owner) if owner == config.binary => flat,
        Ok(_) => run_dir.join(&config.binary),
        // A directory that takes no file will say so when the test's record is written.
        Err(_) => flat,
    }
}

/// Folder of a run's directory that tells, for each test's name, which test binary had it first.
const OWNERS: &str = ".owners";

/// Whose name `test` is: `binary`'s, unless another was first. Two processes that ask at once get one answer.
fn claim(owners: &Path, test: &str, binary: &str) -> io::Result<String> {
    fs::create_dir_all(owners)?;
    let path = owners.join(file_stem(test));
    if let Ok(owner) = fs::read_to_string(&path) {
        return Ok(owner);
    }
    let mut file = tempfile::NamedTempFile::new_in(owners)?;
    file.write_all(binary.as_bytes())?;
    match file.persist_noclobber(&path) {
        Ok(_) => Ok(binary.to_owned()),
        Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => {
            fs::read_to_string(&path)
        }
        Err(error) => Err(error.error),
    }
}

/// The run directory that was written to last.
#[must_use]
pub fn newest_run_dir(root: &Path) -> Option<PathBuf> {
    let modified = |entry: &fs::DirEntry| -> Option<SystemTime> {
        let meta = entry.metadata().ok()?;
        meta.is_dir().then(|| meta.modified().ok()).flatten()
    };
    fs::read_dir(root)
        .ok()?
        .filter_map(Result::ok)
        .filter_map(|entry| Some((modified(&entry)?, entry.path())))
        .max()
        .map(|(_, path)| path)
}

/// True when the working directory's git repository has uncommitted changes; `None` outside of one.
#[must_use]
pub fn repo_is_dirty() -> Option<bool> {
    Some(!git(&["status", "--porcelain", "--untracked-files=no"])?.is_empty())
}

fn commit_label() -> &'static str {
    static LABEL: OnceLock<String> = OnceLock::new();
    LABEL.get_or_init(|| {
        // One process for both questions: git takes 20 ms to start.
        let args = [
            "status",
            "--porcelain=v2",
            "--branch",
            "--untracked-files=no",
        ];
        git(&args)
            .and_then(|status| label_of(&status))
            .unwrap_or_else(|| String::from("nogit"))
    })
}

/// `<commit>` or `<commit>-dirty` from git-status(1)'s second porcelain format; `None` before the first commit.
fn label_of(status: &str) -> Option<String> {
    let commit = status
        .lines()
        .find_map(|line| line.strip_prefix("# branch.oid "))?;
    let commit = commit.get(..10).filter(|commit| *commit != "(initial)")?;
    let dirty = status.lines().any(|line| !line.starts_with('#'));
    Some(if dirty {
        format!("{commit}-dirty")
    } else {
        commit.to_owned()
    })
}

fn git(args: &[&str]) -> Option<String> {
    let output = Command::new("git").args(args).output().ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Writes `bytes` to `path` so that a reader sees the old file, the whole new one, or none.
///
/// # Errors
/// When the directory, the temporary file beside `path`, or the rename is refused.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<(), ArtifactError> {
    let fail = |action| {
        move |source| ArtifactError {
            action,
            path: path.to_owned(),
            source,
        }
    };
    let dir = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(dir).map_err(fail("create the directory of"))?;
    let mut file =
        tempfile::NamedTempFile::new_in(dir).map_err(fail("create a temporary file for"))?;
    file.write_all(bytes).map_err(fail("write"))?;
    file.as_file().sync_all().map_err(fail("sync"))?;
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    file.as_file()
        .set_permissions(mode)
        .map_err(fail("set the mode of"))?;
    file.persist(path)
        .map_err(|e| e.error)
        .map_err(fail("rename into place"))?;
    Ok(())
}

/// Removes what an earlier run of this test left, so that nothing stale is taken for this run's. What an earlier attempt of
/// the same run left is no such thing: it becomes `<test>.attempt-<n>.<suffix>`, for the failure of a flaky test is in it.
///
/// # Errors
/// When a file exists and cannot be removed or renamed.
pub fn clear_stale(dir: &Path, test: &str, attempt: u32) -> Result<(), ArtifactError> {
    for suffix in ARTIFACT_SUFFIXES {
        let path = artifact_path(dir, test, suffix);
        let (action, done) = if attempt > 1 {
            let kept = artifact_path(dir, test, &format!("attempt-{}.{suffix}", attempt - 1));
            ("set aside the earlier attempt's", fs::rename(&path, kept))
        } else {
            ("remove the stale", fs::remove_file(&path))
        };
        if let Some(source) = refused(done) {
            return Err(ArtifactError {
                action,
                path,
                source,
            });
        }
    }
    if attempt > 1 {
        return Ok(());
    }
    let begin = format!("{}.attempt-", file_stem(test));
    for path in files_that_begin(dir, &begin) {
        if let Some(source) = refused(fs::remove_file(&path)) {
            return Err(ArtifactError {
                action: "remove the stale",
                path,
                source,
            });
        }
    }
    Ok(())
}

/// A file that is not there needs nothing done.
fn refused(done: io::Result<()>) -> Option<io::Error> {
    done.err()
        .filter(|error| error.kind() != io::ErrorKind::NotFound)
}

fn files_that_begin(dir: &Path, begin: &str) -> Vec<PathBuf> {
    let names = fs::read_dir(dir).into_iter().flatten().flatten();
    names
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(begin))
        .map(|entry| entry.path())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_binary_with_a_tests_name_gets_a_folder_of_its_own() {
        let run = tempfile::tempdir().unwrap();
        let config = |binary: &str| HostConfig {
            binary: binary.to_owned(),
            ..HostConfig::from_lookup(|_| None).unwrap()
        };
        let dir = |binary: &str, test: &str| test_dir(&config(binary), run.path(), test);
        assert_eq!(dir("a.it", "same"), run.path());
        assert_eq!(dir("b.it", "same"), run.path().join("b.it"));
        assert_eq!(dir("a.it", "same"), run.path());
        assert_eq!(dir("b.it", "other"), run.path());
        let exact = HostConfig {
            sidecar_dir: Some(run.path().to_owned()),
            ..config("c.it")
        };
        assert_eq!(test_dir(&exact, run.path(), "same"), run.path());
    }

    #[test]
    fn a_commit_is_dirty_when_a_tracked_file_differs() {
        let clean = "# branch.oid 0123456789abcdef0123456789abcdef01234567\n# branch.head main\n";
        assert_eq!(label_of(clean).as_deref(), Some("0123456789"));
        let dirty = format!("{clean}1 .M N... 100644 100644 100644 a b file\n");
        assert_eq!(label_of(&dirty).as_deref(), Some("0123456789-dirty"));
        assert_eq!(
            label_of("# branch.oid (initial)\n# branch.head main\n"),
            None
        );
    }

    #[test]
    fn a_write_replaces_the_whole_file_and_leaves_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/er/t.json");
        write_atomic(&path, b"a long first version").unwrap();
        write_atomic(&path, b"second").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"second");
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn a_write_that_cannot_happen_names_the_file() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), b"").unwrap();
        let err = write_atomic(&dir.path().join("file/t.json"), b"x").unwrap_err();
        assert!(err.to_string().contains("file/t.json"), "{err}");
    }

    #[test]
    fn stale_files_of_this_test_only_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a.json", "a.failure-dump.json", "ab.json", "a.other"] {
            fs::write(dir.path().join(name), b"").unwrap();
        }
        fs::write(dir.path().join("a.attempt-1.json"), b"").unwrap();
        clear_stale(dir.path(), "a", 1).unwrap();
        let mut left: Vec<_> = fs::read_dir(dir.path())
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        left.sort();
        assert_eq!(left, ["a.other", "ab.json"]);
    }

    #[test]
    fn what_an_earlier_attempt_left_stays_beside_the_next_ones() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("m__a.json"), b"first").unwrap();
        fs::write(dir.path().join("m__a.failure-dump.json"), b"dump").unwrap();
        clear_stale(dir.path(), "m::a", 2).unwrap();
        assert!(!dir.path().join("m__a.json").exists());
        let kept = |name: &str| fs::read(dir.path().join(name)).unwrap();
        assert_eq!(kept("m__a.attempt-1.json"), b"first");
        assert_eq!(kept("m__a.attempt-1.failure-dump.json"), b"dump");
    }

    #[test]
    fn the_target_directory_is_found_by_its_tag() {
        let dir = tempfile::tempdir().unwrap();
        let deps = dir.path().join("debug/deps");
        fs::create_dir_all(&deps).unwrap();
        assert_eq!(target_of_exe(&deps.join("t")), None);
        fs::write(dir.path().join("CACHEDIR.TAG"), b"").unwrap();
        assert_eq!(target_of_exe(&deps.join("t")), Some(dir.path().to_owned()));
    }
}
