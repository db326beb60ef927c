//! A program without its debugging sections: a guest has no debugger, and unpacking them costs every boot.
//!
//! Symbols stay, so that a backtrace in the guest still names functions. Section indices stay too: a section that is left
//! out becomes `SHT_NULL` with no content.

use object::elf::{FileHeader64, SHF_ALLOC, SHT_NOBITS, SHT_STRTAB, SHT_SYMTAB};
use object::endian::LittleEndian;
use object::read::elf::{FileHeader as _, ProgramHeader as _, SectionHeader as _};

/// Bytes of an `Elf64_Shdr`, and where its fields lie (System V gABI, chapter 4).
const SHDR_LEN: usize = 64;
const SH_TYPE: usize = 4;
const SH_OFFSET: usize = 24;
const SH_SIZE: usize = 32;
/// Where `e_shoff` lies in an `Elf64_Ehdr`.
const E_SHOFF: usize = 40;

/// The file without debugging sections; `None` when nothing would be gained, or the file is not what it seems: then it
/// is best taken as it is.
pub(crate) fn slim(bytes: &[u8]) -> Option<Vec<u8>> {
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
    let mut out = bytes.get(..usize::try_from(end).ok()?)?.to_vec();
    let table = usize::try_from(header.e_shoff(endian)).ok()?;
    let mut headers = bytes
        .get(table..table.checked_add(sections.len().checked_mul(SHDR_LEN)?)?)?
        .to_vec();
    for (section, raw) in sections.iter().zip(headers.chunks_exact_mut(SHDR_LEN)) {
        let offset = section.sh_offset(endian);
        if section.sh_flags(endian).contains(SHF_ALLOC) || offset < end {
            continue;
        }
        if matches!(section.sh_type(endian), SHT_SYMTAB | SHT_STRTAB) {
            let content = section.data(endian, bytes).ok()?;
            out.resize(out.len().next_multiple_of(8), 0);
            put(
                raw,
                SH_OFFSET,
                &u64::try_from(out.len()).ok()?.to_le_bytes(),
            )?;
            out.extend_from_slice(content);
        } else {
            put(raw, SH_TYPE, &[0; 4])?;
            put(raw, SH_OFFSET, &[0; 8])?;
            put(raw, SH_SIZE, &[0; 8])?;
        }
    }
    out.resize(out.len().next_multiple_of(8), 0);
    let table = u64::try_from(out.len()).ok()?;
    out.extend_from_slice(&headers);
    put(&mut out, E_SHOFF, &table.to_le_bytes())?;
    (out.len() < bytes.len()).then_some(out)
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

    #[test]
    fn a_slim_program_still_runs_and_has_its_symbols() {
        let bytes = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let slimmed = slim(&bytes).expect("a test binary has debugging sections");
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
        let path = dir.path().join("slim");
        std::fs::write(&path, &slimmed).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .unwrap();
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
            let _ = slim(&exe);
            let _ = slim(&exe[..cut.min(exe.len())]);
        }
    }
}
