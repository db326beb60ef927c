//! Members by dotted path, through anonymous structs and unions.

use std::cell::Cell;

use super::Btf;
use super::types::{Kind, Member, Type, TypeId};
use crate::bytes;

/// Anonymous structs nest no deeper than this.
const MAX_NESTING: usize = 16;
/// Members looked at for one name; hostile types nest anonymous structs so that their number explodes.
const MAX_VISITS: usize = 1 << 17;

/// Where a bit field lies within its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BitSpan {
    /// First bit, counted from the least significant of the field's bytes.
    pub shift: u32,
    /// Width in bits.
    pub bits: u32,
}

/// A member's place in its struct.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    /// Offset in bytes.
    pub offset: u64,
    /// Size in bytes; for a bit field of the bytes that hold it.
    pub size: u64,
    /// Its type.
    pub ty: TypeId,
    /// Set for a bit field.
    pub bits: Option<BitSpan>,
}

impl Field {
    /// The number in a field's bytes: bit fields are cut out, nothing is sign-extended.
    #[must_use]
    pub fn decode(&self, raw: &[u8]) -> u64 {
        let value = bytes::uint(raw);
        match self.bits {
            Some(span) => {
                let mask = u64::MAX >> 64_u32.saturating_sub(span.bits.clamp(1, 64));
                value.checked_shr(span.shift).unwrap_or(0) & mask
            }
            None => value,
        }
    }
}

impl Btf {
    /// The member at a dotted path (`cfs.h_nr_running`, `comm`, `buckets[3].first`) below a struct or union.
    ///
    /// Steps go through anonymous members as C does, and into nested structs and arrays, but not through pointers.
    #[must_use]
    pub fn member(&self, id: TypeId, path: &str) -> Option<Field> {
        let mut place = Field {
            offset: 0,
            size: self.size_of(id).unwrap_or(0),
            ty: id,
            bits: None,
        };
        for step in path.split('.') {
            let at = step.find('[').unwrap_or(step.len());
            let (name, indices) = step.split_at_checked(at)?;
            place = self.step(&place, name)?;
            place = self.subscripts(place, indices)?;
        }
        Some(place)
    }

    /// As [`Btf::member`], below an array: a path that begins with a subscript (`[3].first`).
    #[must_use]
    pub fn indexed(&self, id: TypeId, path: &str) -> Option<Field> {
        let end = path.find('.').unwrap_or(path.len());
        let (indices, rest) = path.split_at_checked(end)?;
        let whole = Field {
            offset: 0,
            size: self.size_of(id)?,
            ty: id,
            bits: None,
        };
        let element = self.subscripts(whole, indices)?;
        let Some(rest) = rest.strip_prefix('.') else {
            return Some(element);
        };
        let inner = self.member(element.ty, rest)?;
        Some(Field {
            offset: element.offset.checked_add(inner.offset)?,
            ..inner
        })
    }

    /// `[1][2]` below a place.
    fn subscripts(&self, place: Field, indices: &str) -> Option<Field> {
        indices
            .split_terminator(']')
            .try_fold(place, |place, index| {
                let index = index.strip_prefix('[')?.parse().ok()?;
                self.element(&place, index)
            })
    }

    /// A member of the named struct.
    #[must_use]
    pub fn member_of(&self, name: &str, path: &str) -> Option<Field> {
        self.member(self.find_struct(name)?.id(), path)
    }

    fn step(&self, outer: &Field, name: &str) -> Option<Field> {
        let ty = self.resolve(outer.ty)?;
        let (bit_base, member) = self.search(ty, name, (MAX_NESTING, &Cell::new(MAX_VISITS)))?;
        self.place(outer.offset, bit_base, &member)
    }

    /// The named member, and the bit offset of the anonymous struct around it.
    fn search<'a>(
        &'a self,
        ty: Type<'a>,
        name: &str,
        (depth, visits): (usize, &Cell<usize>),
    ) -> Option<(u64, Member<'a>)> {
        let depth = depth.checked_sub(1)?;
        visits.set(visits.get().checked_sub(ty.member_count() + 1)?);
        if let Some(found) = ty.members().find(|member| member.name == name) {
            return Some((0, found));
        }
        ty.members()
            .filter(|member| member.name.is_empty())
            .find_map(|member| {
                let inner = self.resolve(member.ty)?;
                let (base, found) = self.search(inner, name, (depth, visits))?;
                Some((base + u64::from(member.bit_offset), found))
            })
    }

    /// The field that a member makes in a struct at `offset`.
    pub(crate) fn place(&self, offset: u64, bit_base: u64, member: &Member<'_>) -> Option<Field> {
        let bit = bit_base + u64::from(member.bit_offset);
        let size = self.size_of(member.ty).unwrap_or(0);
        // Old style: the width is the integer's own, narrower than its bytes.
        let int_bits = self
            .resolve(member.ty)
            .and_then(|ty| ty.int())
            .filter(|int| u64::from(int.bits) < size * 8 && !int.is_bool);
        let bits = match (member.bits, int_bits) {
            (0, None) => 0,
            (0, Some(int)) => int.bits,
            (bits, _) => bits,
        };
        if bits == 0 {
            return Some(Field {
                offset: offset.checked_add(bit / 8)?,
                size,
                ty: member.ty,
                bits: None,
            });
        }
        let shift = u32::try_from(bit % 8).ok()?;
        Some(Field {
            offset: offset.checked_add(bit / 8)?,
            size: u64::from((shift + bits).div_ceil(8)),
            ty: member.ty,
            bits: Some(BitSpan { shift, bits }),
        })
    }

    fn element(&self, outer: &Field, index: u32) -> Option<Field> {
        let ty = self.resolve(outer.ty)?;
        let (element, count) = ty.array()?;
        // A flexible array member has count 0 and any number of elements.
        if count != 0 && index >= count {
            return None;
        }
        let size = self.size_of(element)?;
        Some(Field {
            offset: outer.offset.checked_add(size.checked_mul(index.into())?)?,
            size,
            ty: element,
            bits: None,
        })
    }

    /// A variable of a data section by name: its type and its place in the section.
    #[must_use]
    pub fn section_var(&self, section: TypeId, name: &str) -> Option<Field> {
        let section = self.ty(section).filter(|ty| ty.kind() == Kind::DataSec)?;
        section.section_vars().find_map(|var| {
            let ty = self.ty(var.var).filter(|ty| ty.name() == name)?;
            Some(Field {
                offset: var.offset.into(),
                size: var.size.into(),
                ty: ty.target()?,
                bits: None,
            })
        })
    }

    /// The name of a type as C writes it: `struct rq *`, `u32[4]`, `const char *`.
    #[must_use]
    pub fn type_name(&self, id: TypeId) -> String {
        self.type_name_within(id, MAX_NESTING)
    }

    fn type_name_within(&self, id: TypeId, depth: usize) -> String {
        let (Some(ty), Some(depth)) = (self.ty(id), depth.checked_sub(1)) else {
            return "?".to_owned();
        };
        let target = || {
            ty.target()
                .map_or_else(String::new, |target| self.type_name_within(target, depth))
        };
        let named = |what: &str| match ty.name() {
            "" => format!("{what} (anonymous)"),
            name => format!("{what} {name}"),
        };
        match ty.kind() {
            Kind::Void => "void".to_owned(),
            Kind::Ptr => {
                let target = target();
                let space = if target.ends_with('*') { "" } else { " " };
                format!("{target}{space}*")
            }
            Kind::Array => {
                let (element, count) = ty.array().unwrap_or_default();
                format!("{}[{count}]", self.type_name_within(element, depth))
            }
            Kind::Struct => named("struct"),
            Kind::Union => named("union"),
            Kind::Enum | Kind::Enum64 => named("enum"),
            Kind::Fwd if ty.is_union_fwd() => named("union"),
            Kind::Fwd => named("struct"),
            Kind::Const => format!("const {}", target()),
            Kind::Volatile => format!("volatile {}", target()),
            Kind::Restrict | Kind::TypeTag | Kind::DeclTag | Kind::Var => target(),
            Kind::FuncProto => "function".to_owned(),
            _ => ty.name().to_owned(),
        }
    }
}
