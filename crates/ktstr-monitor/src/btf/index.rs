//! The index: where each type lies, and which types have a name.

use std::sync::Arc;

use super::blob::Blob;
use super::types::{Kind, Type, TypeId};
use crate::{Error, Result, bytes};

const MAGIC: u16 = 0xeb9f;
/// Head of every type: name, info, size or type.
pub(super) const TYPE_HEAD: usize = 12;
const TYPE_HEAD_BYTE: u8 = 12;
/// `BTF_MAX_NAME_OFFSET` bounds a kernel's strings to 16 MiB; its types are not larger.
pub(crate) const MAX_BTF: usize = 64 << 20;
/// Typedef and qualifier chains longer than this are cycles.
const MAX_CHAIN: usize = 32;

/// An indexed BTF blob.
#[derive(Debug)]
pub struct Btf {
    blob: Blob,
    base: Option<Arc<Btf>>,
    types: std::ops::Range<usize>,
    strings: std::ops::Range<usize>,
    index: Index,
    /// First id of ours: 1, or the base's count.
    first_id: u32,
    /// Offset of our first string: 0, or the length of the base's strings.
    first_string: u32,
    /// How long types of each kind are, those included that only the blob itself describes.
    shapes: Box<[Shape; KINDS]>,
}

/// Offsets of the types in the type section, and a hash table of names: power of two, linear probing, 0 is empty.
#[derive(Debug)]
pub(super) struct Index {
    pub(super) offsets: Vec<u32>,
    pub(super) slots: Vec<u32>,
}

impl Btf {
    /// Indexes a blob that stands alone.
    ///
    /// # Errors
    /// [`Error::BadBtf`] with the offset of the first contradiction.
    pub fn new(blob: Blob) -> Result<Self> {
        Self::with_base(blob, None)
    }

    /// Indexes bytes that stand alone.
    ///
    /// # Errors
    /// As [`Btf::new`].
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self> {
        Self::new(Blob::Owned(bytes))
    }

    /// Indexes a split blob on top of its base.
    ///
    /// # Errors
    /// As [`Btf::new`].
    pub fn split(blob: Blob, base: Arc<Btf>) -> Result<Self> {
        Self::with_base(blob, Some(base))
    }

    fn with_base(blob: Blob, base: Option<Arc<Btf>>) -> Result<Self> {
        let mut btf = Self::unindexed(blob, base)?;
        btf.index = btf.build()?;
        Ok(btf)
    }

    /// Takes a ready index, as a cache file keeps it.
    pub(super) fn with_index(blob: Blob, index: Index) -> Result<Self> {
        let mut btf = Self::unindexed(blob, None)?;
        btf.index = index;
        Ok(btf)
    }

    fn unindexed(blob: Blob, base: Option<Arc<Btf>>) -> Result<Self> {
        let Sections {
            types,
            strings,
            layout,
        } = sections(blob.bytes())?;
        let mut shapes = match &base {
            Some(base) => base.shapes.clone(),
            None => Box::new(SHAPES),
        };
        describe(&mut shapes, blob.bytes().get(layout).unwrap_or_default());
        let first_id = base.as_ref().map_or(1, |base| base.end_id());
        let first_string = base.as_ref().map_or(0, |base| base.end_string());
        Ok(Self {
            blob,
            base,
            types,
            strings,
            index: Index {
                offsets: Vec::new(),
                slots: Vec::new(),
            },
            first_id,
            first_string,
            shapes,
        })
    }

    /// One pass over all types, then one over those with a name.
    ///
    /// Kinds come in no order that a branch predictor could learn, so the first pass looks sizes up and writes every
    /// candidate, moving on only past those that count.
    fn build(&self) -> Result<Index> {
        let types = self.type_bytes();
        let mut offsets = Vec::with_capacity(types.len() / 28);
        let mut named = vec![(0, 0); types.len() / TYPE_HEAD + 1];
        let mut count = 0;
        let mut at = 0;
        while at < types.len() {
            let bad = |what| Error::BadBtf {
                offset: self.types.start + at,
                what,
            };
            let [name_off, info] = types
                .get(at..at + TYPE_HEAD)
                .and_then(|head| head.as_chunks::<4>().0.first_chunk::<2>())
                .map(|words| words.map(u32::from_le_bytes))
                .ok_or_else(|| bad("a type's head is cut off"))?;
            let shape = self
                .shapes
                .get((info >> 24 & KIND_MASK) as usize)
                .copied()
                .unwrap_or(UNKNOWN);
            if shape.head == 0 {
                return Err(bad("a kind this code predates"));
            }
            let vlen = (info & VLEN_MASK) as usize;
            let next = at + usize::from(shape.head) + usize::from(shape.each) * vlen;
            if next > types.len() {
                return Err(bad("a type's body is cut off"));
            }
            let id = self.first_id + u32::try_from(offsets.len()).unwrap_or(0);
            if let Some(slot) = named.get_mut(count) {
                *slot = (name_off, id);
            }
            count += usize::from(name_off != 0 && shape.is_indexed);
            offsets.push(u32::try_from(at).map_err(|_| bad("more than 4 GiB of types"))?);
            at = next;
        }
        let named = named.get(..count).unwrap_or_default();
        let mut slots = vec![0; (named.len() * 2).next_power_of_two()];
        for &(name_off, id) in named {
            file(&mut slots, self.name_hash(name_off), id);
        }
        Ok(Index { offsets, slots })
    }

    /// The hash of the string at an offset, without looking for its end first.
    fn name_hash(&self, offset: u32) -> usize {
        let strings = self.blob.bytes().get(self.strings.clone());
        let rest = offset
            .checked_sub(self.first_string)
            .and_then(|own| strings?.get(own as usize..));
        let mut state = HASH_SEED;
        for word in rest.unwrap_or_default().as_chunks::<8>().0 {
            let word = u64::from_le_bytes(*word);
            // The lowest zero byte sets the lowest of these bits (the others may lie, it does not).
            let zeros = word.wrapping_sub(LOW_BITS) & !word & (LOW_BITS << 7);
            if zeros != 0 {
                let kept = (zeros.trailing_zeros() / 8) * 8;
                return finish(state, word & !(u64::MAX << kept));
            }
            state = mix(state, word);
        }
        // The last string of a section, or one of the base's.
        hash(self.string_bytes(offset))
    }

    fn type_bytes(&self) -> &[u8] {
        self.blob
            .bytes()
            .get(self.types.clone())
            .unwrap_or_default()
    }

    pub(super) fn index(&self) -> &Index {
        &self.index
    }

    /// The blob itself.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.blob.bytes()
    }

    /// One more than the last id.
    #[must_use]
    pub fn end_id(&self) -> u32 {
        self.first_id + u32::try_from(self.index.offsets.len()).unwrap_or(0)
    }

    fn end_string(&self) -> u32 {
        self.first_string + u32::try_from(self.strings.len()).unwrap_or(0)
    }

    /// The type with this number, the base's included.
    #[must_use]
    pub fn ty(&self, id: TypeId) -> Option<Type<'_>> {
        if id.0 == 0 {
            return Some(Type {
                btf: self,
                id,
                kind: Kind::Void,
                kind_flag: false,
                name_off: 0,
                size_or_type: 0,
                body: &[],
            });
        }
        if id.0 < self.first_id {
            return self.base.as_deref()?.ty(id);
        }
        let own = (id.0 - self.first_id) as usize;
        let at = *self.index.offsets.get(own)? as usize;
        let rest = self.type_bytes().get(at..)?;
        let info = bytes::u32_at(rest, 4)?;
        let (kind, vlen) = split_info(info)?;
        Some(Type {
            btf: self,
            id,
            kind,
            kind_flag: info >> 31 != 0,
            name_off: bytes::u32_at(rest, 0)?,
            size_or_type: bytes::u32_at(rest, 8)?,
            body: rest.get(TYPE_HEAD..TYPE_HEAD + kind.body_len(vlen))?,
        })
    }

    /// All types, the base's not included.
    pub fn types(&self) -> impl Iterator<Item = Type<'_>> {
        (self.first_id..self.end_id()).filter_map(|id| self.ty(TypeId(id)))
    }

    fn string_bytes(&self, offset: u32) -> &[u8] {
        let Some(own) = offset.checked_sub(self.first_string) else {
            return self
                .base
                .as_deref()
                .map_or(&[], |base| base.string_bytes(offset));
        };
        let strings = self
            .blob
            .bytes()
            .get(self.strings.clone())
            .unwrap_or_default();
        let rest = strings.get(own as usize..).unwrap_or_default();
        let end = memchr::memchr(0, rest).unwrap_or(rest.len());
        rest.get(..end).unwrap_or_default()
    }

    /// The string at an offset; empty when it is outside or no UTF-8.
    #[must_use]
    pub fn string(&self, offset: u32) -> &str {
        std::str::from_utf8(self.string_bytes(offset)).unwrap_or_default()
    }

    /// The first type of this name and kind, in the base or here.
    #[must_use]
    pub fn find(&self, name: &str, kind: Kind) -> Option<Type<'_>> {
        self.find_where(name, |found| found == kind)
    }

    /// The struct or union of this name.
    #[must_use]
    pub fn find_struct(&self, name: &str) -> Option<Type<'_>> {
        self.find_where(name, |kind| matches!(kind, Kind::Struct | Kind::Union))
    }

    /// The enum of this name.
    #[must_use]
    pub fn find_enum(&self, name: &str) -> Option<Type<'_>> {
        self.find_where(name, |kind| matches!(kind, Kind::Enum | Kind::Enum64))
    }

    fn find_where(&self, name: &str, wanted: impl Fn(Kind) -> bool + Copy) -> Option<Type<'_>> {
        if let Some(found) = self
            .base
            .as_deref()
            .and_then(|base| base.find_where(name, wanted))
        {
            return Some(found);
        }
        let mask = self.index.slots.len().checked_sub(1)?;
        let mut at = hash(name.as_bytes()) & mask;
        // At most once around: a damaged cache might have no empty slot.
        for _ in 0..=mask {
            let id = *self.index.slots.get(at)?;
            if id == 0 {
                return None;
            }
            if let Some(ty) = self.ty(TypeId(id))
                && wanted(ty.kind())
                && ty.name() == name
            {
                return Some(ty);
            }
            at = (at + 1) & mask;
        }
        None
    }

    /// The value of an enumerator in the named enum.
    #[must_use]
    pub fn enumerator(&self, enum_name: &str, name: &str) -> Option<u64> {
        self.find_enum(enum_name)?
            .enumerators()
            .find(|entry| entry.name == name)
            .map(|entry| entry.value)
    }

    /// Follows typedefs, qualifiers and variables to what is stored.
    #[must_use]
    pub fn resolve(&self, id: TypeId) -> Option<Type<'_>> {
        let mut ty = self.ty(id)?;
        for _ in 0..MAX_CHAIN {
            match ty.kind() {
                Kind::Typedef
                | Kind::Volatile
                | Kind::Const
                | Kind::Restrict
                | Kind::TypeTag
                | Kind::DeclTag
                | Kind::Var => ty = self.ty(ty.target()?)?,
                _ => return Some(ty),
            }
        }
        None
    }

    /// Size in bytes of a value of this type; none for functions, forward declarations and cycles.
    #[must_use]
    pub fn size_of(&self, id: TypeId) -> Option<u64> {
        let mut count = 1_u64;
        let mut ty = self.resolve(id)?;
        for _ in 0..MAX_CHAIN {
            match ty.kind() {
                Kind::Ptr => return count.checked_mul(8),
                Kind::Array => {
                    let (element, len) = ty.array()?;
                    count = count.checked_mul(u64::from(len))?;
                    ty = self.resolve(element)?;
                }
                _ => return count.checked_mul(u64::from(ty.stated_size()?)),
            }
        }
        None
    }
}

/// The parts that a BTF header describes.
struct Sections {
    types: std::ops::Range<usize>,
    strings: std::ops::Range<usize>,
    /// `struct btf_layout` for each kind that the writer knew (7.1 and later), else empty.
    layout: std::ops::Range<usize>,
}

/// The shortest header, and the shortest with a layout section.
const HEADER: usize = 24;
const HEADER_WITH_LAYOUT: usize = 32;

fn sections(blob: &[u8]) -> Result<Sections> {
    let bad = |offset, what| Error::BadBtf { offset, what };
    if blob.len() > MAX_BTF {
        return Err(bad(0, "it is absurdly large"));
    }
    if bytes::u16_at(blob, 0) != Some(MAGIC) {
        return Err(bad(0, "the magic number is not 0xeb9f"));
    }
    if blob.get(2) != Some(&1) {
        return Err(bad(2, "the version is not 1"));
    }
    let word = |at| {
        bytes::u32_at(blob, at)
            .map(|word| word as usize)
            .ok_or(bad(at, "the header is cut off"))
    };
    let header = word(4)?;
    if header < HEADER {
        return Err(bad(4, "the header is shorter than any"));
    }
    let section = |at: usize| -> Result<std::ops::Range<usize>> {
        let start = header + word(at)?;
        let end = start + word(at + 4)?;
        if end > blob.len() {
            return Err(bad(at, "a section reaches past the end"));
        }
        Ok(start..end)
    };
    Ok(Sections {
        types: section(8)?,
        strings: section(16)?,
        layout: if header < HEADER_WITH_LAYOUT {
            0..0
        } else {
            section(24)?
        },
    })
}

/// `BTF_INFO_KIND` and `BTF_INFO_VLEN`; up to 7.0 the bits that came in addition are zero.
const KIND_MASK: u32 = 0x7f;
const VLEN_MASK: u32 = 0xff_ffff;
const KINDS: usize = KIND_MASK as usize + 1;

fn split_info(info: u32) -> Option<(Kind, usize)> {
    let kind = Kind::from_number(info >> 24 & KIND_MASK).filter(|&kind| kind != Kind::Void)?;
    Some((kind, (info & VLEN_MASK) as usize))
}

/// Adds what a layout section says of kinds that this code predates: they can be stepped over.
fn describe(shapes: &mut [Shape; KINDS], layout: &[u8]) {
    for (shape, said) in shapes.iter_mut().zip(layout.as_chunks::<4>().0).skip(1) {
        let [fixed, each, ..] = *said;
        if shape.head == 0 {
            *shape = Shape {
                head: TYPE_HEAD_BYTE.saturating_add(fixed),
                each,
                is_indexed: false,
            };
        }
    }
}

/// How long a kind's types are, and whether names of the kind are filed.
///
/// Each step of the first pass waits for the one before, from the type's head through this table to the next head, so
/// an entry is small enough to be loaded at once.
#[derive(Debug, Clone, Copy)]
struct Shape {
    /// The head and the fixed part behind it; 0 for kinds that this code predates.
    head: u8,
    each: u8,
    is_indexed: bool,
}

const UNKNOWN: Shape = Shape {
    head: 0,
    each: 0,
    is_indexed: false,
};

/// By kind number.
#[expect(clippy::indexing_slicing, reason = "out of bounds would not compile")]
#[expect(
    clippy::cast_possible_truncation,
    reason = "a kind's parts are a few words; what does not fit would not compile"
)]
const SHAPES: [Shape; KINDS] = {
    let mut shapes = [UNKNOWN; KINDS];
    let mut kinds = Kind::ALL.as_slice();
    let mut number = 0;
    while let [kind, rest @ ..] = kinds {
        let (fixed, each) = kind.body();
        assert!(fixed + (TYPE_HEAD as u32) < 256 && each < 256);
        if number != 0 {
            shapes[number] = Shape {
                head: TYPE_HEAD as u8 + fixed as u8,
                each: each as u8,
                is_indexed: kind.is_indexed(),
            };
        }
        number += 1;
        kinds = rest;
    }
    shapes
};

fn file(slots: &mut [u32], hash: usize, id: u32) {
    let mask = slots.len() - 1;
    let mut at = hash & mask;
    // Half of the slots stay empty, so this ends.
    while let Some(slot) = slots.get_mut(at) {
        if *slot == 0 {
            *slot = id;
            return;
        }
        at = (at + 1) & mask;
    }
}

const HASH_SEED: u64 = 0x243f_6a88_85a3_08d3;
const LOW_BITS: u64 = 0x0101_0101_0101_0101;

/// A multiplicative hash, eight bytes at a time; collisions cost only the guest that made them.
fn hash(name: &[u8]) -> usize {
    let (words, tail) = name.as_chunks::<8>();
    let state = words.iter().fold(HASH_SEED, |state, word| {
        mix(state, u64::from_le_bytes(*word))
    });
    finish(state, bytes::uint(tail))
}

fn mix(state: u64, word: u64) -> u64 {
    let state = (state ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    state ^ (state >> 29)
}

fn finish(state: u64, tail: u64) -> usize {
    bytes::size(mix(state, tail) >> 24)
}
