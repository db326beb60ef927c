//! Standing still: the plugin's end of the stream to the host.

use std::ffi::c_void;
use std::io::{self, BufReader};
use std::os::fd::{FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use crate::gate::{Alone, Cause, REGISTERS, Release, STORES, Stop, WATCHES};
use crate::registers::Reader;

/// Where a block's address is told in 48 bits.
const ADDRESS: u64 = (1 << 48) - 1;

pub(crate) struct Hold {
    to_host: UnixStream,
    from_host: BufReader<UnixStream>,
    registers: Reader,
    wake_ns: u64,
    /// In 48 bits, as blocks tell theirs.
    watches: [u64; WATCHES],
    watches_used: usize,
    stores: [[u64; 2]; STORES],
    /// The last release was for a stop of the emulator.
    stops: bool,
    /// It stands still again before the next block.
    at_next_block: bool,
    /// What it said of the vCPUs.
    alone: Alone,
}

impl Hold {
    pub(crate) fn new(fd: RawFd) -> Result<Self, String> {
        // SAFETY: the host names a descriptor that this process inherited for the plugin alone.
        let stream = UnixStream::from(unsafe { OwnedFd::from_raw_fd(fd) });
        let to_host = stream
            .try_clone()
            .map_err(|error| format!("gate={fd}: {error}"))?;
        Ok(Self {
            to_host,
            from_host: BufReader::new(stream),
            registers: Reader::find()?,
            wake_ns: u64::MAX,
            watches: [0; WATCHES],
            watches_used: 0,
            stores: [[0; 2]; STORES],
            stops: false,
            at_next_block: false,
            alone: Alone::AsBefore,
        })
    }

    /// The guest was let go as far as a stop of the emulator needs.
    pub(crate) fn stops(&self) -> bool {
        self.stops
    }

    /// Which vCPUs the last release lets go on.
    pub(crate) fn alone(&self) -> Alone {
        self.alone
    }

    /// When an idle guest stands still.
    pub(crate) fn wake_ns(&self) -> u64 {
        if self.at_next_block {
            return u64::MAX;
        }
        self.wake_ns
    }

    /// Whether a guest stands still before a block that begins now.
    #[inline]
    pub(crate) fn is_due(&self, now_ns: u64) -> bool {
        now_ns >= self.wake_ns || self.at_next_block
    }

    /// `address` has 48 bits. Asked before each block.
    #[inline]
    pub(crate) fn is_watched(&self, address: u64) -> bool {
        let used = self.watches.get(..self.watches_used).unwrap_or_default();
        used.contains(&address)
    }

    /// Whether writes are watched at all: blocks are translated to tell of them then.
    pub(crate) fn watches_stores(&self) -> bool {
        self.stores.iter().any(|[_, len]| *len > 0)
    }

    /// The watched place that a write of `len` bytes at `address` touches.
    pub(crate) fn stored(&self, address: u64, len: u64) -> Option<u64> {
        let touched = |[at, size]: &[u64; 2]| {
            *size > 0 && address < at.saturating_add(*size) && *at < address.saturating_add(len)
        };
        let found = self.stores.iter().find(|place| touched(place));
        found.map(|[at, _]| *at)
    }

    /// Tells the host that the guest stands still, with the registers of `cpus`, and waits until it may go on.
    pub(crate) fn stop(
        &mut self,
        cause: Cause,
        vcpu: usize,
        at: u64,
        time_ns: u64,
        place: u64,
        cpus: &[*mut c_void],
    ) -> io::Result<()> {
        // Told in 48 bits, of which the highest is the sign.
        let address = (at << 16).cast_signed() >> 16;
        let mut registers: Vec<[u64; REGISTERS]> =
            cpus.iter().map(|cpu| self.registers.of(*cpu)).collect();
        // QEMU stores the instruction pointer at a block's end.
        if at != 0
            && let Some([rip, ..]) = registers.get_mut(vcpu)
        {
            *rip = address.cast_unsigned();
        }
        let place = match cause {
            Cause::Watch => address.cast_unsigned(),
            _ => place,
        };
        let stop = Stop {
            cause,
            vcpu: vcpu as u64,
            time_ns,
            address: place,
            registers,
        };
        stop.write(&mut self.to_host)?;
        self.wait_for_release()?;
        self.at_next_block = self.stops && cause == Cause::Idle;
        Ok(())
    }

    /// Waits until the host lets the guest go on.
    pub(crate) fn wait_for_release(&mut self) -> io::Result<()> {
        let Release {
            wake_ns,
            stops,
            alone,
            watches,
            stores,
        } = Release::read(&mut self.from_host)?;
        self.wake_ns = wake_ns;
        self.stops = stops;
        self.alone = alone;
        self.watches = watches.map(|watch| watch & ADDRESS);
        self.stores = stores;
        // The host fills them from the first on.
        self.watches_used = watches.iter().take_while(|watch| **watch != 0).count();
        Ok(())
    }
}
