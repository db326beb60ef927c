//! The gate's mailbox: how a guest in virtual time and its host exchange bytes while the guest stands still.
//!
//! The mailbox is memory of a PCI device (`ivshmem-plain`) that guest and host share. The guest puts bytes into its half and
//! executes [`KNOCK`]; the emulator's plugin holds all vCPUs at that instruction until the host has taken the bytes and put its
//! answer into the other half. No time passes meanwhile, and one side never writes while the other reads.
//!
//! ```text
//!  0        8         12         16         20        24        28      32
//!  +--------+---------+----------+----------+---------+---------+-------+-------- ...    OUT_AT                IN_AT
//!  | magic  | version | said     | answered | more    | waits   | until |         | the guest's bytes … | the host's bytes …
//!  | u64    | u32     | u32      | u32      | u32     | u32     | u32   |         | MAILBOX_HALF        | MAILBOX_HALF
//!  +--------+---------+----------+----------+---------+---------+-------+-------- ...
//!  all little-endian; `said` and `answered` count bytes, `more` is not 0 when the host has more for the next knock; `waits` is
//!  the number of the `UntilRequest` that the guest waits for, and `until` what the host says of it, without a knock
//! ```
//!
//! A guest that waits for a state of its kernel sleeps and looks at `until` now and then. Once that says [`UntilState::Reached`],
//! no vCPU but the one that waits executes more than a few instructions. It executes [`MARK`] before it acts, to be told whether
//! the state still holds, and again when it has acted, which lets the others go on.

/// What the host writes at the mailbox's start, so that the guest knows it.
pub const MAILBOX_MAGIC: u64 = u64::from_le_bytes(*b"KTSTRGAT");
/// The layout's version.
pub const MAILBOX_VERSION: u32 = 1;
/// The mailbox's length in bytes: a PCI memory region has a power of two.
pub const MAILBOX_LEN: usize = 4 << 20;
/// Most bytes that either side can say at once.
pub const MAILBOX_HALF: usize = 1 << 20;
/// Where the version is.
pub const VERSION_AT: usize = 8;
/// Where the count of the guest's bytes is.
pub const SAID_AT: usize = 12;
/// Where the count of the host's bytes is.
pub const ANSWERED_AT: usize = 16;
/// Where the host says that it has more.
pub const MORE_AT: usize = 20;
/// Where the guest says what it waits for: the number of a request, 0 for none.
pub const WAITS_AT: usize = 24;
/// Where the host says what became of that: an [`UntilState`].
pub const UNTIL_AT: usize = 28;
/// Where the guest's bytes are.
pub const OUT_AT: usize = 4096;
/// Where the host's bytes are.
pub const IN_AT: usize = OUT_AT + MAILBOX_HALF;

/// The instruction that knocks: a NOP with a displacement that no compiler emits (`nopl 0x4b545354(%rax)`).
pub const KNOCK: [u8; 7] = [0x0f, 0x1f, 0x80, 0x54, 0x53, 0x54, 0x4b];

/// The instruction that says that what was waited for has been seen, and then that the guest has acted
/// (`nopl 0x4d545354(%rax)`).
pub const MARK: [u8; 7] = [0x0f, 0x1f, 0x80, 0x54, 0x53, 0x54, 0x4d];

/// What the host says of the request that a guest waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UntilState {
    /// Not yet.
    Waiting,
    /// The state is reached, and the other vCPUs stand still.
    Reached,
    /// It was not reached in time.
    Over,
    /// It was reached, and it still held when the guest said that it acts.
    Held,
    /// It was reached, and held no more when the guest said that it acts.
    Lost,
    /// It could not be looked at any more.
    Failed,
}

impl UntilState {
    const ALL: [Self; 6] = [
        Self::Waiting,
        Self::Reached,
        Self::Over,
        Self::Held,
        Self::Lost,
        Self::Failed,
    ];

    /// As it lies in the mailbox.
    #[must_use]
    pub const fn word(self) -> u32 {
        self as u32
    }

    /// What a word of the mailbox says; `None` for one that no host writes.
    #[must_use]
    pub fn of_word(word: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.word() == word)
    }
}

/// PCI vendor and device of the mailbox (QEMU's docs/specs/ivshmem-spec).
pub const MAILBOX_PCI_ID: (u16, u16) = (0x1af4, 0x1110);

const _: () = {
    assert!(MAILBOX_LEN.is_power_of_two());
    assert!(UNTIL_AT + 4 <= OUT_AT);
    assert!(IN_AT + MAILBOX_HALF <= MAILBOX_LEN);
};
