//! Which emulators there are: their versions, and those that are known not to work.

use std::collections::HashMap;
use std::io::{Read as _, Seek as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::SystemTime;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

use super::memfd;
use crate::error::Error;

/// Versions below the first one lack something that every guest of ours is started with. Virtual time asks for more
/// ([`super::virtual_time::check_qemu`]).
const TOO_OLD: [(u32, u32, &str); 1] = [(
    5,
    0,
    "its machines cannot have their memory from a file (memory-backend)",
)];

/// How long a program may take to say its version.
const PATIENCE: Timespec = Timespec {
    tv_sec: 5,
    tv_nsec: 0,
};
/// More than any version's text has.
const MAX_TEXT: u64 = 4096;

/// What was asked in this process: by the program's path, and when that file was changed.
static ASKED: LazyLock<Mutex<HashMap<(PathBuf, SystemTime), String>>> =
    LazyLock::new(Mutex::default);

/// What `program --version` says. A program that answered is asked once, until its file changes.
pub(super) fn ask(program: &Path) -> Option<String> {
    let Ok(changed) = program.metadata().and_then(|meta| meta.modified()) else {
        return run(program);
    };
    let key = (program.to_owned(), changed);
    let asked = || ASKED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = asked().get(&key) {
        return Some(known.clone());
    }
    let said = run(program)?;
    asked().insert(key, said.clone());
    Some(said)
}

/// What `program --version` says, if it says anything in time. It may be a wrapper that leaves processes behind: they are not waited
/// for, which reading from a pipe would do, and those of its group are ended.
fn run(program: &Path) -> Option<String> {
    let mut said = memfd("ktstr-qemu-version").ok()?;
    let mut child = Command::new(program)
        .arg("--version")
        .stdin(Stdio::null())
        .stdout(said.try_clone().ok()?)
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .ok()?;
    let pid = Pid::from_child(&child);
    if let Ok(ended) = pidfd_open(pid, PidfdFlags::empty()) {
        // Interrupted or not: it had its time.
        let _ = poll(&mut [PollFd::new(&ended, PollFlags::IN)], Some(&PATIENCE));
    }
    // Its number is its group's until it is reaped.
    let _ = kill_process_group(pid, Signal::KILL);
    child.wait().ok()?;
    let mut text = Vec::new();
    said.rewind().ok()?;
    said.take(MAX_TEXT).read_to_end(&mut text).ok()?;
    Some(version_of(&String::from_utf8_lossy(&text)).to_owned())
}

/// What an emulator says that its version is.
pub(crate) fn told_by(program: &Path) -> Option<String> {
    ask(program).filter(|said| said.starts_with(|first: char| first.is_ascii_digit()))
}

/// Every program of that name on `PATH`, in its order; the path itself where it is one.
pub(crate) fn on_path(program: &Path) -> Vec<PathBuf> {
    if program.components().count() > 1 {
        return vec![program.to_owned()];
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|dir| dir.join(program))
        .filter(|path| path.is_file())
        .collect()
}

/// `7.2.19` of "QEMU emulator version 7.2.19 (Debian …)".
pub(super) fn version_of(text: &str) -> &str {
    let line = text.lines().next().unwrap_or_default();
    line.split_once("version ")
        .and_then(|(_, rest)| rest.split(' ').next())
        .unwrap_or(line)
}

/// Why an emulator did not start, by its version where that is the reason. It is asked for only now, and costs no start anything.
pub(super) fn explain(program: &Path, status: String, stderr: String) -> Error {
    let version = ask(program).unwrap_or_default();
    match too_old(&version) {
        Some((needed, lacks)) => Error::OldQemu {
            program: program.to_owned(),
            version,
            needed,
            lacks,
            stderr,
        },
        None => Error::EarlyDeath { status, stderr },
    }
}

/// The first version that has what this one lacks, and what that is.
fn too_old(version: &str) -> Option<(String, &'static str)> {
    let mut numbers = version.split('.').map(str::parse);
    let found: (u32, u32) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
    TOO_OLD
        .iter()
        .find(|(major, minor, _)| found < (*major, *minor))
        .map(|(major, minor, lacks)| (format!("{major}.{minor}"), *lacks))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_found_in_what_is_said() {
        let debian = "QEMU emulator version 7.2.19 (Debian 1:7.2+dfsg-7)\nCopyright";
        assert_eq!(version_of(debian), "7.2.19");
        assert_eq!(version_of("QEMU emulator version 10.0.2"), "10.0.2");
    }

    #[test]
    fn versions_are_compared_as_numbers() {
        for version in ["4.2.1", "2.11.1", "3.1"] {
            let (needed, lacks) = too_old(version).unwrap();
            assert!(needed == "5.0" && lacks.contains("memory-backend"));
        }
        for version in ["5.0.0", "7.2.22", "10.0.2", "", "unknown", "4", "x.2"] {
            assert_eq!(too_old(version), None, "{version}");
        }
    }
}
