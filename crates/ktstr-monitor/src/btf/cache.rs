//! A BTF and its index on disk, by build id, so that the next reader of the same kernel maps it and is done.
//!
//! ```text
//! magic 8 | types u32 | slots u32 | BTF length u64 | check u64 | offsets 4*types | slots 4*slots | BTF
//! ```
//!
//! All numbers are little-endian. `check` covers the tables and the BTF. A file that does not fit is ignored and replaced.

use std::path::{Path, PathBuf};

use super::blob::Blob;
use super::index::{Btf, Index};
use crate::{Error, Result, bytes};

const MAGIC: &[u8; 8] = b"KTBTF\0\x03\0";
const HEAD: usize = 32;

fn path(dir: &Path, build_id: &[u8]) -> PathBuf {
    dir.join(format!("{}.btf", bytes::hex(build_id)))
}

/// The BTF of the kernel with this build id, if the directory holds it.
#[must_use]
pub fn load_cached(dir: &Path, build_id: &[u8]) -> Option<Btf> {
    let blob = Blob::map(&path(dir, build_id)).ok()?;
    let file = blob.bytes();
    if !file.starts_with(MAGIC) {
        return None;
    }
    let types = bytes::u32_at(file, 8)? as usize;
    let slots = bytes::u32_at(file, 12)? as usize;
    let btf_len = bytes::size(bytes::u64_at(file, 16)?);
    let tables_end = types
        .checked_add(slots)?
        .checked_mul(4)?
        .checked_add(HEAD)?;
    if file.len() != tables_end.checked_add(btf_len)? || !slots.is_power_of_two() {
        return None;
    }
    let tables = file.get(HEAD..tables_end)?;
    if bytes::u64_at(file, 24)? != check(file.get(HEAD..)?) {
        return None;
    }
    let words = |part: &[u8]| -> Vec<u32> {
        part.as_chunks()
            .0
            .iter()
            .map(|word| u32::from_le_bytes(*word))
            .collect()
    };
    let (offsets, slots) = tables.split_at_checked(types * 4)?;
    let index = Index {
        offsets: words(offsets),
        slots: words(slots),
    };
    let end = file.len();
    Btf::with_index(blob.slice(tables_end..end)?, index).ok()
}

/// Keeps a BTF for the next time; complete or not at all.
///
/// # Errors
/// [`Error::Io`] when the directory or file cannot be written.
pub fn store_cached(dir: &Path, build_id: &[u8], btf: &Btf) -> Result<()> {
    let index = btf.index();
    let mut file = MAGIC.to_vec();
    for count in [index.offsets.len(), index.slots.len()] {
        file.extend(u32::try_from(count).unwrap_or(0).to_le_bytes());
    }
    file.extend((btf.bytes().len() as u64).to_le_bytes());
    let mut body: Vec<u8> = index
        .offsets
        .iter()
        .chain(&index.slots)
        .flat_map(|word| word.to_le_bytes())
        .collect();
    body.extend_from_slice(btf.bytes());
    file.extend(check(&body).to_le_bytes());
    file.extend(body);
    std::fs::create_dir_all(dir).map_err(Error::io("create", dir))?;
    let target = path(dir, build_id);
    let temporary = target.with_extension(format!("{}.tmp", std::process::id()));
    std::fs::write(&temporary, file).map_err(Error::io("write", &temporary))?;
    std::fs::rename(&temporary, &target).map_err(Error::io("rename into", &target))
}

fn check(body: &[u8]) -> u64 {
    let (words, tail) = body.as_chunks::<8>();
    words
        .iter()
        .map(|word| u64::from_le_bytes(*word))
        .chain([bytes::uint(tail)])
        .fold(body.len() as u64, |state, word| {
            (state ^ word)
                .wrapping_mul(0x9e37_79b9_7f4a_7c15)
                .rotate_left(23)
        })
}
