//! What the triggers are made of: processes that compute and sleep, cgroups, and the time of the scenario in which they run.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use ktstr::prelude::*;

pub(crate) const fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// Lets `trigger` run for as long as the test lasts, which is when the kernel's books are looked at.
pub(crate) fn during(
    ctx: &Ctx,
    trigger: impl FnOnce(&Path) -> Result<()> + Send,
) -> Result<AssertResult> {
    // Of its own: the scenario makes and removes its workload's.
    let root = Path::new("/sys/fs/cgroup/bugs");
    fs::create_dir_all(root).context("failed to create a cgroup")?;
    set(
        Path::new("/sys/fs/cgroup"),
        "cgroup.subtree_control",
        "+cpu +cpuset",
    )?;
    thread::scope(|scope| {
        let triggered = scope.spawn(move || trigger(root));
        let result = execute_steps(ctx, vec![Step::hold(HoldSpec::frac(1.0))]);
        let triggered = triggered
            .join()
            .map_err(|_| anyhow!("the trigger panicked"))?;
        triggered?;
        result
    })
}

/// Waits for so long of the guest's time.
pub(crate) fn wait(time: Duration) {
    let until = Instant::now() + time;
    while let Some(left) = until.checked_duration_since(Instant::now()) {
        thread::park_timeout(left);
    }
}

/// A process that uses some CPU time and sleeps for a while, over and over. It is killed with its handle.
#[derive(Debug)]
pub(crate) struct Task {
    pid: i32,
}

impl Task {
    /// One that never sleeps, on one CPU.
    pub(crate) fn hog(cpu: usize) -> Result<Self> {
        Self::on(&[cpu], ms(1000), Duration::ZERO)
    }

    /// One on these CPUs.
    pub(crate) fn on(cpus: &[usize], run: Duration, sleep: Duration) -> Result<Self> {
        Self::with(cpus, run, sleep, &[])
    }

    /// One that enters these cgroups' directories, the last in the end, before it begins.
    pub(crate) fn within(
        cgroup: &Path,
        cpu: usize,
        run: Duration,
        sleep: Duration,
    ) -> Result<Self> {
        Self::with(&[cpu], run, sleep, &[cgroup])
    }

    /// One in a cgroup that may use all CPUs that the cgroup may.
    pub(crate) fn unbound(cgroup: &Path, run: Duration, sleep: Duration) -> Result<Self> {
        Self::with(&[], run, sleep, &[cgroup])
    }

    fn with(cpus: &[usize], run: Duration, sleep: Duration, cgroups: &[&Path]) -> Result<Self> {
        let files: Vec<fs::File> = cgroups
            .iter()
            .map(|dir| {
                fs::File::options()
                    .write(true)
                    .open(dir.join("cgroup.procs"))
            })
            .collect::<io::Result<_>>()?;
        let (mask, is_bound) = (mask_of(cpus), !cpus.is_empty());
        // SAFETY: the child calls nothing but functions that are allowed after a fork in a process with threads, and ends
        // without unwinding or running destructors.
        let pid = unsafe { libc::fork() };
        match pid {
            -1 => Err(io::Error::last_os_error()).context("failed to fork"),
            0 => {
                for file in &files {
                    let _ = rustix::io::write(file, b"0");
                }
                if is_bound {
                    set_affinity(0, &mask);
                }
                compute_and_sleep(run, sleep)
            }
            pid => Ok(Self { pid }),
        }
    }

    /// Its policy: `libc::SCHED_OTHER` with priority 0, or `libc::SCHED_FIFO` with one of 1 to 99.
    pub(crate) fn policy(&self, policy: i32, priority: i32) -> Result<()> {
        let mut param = libc::sched_param { sched_priority: 0 };
        param.sched_priority = priority;
        // SAFETY: `param` lives through the call, which only reads it.
        if unsafe { libc::sched_setscheduler(self.pid, policy, &raw const param) } == 0 {
            return Ok(());
        }
        Err(io::Error::last_os_error()).context("failed to set the policy")
    }

    pub(crate) fn nice(&self, nice: i32) {
        let who = self.pid.unsigned_abs();
        // SAFETY: a system call of three integers.
        unsafe { libc::setpriority(libc::PRIO_PROCESS, who, nice) };
    }

    pub(crate) fn may_use(&self, cpus: &[usize]) {
        set_affinity(self.pid, &mask_of(cpus));
    }

    /// The letter that `/proc/PID/stat` has for its state.
    pub(crate) fn state(&self) -> Result<char> {
        let stat = self.proc("stat")?;
        let (_, rest) = stat
            .rsplit_once(") ")
            .context("a stat file without a name")?;
        rest.chars().next().context("a stat file without a state")
    }

    /// One of its files in `/proc`.
    pub(crate) fn proc(&self, file: &str) -> Result<String> {
        let path = format!("/proc/{}/{file}", self.pid);
        fs::read_to_string(&path).with_context(|| format!("failed to read {path}"))
    }

    pub(crate) fn end(self) {
        self.signal(libc::SIGKILL);
        // SAFETY: a null status is allowed, and the child is this process's own.
        unsafe { libc::waitpid(self.pid, std::ptr::null_mut(), 0) };
    }

    pub(crate) fn signal(&self, signal: i32) {
        // SAFETY: a system call of two integers.
        unsafe { libc::kill(self.pid, signal) };
    }
}

impl Drop for Task {
    /// Not waited for: a planted bug may keep it from ending.
    fn drop(&mut self) {
        self.signal(libc::SIGKILL);
    }
}

fn mask_of(cpus: &[usize]) -> libc::cpu_set_t {
    // SAFETY: all fields of `cpu_set_t` are integers, for which zero is a value.
    let mut mask: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    for cpu in cpus {
        // SAFETY: the function checks that the set has this CPU.
        unsafe { libc::CPU_SET(*cpu, &mut mask) };
    }
    mask
}

fn set_affinity(pid: i32, mask: &libc::cpu_set_t) {
    // SAFETY: `mask` lives through the call, which reads as many bytes as it is told to.
    unsafe { libc::sched_setaffinity(pid, size_of_val(mask), &raw const *mask) };
}

/// The CPU time that this process has had.
fn used() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(
        now.tv_sec.unsigned_abs(),
        u32::try_from(now.tv_nsec).unwrap_or(0),
    )
}

/// By system calls alone.
fn compute_and_sleep(run: Duration, sleep: Duration) -> ! {
    let sleep = libc::timespec {
        tv_sec: sleep.as_secs().cast_signed(),
        tv_nsec: sleep.subsec_nanos().into(),
    };
    loop {
        let until = used().saturating_add(run);
        while used() < until {
            for n in 0..1000_u32 {
                std::hint::black_box(n);
            }
        }
        if sleep.tv_sec > 0 || sleep.tv_nsec > 0 {
            // SAFETY: the time lives through the call; what is left of it is not asked for.
            unsafe { libc::nanosleep(&raw const sleep, std::ptr::null_mut()) };
        }
    }
}

/// Makes a cgroup, and lets its own have CPU limits.
pub(crate) fn cgroup(parent: &Path, name: &str) -> Result<PathBuf> {
    let dir = parent.join(name);
    set(parent, "cgroup.subtree_control", "+cpu +cpuset")?;
    fs::create_dir(&dir).with_context(|| format!("failed to create {}", dir.display()))?;
    Ok(dir)
}

pub(crate) fn set(dir: &Path, file: &str, value: &str) -> Result<()> {
    let path = dir.join(file);
    fs::write(&path, value)
        .with_context(|| format!("failed to write {value} to {}", path.display()))
}

/// Switches a CPU on or off.
pub(crate) fn online(cpu: usize, on: bool) -> Result<()> {
    let dir = PathBuf::from(format!("/sys/devices/system/cpu/cpu{cpu}"));
    set(&dir, "online", if on { "1" } else { "0" })
}

/// Does `act` soon after each time that one of the tasks falls asleep, when it may still be on its queue, for so long.
pub(crate) fn when_asleep(
    tasks: &[Task],
    time: Duration,
    mut act: impl FnMut(&Task) -> Result<()>,
) -> Result<()> {
    let until = Instant::now() + time;
    let mut slept = vec![false; tasks.len()];
    while Instant::now() < until {
        for (task, slept) in tasks.iter().zip(&mut slept) {
            let sleeps = task.state()? == 'S';
            if sleeps && !*slept {
                act(task)?;
            }
            *slept = sleeps;
        }
        wait(Duration::from_micros(100));
    }
    Ok(())
}
