//! The test author's own loop.

use std::cell::RefCell;
use std::fmt;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use super::super::report::WorkerReport;

/// What the guest's worker does for a [`WorkerCtx`].
pub(crate) trait WorkLoop {
    /// An iteration that did `units` of work is over.
    fn tick(&mut self, units: u64);
    /// Sleeps; what passes after the end asked for is wake latency.
    fn sleep(&mut self, time: Duration);
}

/// What a custom loop sees of its worker. It runs until [`stop`](Self::stop) is set; one that does not look is killed after a
/// grace time.
pub struct WorkerCtx<'a> {
    pub(crate) stop: &'a AtomicBool,
    pub(crate) index: usize,
    pub(crate) cpus: &'a [usize],
    pub(crate) siblings: &'a [i32],
    pub(crate) cgroup_dir: Option<&'a Path>,
    pub(crate) cfg: CustomCfg,
    pub(crate) meter: RefCell<&'a mut dyn WorkLoop>,
}

impl fmt::Debug for WorkerCtx<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("WorkerCtx");
        shown.field("index", &self.index).field("stop", self.stop);
        shown.finish_non_exhaustive()
    }
}

impl WorkerCtx<'_> {
    /// Set once the worker shall return: `while !ctx.stop().load(Ordering::Relaxed) { … }`.
    #[must_use]
    pub fn stop(&self) -> &AtomicBool {
        self.stop
    }

    /// This worker's number among all that were started with it.
    #[must_use]
    pub fn index(&self) -> usize {
        self.index
    }

    /// CPUs that it was allowed at its start, ascending.
    #[must_use]
    pub fn cpus(&self) -> &[usize] {
        self.cpus
    }

    /// Processes of the workers that were started with it, without its own; as threads, their thread ids.
    #[must_use]
    pub fn sibling_pids(&self) -> &[i32] {
        self.siblings
    }

    /// Directory of its cgroup; `None` for workers in no cgroup of the scenario.
    #[must_use]
    pub fn cgroup_dir(&self) -> Option<&Path> {
        self.cgroup_dir
    }

    /// What [`WorkType::custom_with`](super::WorkType::custom_with) was given; zeros otherwise.
    #[must_use]
    pub fn cfg(&self) -> CustomCfg {
        self.cfg
    }

    /// The `cgroup.procs` of the cgroup of this name beside its own, open for writing a pid.
    ///
    /// # Errors
    /// When it is in no cgroup of the scenario, or there is no such cgroup.
    pub fn open_sibling_cgroup_procs(&self, name: &str) -> io::Result<File> {
        let beside = self.cgroup_dir.and_then(Path::parent).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::NotFound,
                "this worker is in no cgroup of the scenario, so there is none beside it",
            )
        })?;
        let file = beside.join(name).join("cgroup.procs");
        File::options().write(true).open(file)
    }

    /// An iteration that did `units` of work is over: what it did so far is known at each step's end, and time without
    /// another is a gap. A loop that does not call it counts by its report, and has no gaps.
    pub fn tick(&self, units: u64) {
        self.meter.borrow_mut().tick(units);
    }

    /// Sleeps this long or until the stop; what passes after the end asked for is wake latency.
    pub fn sleep(&self, time: Duration) {
        self.meter.borrow_mut().sleep(time);
    }
}

/// Numbers for a custom loop, which has no other way to be told any: it is a plain function in another process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CustomCfg {
    /// Four numbers.
    pub u64s: [u64; 4],
    /// Four sizes.
    pub usizes: [usize; 4],
    /// Four signed numbers.
    pub i32s: [i32; 4],
    /// Four switches.
    pub bools: [bool; 4],
    /// Some bytes.
    pub blob: [u8; 32],
}

macro_rules! slots {
    ($( $(#[$about:meta])* $function:ident, $field:ident: $type:ty; )*) => {
        impl CustomCfg {
            $(
                $(#[$about])*
                ///
                /// # Panics
                /// Above slot 3.
                #[must_use]
                pub const fn $function(mut self, slot: usize, value: $type) -> Self {
                    self.$field[slot] = value;
                    self
                }
            )*
        }
    };
}

slots! {
    /// Sets a number; slots are 0 to 3.
    u64_slot, u64s: u64;
    /// Sets a size; slots are 0 to 3.
    usize_slot, usizes: usize;
    /// Sets a signed number; slots are 0 to 3.
    i32_slot, i32s: i32;
    /// Sets a switch; slots are 0 to 3.
    bool_slot, bools: bool;
}

/// A loop of the test author, by name.
///
/// It runs in a forked process (or a thread of one): it may allocate, but should not print and must not rely on other
/// threads of the test.
#[derive(Clone)]
pub struct CustomWork {
    /// Name in reports.
    pub name: String,
    /// The loop.
    pub run: fn(&WorkerCtx<'_>) -> WorkerReport,
    /// What it is told.
    pub cfg: CustomCfg,
}

impl fmt::Debug for CustomWork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CustomWork").field(&self.name).finish()
    }
}

/// By name: the addresses of functions say nothing.
impl PartialEq for CustomWork {
    fn eq(&self, other: &Self) -> bool {
        (&self.name, self.cfg) == (&other.name, other.cfg)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_slot_is_its_own() {
        let cfg = CustomCfg::default().u64_slot(0, 7).usize_slot(1, 8);
        let cfg = cfg.i32_slot(2, -9).bool_slot(3, true);
        assert_eq!((cfg.u64s, cfg.usizes), ([7, 0, 0, 0], [0, 8, 0, 0]));
        assert_eq!((cfg.i32s, cfg.bools[3]), ([0, 0, -9, 0], true));
    }
}
