//! Radix trees (`struct idr`, `struct xarray`): numbers to pointers.

use super::{Kernel, Problems};
use crate::{Error, Kva, Result};

/// A node's address has this bit set (`RADIX_TREE_INTERNAL_NODE`, `xa_mk_node`).
const INTERNAL: u64 = 2;
/// `MAX_ORDER` of 64-bit indices in steps of 4 or 6 bits.
const MAX_DEPTH: u32 = 17;
/// `RADIX_TREE_MAP_SIZE`: 64, or 16 with `CONFIG_BASE_SMALL`.
const MAX_SLOTS: u64 = 64;

impl Kernel {
    /// The entries of a `struct idr`: number and pointer, ascending; at most `limit`.
    ///
    /// # Errors
    /// When the kernel's `struct idr` is not understood. What goes wrong further down is noted.
    pub fn walk_idr(
        &self,
        what: &'static str,
        idr: Kva,
        limit: usize,
        problems: &mut Problems,
    ) -> Result<Vec<(u64, Kva)>> {
        let root = self.object("idr", idr)?;
        let base = root.uint("idr_base").unwrap_or(0);
        let head = root
            .pointer("idr_rt.xa_head")
            .or_else(|_| root.pointer("idr_rt.rnode"))?;
        let mut walk = RadixWalk {
            kernel: self,
            what,
            limit,
            nodes: limit.saturating_mul(2).saturating_add(1024),
            entries: Vec::new(),
            problems,
        };
        walk.entry(head, 0, MAX_DEPTH);
        let mut entries = walk.entries;
        for entry in &mut entries {
            entry.0 = entry.0.wrapping_add(base);
        }
        Ok(entries)
    }
}

struct RadixWalk<'a> {
    kernel: &'a Kernel,
    what: &'static str,
    limit: usize,
    /// Nodes that may still be read: a tree may lead back into itself without holding a single entry.
    nodes: usize,
    entries: Vec<(u64, Kva)>,
    problems: &'a mut Problems,
}

impl RadixWalk<'_> {
    /// Visits a slot's content; false when the walk is over.
    fn entry(&mut self, entry: Kva, index: u64, depth: u32) -> bool {
        if entry.is_null() {
            return true;
        }
        if entry.0 & 3 != INTERNAL {
            if self.entries.len() == self.limit {
                let error = Error::TooLong {
                    what: self.what,
                    limit: self.limit,
                };
                self.problems.note(self.what, &error);
                return false;
            }
            self.entries.push((index, entry));
            return true;
        }
        // Small internal values are retry and zero entries, no nodes.
        if entry.0 < 4096 {
            return true;
        }
        let Some(nodes) = self.nodes.checked_sub(1) else {
            let error = Error::TooLong {
                what: "the nodes of a radix tree",
                limit: self.limit,
            };
            self.problems.note(self.what, &error);
            return false;
        };
        self.nodes = nodes;
        let node = Kva(entry.0 & !3);
        match self.node(node, index, depth) {
            Ok(goes_on) => goes_on,
            Err(error) => {
                self.problems.note(self.what, &error);
                true
            }
        }
    }

    fn node(&mut self, at: Kva, index: u64, depth: u32) -> Result<bool> {
        let node = self.kernel.object("xa_node", at)?;
        let shift = node.u32("shift")?;
        let slots = node.field("slots")?;
        let count = (slots.size / 8).min(MAX_SLOTS);
        // A child's shift is smaller than its parent's, so depth is bounded by what a parent allows.
        if shift >= depth * 6 || shift > 60 || !count.is_power_of_two() {
            return Err(Error::Implausible {
                what: "shift of a radix tree node",
                value: shift.into(),
            });
        }
        let mut raw = [0; 512];
        let len = crate::bytes::size(count * 8);
        let table = raw.get_mut(..len).unwrap_or_default();
        self.kernel.read(at.wrapping_add(slots.offset), table)?;
        for (number, slot) in (0_u64..).zip(table.as_chunks::<8>().0) {
            let child = Kva(u64::from_le_bytes(*slot));
            let child_depth = shift.div_ceil(6).min(depth.saturating_sub(1));
            if !self.entry(child, index | number << shift, child_depth) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
