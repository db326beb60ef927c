//! What tables are made from, and their bodies under construction.

use acpi_tables::AmlSink as _;

use crate::memory::MemoryRange;
use crate::topology::Topology;

/// Header of every table.
pub(super) const HEADER: u32 = 36;

/// Where a virtio-mmio device sits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct VirtioPlace {
    pub(crate) base: u32,
    pub(crate) len: u32,
    pub(crate) gsi: u32,
}

/// What the tables tell.
#[derive(Debug)]
pub(crate) struct Machine<'a> {
    pub(crate) topology: &'a Topology,
    /// Memory of each node, in node order.
    pub(crate) node_memory: &'a [Vec<MemoryRange>],
    pub(crate) virtio: &'a [VirtioPlace],
}

/// A body under construction: little-endian words, one after another.
#[derive(Debug, Default)]
pub(super) struct Body(pub(super) Vec<u8>);

impl Body {
    pub(super) fn u8(&mut self, value: u8) -> &mut Self {
        self.0.byte(value);
        self
    }

    pub(super) fn u16(&mut self, value: u16) -> &mut Self {
        self.0.word(value);
        self
    }

    pub(super) fn u32(&mut self, value: u32) -> &mut Self {
        self.0.dword(value);
        self
    }

    pub(super) fn u64(&mut self, value: u64) -> &mut Self {
        self.0.qword(value);
        self
    }

    pub(super) fn zeros(&mut self, count: usize) -> &mut Self {
        self.0.resize(self.0.len() + count, 0);
        self
    }
}
