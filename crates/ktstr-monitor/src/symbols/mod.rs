//! Names of addresses: decoded from the kallsyms tables in guest memory, or read from a vmlinux.

mod kallsyms;
mod vmlinux;

pub(crate) use kallsyms::find_kallsyms;
pub use vmlinux::Vmlinux;

use crate::{Kva, bytes};

/// A kernel's symbols with their run-time addresses.
#[derive(Debug, Default)]
pub struct Symbols {
    names: Vec<u8>,
    entries: Vec<Entry>,
    /// Hash table of names: power of two, linear probing, `u32::MAX` is empty.
    slots: Vec<u32>,
    /// Indices of text and data symbols by address.
    by_address: Vec<u32>,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    name: u32,
    len: u16,
    kind: u8,
    value: u64,
}

/// Values below this are offsets into per-CPU areas, not addresses.
pub(crate) const START_KERNEL_MAP: u64 = 0xffff_ffff_8000_0000;
const EMPTY: u32 = u32::MAX;
/// Bytes of names; a kernel with everything built in has ten.
const MAX_NAMES: usize = 64 << 20;

impl Symbols {
    /// Collects (kind letter as `nm` has it, name, value).
    #[must_use]
    pub fn collect<'a>(symbols: impl Iterator<Item = (u8, &'a [u8], u64)>) -> Self {
        let mut all = Self::default();
        for (kind, name, value) in symbols {
            all.push(kind, name, value);
        }
        all.index();
        all
    }

    /// Adds a symbol; past [`MAX_NAMES`] they are left out.
    pub(crate) fn push(&mut self, kind: u8, name: &[u8], value: u64) {
        if self.names.len() > MAX_NAMES {
            return;
        }
        let (Ok(at), Ok(len)) = (u32::try_from(self.names.len()), u16::try_from(name.len())) else {
            return;
        };
        self.names.extend_from_slice(name);
        self.entries.push(Entry {
            name: at,
            len,
            kind,
            value,
        });
    }

    pub(crate) fn index(&mut self) {
        let size = (self.entries.len() * 2).next_power_of_two();
        let mut slots = vec![EMPTY; size];
        for (number, entry) in (0_u32..).zip(&self.entries) {
            let mut at = hash(self.name(entry)) & (size - 1);
            while let Some(slot) = slots.get_mut(at) {
                if *slot == EMPTY {
                    *slot = number;
                    break;
                }
                at = (at + 1) & (size - 1);
            }
        }
        self.slots = slots;
        let mut order: Vec<u32> = (0_u32..)
            .zip(&self.entries)
            .filter(|(_, entry)| entry.value >= START_KERNEL_MAP)
            .map(|(number, _)| number)
            .collect();
        order.sort_by_key(|&number| self.entries.get(number as usize).map(|entry| entry.value));
        self.by_address = order;
    }

    fn name(&self, entry: &Entry) -> &[u8] {
        let start = entry.name as usize;
        self.names
            .get(start..start + usize::from(entry.len))
            .unwrap_or_default()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The value of the first symbol of this name: an address, or an offset into per-CPU areas.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<u64> {
        let mask = self.slots.len().checked_sub(1)?;
        let mut at = hash(name.as_bytes()) & mask;
        for _ in 0..=mask {
            let entry = self.entries.get(*self.slots.get(at)? as usize)?;
            if self.name(entry) == name.as_bytes() {
                return Some(entry.value);
            }
            at = (at + 1) & mask;
        }
        None
    }

    /// The symbol that an address lies in or behind, and the distance from its start.
    #[must_use]
    pub fn symbolize(&self, kva: Kva) -> Option<(&str, u64)> {
        let entry_of = |number: &u32| self.entries.get(*number as usize);
        let behind = self
            .by_address
            .partition_point(|number| entry_of(number).is_some_and(|entry| entry.value <= kva.0));
        let entry = entry_of(self.by_address.get(behind.checked_sub(1)?)?)?;
        let name = std::str::from_utf8(self.name(entry)).ok()?;
        let offset = kva.0 - entry.value;
        // Nothing in a kernel image is larger; modules and heap have no symbols here.
        (offset < 16 << 20).then_some((name, offset))
    }

    /// All symbols: kind letter, name, value.
    pub fn iter(&self) -> impl Iterator<Item = (char, &str, u64)> {
        self.entries.iter().map(|entry| {
            let name = std::str::from_utf8(self.name(entry)).unwrap_or_default();
            (char::from(entry.kind), name, entry.value)
        })
    }
}

fn hash(name: &[u8]) -> usize {
    let state = name.iter().fold(0xcbf2_9ce4_8422_2325_u64, |state, &byte| {
        (state ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    bytes::size(state ^ (state >> 32))
}

#[cfg(test)]
mod tests;
