//! Values of one map, with what their pointers lead to where that is the scheduler's own state: objects in an arena, and the
//! CPUs of a mask.

use std::cell::OnceCell;

use super::elements::MAX_VALUE;
use super::{Arena, BpfMap};
use crate::btf::{Btf, Type, TypeId};
use crate::render::{Decoder, Limits, Pointee, RenderedValue};
use crate::{Kernel, Kva, bytes};

/// Bytes of an object in an arena that are read.
const MAX_OBJECT: u64 = 16 << 10;

/// Renders the values of a map.
pub(super) struct Reader<'a> {
    pub(super) kernel: &'a Kernel,
    map: &'a BpfMap,
    /// All arenas, the map's own first; looked for at the first pointer that may lead into one.
    arenas: OnceCell<Vec<Arena>>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(kernel: &'a Kernel, map: &'a BpfMap) -> Self {
        Self {
            kernel,
            map,
            arenas: OnceCell::new(),
        }
    }

    /// A value of type `ty`, with the kernel's symbols as pointer targets.
    pub(super) fn render(
        &self,
        btf: &Btf,
        ty: TypeId,
        raw: &[u8],
        limits: Limits,
    ) -> RenderedValue {
        let raw = raw.get(..raw.len().min(MAX_VALUE)).unwrap_or_default();
        let resolve = |address: u64| {
            let (name, offset) = self.kernel.symbolize(Kva(address))?;
            Some(match offset {
                0 => name.to_owned(),
                _ => format!("{name}+{offset:#x}"),
            })
        };
        let follow = |address: u64, target: &Type<'_>| self.follow(btf, address, target);
        Decoder::new(btf, limits)
            .resolver(&resolve)
            .follower(&follow)
            .decode(ty, raw)
    }

    fn follow(&self, btf: &Btf, address: u64, target: &Type<'_>) -> Option<Pointee> {
        // Its first member is the mask itself (kernel/bpf/cpumask.c).
        if matches!(target.name(), "bpf_cpumask" | "cpumask") {
            let cpus = self.kernel.cpus_of_mask(Kva(address)).ok()?;
            let elements = cpus
                .into_iter()
                .map(|cpu| RenderedValue::Unsigned(cpu.into()));
            return Some(Pointee::Value(RenderedValue::Array {
                elements: elements.collect(),
                omitted: 0,
            }));
        }
        let size = btf
            .size_of(target.id())
            .filter(|size| (1..=MAX_OBJECT).contains(size))?;
        let arena = self.arenas().iter().find(|arena| arena.contains(address))?;
        let raw = self
            .kernel
            .read_bytes(arena.kva_of(address), size, bytes::size(MAX_OBJECT))
            .ok()?;
        Some(Pointee::Bytes(raw))
    }

    /// Every scheduler may have its arena at the same address: maps that were made together have ids next to each other.
    fn arenas(&self) -> &[Arena] {
        self.arenas.get_or_init(|| {
            let mut maps = self.kernel.maps().found;
            maps.retain(|map| map.map_type == "arena");
            maps.sort_by_key(|map| map.id.abs_diff(self.map.id));
            maps.iter()
                .filter_map(|map| map.arena_without_pages(self.kernel).ok())
                .collect()
        })
    }
}
