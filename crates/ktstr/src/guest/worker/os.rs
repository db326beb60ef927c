//! System calls that single work types need, behind safe types. They may run in a forked child.

use std::collections::BTreeSet;
use std::io;
use std::ptr::NonNull;
use std::time::Duration;

use rustix::io::Errno;

use super::meter::nanos;
use crate::guest::sys;
use crate::model::cpuset::CpuSet;
use crate::model::work::{MemPolicy, MpolFlags, SchedPolicy};

/// `SCHED_EXT` as in `include/uapi/linux/sched.h`; libc does not have it.
const SCHED_EXT: i32 = 7;
/// Policies as in `include/uapi/linux/mempolicy.h`; libc lacks these.
const MPOL_PREFERRED_MANY: i32 = 5;
const MPOL_WEIGHTED_INTERLEAVE: i32 = 6;
/// Pages that only this process uses are moved; as in the same header.
const MPOL_MF_MOVE: i32 = 1 << 1;
/// Bits of a node mask: as many nodes as it can name.
const NODE_BITS: u32 = 64;

/// The kernel's form of a CPU set.
pub(crate) fn kernel_cpuset(cpus: &CpuSet) -> rustix::thread::CpuSet {
    let mut set = rustix::thread::CpuSet::new();
    for cpu in cpus.iter() {
        let cpu = cpu as usize;
        if cpu < rustix::thread::CpuSet::MAX_CPU {
            set.set(cpu);
        }
    }
    set
}

/// A scheduling policy as the kernel has it.
///
/// `SCHED_DEADLINE` takes more than these two.
fn policy_numbers(policy: SchedPolicy) -> (i32, i32) {
    let priority = |value: u32| i32::try_from(value).unwrap_or(i32::MAX);
    match policy {
        SchedPolicy::Normal => (libc::SCHED_OTHER, 0),
        SchedPolicy::Batch => (libc::SCHED_BATCH, 0),
        SchedPolicy::Idle => (libc::SCHED_IDLE, 0),
        SchedPolicy::Fifo(value) => (libc::SCHED_FIFO, priority(value)),
        SchedPolicy::RoundRobin(value) => (libc::SCHED_RR, priority(value)),
        SchedPolicy::Ext => (SCHED_EXT, 0),
        SchedPolicy::Deadline { .. } => (libc::SCHED_DEADLINE, 0),
    }
}

/// Sets the calling thread's policy.
pub(super) fn set_policy_of_caller(policy: SchedPolicy) -> Result<(), Errno> {
    set_policy_of(0, policy)
}

/// Sets a thread's policy; 0 is the caller.
pub(crate) fn set_policy_of(tid: i32, policy: SchedPolicy) -> Result<(), Errno> {
    if let SchedPolicy::Deadline {
        runtime,
        deadline,
        period,
    } = policy
    {
        return set_deadline_of(tid, runtime, deadline, period);
    }
    let (number, priority) = policy_numbers(policy);
    sys::set_policy(tid, number, priority).map_err(|fault| errno_of(&fault))
}

/// `struct sched_attr` in its first version (`include/uapi/linux/sched/types.h`).
#[repr(C)]
struct SchedAttr {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime_ns: u64,
    deadline_ns: u64,
    period_ns: u64,
}

fn set_deadline_of(
    tid: i32,
    runtime: Duration,
    deadline: Duration,
    period: Duration,
) -> Result<(), Errno> {
    let attr = SchedAttr {
        size: u32::try_from(size_of::<SchedAttr>()).unwrap_or(0),
        policy: libc::SCHED_DEADLINE.unsigned_abs(),
        flags: 0,
        nice: 0,
        priority: 0,
        runtime_ns: nanos(runtime),
        deadline_ns: nanos(deadline),
        period_ns: nanos(period),
    };
    // SAFETY: `attr` lives through the call, which reads as many bytes of it as its `size` says.
    let done = unsafe { libc::syscall(libc::SYS_sched_setattr, tid, &raw const attr, 0) };
    if done == 0 { Ok(()) } else { Err(last_errno()) }
}

/// Makes the calling thread another user's and group's, and clears its further groups; 0 leaves it as it is.
///
/// The calls themselves, not libc's functions, which would change all threads of the process.
pub(super) fn set_user_of_caller(uid: u32, gid: u32) -> Result<(), Errno> {
    if gid != 0 {
        // SAFETY: an empty list is read from nowhere.
        let done = unsafe { libc::syscall(libc::SYS_setgroups, 0, std::ptr::null::<u32>()) };
        if done != 0 {
            return Err(last_errno());
        }
        // SAFETY: three numbers, no memory.
        let done = unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) };
        if done != 0 {
            return Err(last_errno());
        }
    }
    if uid != 0 {
        // SAFETY: three numbers, no memory.
        let done = unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) };
        if done != 0 {
            return Err(last_errno());
        }
    }
    Ok(())
}

/// The errno of a failure of the system.
pub(super) fn errno_of(fault: &io::Error) -> Errno {
    Errno::from_io_error(fault).unwrap_or(Errno::IO)
}

fn last_errno() -> Errno {
    errno_of(&io::Error::last_os_error())
}

fn mask_of(nodes: &BTreeSet<usize>) -> u64 {
    nodes
        .iter()
        .filter(|node| **node < NODE_BITS as usize)
        .fold(0, |mask, node| mask | 1 << node)
}

/// Sets where the calling thread's memory comes from.
pub(super) fn set_mem_policy(policy: &MemPolicy, flags: MpolFlags) -> Result<(), Errno> {
    let mask = mask_of(&policy.node_set());
    let mode = match policy {
        MemPolicy::Default => return Ok(()),
        MemPolicy::Bind(_) => libc::MPOL_BIND,
        MemPolicy::Preferred(_) => libc::MPOL_PREFERRED,
        MemPolicy::PreferredMany(_) => MPOL_PREFERRED_MANY,
        MemPolicy::Interleave(_) => libc::MPOL_INTERLEAVE,
        MemPolicy::WeightedInterleave(_) => MPOL_WEIGHTED_INTERLEAVE,
        MemPolicy::Local => libc::MPOL_LOCAL,
    };
    let mode = mode | i32::try_from(flags.bits()).unwrap_or(0);
    // The kernel reads one bit less than it is told (mm/mempolicy.c: get_nodes).
    // SAFETY: `mask` is read during the call only; the call changes nothing but the thread's policy.
    let done = unsafe {
        libc::syscall(
            libc::SYS_set_mempolicy,
            mode,
            &raw const mask,
            u64::from(NODE_BITS) + 1,
        )
    };
    if done == 0 { Ok(()) } else { Err(last_errno()) }
}

/// Anonymous memory of its own, in whole pages; unmapped on drop.
#[derive(Debug)]
pub(super) struct Region {
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: the mapping is owned by this value alone.
unsafe impl Send for Region {}

/// Size of a page on all machines that run this.
pub(super) const PAGE: usize = 4_096;

impl Region {
    /// `kib` of memory, not yet touched.
    pub(super) fn new(kib: usize) -> Result<Self, Errno> {
        let bytes = kib
            .saturating_mul(1_024)
            .clamp(PAGE, isize::MAX as usize - PAGE)
            .next_multiple_of(PAGE);
        // SAFETY: no address is asked for, so no present mapping is replaced.
        let start = unsafe {
            rustix::mm::mmap_anonymous(
                std::ptr::null_mut(),
                bytes,
                rustix::mm::ProtFlags::READ | rustix::mm::ProtFlags::WRITE,
                rustix::mm::MapFlags::PRIVATE,
            )
        }?;
        let start = NonNull::new(start.cast::<u8>()).ok_or(Errno::NOMEM)?;
        Ok(Self { start, bytes })
    }

    /// Length in bytes.
    pub(super) fn len(&self) -> usize {
        self.bytes
    }

    /// Adds one to the byte at `offset`, modulo the length.
    pub(super) fn touch(&mut self, offset: usize) {
        // SAFETY: the offset is inside the mapping.
        let place = unsafe { self.start.as_ptr().add(offset % self.bytes) };
        // SAFETY: `place` is mapped readable, and no reference into the mapping exists.
        let value = unsafe { place.read_volatile() };
        // SAFETY: `place` is mapped writable, and no reference into the mapping exists.
        unsafe { place.write_volatile(value.wrapping_add(1)) };
    }

    /// Touches one byte every `stride`; how many.
    pub(super) fn walk(&mut self, stride: usize) -> u64 {
        let mut touched = 0;
        let mut offset = 0;
        while offset < self.bytes {
            self.touch(offset);
            touched += 1;
            offset += stride.max(1);
        }
        touched
    }

    /// Gives all pages back; the next touch of each is a fault.
    pub(super) fn give_back(&mut self) -> Result<(), Errno> {
        // SAFETY: exactly this mapping; its contents are of no use to anyone, and zero bytes are fine.
        unsafe {
            rustix::mm::madvise(
                self.start.as_ptr().cast(),
                self.bytes,
                rustix::mm::Advice::LinuxDontNeed,
            )
        }
    }

    /// Moves all pages to a node, and binds them there.
    pub(super) fn move_to(&mut self, node: u32) -> Result<(), Errno> {
        let mask = mask_of(&BTreeSet::from([node as usize]));
        // SAFETY: exactly this mapping; `mask` is read during the call only.
        let done = unsafe {
            libc::syscall(
                libc::SYS_mbind,
                self.start.as_ptr(),
                self.bytes,
                libc::MPOL_BIND,
                &raw const mask,
                u64::from(NODE_BITS) + 1,
                MPOL_MF_MOVE,
            )
        };
        if done == 0 { Ok(()) } else { Err(last_errno()) }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: exactly this mapping was made in `new`, and no reference into it exists.
        let _ = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.bytes) };
    }
}

/// The signal that workers send each other: a real-time one, so that every one is delivered.
fn storm_signal() -> i32 {
    libc::SIGRTMIN() + 3
}

fn storm_set() -> libc::sigset_t {
    // SAFETY: a signal set is plain data, for which zero is a value.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: `set` is a valid place for the result.
    unsafe { libc::sigemptyset(&raw mut set) };
    // SAFETY: `set` was made empty, and the signal's number is valid.
    unsafe { libc::sigaddset(&raw mut set, storm_signal()) };
    set
}

/// From now on the calling thread takes the storm's signals by [`take_signal`] only.
pub(super) fn block_signals() -> Result<(), Errno> {
    let set = storm_set();
    // SAFETY: `set` is read during the call only; no old mask is asked for.
    match unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) } {
        0 => Ok(()),
        errno => Err(Errno::from_raw_os_error(errno)),
    }
}

/// Waits for one signal; whether one came in time.
pub(super) fn take_signal(limit: Duration) -> bool {
    let set = storm_set();
    let time = libc::timespec {
        tv_sec: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(limit.subsec_nanos()),
    };
    // SAFETY: both are read during the call only; no details of the signal are asked for.
    unsafe { libc::sigtimedwait(&raw const set, std::ptr::null_mut(), &raw const time) >= 0 }
}

/// Sends one signal to a thread of a process.
pub(super) fn send_signal(pid: u32, tid: u32) -> Result<(), Errno> {
    // SAFETY: the call takes numbers only; a thread that is gone is an error.
    let done = unsafe { libc::syscall(libc::SYS_tgkill, pid, tid, storm_signal()) };
    if done == 0 { Ok(()) } else { Err(last_errno()) }
}

/// Brings the loopback device up, if it is not: a bare guest has it down.
pub(super) fn loopback_up() -> io::Result<()> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
    let mut request = Interface {
        name: [0; 16],
        flags: 0,
        rest: [0; 22],
    };
    request.name[..2].copy_from_slice(b"lo");
    let fd = std::os::fd::AsRawFd::as_raw_fd(&socket);
    // SAFETY: `request` is at least as large as the kernel's `struct ifreq` and lives through the call.
    if unsafe { libc::ioctl(fd, libc::SIOCGIFFLAGS, &raw mut request) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let up = i16::try_from(libc::IFF_UP).unwrap_or(1);
    if request.flags & up != 0 {
        return Ok(());
    }
    request.flags |= up;
    // SAFETY: as above; the kernel only reads it.
    if unsafe { libc::ioctl(fd, libc::SIOCSIFFLAGS, &raw const request) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// `struct ifreq` of `include/uapi/linux/if.h`, as the calls for flags use it: 40 bytes.
#[repr(C)]
struct Interface {
    name: [u8; 16],
    flags: i16,
    rest: [u8; 22],
}
