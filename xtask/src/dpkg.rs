//! Waiting for whoever else installs packages: unattended upgrades, another administrator.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::fs::{FlockOperation, fcntl_lock, major, minor};

/// What apt-get and dpkg lock, in the order in which they do.
const LOCKS: [&str; 4] = [
    "/var/lib/dpkg/lock-frontend",
    "/var/lib/dpkg/lock",
    "/var/lib/apt/lists/lock",
    "/var/cache/apt/archives/lock",
];
/// How long others may take; a release's upgrade is not waited for.
const LONGEST: Duration = Duration::from_mins(10);

/// Returns once nobody else installs packages, and says for whom it waits.
///
/// # Errors
/// When it takes too long, with who it is.
pub(crate) fn wait_for_others() -> Result<()> {
    wait(&LOCKS.map(Path::new), LONGEST, |text| {
        eprintln!("  {text} …");
    })
}

fn wait(locks: &[&Path], longest: Duration, mut tell: impl FnMut(&str)) -> Result<()> {
    let until = Instant::now() + longest;
    for path in locks {
        // apt-get itself says why it cannot have one that we may not open.
        let Ok(file) = File::options().read(true).write(true).open(path) else {
            continue;
        };
        if fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
            continue;
        }
        let holder = holder_of(&file);
        tell(&format!(
            "waiting for {holder}, which holds {}",
            path.display()
        ));
        let (sender, freed) = mpsc::channel();
        let blocked = move || {
            let locked = fcntl_lock(&file, FlockOperation::LockExclusive);
            // Theirs who want it next, before anybody is told.
            drop(file);
            // Nobody listens past the deadline.
            let _ = sender.send(locked);
        };
        thread::Builder::new()
            .name(String::from("wait-for-lock"))
            .spawn(blocked)
            .context("failed to start a thread")?;
        match freed.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(locked) => {
                locked.with_context(|| format!("failed to wait for {}", path.display()))?;
            }
            Err(_) => bail!(
                "{holder} has held {} for {} s; let it end (or end it) and run this again",
                path.display(),
                longest.as_secs()
            ),
        }
    }
    Ok(())
}

/// In words: `unattended-upgr (pid 77)`.
fn holder_of(file: &File) -> String {
    let locks = fs::read_to_string("/proc/locks").unwrap_or_default();
    let pid = file.metadata().ok().and_then(|metadata| {
        let device = metadata.dev();
        pid_in(&locks, major(device), minor(device), metadata.ino())
    });
    let Some(pid) = pid else {
        return String::from("another process");
    };
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    match name.trim() {
        "" => format!("pid {pid}"),
        name => format!("{name} (pid {pid})"),
    }
}

/// Who holds a lock on that file, by `/proc/locks`; those that wait for it (`->`) are passed over, and so is who is in another
/// PID namespace (0).
fn pid_in(locks: &str, major: u32, minor: u32, inode: u64) -> Option<u32> {
    let file = format!("{major:02x}:{minor:02x}:{inode}");
    locks.lines().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            [_, "POSIX", _, _, pid, found, ..] if *found == file => {
                pid.parse().ok().filter(|pid| *pid > 0)
            }
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead as _, BufReader};
    use std::process::{Child, Command, Stdio};

    /// Another process that holds the lock until its input ends.
    fn holder(path: &Path) -> Child {
        let script = "import fcntl, sys\nf = open(sys.argv[1], 'w')\nfcntl.lockf(f, fcntl.LOCK_EX)\nprint('ready', flush=True)\nsys.stdin.read()";
        let mut child = Command::new("python3")
            .args(["-c", script])
            .arg(path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let output = child.stdout.as_mut().unwrap();
        BufReader::new(output).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        child
    }

    #[test]
    fn a_held_lock_is_waited_for_and_its_holder_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let (free, held) = (dir.path().join("free"), dir.path().join("held"));
        fs::write(&free, "").unwrap();
        let mut child = holder(&held);
        let mut input = child.stdin.take();
        let mut told = Vec::new();
        let locks = [&*dir.path().join("none"), &*free, &*held];
        wait(&locks, Duration::from_secs(60), |text| {
            told.push(text.to_owned());
            // It goes only now that it is waited for.
            drop(input.take());
        })
        .unwrap();
        child.wait().unwrap();
        let expected = format!(
            "waiting for python3 (pid {}), which holds {}",
            child.id(),
            held.display()
        );
        assert_eq!(told, [expected]);
    }

    #[test]
    fn one_that_stays_held_ends_at_the_deadline() {
        let dir = tempfile::tempdir().unwrap();
        let held = dir.path().join("held");
        let mut child = holder(&held);
        let error = wait(&[&*held], Duration::ZERO, |_| {})
            .unwrap_err()
            .to_string();
        drop(child.stdin.take());
        child.wait().unwrap();
        let holder = format!("python3 (pid {}) has held ", child.id());
        assert!(error.starts_with(&holder), "{error}");
    }

    #[test]
    fn holders_are_found_in_the_kernels_list() {
        let locks = "1: FLOCK  ADVISORY  WRITE 5 fe:00:131075 0 EOF\n\
                     2: POSIX  ADVISORY  WRITE 0 fe:00:131075 0 EOF\n\
                     3: POSIX  ADVISORY  WRITE 77 fe:00:131075 0 EOF\n\
                     3: -> POSIX  ADVISORY  WRITE 78 fe:00:131075 0 EOF\n\
                     4: POSIX  ADVISORY  WRITE 79 08:01:9 0 EOF\nnonsense\n";
        assert_eq!(pid_in(locks, 0xfe, 0, 131_075), Some(77));
        assert_eq!(pid_in(locks, 8, 1, 9), Some(79));
        assert_eq!(pid_in(locks, 8, 1, 10), None);
    }
}
