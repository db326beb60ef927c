//! Finds and decodes the kallsyms tables in a kernel image.
//!
//! The tables (`scripts/kallsyms.c`) have no header, but the token table is unmistakable: 256 NUL-terminated strings
//! in which each digit stands for itself, followed by an index that agrees with it. The rest is found from there:
//!
//! ```text
//! since 7.0:   num_syms, names, markers, token_table, token_index, offsets, seqs_of_names
//! since 6.5:   num_syms, names, markers, token_table, token_index, offsets, relative_base, seqs_of_names
//! 6.2 to 6.4:  offsets, relative_base, num_syms, names, markers, seqs_of_names, token_table, token_index
//! before 6.2:  offsets, relative_base, num_syms, names, markers, token_table, token_index
//! ```
//!
//! `seqs_of_names` are three bytes for each symbol. Stable branches of older kernels have them too. Up to 6.x an offset
//! counts from `relative_base`, and tables begin at multiples of 8; later it counts from its own place, at multiples of 4.

use std::cell::Cell;

use memchr::memmem;

use super::{START_KERNEL_MAP, Symbols};
use crate::{Kva, bytes};

const DIGITS: &[u8] = b"0\x001\x002\x003\x004\x005\x006\x007\x008\x009\0";
const TOKENS: usize = 256;
/// Places in an image that have the digits in a row; a kernel has one or two.
const MAX_CANDIDATES: usize = 64;
/// A kernel has tens of thousands; ten times that with debugging aids.
const MAX_SYMBOLS: usize = 2 << 20;
/// Bytes of an entry of `seqs_of_names`.
const SEQUENCE: usize = 3;
/// `KSYM_NAME_LEN`.
const MAX_NAME: usize = 512;
/// The image begins at most this far before its tables.
const MAX_DISTANCE: u64 = 256 << 20;
/// Markers that are read in one search; hostile memory has ascending numbers everywhere.
const MAX_STEPS: usize = 1 << 26;

/// What an offset counts from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Encoding {
    /// `kallsyms_relative_base`.
    Base(u64),
    /// The address of the offset itself, where the table's first one has this address.
    Place(u64),
}

/// The tables' places in an image.
#[derive(Debug, Clone, Copy)]
struct Tables {
    count: usize,
    names: usize,
    tokens: usize,
    token_index: usize,
    offsets: usize,
    encoding: Encoding,
}

/// Decodes the first plausible set of tables in `image`, whose first byte lies at `start`, 8-byte aligned.
///
/// Addresses of kernels since 7.0 are right as far as `start` is.
pub(crate) fn find_kallsyms(image: &[u8], start: Kva) -> Option<Symbols> {
    let steps = Cell::new(MAX_STEPS);
    memmem::find_iter(image, DIGITS)
        .take(MAX_CANDIDATES)
        .find_map(|digits| {
            [4, 8].into_iter().find_map(|align| {
                let tables = Search {
                    image,
                    start,
                    align,
                    steps: &steps,
                }
                .locate(digits)?;
                decode(image, &tables)
            })
        })
}

/// A search for tables that begin at multiples of `align`.
struct Search<'a> {
    image: &'a [u8],
    start: Kva,
    align: usize,
    /// Markers that may still be read.
    steps: &'a Cell<usize>,
}

fn align8(at: usize) -> usize {
    at.next_multiple_of(8)
}

impl Search<'_> {
    fn locate(&self, digits: usize) -> Option<Tables> {
        let (tokens, token_index) = self.token_table(digits)?;
        let (names, count) = self
            .names_before(tokens)
            .or_else(|| self.names_before_sequences(tokens))?;
        let behind = (token_index + TOKENS * 2).next_multiple_of(self.align);
        let before = (names - self.align)
            .checked_sub(8)
            .and_then(|base| Some((base.checked_sub(align8(count * 4))?, base)));
        let by_base = [Some((behind, align8(behind + count * 4))), before]
            .into_iter()
            .flatten()
            .find_map(|(offsets, base)| {
                let base = bytes::u64_at(self.image, base)?;
                let plausible = base >= START_KERNEL_MAP && base % 4096 == 0;
                plausible.then_some((offsets, Encoding::Base(base)))
            });
        let place = self.start.wrapping_add(behind as u64);
        let (offsets, encoding) = by_base.unwrap_or((behind, Encoding::Place(place.0)));
        Some(Tables {
            count,
            names,
            tokens,
            token_index,
            offsets,
            encoding,
        })
    }

    /// Names with `seqs_of_names` between their markers and the tokens, as 6.2 to 6.4 have it.
    ///
    /// What lies between tells its own length by the number of names.
    fn names_before_sequences(&self, tokens: usize) -> Option<(usize, usize)> {
        if self.align != 8 {
            return None;
        }
        let earliest = tokens.saturating_sub(MAX_SYMBOLS * SEQUENCE);
        (earliest..tokens)
            .rev()
            .filter(|at| at.is_multiple_of(8))
            .find_map(|sequences| {
                let len = tokens - sequences;
                let (markers, marker_count) = self.markers(sequences)?;
                if (len / SEQUENCE).div_ceil(256).abs_diff(marker_count) > 1 {
                    return None;
                }
                self.names(markers, marker_count)
                    .filter(|(_, count)| align8(count * SEQUENCE) == len)
            })
    }

    /// The start of the table in which `digits` is entry 48 on, and its index.
    fn token_table(&self, digits: usize) -> Option<(usize, usize)> {
        let mut at = digits;
        for _ in 1..usize::from(b'0') {
            at = token_before(self.image, at)?;
        }
        // Before the first token there need be no NUL: it begins at one of the aligned places up to the last one.
        let earliest = token_before(self.image, at)?;
        (earliest..at)
            .rev()
            .filter(|start| start.is_multiple_of(self.align))
            .find_map(|start| Some((start, self.token_index(start)?)))
    }

    /// The index behind the table, if it says where each token begins.
    fn token_index(&self, tokens: usize) -> Option<usize> {
        let end = (tokens + (64 << 10)).min(self.image.len());
        let table = self.image.get(tokens..end)?;
        let mut starts = [0; TOKENS];
        let mut at = 0;
        for start in &mut starts {
            *start = at;
            at += memchr::memchr(0, table.get(at..)?)? + 1;
        }
        let index = (tokens + at).next_multiple_of(self.align);
        let agrees = (0..).zip(starts).all(|(number, start)| {
            bytes::u16_at(self.image, index + number * 2).map(usize::from) == Some(start)
        });
        agrees.then_some(index)
    }

    /// Names whose markers end at `end`.
    fn names_before(&self, end: usize) -> Option<(usize, usize)> {
        let (markers, marker_count) = self.markers(end)?;
        self.names(markers, marker_count)
    }

    /// Start and number of the markers that end before `end`: ascending from 0, one per 256 names.
    fn markers(&self, end: usize) -> Option<(usize, usize)> {
        let word = |at| {
            self.steps.set(self.steps.get().checked_sub(1)?);
            bytes::u32_at(self.image, at)
        };
        let mut at = end.checked_sub(4)?;
        if self.align == 8 && word(at)? == 0 {
            at = at.checked_sub(4)?;
        }
        let end = at + 4;
        let mut value = word(at)?;
        while value != 0 {
            at = at.checked_sub(4)?;
            let before = word(at)?;
            if before >= value || end - at > MAX_SYMBOLS {
                return None;
            }
            value = before;
        }
        Some((at, (end - at) / 4))
    }

    /// Start of the names, and their number, which stands before them.
    fn names(&self, markers: usize, marker_count: usize) -> Option<(usize, usize)> {
        let image = self.image;
        let marker = |number: usize| bytes::u32_at(image, markers + number * 4);
        let last = marker(marker_count.checked_sub(1)?)? as usize;
        let latest = markers.checked_sub(last)? & !(self.align - 1);
        let earliest = latest.saturating_sub(256 * MAX_NAME).max(self.align);
        (earliest..=latest)
            .rev()
            .step_by(self.align)
            .find_map(|names| {
                let count = bytes::u32_at(image, names - self.align)? as usize;
                if count.div_ceil(256) != marker_count || count > MAX_SYMBOLS {
                    return None;
                }
                if marker_count == 1 {
                    return Some((names, count));
                }
                let mut at = names;
                for _ in 0..256 {
                    at = name_at(image, at)?.end;
                }
                (at - names == marker(1)? as usize).then_some((names, count))
            })
    }
}

/// The start of the token that ends before `at`; the byte between them is its NUL.
fn token_before(image: &[u8], at: usize) -> Option<usize> {
    let end = at.checked_sub(1)?;
    let window = image.get(end.saturating_sub(MAX_NAME)..end)?;
    let nul = memchr::memrchr(0, window)?;
    Some(end - (window.len() - nul) + 1)
}

/// The tokens of the name that begins with its length at `at`.
fn name_at(image: &[u8], at: usize) -> Option<std::ops::Range<usize>> {
    let first = usize::from(*image.get(at)?);
    // Since 6.1 a length above 127 takes two bytes (ULEB128).
    let (len, start) = if first & 0x80 == 0 {
        (first, at + 1)
    } else {
        let high = usize::from(*image.get(at + 1)?);
        ((first & 0x7f) | (high << 7), at + 2)
    };
    let end = start.checked_add(len)?;
    (end <= image.len()).then_some(start..end)
}

fn decode(image: &[u8], tables: &Tables) -> Option<Symbols> {
    let offset = |number: usize| bytes::u32_at(image, tables.offsets + number * 4);
    let negative = (0..tables.count)
        .filter(|&number| offset(number).is_some_and(|offset| offset >> 31 != 0))
        .count();
    // `CONFIG_KALLSYMS_ABSOLUTE_PERCPU` (x86 before 6.15): addresses are negative, per-CPU offsets are not.
    let absolute_percpu = negative * 2 > tables.count;
    let mut symbols = Symbols::default();
    let mut at = tables.names;
    let mut text = Vec::new();
    let expansions = expansions(image, tables)?;
    for number in 0..tables.count {
        let name = name_at(image, at)?;
        at = name.end;
        text.clear();
        for &token in image.get(name)? {
            text.extend_from_slice(expansions.get(usize::from(token))?);
            // A token may be long in hostile tables, and a name have many.
            if text.len() > MAX_NAME {
                return None;
            }
        }
        let (&kind, name) = text.split_first()?;
        let offset = offset(number)?;
        let signed = i64::from(offset.cast_signed());
        let value = match (tables.encoding, absolute_percpu) {
            (Encoding::Place(first), _) => first
                .wrapping_add(number as u64 * 4)
                .wrapping_add_signed(signed),
            (Encoding::Base(base), false) => base.wrapping_add(offset.into()),
            (Encoding::Base(_), true) if signed >= 0 => signed.cast_unsigned(),
            (Encoding::Base(base), true) => base.wrapping_sub(1).wrapping_add_signed(-signed),
        };
        symbols.push(kind, name, value);
    }
    symbols.index();
    let text = symbols.find("_text").or_else(|| symbols.find("_stext"))?;
    match tables.encoding {
        // Nothing beside the tables says that this is the encoding, but the result does.
        Encoding::Place(first) if first.wrapping_sub(text) > MAX_DISTANCE => None,
        _ => Some(symbols),
    }
}

/// What each token stands for.
fn expansions<'a>(image: &'a [u8], tables: &Tables) -> Option<Vec<&'a [u8]>> {
    (0..TOKENS)
        .map(|token| {
            let start = bytes::u16_at(image, tables.token_index + token * 2)?;
            let rest = image.get(tables.tokens + usize::from(start)..)?;
            let end = memchr::memchr(0, rest)?;
            rest.get(..end.min(MAX_NAME + 1))
        })
        .collect()
}
