//! One type: its kind, name and parts, decoded from the blob when asked.

use super::Btf;
use crate::bytes;

/// Number of a type; 0 is `void`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
pub struct TypeId(pub u32);

/// What a type is (`include/uapi/linux/btf.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names are the kernel's BTF_KIND_*")]
pub enum Kind {
    Void,
    Int,
    Ptr,
    Array,
    Struct,
    Union,
    Enum,
    Fwd,
    Typedef,
    Volatile,
    Const,
    Restrict,
    Func,
    FuncProto,
    Var,
    DataSec,
    Float,
    DeclTag,
    TypeTag,
    Enum64,
}

impl Kind {
    /// By number.
    pub(super) const ALL: [Kind; 20] = [
        Kind::Void,
        Kind::Int,
        Kind::Ptr,
        Kind::Array,
        Kind::Struct,
        Kind::Union,
        Kind::Enum,
        Kind::Fwd,
        Kind::Typedef,
        Kind::Volatile,
        Kind::Const,
        Kind::Restrict,
        Kind::Func,
        Kind::FuncProto,
        Kind::Var,
        Kind::DataSec,
        Kind::Float,
        Kind::DeclTag,
        Kind::TypeTag,
        Kind::Enum64,
    ];

    /// The kind with this number.
    #[must_use]
    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL.get(number as usize).copied()
    }

    /// Bytes behind the 12-byte head of a type: fixed, and per part.
    pub(super) const fn body(self) -> (u32, u32) {
        match self {
            Self::Int | Self::Var | Self::DeclTag => (4, 0),
            Self::Array => (12, 0),
            Self::Struct | Self::Union | Self::DataSec | Self::Enum64 => (0, 12),
            Self::Enum | Self::FuncProto => (0, 8),
            _ => (0, 0),
        }
    }

    /// Bytes behind the head of a type with `vlen` parts.
    pub(super) fn body_len(self, vlen: usize) -> usize {
        let (fixed, each) = self.body();
        fixed as usize + each as usize * vlen
    }

    /// Whether lookups by name see it.
    pub(super) const fn is_indexed(self) -> bool {
        !matches!(
            self,
            Self::Func | Self::FuncProto | Self::DeclTag | Self::TypeTag | Self::Ptr | Self::Array
        )
    }
}

/// A struct's or union's member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member<'a> {
    /// Empty for an anonymous one.
    pub name: &'a str,
    /// Its type.
    pub ty: TypeId,
    /// Offset from the start of the struct, in bits.
    pub bit_offset: u32,
    /// Width of a bit field, 0 for others.
    pub bits: u32,
}

/// One name of an enum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Enumerator<'a> {
    /// The name.
    pub name: &'a str,
    /// Its value, sign-extended where the enum is signed.
    pub value: u64,
}

/// A variable in a data section.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SectionVar {
    /// The variable ([`Kind::Var`]).
    pub var: TypeId,
    /// Offset from the start of the section.
    pub offset: u32,
    /// Size in bytes.
    pub size: u32,
}

/// A type of a [`Btf`].
#[derive(Debug, Clone, Copy)]
pub struct Type<'a> {
    pub(super) btf: &'a Btf,
    pub(super) id: TypeId,
    pub(super) kind: Kind,
    pub(super) kind_flag: bool,
    pub(super) name_off: u32,
    pub(super) size_or_type: u32,
    pub(super) body: &'a [u8],
}

impl<'a> Type<'a> {
    /// Its number.
    #[must_use]
    pub fn id(&self) -> TypeId {
        self.id
    }

    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Its name, empty for the anonymous.
    #[must_use]
    pub fn name(&self) -> &'a str {
        self.btf.string(self.name_off)
    }

    /// Size in bytes of an integer, struct, union, enum, section or float as the type itself states it.
    #[must_use]
    pub fn stated_size(&self) -> Option<u32> {
        match self.kind {
            Kind::Int
            | Kind::Struct
            | Kind::Union
            | Kind::Enum
            | Kind::DataSec
            | Kind::Float
            | Kind::Enum64 => Some(self.size_or_type),
            _ => None,
        }
    }

    /// The type referred to: pointee, aliased, qualified or variable type, a function's prototype or result.
    #[must_use]
    pub fn target(&self) -> Option<TypeId> {
        match self.kind {
            Kind::Ptr
            | Kind::Typedef
            | Kind::Volatile
            | Kind::Const
            | Kind::Restrict
            | Kind::Func
            | Kind::FuncProto
            | Kind::Var
            | Kind::DeclTag
            | Kind::TypeTag => Some(TypeId(self.size_or_type)),
            _ => None,
        }
    }

    /// Members of a struct or union, in order; none for others.
    pub fn members(&self) -> impl Iterator<Item = Member<'a>> + 'a {
        let this = *self;
        let body = match self.kind {
            Kind::Struct | Kind::Union => self.body,
            _ => &[],
        };
        body.as_chunks::<12>().0.iter().map(move |part| {
            let word = |at| bytes::u32_at(part, at).unwrap_or(0);
            let offset = word(8);
            // `BTF_MEMBER_BITFIELD_SIZE`: with the kind flag, the upper byte is the width.
            let (bits, bit_offset) = if this.kind_flag {
                (offset >> 24, offset & 0xff_ffff)
            } else {
                (0, offset)
            };
            Member {
                name: this.btf.string(word(0)),
                ty: TypeId(word(4)),
                bit_offset,
                bits,
            }
        })
    }

    /// How many members a struct or union has.
    pub(crate) fn member_count(&self) -> usize {
        match self.kind {
            Kind::Struct | Kind::Union => self.body.len() / 12,
            _ => 0,
        }
    }

    /// Names and values of an enum; none for others.
    pub fn enumerators(&self) -> impl Iterator<Item = Enumerator<'a>> + 'a {
        let this = *self;
        let stride = match self.kind {
            Kind::Enum => 8,
            Kind::Enum64 => 12,
            _ => usize::MAX,
        };
        self.body.chunks_exact(stride).map(move |part| {
            let word = |at| bytes::u32_at(part, at).unwrap_or(0);
            let low = u64::from(word(4));
            let value = match this.kind {
                Kind::Enum64 => low | (u64::from(word(8)) << 32),
                _ if this.kind_flag => bytes::sign_extend(low, 32).cast_unsigned(),
                _ => low,
            };
            Enumerator {
                name: this.btf.string(word(0)),
                value,
            }
        })
    }

    /// Whether an enum's values are signed.
    #[must_use]
    pub fn is_signed_enum(&self) -> bool {
        matches!(self.kind, Kind::Enum | Kind::Enum64) && self.kind_flag
    }

    /// Variables of a data section; none for others.
    pub fn section_vars(&self) -> impl Iterator<Item = SectionVar> + 'a {
        let body = match self.kind {
            Kind::DataSec => self.body,
            _ => &[],
        };
        body.as_chunks::<12>().0.iter().map(|part| {
            let word = |at| bytes::u32_at(part, at).unwrap_or(0);
            SectionVar {
                var: TypeId(word(0)),
                offset: word(4),
                size: word(8),
            }
        })
    }

    /// Element type and count of an array.
    #[must_use]
    pub fn array(&self) -> Option<(TypeId, u32)> {
        if self.kind != Kind::Array {
            return None;
        }
        Some((
            TypeId(bytes::u32_at(self.body, 0)?),
            bytes::u32_at(self.body, 8)?,
        ))
    }

    /// Encoding of an integer: signed, char, bool, and its bit offset and width.
    #[must_use]
    pub fn int(&self) -> Option<IntEncoding> {
        if self.kind != Kind::Int {
            return None;
        }
        let word = bytes::u32_at(self.body, 0)?;
        Some(IntEncoding {
            is_signed: word >> 24 & 1 != 0,
            is_char: word >> 24 & 2 != 0,
            is_bool: word >> 24 & 4 != 0,
            bit_offset: word >> 16 & 0xff,
            bits: word & 0xff,
        })
    }

    /// Whether a forward declaration or the like is of a union.
    #[must_use]
    pub fn is_union_fwd(&self) -> bool {
        self.kind == Kind::Fwd && self.kind_flag
    }
}

/// How an integer is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IntEncoding {
    /// Two's complement.
    pub is_signed: bool,
    /// A character.
    pub is_char: bool,
    /// A truth value.
    pub is_bool: bool,
    /// First bit, for old style bit fields.
    pub bit_offset: u32,
    /// Width in bits.
    pub bits: u32,
}
