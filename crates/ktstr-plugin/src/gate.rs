//! What plugin and host say to each other while the guest stands still. Both sides use this file.
//!
//! The plugin sends a [`Stop`] and executes nothing until it has read a [`Release`]. All numbers are little-endian 64-bit words.

use std::io::{self, Read, Write};

/// The instruction by which a guest stops itself.
pub const KNOCK: [u8; 7] = [0x0f, 0x1f, 0x80, 0x54, 0x53, 0x54, 0x4b];

/// The instruction by which a guest that was waited for says that it acts, and then that it has acted.
pub const MARK: [u8; 7] = [0x0f, 0x1f, 0x80, 0x54, 0x53, 0x54, 0x4d];

/// Most addresses at which the guest stops before it executes them.
pub const WATCHES: usize = 16;

/// Most places at which the guest stops after it has written to them.
pub const STORES: usize = 4;

/// Registers of one vCPU, in the order of [`Stop`]'s words: RIP, RFLAGS, CR0, CR2, CR3, CR4, then RAX, RBX, RCX, RDX, RSI, RDI,
/// RBP, RSP, R8 to R15.
pub const REGISTERS: usize = 22;

/// More vCPUs than any machine here has.
const MAX_VCPUS: u64 = 1024;

/// Why the guest stands still.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// It executed [`KNOCK`].
    Knock,
    /// The time of [`Release::wake_ns`] has come, and a vCPU is about to execute.
    Timer,
    /// A vCPU is about to execute a watched address.
    Watch,
    /// A vCPU has written to a watched place.
    Store,
    /// It executed [`MARK`].
    Mark,
    /// The time of [`Release::wake_ns`] has come, and no vCPU has anything to do.
    Idle,
}

impl Cause {
    const ALL: [Self; 6] = [
        Self::Knock,
        Self::Timer,
        Self::Watch,
        Self::Store,
        Self::Mark,
        Self::Idle,
    ];
}

/// The guest stands still, all vCPUs of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stop {
    /// Why.
    pub cause: Cause,
    /// The vCPU that was executing.
    pub vcpu: u64,
    /// Virtual time since power-on, in nanoseconds.
    pub time_ns: u64,
    /// The watched address or place; 0 otherwise.
    pub address: u64,
    /// One list per vCPU.
    pub registers: Vec<[u64; REGISTERS]>,
}

impl Stop {
    /// Sends it whole.
    ///
    /// # Errors
    /// When the stream does not take it.
    pub fn write(&self, stream: &mut impl Write) -> io::Result<()> {
        let head = [
            self.cause as u64,
            self.vcpu,
            self.time_ns,
            self.address,
            self.registers.len() as u64,
        ];
        let words = head
            .into_iter()
            .chain(self.registers.iter().copied().flatten());
        let bytes: Vec<u8> = words.flat_map(u64::to_le_bytes).collect();
        stream.write_all(&bytes)
    }

    /// Waits for the next one.
    ///
    /// # Errors
    /// When the stream has ended, or says something else.
    pub fn read(stream: &mut impl Read) -> io::Result<Self> {
        let [cause, vcpu, time_ns, address, count] = words(stream)?;
        let cause = Cause::ALL
            .into_iter()
            .find(|known| *known as u64 == cause)
            .filter(|_| count <= MAX_VCPUS)
            .ok_or(io::ErrorKind::InvalidData)?;
        let registers = (0..count)
            .map(|_| words(stream))
            .collect::<io::Result<_>>()?;
        Ok(Self {
            cause,
            vcpu,
            time_ns,
            address,
            registers,
        })
    }
}

/// Which vCPUs go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Alone {
    /// Those that did before.
    #[default]
    AsBefore,
    /// All.
    All,
    /// This one. The others execute a block each where it leaves its turn, so that what it waits for comes about; while it halts,
    /// the clock moves to the next timer. After its first [`MARK`] its next halt lets the others go on, as does
    /// [`ALONE_AT_MOST_NS`].
    Only(u64),
}

/// How long a vCPU goes on alone, at most, in nanoseconds of virtual time.
pub const ALONE_AT_MOST_NS: u64 = 20_000_000;

impl Alone {
    fn word(self) -> u64 {
        match self {
            Self::AsBefore => 0,
            Self::All => u64::MAX,
            Self::Only(vcpu) => vcpu.saturating_add(1),
        }
    }

    fn of_word(word: u64) -> Self {
        match word {
            0 => Self::AsBefore,
            u64::MAX => Self::All,
            vcpu => Self::Only(vcpu - 1),
        }
    }
}

/// The host lets the guest go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Release {
    /// Virtual time at which the guest is to stand still again, at the latest.
    pub wake_ns: u64,
    /// The host stops the emulator, to save the guest or to show it to a debugger: the guest is to go on no further than to the
    /// end of its block, and that only once the emulator has been told to stop, so that where it stops does not depend on when the
    /// host said so. After [`Cause::Idle`], which no block ends, it stands still again before the next block that is executed.
    pub stops: bool,
    /// Which vCPUs go on.
    pub alone: Alone,
    /// Addresses at which it is to stand still; 0 is none.
    pub watches: [u64; WATCHES],
    /// Places, address and length, after writes to which it is to stand still; length 0 is none.
    pub stores: [[u64; 2]; STORES],
}

impl Release {
    /// Sends it whole.
    ///
    /// # Errors
    /// When the stream does not take it.
    pub fn write(&self, stream: &mut impl Write) -> io::Result<()> {
        let head = [self.wake_ns, u64::from(self.stops), self.alone.word()];
        let words = head.into_iter().chain(self.watches);
        let words = words.chain(self.stores.into_iter().flatten());
        let bytes: Vec<u8> = words.flat_map(u64::to_le_bytes).collect();
        stream.write_all(&bytes)
    }

    /// Waits for the next one.
    ///
    /// # Errors
    /// When the stream has ended.
    pub fn read(stream: &mut impl Read) -> io::Result<Self> {
        let [wake_ns, stops, alone] = words(stream)?;
        let watches = words(stream)?;
        let mut stores = [[0; 2]; STORES];
        for store in &mut stores {
            *store = words(stream)?;
        }
        Ok(Self {
            wake_ns,
            stops: stops != 0,
            alone: Alone::of_word(alone),
            watches,
            stores,
        })
    }
}

fn words<const N: usize>(stream: &mut impl Read) -> io::Result<[u64; N]> {
    let mut bytes = [[0; 8]; N];
    stream.read_exact(bytes.as_flattened_mut())?;
    Ok(bytes.map(u64::from_le_bytes))
}
