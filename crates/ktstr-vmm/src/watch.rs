//! Watchpoints and breakpoints on guest virtual addresses.

/// What triggers a watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WatchKind {
    /// A store. On tcg, atomic read-modify-writes are missed (QEMU 7.2).
    Write,
    /// Execution of the instruction at the address.
    Exec,
}

/// A place to watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watch {
    /// Guest virtual address.
    pub gva: u64,
    /// Bytes watched: 1, 2, 4 or 8, aligned to itself; ignored for [`WatchKind::Exec`].
    pub len: u8,
    /// The trigger.
    pub kind: WatchKind,
}

/// Names a watch that was set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct WatchId(pub(crate) u32);

/// A watch was hit.
#[derive(Debug, Clone, PartialEq, Eq)]
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
