//! Which VMs run at once on this host.
//!
//! A VM that shares its CPUs with another measures the other one. So all ktstr processes of a host share one budget of CPUs
//! and memory, without a daemon: one directory of lock files, whose holders the kernel knows.
//!
//! ```text
//!   queue.lock                 held by the head of the queue until its VM is admitted
//!   head-<pid>-<n>-5c-640m.lock    the head's own file, renamed to
//!   vm-<pid>-<n>-5c-640m.lock      when it is admitted; locked for the VM's life
//! ```
//!
//! Only the head looks whether its VM fits, so a big VM cannot be overtaken by small ones for ever. A VM that is bigger than
//! the host asks for all of it and runs alone. A file without a lock belongs to a process that is gone: the kernel
//! frees the locks of a killed one, and the head removes what it left.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use ktstr_kernel::create_for_all;
use ktstr_vmm::Clock;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FlockOperation, flock, inotify};
use rustix::io::Errno;

use crate::host::plan::config::Variable;
use crate::model::entry::KtstrTestEntry;

/// A CPU beside the vCPUs: for the engine's other threads and our own.
const HOST_SIDE_CPUS: u32 = 1;
/// Memory beside the guest's: the engine's and our own.
const HOST_SIDE_MIB: u64 = 128;
/// How often the head looks even without a notification: a killed process's file is closed just before it is unlocked.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// The queue or the budget's files cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("failed to {action} {path}", path = path.display())]
pub struct AdmissionError {
    /// What was tried.
    pub action: &'static str,
    /// The file or directory.
    pub path: PathBuf,
    /// What the system said.
    #[source]
    pub source: io::Error,
}

/// CPUs and memory: what a VM needs, or what a host has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// CPUs.
    pub cpus: u32,
    /// Memory.
    pub mib: u64,
}

impl Share {
    /// What the VM of `entry` needs; `None` for a test without one. In virtual time all vCPUs share one thread, and the host
    /// works while the guest stands still.
    #[must_use]
    pub fn of_entry(entry: &KtstrTestEntry, clock: Clock) -> Option<Self> {
        let vcpus = entry.topology.total_cpus();
        let cpus = match clock {
            Clock::Host => entry
                .cpu_budget
                .unwrap_or(vcpus)
                .saturating_add(HOST_SIDE_CPUS),
            Clock::Virtual => 1,
        };
        (!entry.host_only).then(|| Self {
            cpus,
            mib: u64::from(entry.guest_memory_mib()).saturating_add(HOST_SIDE_MIB),
        })
    }

    /// What VMs may have of this host together: its CPUs and three quarters of its memory.
    #[must_use]
    pub fn of_host() -> Self {
        let cpus = thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let info = rustix::system::sysinfo();
        let bytes = info
            .totalram
            .saturating_mul(u64::from(info.mem_unit.max(1)));
        Self {
            cpus: u32::try_from(cpus).unwrap_or(u32::MAX),
            mib: bytes / 4 * 3 / (1 << 20),
        }
    }

    /// No more than `host` has: such a VM runs alone.
    fn at_most(self, host: Self) -> Self {
        Self {
            cpus: self.cpus.min(host.cpus),
            mib: self.mib.min(host.mib),
        }
    }

    fn plus(self, other: Self) -> Self {
        Self {
            cpus: self.cpus.saturating_add(other.cpus),
            mib: self.mib.saturating_add(other.mib),
        }
    }

    fn fits(self, host: Self) -> bool {
        self.cpus <= host.cpus && self.mib <= host.mib
    }
}

impl std::fmt::Display for Share {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} CPUs and {} MiB", self.cpus, self.mib)
    }
}

/// One VM may run while this lives.
#[derive(Debug)]
pub struct Admission {
    file: File,
    path: PathBuf,
}

impl Drop for Admission {
    fn drop(&mut self) {
        // Unlocked before it is removed: whom the removal wakes sees the budget as it is then.
        let _ = flock(&self.file, FlockOperation::Unlock);
        let _ = fs::remove_file(&self.path);
    }
}

/// Waits until the VM of `test` fits beside those that run. `say` is called with one line if it has to wait.
///
/// # Errors
/// When the lock files cannot be used.
pub fn admit(
    test: &str,
    need: Share,
    say: &mut dyn FnMut(&str),
) -> Result<Admission, AdmissionError> {
    admit_in(&admission_dir(), Share::of_host(), test, need, say)
}

/// Where the lock files lie: `KTSTR_LOCK_DIR`, else one place for all users of the host.
#[must_use]
pub fn admission_dir() -> PathBuf {
    Variable::LockDir
        .path()
        .unwrap_or_else(|| PathBuf::from("/tmp/ktstr-vms"))
}

fn fail<'p>(
    action: &'static str,
    path: &'p Path,
) -> impl FnOnce(io::Error) -> AdmissionError + use<'p> {
    move |source| AdmissionError {
        action,
        path: path.to_owned(),
        source,
    }
}

fn admit_in(
    dir: &Path,
    host: Share,
    test: &str,
    need: Share,
    say: &mut dyn FnMut(&str),
) -> Result<Admission, AdmissionError> {
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    make_dir(dir)?;
    let wanted = need.at_most(host);
    let mut told = false;
    let queue = enter_queue(dir, |ahead| {
        told = true;
        say(&format!("{test} waits for its turn behind {ahead}"));
    })?;
    let (tail, path, file) = loop {
        // Only uniqueness within this process matters; a killed one of its number may have left a file.
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let tail = format!(
            "{}-{number}-{}c-{}m.lock",
            std::process::id(),
            wanted.cpus,
            wanted.mib
        );
        let path = dir.join(format!("head-{tail}"));
        match create_locked(&path, test) {
            Ok(file) => break (tail, path, file),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(fail("create", &path)(error)),
        }
    };
    let mut admission = Admission {
        file,
        path: path.clone(),
    };
    let changes = watch(dir);
    loop {
        let running = running(dir)?;
        let used = running
            .iter()
            .fold(Share { cpus: 0, mib: 0 }, |sum, vm| sum.plus(vm.share));
        if used.plus(wanted).fits(host) {
            break;
        }
        if !std::mem::replace(&mut told, true) {
            let names: Vec<String> = running.iter().map(Vm::words).collect();
            say(&format!(
                "{test} waits for {wanted} of the host's {host}; there run: {}",
                names.join(", ")
            ));
        }
        await_change(changes.as_ref());
    }
    let admitted = dir.join(format!("vm-{tail}"));
    fs::rename(&path, &admitted).map_err(fail("rename", &path))?;
    admission.path = admitted;
    drop(queue);
    Ok(admission)
}

/// Waiting for a lock in the directory that another VM holds.
#[derive(Debug)]
pub(in crate::host) struct Pause {
    test: &'static str,
    changes: Option<OwnedFd>,
    told: bool,
}

impl Pause {
    /// For the VM of `test`.
    pub(in crate::host) fn new(test: &'static str) -> Self {
        Self {
            test,
            changes: watch(&admission_dir()),
            told: false,
        }
    }

    /// Returns when another VM has ended, or may have; `say` is called with one line the first time.
    pub(in crate::host) fn until_a_change(&mut self, why: &str, say: &mut dyn FnMut(&str)) {
        if !std::mem::replace(&mut self.told, true) {
            say(&format!(
                "{} waits for host CPUs of its own: {why}",
                self.test
            ));
        }
        await_change(self.changes.as_ref());
    }
}

/// Creates a file that says `test`, and that is locked before it has its name: who waits in the queue removes a head's file
/// without a lock, for a dead process's.
fn create_locked(path: &Path, test: &str) -> io::Result<File> {
    let mut new = tempfile::NamedTempFile::new_in(path.parent().unwrap_or(path))?;
    // Every user opens it to see whether it is locked, whatever the umask.
    new.as_file()
        .set_permissions(fs::Permissions::from_mode(0o644))?;
    // Only for people; what counts is in the name.
    let _ = new.write_all(test.as_bytes());
    flock(new.as_file(), FlockOperation::NonBlockingLockExclusive)?;
    new.persist_noclobber(path).map_err(|error| error.error)
}

/// For all users of the host, as `/tmp` is: only its owner may remove a file.
fn make_dir(dir: &Path) -> Result<(), AdmissionError> {
    if dir.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(dir).map_err(fail("create", dir))?;
    // Refused when another user was first; then it is right already.
    let _ = fs::set_permissions(dir, fs::Permissions::from_mode(0o1777));
    Ok(())
}

/// The head of the queue, as long as this lives.
#[derive(Debug)]
struct Head(File);

impl Drop for Head {
    fn drop(&mut self) {
        // A process that another thread forks meanwhile has the file open, too, and would stay the head with it.
        let _ = flock(&self.0, FlockOperation::Unlock);
    }
}

/// Takes the queue's lock, which makes this process the head; `on_wait` is told who is it now.
fn enter_queue(dir: &Path, on_wait: impl FnOnce(&str)) -> Result<Head, AdmissionError> {
    let path = dir.join("queue.lock");
    let queue = open_queue(&path).map_err(fail("open", &path))?;
    let queue = Head(queue);
    match flock(&queue.0, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => return Ok(queue),
        Err(Errno::WOULDBLOCK) => {}
        Err(errno) => return Err(fail("lock", &path)(errno.into())),
    }
    // Every process holds the queue for an instant; one that holds it longer has a file.
    let heads = files(dir, "head-").unwrap_or_default();
    if let Some(head) = heads.iter().find(|vm| vm.lives) {
        on_wait(&head.words());
    }
    loop {
        match flock(&queue.0, FlockOperation::LockExclusive) {
            Ok(()) => return Ok(queue),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(fail("lock", &path)(errno.into())),
        }
    }
}

/// A file that another user made must be opened without the wish to create it (proc(5): `protected_regular`), and one of ours
/// must be readable for others whatever our umask.
fn open_queue(path: &Path) -> io::Result<File> {
    match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        opened => return opened,
    }
    create_for_all(path)
}

/// What a lock file says.
#[derive(Debug)]
struct Vm {
    pid: String,
    test: String,
    share: Share,
    /// Another process has it locked.
    lives: bool,
}

impl Vm {
    fn words(&self) -> String {
        format!("{} (pid {}, {})", self.test, self.pid, self.share)
    }
}

/// Removes what killed processes left. Every VM that is admitted does so first; this is for a process that kills others and ends.
pub fn sweep() {
    // A directory that cannot be listed is told to whom wants to boot.
    let _ = running(&admission_dir());
}

/// The admitted VMs; files of dead processes are removed.
fn running(dir: &Path) -> Result<Vec<Vm>, AdmissionError> {
    files(dir, "head-").map_err(fail("list", dir))?;
    let mut found = files(dir, "vm-").map_err(fail("list", dir))?;
    found.retain(|vm| vm.lives);
    Ok(found)
}

fn files(dir: &Path, prefix: &str) -> io::Result<Vec<Vm>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let Some((pid, share)) = name.strip_prefix(prefix).and_then(parse) else {
            continue;
        };
        let path = entry.path();
        // Gone meanwhile: so is its VM.
        let Ok(file) = File::open(&path) else {
            continue;
        };
        let lives = flock(&file, FlockOperation::NonBlockingLockShared) == Err(Errno::WOULDBLOCK);
        if !lives {
            // Another user's stays, unlocked, and counts for nothing.
            let _ = fs::remove_file(&path);
        }
        let test = fs::read_to_string(&path).unwrap_or_default();
        found.push(Vm {
            pid,
            test,
            share,
            lives,
        });
    }
    Ok(found)
}

/// `<pid>-<n>-<cpus>c-<mib>m.lock`
fn parse(tail: &str) -> Option<(String, Share)> {
    let mut parts = tail.strip_suffix("m.lock")?.split('-');
    let (pid, _, cpus, mib) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let share = Share {
        cpus: cpus.strip_suffix('c')?.parse().ok()?,
        mib: mib.parse().ok()?,
    };
    Some((pid.to_owned(), share))
}

/// Tells of files that are closed or removed; without it the head looks from time to time.
fn watch(dir: &Path) -> Option<OwnedFd> {
    let events =
        inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK).ok()?;
    let flags = inotify::WatchFlags::CLOSE_WRITE | inotify::WatchFlags::DELETE;
    inotify::add_watch(&events, dir, flags).ok()?;
    Some(events)
}

fn await_change(events: Option<&OwnedFd>) {
    let limit = Timespec::try_from(LOOK_AGAIN).ok();
    let mut fds: Vec<PollFd<'_>> = events
        .iter()
        .map(|events| PollFd::new(*events, PollFlags::IN))
        .collect();
    let _ = poll(&mut fds, limit.as_ref());
    if let Some(events) = events {
        let mut buffer = [0; 4096];
        while rustix::io::read(events, &mut buffer).is_ok_and(|len| len > 0) {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};
    use std::sync::mpsc::{self, Receiver, Sender};

    const HOST: Share = Share {
        cpus: 4,
        mib: 1_000,
    };
    const LONG: Duration = Duration::from_secs(30);
    const SHORT: Duration = Duration::from_millis(300);

    fn need(cpus: u32, mib: u64) -> Share {
        Share { cpus, mib }
    }

    fn take(dir: &Path, need: Share) -> Admission {
        admit_in(dir, HOST, "held", need, &mut |line| panic!("waits: {line}")).unwrap()
    }

    /// Asks for a share in a thread of its own, which gives the admission away as soon as it has it.
    fn ask(dir: &Path, need: Share) -> (Receiver<String>, Receiver<Admission>) {
        let (says, lines): (Sender<String>, _) = mpsc::channel();
        let (gives, got) = mpsc::channel();
        let dir = dir.to_owned();
        thread::spawn(move || {
            let mut say = |line: &str| says.send(line.to_owned()).unwrap();
            let admission = admit_in(&dir, HOST, "asked", need, &mut say).unwrap();
            let _ = gives.send(admission);
        });
        (lines, got)
    }

    #[test]
    fn what_fits_runs_and_what_does_not_waits_and_says_for_what() {
        let dir = tempfile::tempdir().unwrap();
        let first = take(dir.path(), need(2, 100));
        let _second = take(dir.path(), need(1, 100));
        let (lines, got) = ask(dir.path(), need(2, 100));
        let line = lines.recv_timeout(LONG).unwrap();
        for needle in [
            "asked waits for 2 CPUs and 100 MiB",
            "4 CPUs and 1000 MiB",
            "held (pid",
        ] {
            assert!(line.contains(needle), "{line:?} lacks {needle:?}");
        }
        assert!(got.recv_timeout(SHORT).is_err());
        drop(first);
        got.recv_timeout(LONG).unwrap();
    }

    /// Who waits in the queue looks who is its head, and removes files without a lock.
    #[test]
    fn a_new_heads_file_is_never_taken_for_a_dead_ones() {
        let dir = tempfile::tempdir().unwrap();
        let is_over = std::sync::atomic::AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    files(dir.path(), "head-").unwrap();
                }
            });
            let taken: Vec<_> = (0..500)
                .map(|_| admit_in(dir.path(), HOST, "t", need(0, 0), &mut |_| ()))
                .collect();
            is_over.store(true, Ordering::Relaxed);
            for admission in taken {
                assert!(admission.unwrap().path.exists());
            }
        });
    }

    #[test]
    fn memory_counts_too() {
        let dir = tempfile::tempdir().unwrap();
        let first = take(dir.path(), need(1, 900));
        let (lines, got) = ask(dir.path(), need(1, 200));
        lines.recv_timeout(LONG).unwrap();
        drop(first);
        got.recv_timeout(LONG).unwrap();
    }

    #[test]
    fn a_vm_bigger_than_the_host_runs_alone_and_is_not_overtaken() {
        let dir = tempfile::tempdir().unwrap();
        let small = take(dir.path(), need(1, 1));
        let (big_lines, big) = ask(dir.path(), need(64, 1 << 20));
        big_lines.recv_timeout(LONG).unwrap();
        // There is room for it, but it came later.
        let (late_lines, late) = ask(dir.path(), need(1, 1));
        let line = late_lines.recv_timeout(LONG).unwrap();
        assert!(line.contains("behind asked (pid"), "{line}");
        assert!(late.recv_timeout(SHORT).is_err());
        drop(small);
        let big = big.recv_timeout(LONG).unwrap();
        assert!(late.recv_timeout(SHORT).is_err());
        drop(big);
        late.recv_timeout(LONG).unwrap();
        assert!(files(dir.path(), "vm-").unwrap().iter().all(|vm| !vm.lives));
    }

    #[test]
    fn a_killed_holders_share_is_free() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vm-1-0-4c-10m.lock");
        let head = dir.path().join("head-1-1-4c-10m.lock");
        fs::write(&path, "killed").unwrap();
        fs::write(&head, "killed").unwrap();
        // flock(1) holds the lock until it is killed, as a test's process would.
        let mut holder = Command::new("flock")
            .args(["--no-fork", "--exclusive"])
            .arg(&path)
            .args(["sh", "-c", "echo; exec cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut ready = [0];
        io::Read::read_exact(holder.stdout.as_mut().unwrap(), &mut ready).unwrap();
        let (lines, got) = ask(dir.path(), need(1, 1));
        assert!(lines.recv_timeout(LONG).unwrap().contains("killed (pid 1"));
        assert!(got.recv_timeout(SHORT).is_err());
        holder.kill().unwrap();
        holder.wait().unwrap();
        got.recv_timeout(LONG).unwrap();
        assert!(
            !path.exists() && !head.exists(),
            "what a dead process left is removed"
        );
    }

    #[test]
    fn names_are_read_back() {
        assert_eq!(
            parse("17-3-5c-640m.lock"),
            Some(("17".into(), need(5, 640)))
        );
        assert!(parse("queue.lock").is_none());
        assert!(parse("1-2-c-m.lock").is_none());
    }

    #[test]
    fn an_unusable_directory_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, b"").unwrap();
        let error = admit_in(&file.join("x"), HOST, "t", need(1, 1), &mut |_| ()).unwrap_err();
        assert!(error.to_string().contains("file"), "{error}");
    }

    /// Files of a user with a strict umask are readable for all users: these are the queue of the whole host.
    #[test]
    fn the_queue_is_everybodys_whatever_the_umask_of_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("vms");
        let taking = thread::scope(|scope| {
            let taken = scope.spawn(|| {
                // A mask of this thread's own: what other tests make meanwhile has the process's.
                // SAFETY: with FS alone no descriptor goes to another table; the thread ends with what it unshared.
                unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::FS) }
                    .unwrap();
                rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
                take(&place, need(1, 1))
            });
            taken.join()
        });
        let _admission = taking.unwrap();
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode(&place), 0o1777);
        let mut names = Vec::new();
        for entry in fs::read_dir(&place).unwrap().flatten() {
            names.push(entry.file_name());
            assert_eq!(mode(&entry.path()), 0o644, "{:?}", entry.file_name());
        }
        assert_eq!(names.len(), 2, "{names:?}");
    }
}
