//! From bytes and a type to the tree.

use std::cell::Cell;

use super::RenderedValue;
use crate::btf::{Btf, Field, Kind, Type, TypeId};
use crate::bytes;

/// How much is decoded of what a guest says there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Elements of each array.
    pub elements: usize,
    /// Nested structs and arrays.
    pub depth: usize,
    /// Values altogether.
    pub values: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            elements: 64,
            depth: 16,
            values: 20_000,
        }
    }
}

/// Tells what lies at an address.
type Resolver<'a> = dyn Fn(u64) -> Option<String> + 'a;
/// Reads what lies at an address that is not null, as a type without names and qualifiers.
type Follower<'a> = dyn Fn(u64, &Type<'_>) -> Option<Pointee> + 'a;

/// Pointers in what pointers lead to are followed this far: lists of objects have no end.
const HOPS: usize = 3;

/// What a pointer leads to.
#[derive(Debug, Clone, PartialEq)]
pub enum Pointee {
    /// Bytes of the pointer's type.
    Bytes(Vec<u8>),
    /// Something that another reader knows better.
    Value(RenderedValue),
}

/// Decodes values of one BTF.
#[derive(Clone)]
pub struct Decoder<'a> {
    btf: &'a Btf,
    limits: Limits,
    resolver: Option<&'a Resolver<'a>>,
    follower: Option<&'a Follower<'a>>,
    left: Cell<usize>,
    /// The same for what pointers lead to, so that this takes nothing from the value itself.
    left_behind: Cell<usize>,
    hops: Cell<usize>,
}

impl std::fmt::Debug for Decoder<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decoder")
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

impl<'a> Decoder<'a> {
    /// Decodes by these types, within these limits.
    #[must_use]
    pub fn new(btf: &'a Btf, limits: Limits) -> Self {
        Self {
            btf,
            limits,
            resolver: None,
            follower: None,
            left: Cell::new(limits.values),
            left_behind: Cell::new(limits.values),
            hops: Cell::new(0),
        }
    }

    /// Says what pointers point at.
    #[must_use]
    pub fn resolver(mut self, resolver: &'a Resolver<'a>) -> Self {
        self.resolver = Some(resolver);
        self
    }

    /// Reads what pointers lead to.
    #[must_use]
    pub fn follower(mut self, follower: &'a Follower<'a>) -> Self {
        self.follower = Some(follower);
        self
    }

    /// How many values the last [`decode`](Self::decode) made.
    pub(crate) fn used(&self) -> usize {
        self.limits.values - self.left.get().min(self.limits.values)
    }

    /// The value of type `ty` in `raw`. Bytes that are missing make the parts unreadable that need them.
    #[must_use]
    pub fn decode(&self, ty: TypeId, raw: &[u8]) -> RenderedValue {
        self.left.set(self.limits.values);
        self.left_behind.set(self.limits.values);
        self.value(ty, raw, self.limits.depth)
    }

    fn value(&self, id: TypeId, raw: &[u8], depth: usize) -> RenderedValue {
        let (Some(left), Some(depth)) = (self.left.get().checked_sub(1), depth.checked_sub(1))
        else {
            return RenderedValue::Unreadable("too much to show".to_owned());
        };
        self.left.set(left);
        let Some(ty) = self.btf.resolve(id) else {
            return RenderedValue::Unreadable(format!("type {} is unknown", id.0));
        };
        match ty.kind() {
            Kind::Struct | Kind::Union => {
                let mut members = Vec::new();
                self.spread(&ty, raw, 0, depth, &mut members);
                RenderedValue::Struct {
                    type_name: ty.name().to_owned(),
                    members,
                }
            }
            Kind::DataSec => self.section(&ty, raw, depth),
            Kind::Array => self.array(&ty, raw, depth),
            Kind::Int | Kind::Ptr | Kind::Enum | Kind::Enum64 | Kind::Float => {
                let size = bytes::size(self.btf.size_of(ty.id()).unwrap_or(0));
                match raw.get(..size) {
                    Some(raw) if size > 0 => self.scalar(&ty, raw),
                    _ => missing(),
                }
            }
            Kind::Void => RenderedValue::Unreadable("void".to_owned()),
            _ => RenderedValue::Unreadable(format!("no values of {}", self.btf.type_name(id))),
        }
    }

    /// A flexible array: what the bytes behind the struct hold of it. How many there are, its type does not say.
    fn flexible(&self, ty: &Type<'_>, raw: &[u8], depth: usize) -> RenderedValue {
        let (element, _) = ty.array().unwrap_or_default();
        let size = bytes::size(self.btf.size_of(element).unwrap_or(0));
        let count = raw.len().checked_div(size).unwrap_or(0);
        match u32::try_from(count) {
            Ok(count) if count > 0 => self.elements(element, count, raw, depth),
            _ => RenderedValue::Unreadable("a flexible array of unknown length".to_owned()),
        }
    }

    /// Adds a struct's members; those of anonymous ones as if they were its own.
    fn spread(
        &self,
        ty: &Type<'_>,
        raw: &[u8],
        bit_base: u64,
        depth: usize,
        out: &mut Vec<(String, RenderedValue)>,
    ) {
        let Some(depth) = depth.checked_sub(1) else {
            return;
        };
        for member in ty.members() {
            // Anonymous structs count too: hostile types nest them without end.
            let Some(left) = self.left.get().checked_sub(1) else {
                return;
            };
            self.left.set(left);
            let inner = self
                .btf
                .resolve(member.ty)
                .filter(|_| member.name.is_empty() && member.bits == 0);
            if let Some(inner) = inner {
                let base = bit_base + u64::from(member.bit_offset);
                self.spread(&inner, raw, base, depth, out);
                continue;
            }
            let value = match self.btf.place(0, bit_base, &member) {
                Some(field) => self.field(&field, raw, depth),
                None => missing(),
            };
            out.push((member.name.to_owned(), value));
        }
    }

    fn field(&self, field: &Field, raw: &[u8], depth: usize) -> RenderedValue {
        let start = bytes::size(field.offset);
        let Some(rest) = raw.get(start..) else {
            return missing();
        };
        let Some(span) = field.bits else {
            let flexible = self
                .btf
                .resolve(field.ty)
                .filter(|ty| ty.array().is_some_and(|(_, count)| count == 0));
            return match flexible {
                Some(ty) => self.flexible(&ty, rest, depth),
                None => self.value(field.ty, rest, depth),
            };
        };
        let (Some(part), Some(ty)) = (
            rest.get(..bytes::size(field.size)),
            self.btf.resolve(field.ty),
        ) else {
            return missing();
        };
        // A bit field may straddle nine bytes; its low 64 bits are what any kernel has.
        let value = field.decode(part);
        self.number(&ty, value, span.bits)
    }

    fn section(&self, ty: &Type<'_>, raw: &[u8], depth: usize) -> RenderedValue {
        let members = ty
            .section_vars()
            .filter_map(|var| {
                let variable = self.btf.ty(var.var)?;
                let target = variable.target()?;
                let start = var.offset as usize;
                let end = start.checked_add(var.size as usize)?;
                let value = match raw.get(start..end) {
                    Some(part) => self.value(target, part, depth),
                    None => missing(),
                };
                Some((variable.name().to_owned(), value))
            })
            .collect();
        RenderedValue::Struct {
            type_name: ty.name().to_owned(),
            members,
        }
    }

    fn array(&self, ty: &Type<'_>, raw: &[u8], depth: usize) -> RenderedValue {
        let (element, count) = ty.array().unwrap_or_default();
        self.elements(element, count, raw, depth)
    }

    fn elements(&self, element: TypeId, count: u32, raw: &[u8], depth: usize) -> RenderedValue {
        let is_char = self
            .btf
            .resolve(element)
            .and_then(|element| {
                let int = element.int()?;
                Some(int.bits == 8 && (int.is_char || element.name() == "char"))
            })
            .unwrap_or(false);
        if is_char {
            let len = raw.len().min(count as usize);
            return RenderedValue::Text(bytes::text(raw.get(..len).unwrap_or_default()));
        }
        let size = bytes::size(self.btf.size_of(element).unwrap_or(0));
        if size == 0 {
            return RenderedValue::Unreadable("elements without size".to_owned());
        }
        let shown = (count as usize).min(self.limits.elements);
        let mut elements = Vec::new();
        for number in 0..shown {
            let Some(part) = raw.get(number * size..).and_then(|rest| rest.get(..size)) else {
                break;
            };
            if self.left.get() == 0 {
                break;
            }
            elements.push(self.value(element, part, depth));
        }
        let omitted = u64::from(count) - elements.len() as u64;
        RenderedValue::Array { elements, omitted }
    }

    fn scalar(&self, ty: &Type<'_>, raw: &[u8]) -> RenderedValue {
        if ty.kind() == Kind::Float {
            return match raw.len() {
                4 => RenderedValue::Float(f32::from_bits(bytes::low32(bytes::uint(raw))).into()),
                8 => RenderedValue::Float(f64::from_bits(bytes::uint(raw))),
                _ => RenderedValue::Bytes(raw.to_vec()),
            };
        }
        if raw.len() > 8 {
            return RenderedValue::Bytes(raw.to_vec());
        }
        let bits = u32::try_from(raw.len() * 8).unwrap_or(64);
        self.number(ty, bytes::uint(raw), bits)
    }

    /// A value of `bits` bits of a scalar type.
    fn number(&self, ty: &Type<'_>, value: u64, bits: u32) -> RenderedValue {
        match ty.kind() {
            Kind::Ptr => self.pointer(ty, value),
            Kind::Enum | Kind::Enum64 => enumeration(ty, value, bits),
            _ => match ty.int() {
                Some(int) if int.is_bool || ty.name() == "_Bool" => RenderedValue::Bool(value != 0),
                Some(int) if int.is_signed => {
                    RenderedValue::Signed(bytes::sign_extend(value, bits))
                }
                _ => RenderedValue::Unsigned(value),
            },
        }
    }

    fn pointer(&self, ty: &Type<'_>, address: u64) -> RenderedValue {
        let named = (address != 0)
            .then(|| self.resolver.and_then(|resolve| resolve(address)))
            .flatten();
        let pointee = match named {
            None => self.follow(ty, address).map(Box::new),
            Some(_) => None,
        };
        let target = named.or_else(|| {
            let target = ty.target().filter(|target| target.0 != 0)?;
            Some(self.btf.type_name(target))
        });
        RenderedValue::Pointer {
            address,
            target,
            pointee,
        }
    }

    fn follow(&self, ty: &Type<'_>, address: u64) -> Option<RenderedValue> {
        let follower = self.follower.filter(|_| address != 0)?;
        let hops = self.hops.get();
        let left = if hops == 0 {
            self.left_behind.get()
        } else {
            self.left.get()
        };
        if hops == HOPS || left == 0 {
            return None;
        }
        let target = self.btf.resolve(ty.target()?)?;
        let raw = match follower(address, &target)? {
            Pointee::Value(value) => return Some(value),
            Pointee::Bytes(raw) => raw,
        };
        if hops == 0 {
            self.left.swap(&self.left_behind);
        }
        self.hops.set(hops + 1);
        let value = self.value(target.id(), &raw, self.limits.depth);
        self.hops.set(hops);
        if hops == 0 {
            self.left.swap(&self.left_behind);
        }
        Some(value)
    }
}

fn missing() -> RenderedValue {
    RenderedValue::Unreadable("the value ends before this".to_owned())
}

fn enumeration(ty: &Type<'_>, value: u64, bits: u32) -> RenderedValue {
    let mask = u64::MAX >> 64_u32.saturating_sub(bits.clamp(1, 64));
    let exact = ty
        .enumerators()
        .find(|entry| entry.value & mask == value & mask);
    let signed = if ty.is_signed_enum() {
        bytes::sign_extend(value, bits)
    } else {
        value.cast_signed()
    };
    if let Some(entry) = exact {
        return RenderedValue::Enum {
            name: Some(entry.name.to_owned()),
            value: signed,
        };
    }
    let single_bits = ty
        .enumerators()
        .filter(|entry| entry.value.is_power_of_two())
        .count();
    // Flags are told by their values: at least two single bits, and mostly those.
    if single_bits >= 2 && single_bits * 2 > ty.enumerators().count() && value != 0 {
        let names = ty
            .enumerators()
            .filter(|entry| entry.value.is_power_of_two() && value & entry.value != 0)
            .map(|entry| entry.name.to_owned())
            .collect();
        return RenderedValue::Flags { names, value };
    }
    RenderedValue::Enum {
        name: None,
        value: signed,
    }
}
