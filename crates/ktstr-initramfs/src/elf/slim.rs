//! A program without its debugging sections: a guest has no debugger, and unpacking them costs every boot.
//!
//! Symbols stay, so that a backtrace in the guest still names functions. Section indices stay too: a section that is left
//! out becomes `SHT_NULL` with no content.

use object::elf::{FileHeader64, SHF_ALLOC, SHT_NOBITS, SHT_STRTAB, SHT_SYMTAB};
use object::endian::LittleEndian;
use object::read::ReadRef;
use object::read::elf::{FileHeader as _, ProgramHeader as _, SectionHeader as _};

/// Bytes of an `Elf64_Shdr`, and where its fields lie (System V gABI, chapter 4).
const SHDR_LEN: usize = 64;
const SH_TYPE: usize = 4;
const SH_OFFSET: usize = 24;
const SH_SIZE: usize = 32;
/// Bytes of an `Elf64_Ehdr`, and where its `e_shoff` lies.
const EHDR_LEN: u64 = 64;
const E_SHOFF: usize = 40;

/// One part of the slim file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Piece {
    /// Bytes of the original.
    Copy {
        /// Where they begin there.
        offset: u64,
        /// How many.
        len: u64,
    },
    /// New bytes.
    Bytes(Vec<u8>),
}

impl Piece {
    pub(crate) fn len(&self) -> u64 {
        match self {
            Self::Copy { len, .. } => *len,
            Self::Bytes(bytes) => u64::try_from(bytes.len()).unwrap_or(u64::MAX),
        }
    }
}

/// Pieces so far and their length.
#[derive(Default)]
struct Layout {
    pieces: Vec<Piece>,
    len: u64,
}

impl Layout {
    fn push(&mut self, piece: Piece) -> Option<()> {
        self.len = self.len.checked_add(piece.len())?;
        self.pieces.push(piece);
        Some(())
    }

    fn align(&mut self) -> Option<()> {
        let gap = usize::try_from(self.len.checked_next_multiple_of(8)? - self.len).ok()?;
        self.push(Piece::Bytes(vec![0; gap]))
    }
}

/// The pieces of the file without debugging sections; `None` when nothing would be gained, or the file is not what it
/// seems: then it is best taken as it is.
pub(crate) fn slim<'data, R: ReadRef<'data>>(bytes: R) -> Option<Vec<Piece>> {
    let header = FileHeader64::<LittleEndian>::parse(bytes).ok()?;
    let endian = header.endian().ok()?;
    let segments = header.program_headers(endian, bytes).ok()?;
    let sections = header.section_headers(endian, bytes).ok()?;
    let segment_ends = segments.iter().map(|segment| {
        let (offset, len) = segment.file_range(endian);
        offset.checked_add(len)
    });
    let section_ends = sections
        .iter()
        .filter(|section| {
            section.sh_flags(endian).contains(SHF_ALLOC) && section.sh_type(endian) != SHT_NOBITS
        })
        .map(|section| {
            section
                .sh_offset(endian)
                .checked_add(section.sh_size(endian))
        });
    let end = segment_ends
        .chain(section_ends)
        .try_fold(0, |most: u64, end| Some(most.max(end?)))?;
    let whole = bytes.len().ok()?;
    let mut first = bytes.read_bytes_at(0, EHDR_LEN).ok()?.to_vec();
    let mut layout = Layout::default();
    layout.push(Piece::Bytes(first.clone()))?;
    let len = end.checked_sub(EHDR_LEN)?;
    (end <= whole).then_some(())?;
    layout.push(Piece::Copy {
        offset: EHDR_LEN,
        len,
    })?;
    let table_len = sections.len().checked_mul(SHDR_LEN)?;
    let mut headers = bytes
        .read_bytes_at(header.e_shoff(endian), u64::try_from(table_len).ok()?)
        .ok()?
        .to_vec();
    for (section, raw) in sections.iter().zip(headers.chunks_exact_mut(SHDR_LEN)) {
        let offset = section.sh_offset(endian);
        if section.sh_flags(endian).contains(SHF_ALLOC) || offset < end {
            continue;
        }
        if matches!(section.sh_type(endian), SHT_SYMTAB | SHT_STRTAB) {
            let len = section.sh_size(endian);
            (offset.checked_add(len)? <= whole).then_some(())?;
            layout.align()?;
            put(raw, SH_OFFSET, &layout.len.to_le_bytes())?;
            layout.push(Piece::Copy { offset, len })?;
        } else {
            put(raw, SH_TYPE, &[0; 4])?;
            put(raw, SH_OFFSET, &[0; 8])?;
            put(raw, SH_SIZE, &[0; 8])?;
        }
    }
    layout.align()?;
    put(&mut first, E_SHOFF, &layout.len.to_le_bytes())?;
    *layout.pieces.first_mut()? = Piece::Bytes(first);
    layout.push(Piece::Bytes(headers))?;
    (layout.len < whole).then_some(layout.pieces)
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) -> Option<()> {
    bytes
        .get_mut(at..at.checked_add(value.len())?)?
        .copy_from_slice(value);
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use object::{Object as _, ObjectSymbol as _};
    use proptest::prelude::*;

    fn assemble(bytes: &[u8], pieces: &[Piece]) -> Vec<u8> {
        let parts = pieces.iter().map(|piece| match piece {
            Piece::Bytes(bytes) => bytes.as_slice(),
            Piece::Copy { offset, len } => {
                let start = usize::try_from(*offset).unwrap();
                &bytes[start..start + usize::try_from(*len).unwrap()]
            }
        });
        parts.collect::<Vec<_>>().concat()
    }

    #[test]
    fn a_slim_program_still_runs_and_has_its_symbols() {
        let bytes = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let pieces = slim(bytes.as_slice()).expect("a test binary has debugging sections");
        let slimmed = assemble(&bytes, &pieces);
        assert!(
            slimmed.len() * 5 < bytes.len() * 4,
            "{} of {} bytes are left",
            slimmed.len(),
            bytes.len()
        );
        let symbols = |bytes: &[u8]| {
            let file = object::File::parse(bytes).unwrap();
            file.symbols()
                .filter_map(|symbol| symbol.name().ok().map(str::to_owned))
                .collect::<Vec<_>>()
        };
        assert_eq!(symbols(&slimmed), symbols(&bytes));
        let dir = tempfile::tempdir().unwrap();
        let (written, path) = (dir.path().join("written"), dir.path().join("slim"));
        std::fs::write(&written, &slimmed).unwrap();
        // Another process makes the program: one that this process writes, a process that another thread forks meanwhile has open
        // for writing, and such a file is not executed (ETXTBSY).
        let copied = std::process::Command::new("install")
            .args(["-m", "755"])
            .args([&written, &path])
            .status()
            .unwrap();
        assert!(copied.success(), "{copied}");
        let output = std::process::Command::new(&path)
            .arg("--list")
            .output()
            .unwrap();
        assert!(
            output.status.success() && output.stdout.ends_with(b"benchmarks\n"),
            "{output:?}"
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn damage_never_panics(at in 0usize..4096, value: u8, cut in 0usize..40_000) {
            let mut exe = std::fs::read("/bin/true").unwrap();
            if let Some(byte) = exe.get_mut(at) {
                *byte = value;
            }
            let cut = &exe[..cut.min(exe.len())];
            for bytes in [exe.as_slice(), cut] {
                if let Some(pieces) = slim(bytes) {
                    let _ = assemble(bytes, &pieces);
                }
            }
        }
    }
}
