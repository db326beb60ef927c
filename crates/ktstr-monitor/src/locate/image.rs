//! The kernel image: found through page tables, or searched for in memory.

use memchr::memmem;

use super::ImageSpan;
use crate::paging::{AddressSpace, Mapping};
use crate::symbols::START_KERNEL_MAP;
use crate::{Gpa, Kva, PhysMem, bytes};

/// Modules begin here; the image lies below (`MODULES_VADDR` with KASLR).
const END_OF_IMAGES: u64 = 0xffff_ffff_c000_0000;
/// Holes of freed init memory are smaller than this, other mappings further away.
const MAX_GAP: u64 = 16 << 20;
/// A debug kernel with everything built in has some 100 MiB.
const MAX_IMAGE: u64 = 256 << 20;
/// The tables that map 1 GiB by small pages, and the levels above.
const TABLE_BUDGET: usize = 600;
const BANNER: &[u8] = b"Linux version ";

/// A copy of the image, or of its constants: kallsyms, BTF and notes are there.
#[derive(Debug)]
pub(crate) struct Image {
    pub(crate) span: ImageSpan,
    /// Where the copy begins.
    pub(crate) start: Kva,
    pub(crate) bytes: Vec<u8>,
}

/// Where an address space has its image.
#[derive(Debug)]
pub(crate) struct ImageMap {
    span: ImageSpan,
    /// First and last but one byte of its constants, as offsets; none before the kernel has protected them.
    constants: Option<(u64, u64)>,
}

impl ImageMap {
    /// What an address space maps where images are.
    pub(crate) fn find(memory: &dyn PhysMem, space: &AddressSpace) -> Option<Self> {
        let mut found: Option<Self> = None;
        let range = (Kva(START_KERNEL_MAP), Kva(END_OF_IMAGES));
        space.walk_range(memory, range, TABLE_BUDGET, &mut |page| {
            let map = found.get_or_insert(Self {
                span: ImageSpan {
                    kva: page.kva,
                    gpa: page.gpa,
                    len: 0,
                },
                constants: None,
            });
            let distance = page.kva.0 - map.span.kva.0;
            if distance > map.span.len + MAX_GAP || distance > MAX_IMAGE {
                return false;
            }
            if page.gpa.0 == map.span.gpa.0.wrapping_add(distance) {
                map.add(distance, page);
            }
            true
        });
        found
    }

    /// The image's place, as far as it is mapped without gaps.
    pub(super) fn span(&self) -> ImageSpan {
        self.span
    }

    fn add(&mut self, distance: u64, page: Mapping) {
        let end = distance + page.page_bytes;
        self.span.len = end;
        self.constants = match self.constants {
            None if page.is_constant => Some((distance, end)),
            Some((start, known)) if page.is_constant && known == distance => Some((start, end)),
            // The first run is the constants; later ones are padding and protected data.
            other => other,
        };
    }

    /// The constants, if the kernel has set them apart.
    pub(crate) fn constants(&self, memory: &dyn PhysMem) -> Option<Image> {
        let (start, end) = self.constants?;
        Some(Image {
            span: self.span,
            start: self.span.kva.wrapping_add(start),
            bytes: copy(memory, self.span.gpa.wrapping_add(start), end - start),
        })
    }

    /// All of it, if it looks like a kernel.
    pub(crate) fn whole(&self, memory: &dyn PhysMem) -> Option<Image> {
        let image = Image {
            span: self.span,
            start: self.span.kva,
            bytes: copy(memory, self.span.gpa, self.span.len),
        };
        memmem::find(&image.bytes, BANNER)?;
        Some(image)
    }
}

impl Image {
    /// The image within a window of memory that begins at `window_gpa`.
    pub(crate) fn from_window(span: ImageSpan, window_gpa: Gpa, window: &[u8]) -> Option<Self> {
        let start = bytes::size(span.gpa.0.checked_sub(window_gpa.0)?);
        if span.len > MAX_IMAGE {
            return None;
        }
        let end = start
            .saturating_add(bytes::size(span.len))
            .min(window.len());
        let bytes = window.get(start..end)?.to_vec();
        memmem::find(&bytes, BANNER)?;
        Some(Self {
            span,
            start: span.kva,
            bytes,
        })
    }

    /// Where `[kva, kva + len)` lies in the copy.
    pub(crate) fn range(&self, kva: Kva, len: u64) -> Option<std::ops::Range<usize>> {
        let start = bytes::size(kva.0.checked_sub(self.start.0)?);
        let end = start.checked_add(bytes::size(len))?;
        (end <= self.bytes.len()).then_some(start..end)
    }
}

/// Copies page by page what there is of `[gpa, gpa + len)`; the rest stays zero.
fn copy(memory: &dyn PhysMem, gpa: Gpa, len: u64) -> Vec<u8> {
    let mut buffer = vec![0; bytes::size(len.min(MAX_IMAGE))];
    if memory.read(gpa, &mut buffer).is_err() {
        for (number, page) in (0..).zip(buffer.chunks_mut(4096)) {
            let _ = memory.read(gpa.wrapping_add(number * 4096), page);
        }
    }
    buffer
}

/// Magic, version 1, no flags.
const BTF_HEAD: &[u8] = &[0x9f, 0xeb, 1, 0];
/// Up to 7.0 a header has 24 bytes; with a layout section 32, and room for what may come.
const BTF_HEADER: std::ops::RangeInclusive<u64> = 24..=64;
/// A module's BTF is smaller than this, a kernel's larger.
const MIN_KERNEL_BTF: u64 = 256 << 10;

/// The first BTF in `image` that is large enough for a kernel's.
pub(crate) fn find_btf(image: &[u8]) -> Option<std::ops::Range<usize>> {
    memmem::find_iter(image, BTF_HEAD).find_map(|at| {
        let len = btf_len(image.get(at..)?)?;
        let end = at.checked_add(bytes::size(len))?;
        (end <= image.len()).then_some(at..end)
    })
}

/// The length of the BTF with this header, if it can be a kernel's.
fn btf_len(head: &[u8]) -> Option<u64> {
    let word = |at| bytes::u32_at(head, at).map(u64::from);
    let header = word(4)?;
    let (type_at, type_len, string_at, string_len) = (word(8)?, word(12)?, word(16)?, word(20)?);
    let layout_end = if header >= 32 {
        word(24)? + word(28)?
    } else {
        0
    };
    let end = (type_at + type_len)
        .max(string_at + string_len)
        .max(layout_end);
    let len = header + end;
    let plausible = BTF_HEADER.contains(&header)
        && type_at % 4 == 0
        && type_len > 0
        && string_len > 0
        && type_at + type_len <= string_at
        && (MIN_KERNEL_BTF..=crate::btf::MAX_BTF as u64).contains(&len);
    plausible.then_some(len)
}

const CHUNK: usize = 4 << 20;
/// Copies of the kernel's BTF that are worth a look.
const MAX_CANDIDATES: usize = 16;

/// Physical addresses of everything in memory that looks like a kernel's BTF.
pub(super) fn search_btf(memory: &dyn PhysMem) -> Vec<Gpa> {
    let mut found = Vec::new();
    let mut buffer = vec![0; CHUNK];
    for range in memory.ranges() {
        let mut done = 0;
        while done < range.len && found.len() < MAX_CANDIDATES {
            let len = bytes::size((range.len - done).min(CHUNK as u64));
            let gpa = range.gpa.wrapping_add(done);
            // Chunks overlap, so that a header across a boundary is seen whole once.
            done += (len as u64).saturating_sub(32).max(1);
            let Some(chunk) = buffer.get_mut(..len) else {
                break;
            };
            if memory.read(gpa, chunk).is_err() {
                continue;
            }
            found.extend(
                memmem::find_iter(chunk, BTF_HEAD)
                    .filter(|&at| chunk.get(at..).and_then(btf_len).is_some())
                    .map(|at| gpa.wrapping_add(at as u64)),
            );
            if len < CHUNK {
                break;
            }
        }
    }
    found.dedup();
    found.truncate(MAX_CANDIDATES);
    found
}

/// Reach of the search for kallsyms on both sides of the BTF.
const REACH: u64 = 96 << 20;

/// The memory around a BTF, as far as it is contiguous; begins at a page.
pub(super) fn window(memory: &dyn PhysMem, btf: Gpa) -> Option<(Gpa, Vec<u8>)> {
    let ranges = memory.ranges();
    let range = ranges
        .iter()
        .find(|range| range.gpa <= btf && btf < range.end())?;
    let start = (btf.0.saturating_sub(REACH) & !4095).max(range.gpa.0);
    let end = btf.0.saturating_add(REACH).min(range.end().0);
    Some((Gpa(start), copy(memory, Gpa(start), end - start)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(words: &[u32]) -> Vec<u8> {
        let mut head = BTF_HEAD.to_vec();
        head.extend(words.iter().flat_map(|word| word.to_le_bytes()));
        head
    }

    #[test]
    fn headers_of_both_lengths_are_btf() {
        let (types, strings) = (300 << 10, 100 << 10);
        let short = head(&[24, 0, types, types, strings]);
        assert_eq!(btf_len(&short), Some(u64::from(24 + types + strings)));
        // With a layout section between types and strings, and one behind all.
        let between = head(&[32, 0, types, types + 80, strings, types, 80]);
        let len = 32 + types + 80 + strings;
        assert_eq!(btf_len(&between), Some(u64::from(len)));
        let end = types + strings;
        let behind = head(&[32, 0, types, types, strings, end, 80]);
        assert_eq!(btf_len(&behind), Some(u64::from(len)));
        let mut image = vec![0; 100];
        image.extend(&between);
        image.resize(1 << 20, 7);
        let len = usize::try_from(len).unwrap();
        assert_eq!(find_btf(&image), Some(100..100 + len));
        for wrong in [
            head(&[23, 0, types, types, strings]),
            head(&[24, 0, types, 0, strings]),
            head(&[24, 0, 9, 9, 9]),
            head(&[24, 0, types, types, u32::MAX]),
        ] {
            assert_eq!(btf_len(&wrong), None);
        }
    }
}
