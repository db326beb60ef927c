//! Values of one map, with what their pointers lead to where that is the scheduler's own state: objects in an arena, and the
//! CPUs of a mask.

use std::cell::OnceCell;

use super::elements::MAX_VALUE;
use super::{Arena, BpfMap};
use crate::btf::{Btf, Kind, Type, TypeId};
use crate::render::{Decoder, Limits, Pointee, RenderedValue};
use crate::{Kernel, Kva, bytes};

/// Bytes of an object in an arena that are read.
const MAX_OBJECT: u64 = 16 << 10;

/// Bytes of one section that are read.
const MAX_SECTION: usize = 16 << 20;
/// Values that every variable of a section may have, however many there are.
const MIN_SHARE: usize = 64;

/// What may still be read and shown of a section.
struct Budget {
    bytes: usize,
    values: usize,
}

/// Values of a context behind a header.
const MAX_PAYLOAD_VALUES: usize = 512;

/// The name of the flexible array that a struct ends with.
fn flexible_end(btf: &Btf, ty: &Type<'_>) -> Option<String> {
    let last = ty.members().last()?;
    let (_, count) = btf.resolve(last.ty)?.array()?;
    (count == 0).then(|| last.name.to_owned())
}

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
        self.render_counted(btf, ty, raw, limits).0
    }

    /// The same, and how many values that took.
    fn render_counted(
        &self,
        btf: &Btf,
        ty: TypeId,
        raw: &[u8],
        limits: Limits,
    ) -> (RenderedValue, usize) {
        let raw = raw.get(..raw.len().min(MAX_VALUE)).unwrap_or_default();
        let resolve = |address: u64| {
            let (name, offset) = self.kernel.symbolize(Kva(address))?;
            Some(match offset {
                0 => name.to_owned(),
                _ => format!("{name}+{offset:#x}"),
            })
        };
        let follow = |address: u64, target: &Type<'_>| self.follow(btf, address, target);
        let decoder = Decoder::new(btf, limits)
            .resolver(&resolve)
            .follower(&follow);
        let value = decoder.decode(ty, raw);
        let used = decoder.used();
        (value, used)
    }

    /// The variables of the section that the map holds at `at`, one by one: each has a share of the limits, and one that
    /// is large or cannot be read costs no other.
    pub(super) fn section(&self, btf: &Btf, at: Kva, limits: Limits) -> RenderedValue {
        let section = btf.ty(self.map.value_type);
        let vars: Vec<_> = section.iter().flat_map(|ty| ty.section_vars()).collect();
        let mut left = Budget {
            bytes: MAX_SECTION,
            values: limits.values,
        };
        let mut members = Vec::new();
        for (number, var) in vars.iter().enumerate() {
            let Some((variable, ty)) = btf.ty(var.var).and_then(|ty| Some((ty, ty.target()?)))
            else {
                continue;
            };
            let end = u64::from(var.offset) + u64::from(var.size);
            let value = if end > u64::from(self.map.value_size) {
                RenderedValue::Unreadable("it lies outside of its section".to_owned())
            } else {
                let mut share = Budget {
                    bytes: left.bytes,
                    values: (left.values / (vars.len() - number)).max(MIN_SHARE),
                };
                let given = share.values;
                let at = at.wrapping_add(var.offset.into());
                let value = self.place(btf, (ty, at), limits, &mut share);
                left.bytes = share.bytes;
                left.values = left.values.saturating_sub(given - share.values);
                value
            };
            members.push((variable.name().to_owned(), value));
        }
        RenderedValue::Struct {
            type_name: section.map_or_else(String::new, |ty| ty.name().to_owned()),
            members,
        }
    }

    /// The value at an address; a large one by its parts, so that only what is shown is read.
    fn place(
        &self,
        btf: &Btf,
        (id, at): (TypeId, Kva),
        limits: Limits,
        left: &mut Budget,
    ) -> RenderedValue {
        let size = bytes::size(btf.size_of(id).unwrap_or(0));
        if size <= MAX_VALUE {
            let limits = Limits {
                values: left.values,
                ..limits
            };
            let Some(rest) = left.bytes.checked_sub(size).filter(|_| limits.values > 0) else {
                return RenderedValue::Unreadable(format!("{size} bytes, not shown"));
            };
            left.bytes = rest;
            return match self.kernel.read_bytes(at, size as u64, MAX_VALUE) {
                Ok(raw) => {
                    let (value, used) = self.render_counted(btf, id, &raw, limits);
                    left.values = left.values.saturating_sub(used);
                    value
                }
                Err(error) => RenderedValue::Unreadable(error.to_string()),
            };
        }
        let deeper = limits.depth.checked_sub(1).zip(btf.resolve(id));
        let Some((depth, ty)) = deeper.filter(|_| left.values > 0) else {
            return RenderedValue::Unreadable(format!("{size} bytes, not shown"));
        };
        let limits = Limits { depth, ..limits };
        left.values -= 1;
        if let Some((element, count)) = ty.array() {
            let stride = btf.size_of(element).unwrap_or(0);
            let shown = u64::from(count).min(limits.elements as u64);
            let elements = (0..shown)
                .map(|number| {
                    let at = at.wrapping_add(number.wrapping_mul(stride));
                    self.place(btf, (element, at), limits, left)
                })
                .collect();
            return RenderedValue::Array {
                elements,
                omitted: u64::from(count) - shown,
            };
        }
        let members = ty
            .members()
            .filter_map(|member| {
                let field = btf.place(0, 0, &member)?;
                let at = at.wrapping_add(field.offset);
                let value = match field.bits {
                    None => self.place(btf, (field.ty, at), limits, left),
                    Some(_) => match self.kernel.read_bytes(at, field.size, 9) {
                        Ok(raw) => RenderedValue::Unsigned(field.decode(&raw)),
                        Err(error) => RenderedValue::Unreadable(error.to_string()),
                    },
                };
                Some((member.name.to_owned(), value))
            })
            .collect();
        RenderedValue::Struct {
            type_name: ty.name().to_owned(),
            members,
        }
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
        if let Some(payload) = flexible_end(btf, target) {
            return self.with_payload(btf, address, target, (size, &payload));
        }
        let arena = self.arenas().iter().find(|arena| arena.contains(address))?;
        let raw = self
            .kernel
            .read_bytes(arena.kva_of(address), size, bytes::size(MAX_OBJECT))
            .ok()?;
        Some(Pointee::Bytes(raw))
    }

    /// An object of the allocator that scx schedulers share (`struct sdt_data`): its header, and the task's or cgroup's
    /// context behind it, whose length the allocator knows and whose type is not recorded.
    fn with_payload(
        &self,
        btf: &Btf,
        address: u64,
        target: &Type<'_>,
        (head, payload): (u64, &str),
    ) -> Option<Pointee> {
        let arena = self.arenas().iter().find(|arena| arena.contains(address))?;
        let kva = arena.kva_of(address);
        let read = |len| {
            self.kernel
                .read_bytes(kva, len, bytes::size(MAX_OBJECT))
                .ok()
        };
        let whole = self.element_size(btf).filter(|&whole| {
            target.name() == "sdt_data" && (head + 1..=MAX_OBJECT).contains(&whole)
        });
        let Some(whole) = whole else {
            return Some(Pointee::Bytes(read(head)?));
        };
        let raw = read(whole)?;
        let Some(ty) = self.only_type_of(btf, whole - head) else {
            return Some(Pointee::Bytes(raw));
        };
        let limits = Limits {
            values: MAX_PAYLOAD_VALUES,
            ..Limits::default()
        };
        let decoder = Decoder::new(btf, limits);
        let mut value = decoder.decode(target.id(), raw.get(..bytes::size(head))?);
        let context = decoder.decode(ty, raw.get(bytes::size(head)..)?);
        if let RenderedValue::Struct { members, .. } = &mut value {
            members.retain(|(name, _)| name != payload);
            members.push((payload.to_owned(), context));
        }
        Some(Pointee::Value(value))
    }

    /// `pool.elem_size` of the allocator among the variables of the map's own object; of several, the one whose name
    /// has the map's first word.
    fn element_size(&self, btf: &Btf) -> Option<u64> {
        let maps = self.kernel.maps().found;
        let mut found = Vec::new();
        for map in maps.iter().filter(|map| map.btf == self.map.btf) {
            let Some(section) = btf.ty(map.value_type) else {
                continue;
            };
            for var in section.section_vars() {
                let Some(variable) = btf.ty(var.var) else {
                    continue;
                };
                let is_allocator = btf.resolve(var.var).is_some_and(|ty| {
                    matches!(ty.name(), "scx_allocator" | "sdt_allocator" | "scx_alloc")
                });
                if is_allocator {
                    let path = format!("{}.pool.elem_size", variable.name());
                    let size = map
                        .field(self.kernel, 0, &path)
                        .ok()?
                        .read(self.kernel)
                        .ok()?;
                    found.push((variable.name().to_owned(), size));
                }
            }
        }
        let word = self.map.name.split('_').find(|word| *word != "scx")?;
        match &found[..] {
            [(_, size)] => Some(*size),
            several => several
                .iter()
                .find(|(name, _)| name.contains(word))
                .map(|(_, size)| *size),
        }
    }

    /// The only struct of this size that a program brought along and that is not the kernel's.
    fn only_type_of(&self, btf: &Btf, size: u64) -> Option<TypeId> {
        let mut fitting = btf.types().filter(|ty| {
            let own = ty.stated_size().map(u64::from);
            ty.kind() == Kind::Struct
                && own.is_some_and(|own| own.next_multiple_of(8) == size)
                && !ty.name().is_empty()
                && !["bpf_", "sdt_", "scx_"]
                    .iter()
                    .any(|prefix| ty.name().starts_with(prefix))
                && self.kernel.btf().find_struct(ty.name()).is_none()
        });
        let first = fitting.next()?.id();
        fitting.next().is_none().then_some(first)
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
