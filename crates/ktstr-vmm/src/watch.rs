//! Watchpoints and breakpoints on guest virtual addresses.

/// What triggers a watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum WatchKind {
    /// A store. On tcg, atomic read-modify-writes are missed (QEMU 7.2).
    Write,
    /// Execution of the instruction at the address.
    Exec,
}

/// A place to watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Watch {
    /// Guest virtual address.
    pub gva: u64,
    /// Bytes watched: 1, 2, 4 or 8, aligned to itself; ignored for [`WatchKind::Exec`].
    pub len: u8,
    /// The trigger.
    pub kind: WatchKind,
}

impl Watch {
    /// Stores to `len` bytes (1, 2, 4 or 8, aligned to itself) at this guest virtual address.
    #[must_use]
    pub const fn write(gva: u64, len: u8) -> Self {
        let kind = WatchKind::Write;
        Self { gva, len, kind }
    }

    /// Execution of the instruction at this guest virtual address.
    #[must_use]
    pub const fn exec(gva: u64) -> Self {
        let kind = WatchKind::Exec;
        Self { gva, len: 1, kind }
    }
}

/// Names a watch that was set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct WatchId(pub(crate) u32);

/// A watch was hit.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct WatchHit {
    /// Which watch.
    pub id: WatchId,
    /// On which vCPU.
    pub vcpu: u32,
    /// The instruction pointer after the hit (at it, for [`WatchKind::Exec`]).
    pub rip: u64,
    /// The guest stands still until [`release_hit`](crate::RunningVm::release_hit).
    pub held: bool,
}

/// How an engine notices what a watch of one kind waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum WatchMechanism {
    /// QEMU's gdb stub.
    GdbStub,
    /// The CPU's debug registers.
    DebugRegisters,
    /// Guest memory itself: the page of a written address is read-only for the guest, and the host performs its writes; an executed
    /// address, which must be the kernel's, holds an instruction that leaves the guest. While such a watch is set, one vCPU runs at a time. A write that spans more
    /// than 8 bytes may count twice, one that a device makes does not count, and no watch can lie in a page table. The rare
    /// instruction that KVM cannot emulate ends the VM when it writes to such a page, and says so.
    GuestMemory,
    /// The emulator's plugin, in virtual time: the guest stands still after each write, atomic ones too, or before it executes
    /// the address, which must be where a function begins.
    Plugin,
    /// Nothing works here.
    Unavailable,
}

/// What watches are made of on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct WatchSupport {
    /// What is used for [`WatchKind::Write`].
    pub write: WatchMechanism,
    /// What is used for [`WatchKind::Exec`].
    pub exec: WatchMechanism,
    /// Why, in one line.
    pub why: String,
}

impl WatchSupport {
    /// What is used for this kind.
    #[must_use]
    pub fn of(&self, kind: WatchKind) -> WatchMechanism {
        match kind {
            WatchKind::Write => self.write,
            WatchKind::Exec => self.exec,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_is_made_by_its_trigger() {
        let write = Watch::write(8, 4);
        assert_eq!((write.gva, write.len, write.kind), (8, 4, WatchKind::Write));
        let exec = Watch::exec(9);
        assert_eq!((exec.gva, exec.kind), (9, WatchKind::Exec));
    }
}
