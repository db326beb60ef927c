//! The manager: paths, control files, placement, removal.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::CgroupError;
use crate::model::cpuset::CpuSet;
use crate::model::report::Throttled;
use crate::model::scenario::CpuLimits;

/// How long a removal waits for the last task to leave.
const LEAVE_TIME: Duration = Duration::from_secs(1);
/// How long the tasks of a cgroup have to reach the freezer.
const FREEZE_TIME: Duration = Duration::from_secs(5);
/// How long a busy cgroup is given between two attempts.
const BUSY_PAUSE: Duration = Duration::from_millis(100);
/// Attempts on a busy cgroup.
const BUSY_ATTEMPTS: u32 = 3;
/// Controllers that a workload uses.
const CONTROLLERS: [&str; 2] = ["+cpuset", "+cpu"];

/// Whether the kernel makes the control files, or (in tests) the manager has to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Files {
    Kernel,
    #[cfg(test)]
    Plain,
}

/// All cgroups of one workload.
#[derive(Debug)]
pub struct CgroupManager {
    root: PathBuf,
    made_root: bool,
    /// In the order made: a parent always before its children.
    made: Vec<String>,
    /// Of those, the ones that were there before: not ours, never removed.
    found: BTreeSet<String>,
    /// Those that hold threads, not processes.
    threaded: BTreeSet<String>,
    files: Files,
}

impl CgroupManager {
    /// A manager under `root`, which is made if missing; controllers are enabled from the mount down to it.
    ///
    /// # Errors
    /// When `root` cannot be made, for example because no cgroup2 is mounted there.
    pub fn new(root: &Path) -> Result<Self, CgroupError> {
        let made_root = !root.is_dir();
        let manager = Self {
            root: root.to_owned(),
            made_root,
            made: Vec::new(),
            found: BTreeSet::new(),
            threaded: BTreeSet::new(),
            files: Files::Kernel,
        };
        fs::create_dir_all(root).map_err(|source| CgroupError::Create {
            path: root.to_owned(),
            source,
        })?;
        let mut above: Vec<&Path> = root.ancestors().collect();
        above.reverse();
        for dir in above {
            manager.enable_controllers(dir);
        }
        Ok(manager)
    }

    /// A manager over a plain directory, whose control files are plain files.
    #[cfg(test)]
    pub(in crate::guest) fn plain(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            made_root: false,
            made: Vec::new(),
            found: BTreeSet::new(),
            threaded: BTreeSet::new(),
            files: Files::Plain,
        }
    }

    /// Best effort: a controller that is missing shows when a file of it is written, with a better message.
    fn enable_controllers(&self, dir: &Path) {
        let file = dir.join("cgroup.subtree_control");
        if self.files == Files::Kernel && !file.exists() {
            return;
        }
        for controller in CONTROLLERS {
            let _ = self.write_file(&file, controller);
        }
    }

    /// Names of the cgroups that exist, in the order made.
    pub fn names(&self) -> &[String] {
        &self.made
    }

    /// Whether there is a cgroup of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.made.iter().any(|made| made == name)
    }

    /// Directory of a cgroup.
    ///
    /// # Errors
    /// When there is no such cgroup.
    pub fn path(&self, name: &str) -> Result<PathBuf, CgroupError> {
        if self.contains(name) {
            return Ok(self.root.join(name));
        }
        Err(CgroupError::Unknown {
            name: name.to_owned(),
            known: self.made.clone(),
        })
    }

    /// Makes a cgroup and those above it; one that is there already is fine.
    ///
    /// # Errors
    /// When the name is bad or the kernel refuses.
    pub fn add(&mut self, name: &str) -> Result<(), CgroupError> {
        check_name(name)?;
        let ends = name.match_indices('/').map(|(at, _)| at);
        for end in ends.chain([name.len()]) {
            self.add_one(&name[..end])?;
        }
        Ok(())
    }

    fn add_one(&mut self, name: &str) -> Result<(), CgroupError> {
        if self.contains(name) {
            return Ok(());
        }
        if let Some((parent, _)) = name.rsplit_once('/') {
            self.enable_controllers(&self.root.join(parent));
        }
        let path = self.root.join(name);
        match fs::create_dir(&path) {
            Err(source) if source.kind() != io::ErrorKind::AlreadyExists => {
                return Err(CgroupError::Create { path, source });
            }
            Err(_) => {
                self.found.insert(name.to_owned());
            }
            Ok(()) => {}
        }
        self.made.push(name.to_owned());
        #[cfg(test)]
        if self.files == Files::Plain {
            let mut options = fs::OpenOptions::new();
            let _ = options
                .create(true)
                .append(true)
                .open(path.join("cgroup.procs"));
        }
        Ok(())
    }

    /// Limits a cgroup to these CPUs.
    ///
    /// # Errors
    /// When there is no such cgroup or the kernel refuses.
    pub fn set_cpuset(&self, name: &str, cpus: &CpuSet) -> Result<(), CgroupError> {
        self.write(name, "cpuset.cpus", &cpus.to_string())
    }

    /// Lifts a cgroup's limit to certain CPUs.
    ///
    /// The kernel does not empty the list of a cgroup with tasks (ENOSPC; `kernel/cgroup/cpuset.c: validate_change`): such
    /// a one gets all CPUs of its parent.
    ///
    /// # Errors
    /// When there is no such cgroup or the kernel refuses.
    pub fn clear_cpuset(&self, name: &str) -> Result<(), CgroupError> {
        match self.write(name, "cpuset.cpus", "\n") {
            Err(CgroupError::Write { source, .. })
                if source.raw_os_error() == Some(libc::ENOSPC) =>
            {
                self.write(name, "cpuset.cpus", &self.parents_cpus(name)?)
            }
            other => other,
        }
    }

    /// CPUs that the kernel allows in a cgroup now; `None` where it does not say.
    #[must_use]
    pub fn effective_cpus(&self, name: &str) -> Option<CpuSet> {
        let file = self.path(name).ok()?.join("cpuset.cpus.effective");
        let cpus: CpuSet = fs::read_to_string(file).ok()?.trim().parse().ok()?;
        (!cpus.is_empty()).then_some(cpus)
    }

    /// What the limits of a cgroup and of those above it have kept back since they were made (kernel: `cpu_cfs_stat_show`).
    #[must_use]
    pub fn throttled(&self, name: &str) -> Throttled {
        let ends = name.match_indices('/').map(|(at, _)| at);
        let mut sum = Throttled::default();
        for end in ends.chain([name.len()]) {
            let file = self.root.join(&name[..end]).join("cpu.stat");
            let text = fs::read_to_string(file).unwrap_or_default();
            let value = |key: &str| {
                let line = text.lines().find_map(|line| line.strip_prefix(key));
                line.and_then(|value| value.trim().parse().ok())
                    .unwrap_or(0)
            };
            sum.periods += value("nr_throttled ");
            sum.time_us += value("throttled_usec ");
        }
        sum
    }

    fn parents_cpus(&self, name: &str) -> Result<String, CgroupError> {
        let parent = name.rsplit_once('/').map_or("", |(parent, _)| parent);
        let file = self.root.join(parent).join("cpuset.cpus.effective");
        let text =
            fs::read_to_string(&file).map_err(|source| CgroupError::Read { file, source })?;
        Ok(text.trim().to_owned())
    }

    /// Limits a cgroup to these memory nodes.
    ///
    /// # Errors
    /// When there is no such cgroup or the kernel refuses.
    pub fn set_mems(&self, name: &str, mems: &str) -> Result<(), CgroupError> {
        self.write(name, "cpuset.mems", mems)
    }

    /// Sets `cpu.weight`.
    ///
    /// # Errors
    /// When there is no such cgroup or the kernel refuses.
    pub fn set_weight(&self, name: &str, weight: u32) -> Result<(), CgroupError> {
        self.write(name, "cpu.weight", &weight.to_string())
    }

    /// Sets `cpu.max`.
    ///
    /// # Errors
    /// When there is no such cgroup or the kernel refuses.
    pub fn set_max(&self, name: &str, limits: CpuLimits) -> Result<(), CgroupError> {
        let quota = limits
            .max_quota_us
            .map_or_else(|| "max".to_owned(), |us| us.to_string());
        let value = format!("{quota} {}", limits.max_period_us);
        self.write(name, "cpu.max", &value)
    }

    /// Sets a limit that is one number in a file of its own; `None` lifts it.
    ///
    /// # Errors
    /// When there is no such cgroup or the kernel refuses.
    pub fn set_limit(&self, name: &str, file: &str, limit: Option<u64>) -> Result<(), CgroupError> {
        let value = limit.map_or_else(|| "max".to_owned(), |limit| limit.to_string());
        self.write(name, file, &value)
    }

    /// Enables one more controller for a cgroup: from the mount down to its parent. Best effort, as with those of every cgroup.
    pub fn enable_for(&self, name: &str, controller: &str) {
        let dir = self.root.join(name);
        let mut above: Vec<&Path> = dir.ancestors().skip(1).collect();
        above.reverse();
        for dir in above {
            let file = dir.join("cgroup.subtree_control");
            if file.exists() {
                let _ = self.write_file(&file, &format!("+{controller}"));
            }
        }
    }

    /// Freezes a cgroup or thaws it, and waits until the kernel says that it is so.
    ///
    /// # Errors
    /// When there is no such cgroup, the kernel refuses, or a task cannot be frozen in time.
    pub fn set_frozen(&self, name: &str, frozen: bool) -> Result<(), CgroupError> {
        self.write(name, "cgroup.freeze", if frozen { "1" } else { "0" })?;
        // Below a frozen one a thawed cgroup stays frozen: only the freeze is waited for.
        if frozen && self.files == Files::Kernel {
            await_frozen(self.path(name)?)?;
        }
        Ok(())
    }

    /// Makes a cgroup hold threads; their process stays in the nearest cgroup above that does not.
    ///
    /// # Errors
    /// When there is no such cgroup, it has no parent here, or the kernel refuses.
    pub fn set_threaded(&mut self, name: &str) -> Result<(), CgroupError> {
        if !name.contains('/') {
            return Err(CgroupError::NoDomain {
                name: name.to_owned(),
            });
        }
        if !self.threaded.contains(name) {
            self.write(name, "cgroup.type", "threaded")?;
            self.threaded.insert(name.to_owned());
        }
        Ok(())
    }

    /// The cgroup that holds the processes whose threads are in `name`: itself unless it is threaded.
    pub fn domain_of<'n>(&self, name: &'n str) -> &'n str {
        let mut name = name;
        while let (true, Some((parent, _))) = (self.threaded.contains(name), name.rsplit_once('/'))
        {
            name = parent;
        }
        name
    }

    /// Whether a cgroup holds threads.
    pub fn is_threaded(&self, name: &str) -> bool {
        self.threaded.contains(name)
    }

    /// Moves a process into a cgroup; into a threaded one, a single thread.
    ///
    /// # Errors
    /// When there is no such cgroup or the kernel refuses.
    pub fn place(&self, name: &str, id: i32) -> Result<(), CgroupError> {
        self.write(name, self.members_file(name), &id.to_string())
    }

    /// The file through which a process joins a cgroup by writing `0`, open for that.
    ///
    /// # Errors
    /// When there is no such cgroup or it cannot be opened.
    pub fn open_members(&self, name: &str) -> Result<fs::File, CgroupError> {
        let file = self.path(name)?.join(self.members_file(name));
        fs::File::options()
            .write(true)
            .open(&file)
            .map_err(|source| CgroupError::Write {
                file,
                value: "0".to_owned(),
                source,
            })
    }

    fn members_file(&self, name: &str) -> &'static str {
        if self.threaded.contains(name) {
            "cgroup.threads"
        } else {
            "cgroup.procs"
        }
    }

    /// Processes in a cgroup; of a threaded one, threads.
    ///
    /// # Errors
    /// When there is no such cgroup or its list cannot be read.
    pub fn procs(&self, name: &str) -> Result<Vec<i32>, CgroupError> {
        let file = self.path(name)?.join(self.members_file(name));
        read_ids(file)
    }

    /// All threads in a cgroup.
    ///
    /// # Errors
    /// As [`procs`](Self::procs).
    pub fn threads(&self, name: &str) -> Result<Vec<i32>, CgroupError> {
        if self.files != Files::Kernel {
            return self.procs(name);
        }
        read_ids(self.path(name)?.join("cgroup.threads"))
    }

    /// Moves all processes from one cgroup to another; the processes moved.
    ///
    /// # Errors
    /// When one of them is missing or the kernel refuses a process that still lives.
    pub fn move_all(&self, from: &str, to: &str) -> Result<Vec<i32>, CgroupError> {
        self.path(to)?;
        let pids = self.procs(from)?;
        for pid in &pids {
            match self.place(to, *pid) {
                // It ended between the list and the move.
                Err(CgroupError::Write { source, .. })
                    if source.raw_os_error() == Some(libc::ESRCH) => {}
                other => other?,
            }
        }
        Ok(pids)
    }

    /// Removes a cgroup and those below it, after waiting a little for their tasks to leave. One that is not there is fine.
    ///
    /// # Errors
    /// When the kernel refuses, mostly because tasks are still in it.
    pub fn remove(&mut self, name: &str) -> Result<(), CgroupError> {
        let below = format!("{name}/");
        let doomed: Vec<String> = self
            .made
            .iter()
            .filter(|made| *made == name || made.starts_with(&below))
            .rev()
            .cloned()
            .collect();
        for name in doomed {
            self.remove_one(&name)?;
        }
        Ok(())
    }

    fn remove_one(&mut self, name: &str) -> Result<(), CgroupError> {
        if self.found.remove(name) {
            self.made.retain(|made| made != name);
            self.threaded.remove(name);
            return Ok(());
        }
        let path = self.root.join(name);
        let until = Instant::now() + LEAVE_TIME;
        loop {
            match self.remove_dir(&path) {
                Err(source) if source.raw_os_error() == Some(libc::EBUSY) => {
                    if Instant::now() >= until {
                        let tasks = self.procs(name).unwrap_or_default();
                        return Err(CgroupError::Remove {
                            path,
                            tasks,
                            source,
                        });
                    }
                    await_event(&path, BUSY_PAUSE);
                }
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    let tasks = self.procs(name).unwrap_or_default();
                    return Err(CgroupError::Remove {
                        path,
                        tasks,
                        source,
                    });
                }
                _ => break,
            }
        }
        self.made.retain(|made| made != name);
        self.threaded.remove(name);
        Ok(())
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        match self.files {
            Files::Kernel => fs::remove_dir(path),
            #[cfg(test)]
            Files::Plain => fs::remove_dir_all(path),
        }
    }

    fn write(&self, name: &str, file: &str, value: &str) -> Result<(), CgroupError> {
        let dir = self.path(name)?;
        let file = dir.join(file);
        let mut attempt = 1;
        loop {
            match self.write_file(&file, value) {
                Err(source)
                    if source.raw_os_error() == Some(libc::EBUSY) && attempt < BUSY_ATTEMPTS =>
                {
                    await_event(&dir, BUSY_PAUSE);
                    attempt += 1;
                }
                Err(source) => {
                    let value = value.to_owned();
                    return Err(CgroupError::Write {
                        file,
                        value,
                        source,
                    });
                }
                Ok(()) => return Ok(()),
            }
        }
    }

    fn write_file(&self, file: &Path, value: &str) -> io::Result<()> {
        let mut options = fs::OpenOptions::new();
        options.write(true);
        #[cfg(test)]
        if self.files == Files::Plain {
            options.create(true).truncate(true);
        }
        options.open(file)?.write_all(value.as_bytes())
    }
}

impl Drop for CgroupManager {
    fn drop(&mut self) {
        while let Some(name) = self.made.last().cloned() {
            if self.remove_one(&name).is_err() {
                self.made.pop();
            }
        }
        if self.made_root {
            let _ = fs::remove_dir(&self.root);
        }
    }
}

/// Waits until the kernel says that all tasks of a cgroup are frozen.
fn await_frozen(path: PathBuf) -> Result<(), CgroupError> {
    let until = Instant::now() + FREEZE_TIME;
    let mut events = Events::open(&path);
    while events.value("frozen") != Some(true) {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            let after_ms = FREEZE_TIME.as_millis();
            return Err(CgroupError::NotFrozen { path, after_ms });
        }
        events.await_change(left.min(BUSY_PAUSE));
    }
    Ok(())
}

fn read_ids(file: PathBuf) -> Result<Vec<i32>, CgroupError> {
    let text = fs::read_to_string(&file).map_err(|source| CgroupError::Read { file, source })?;
    let ids = text.lines().filter_map(|line| line.trim().parse().ok());
    Ok(ids.collect())
}

/// A cgroup's `cgroup.events`: what is true now, and a wait for its change.
struct Events(Option<fs::File>);

impl Events {
    fn open(dir: &Path) -> Self {
        Self(fs::File::open(dir.join("cgroup.events")).ok())
    }

    /// One line of the file; `None` when it cannot be read.
    fn value(&mut self, event: &str) -> Option<bool> {
        let file = self.0.as_mut()?;
        let mut text = String::new();
        file.seek(SeekFrom::Start(0)).ok()?;
        file.read_to_string(&mut text).ok()?;
        let value = text.lines().find_map(|line| line.strip_prefix(event));
        Some(value?.trim() == "1")
    }

    /// Waits until the file has changed since it was read, at most `limit`. One that was never read counts as changed
    /// (kernel: `kernfs_generic_poll`), and a caller that does not read would spin.
    fn await_change(&self, limit: Duration) {
        let timeout = Timespec::try_from(limit).ok();
        let mut fds: Vec<PollFd<'_>> = self
            .0
            .iter()
            .map(|file| PollFd::from_borrowed_fd(file.as_fd(), PollFlags::PRI))
            .collect();
        let _ = poll(&mut fds, timeout.as_ref());
    }
}

/// Waits until the cgroup's `cgroup.events` changes (populated, frozen), at most `limit`.
fn await_event(dir: &Path, limit: Duration) {
    let mut events = Events::open(dir);
    let _ = events.value("populated");
    events.await_change(limit);
}

fn check_name(name: &str) -> Result<(), CgroupError> {
    let good = |part: &str| !part.is_empty() && part != "." && part != ".." && !part.contains('\n');
    if name.split('/').all(good) {
        return Ok(());
    }
    Err(CgroupError::BadName {
        name: name.to_owned(),
    })
}
