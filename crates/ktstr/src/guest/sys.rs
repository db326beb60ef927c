//! System calls that workers and their parent need, behind safe types.
//!
//! All of this may run in a forked child: nothing here takes a lock or allocates.

use std::io;
use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use rustix::thread::{clock_nanosleep_absolute, futex};
use rustix::time::{ClockId, Timespec, clock_gettime};

/// Now, by the guest's monotonic clock.
pub(crate) fn monotonic_ns() -> u64 {
    timespec_ns(clock_gettime(ClockId::Monotonic))
}

/// Sleeps until this moment of the monotonic clock.
pub(crate) fn sleep_until(at_ns: u64) {
    let at = Timespec {
        tv_sec: i64::try_from(at_ns / 1_000_000_000).unwrap_or(i64::MAX),
        tv_nsec: i64::try_from(at_ns % 1_000_000_000).unwrap_or(0),
    };
    while clock_nanosleep_absolute(ClockId::Monotonic, &at) == Err(rustix::io::Errno::INTR) {}
}

/// CPU time of the calling thread.
pub(crate) fn thread_cpu_ns() -> u64 {
    timespec_ns(clock_gettime(ClockId::ThreadCPUTime))
}

/// CPU time of a process; `None` once it is gone.
pub(crate) fn process_cpu_ns(pid: i32) -> Option<u64> {
    let mut clock: libc::clockid_t = 0;
    // SAFETY: `clock` is a valid place for the result for the duration of the call.
    if unsafe { libc::clock_getcpuclockid(pid, &raw mut clock) } != 0 {
        return None;
    }
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is a valid place for the result for the duration of the call.
    if unsafe { libc::clock_gettime(clock, &raw mut time) } != 0 {
        return None;
    }
    let secs = u64::try_from(time.tv_sec).ok()?;
    let nanos = u64::try_from(time.tv_nsec).ok()?;
    Some(secs.saturating_mul(1_000_000_000).saturating_add(nanos))
}

/// The CPU that the caller runs on.
pub(crate) fn current_cpu() -> u32 {
    u32::try_from(rustix::thread::sched_getcpu()).unwrap_or(u32::MAX)
}

fn timespec_ns(time: Timespec) -> u64 {
    let secs = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(time.tv_nsec).unwrap_or(0);
    secs.saturating_mul(1_000_000_000).saturating_add(nanos)
}

/// Waits until `word` is woken, is no longer `expected`, or the time is over: the caller looks again in any case.
pub(crate) fn futex_wait(word: &AtomicU32, expected: u32, timeout: Duration) {
    let timeout = Timespec {
        tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(timeout.subsec_nanos()),
    };
    // The flag PRIVATE must stay away: the word is shared between processes.
    let _ = futex::wait(word, futex::Flags::empty(), expected, Some(&timeout));
}

/// Wakes all that wait on `word`.
pub(crate) fn futex_wake_all(word: &AtomicU32) {
    let _ = futex::wake(word, futex::Flags::empty(), i32::MAX.unsigned_abs());
}

/// Types for which all-zero bytes are a value and that may be changed by several processes at once.
///
/// # Safety
/// The type consists of atomics (and arrays of them) only, has no drop glue and no padding that anyone reads.
pub(crate) unsafe trait SharedAtomics: Sync {}

/// A zeroed slice in memory that forked children share; unmapped on drop.
#[derive(Debug)]
pub(crate) struct Shared<T: SharedAtomics> {
    start: NonNull<T>,
    len: usize,
}

// SAFETY: `T` consists of atomics and is Sync; the mapping is owned and only unmapped on drop.
unsafe impl<T: SharedAtomics> Send for Shared<T> {}
// SAFETY: shared access gives `&[T]` only, and `T` is Sync.
unsafe impl<T: SharedAtomics> Sync for Shared<T> {}

impl<T: SharedAtomics> Shared<T> {
    /// `len` zeroed values.
    pub(crate) fn zeroed(len: usize) -> io::Result<Self> {
        let bytes = Self::bytes(len)?;
        // SAFETY: no address is asked for, so no present mapping is replaced.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // A mapping begins on a page, which is aligned enough for any atomic.
        let start = NonNull::new(start.cast::<T>()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { start, len })
    }

    fn bytes(len: usize) -> io::Result<usize> {
        let size = size_of::<T>().max(1);
        size.checked_mul(len.max(1))
            .ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))
    }
}

impl<T: SharedAtomics> Deref for Shared<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: the mapping holds `len` values of `T`, zero is a value of `T`, and it lives as long as `self`.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl<T: SharedAtomics> Drop for Shared<T> {
    fn drop(&mut self) {
        if let Ok(bytes) = Self::bytes(self.len) {
            // SAFETY: exactly this mapping was made in `zeroed`, and no reference into it outlives `self`.
            unsafe { libc::munmap(self.start.as_ptr().cast(), bytes) };
        }
    }
}

/// Which side of a fork the caller is on.
pub(crate) enum Forked {
    /// The new process.
    Child,
    /// The old one, with the child's process id.
    Parent(i32),
}

/// Forks.
///
/// # Safety
/// In the child only the calling thread exists: it must not take a lock that another thread may have held, must
/// not return into code that does, and must leave by [`exit_now`].
pub(crate) unsafe fn fork() -> io::Result<Forked> {
    // SAFETY: the caller keeps the duties above.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Forked::Child),
        pid => Ok(Forked::Parent(pid)),
    }
}

/// Ends the process at once, without running anything that was registered for its end.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: `_exit` has no precondition and does not return.
    unsafe { libc::_exit(code) }
}

/// Sets the scheduling policy of a thread; 0 is the caller. Its nice value stays.
pub(crate) fn set_policy(tid: i32, policy: i32, priority: i32) -> io::Result<()> {
    // SAFETY: all fields of `sched_param` are integers, for which zero is a value.
    let mut param: libc::sched_param = unsafe { std::mem::zeroed() };
    param.sched_priority = priority;
    // SAFETY: `param` lives through the call, which only reads it.
    if unsafe { libc::sched_setscheduler(tid, policy, &raw const param) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// While it lives, the calling thread runs above whatever the tested scheduler schedules; children do not inherit it.
#[derive(Debug)]
pub(crate) struct PriorityGuard {
    raised: bool,
}

impl PriorityGuard {
    /// Raises the caller if `wanted`, also above real-time workers; without the right to, it stays as it is.
    pub(crate) fn above_tested(wanted: bool) -> Self {
        let policy = libc::SCHED_RR | libc::SCHED_RESET_ON_FORK;
        Self {
            raised: wanted && set_policy(0, policy, 99).is_ok(),
        }
    }
}

impl Drop for PriorityGuard {
    fn drop(&mut self) {
        if self.raised {
            let _ = set_policy(0, libc::SCHED_OTHER, 0);
        }
    }
}
