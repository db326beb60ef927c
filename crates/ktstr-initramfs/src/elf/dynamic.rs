//! The few facts of an ELF file that the loader goes by (System V gABI, chapter 5).

use object::elf::{DT_NEEDED, DT_RPATH, DT_RUNPATH, EM_X86_64, FileHeader64, PT_INTERP};
use object::endian::LittleEndian;
use object::read::ReadRef;
use object::read::elf::{Dyn as _, FileHeader as _, ProgramHeader as _};

/// A file that is no program of this machine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ElfError {
    /// No ELF at all, or a damaged one.
    #[error("not a usable 64-bit little-endian ELF file: {0}")]
    Malformed(String),
    /// Another machine's.
    #[error("an ELF file for machine {found}, expected x86-64 ({})", EM_X86_64.0)]
    Machine {
        /// `e_machine`.
        found: u16,
    },
}

/// Interpreter, needed libraries and search paths of one object.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dynamic {
    /// PT_INTERP; `None` for a static program or a library.
    pub interpreter: Option<String>,
    /// DT_NEEDED, in order.
    pub needed: Vec<String>,
    /// DT_RPATH, split.
    pub rpath: Vec<String>,
    /// DT_RUNPATH, split.
    pub runpath: Vec<String>,
}

impl Dynamic {
    /// Reads an ELF file's facts.
    ///
    /// # Errors
    /// When the bytes are no ELF file of this machine, or lie about their own layout.
    pub fn parse<'data, R: ReadRef<'data>>(bytes: R) -> Result<Self, ElfError> {
        let bad = |error: object::read::Error| ElfError::Malformed(error.to_string());
        let header = FileHeader64::<LittleEndian>::parse(bytes).map_err(bad)?;
        let endian = header.endian().map_err(bad)?;
        let found = header.e_machine(endian);
        if found != EM_X86_64 {
            return Err(ElfError::Machine { found: found.0 });
        }
        let segments = header.program_headers(endian, bytes).map_err(bad)?;
        let mut facts = Self::default();
        for segment in segments {
            if segment.p_type(endian) == PT_INTERP {
                let path = segment
                    .data(endian, bytes)
                    .map_err(|()| truncated("PT_INTERP"))?;
                facts.interpreter = Some(text(
                    path.split(|byte| *byte == 0).next().unwrap_or_default(),
                ));
            }
        }
        let Some(dynamic) = segments
            .iter()
            .find_map(|segment| segment.dynamic(endian, bytes).transpose())
            .transpose()
            .map_err(bad)?
        else {
            return Ok(facts);
        };
        let strings = Strings::find(dynamic, segments, endian, bytes);
        for entry in dynamic {
            let tag = entry.d_tag(endian);
            let wanted = [DT_NEEDED, DT_RPATH, DT_RUNPATH];
            if !wanted.contains(&tag) {
                continue;
            }
            let value = strings
                .get(entry.d_val(endian))
                .ok_or_else(|| truncated("the dynamic string table"))?;
            let split = || {
                value
                    .split(':')
                    .filter(|dir| !dir.is_empty())
                    .map(str::to_owned)
            };
            match tag {
                DT_NEEDED => facts.needed.push(value.clone()),
                DT_RPATH => facts.rpath.extend(split()),
                _ => facts.runpath.extend(split()),
            }
        }
        Ok(facts)
    }
}

fn truncated(part: &str) -> ElfError {
    ElfError::Malformed(format!("{part} lies outside of the file"))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The dynamic string table.
struct Strings<'data>(&'data [u8]);

impl<'data> Strings<'data> {
    fn find<R: ReadRef<'data>>(
        dynamic: &[object::elf::Dyn64<LittleEndian>],
        segments: &[object::elf::ProgramHeader64<LittleEndian>],
        endian: LittleEndian,
        bytes: R,
    ) -> Self {
        let value = |tag: object::elf::DynamicTag| {
            let entry = dynamic.iter().find(|entry| entry.d_tag(endian) == tag)?;
            Some(entry.d_val(endian))
        };
        // Only the table is read, not the segment around it, which may be most of a large file.
        let table = || {
            let address = value(object::elf::DT_STRTAB)?;
            let size = value(object::elf::DT_STRSZ)?;
            let inside = |segment: &&object::elf::ProgramHeader64<LittleEndian>| {
                let start = segment.p_vaddr(endian);
                segment.p_type(endian) == object::elf::PT_LOAD
                    && start <= address
                    && address - start < segment.p_filesz(endian)
            };
            let segment = segments.iter().find(inside)?;
            let offset =
                (address - segment.p_vaddr(endian)).checked_add(segment.p_offset(endian))?;
            bytes.read_bytes_at(offset, size).ok()
        };
        Self(table().unwrap_or_default())
    }

    fn get(&self, offset: u64) -> Option<String> {
        let tail = self.0.get(usize::try_from(offset).ok()?..)?;
        let end = tail.iter().position(|byte| *byte == 0)?;
        Some(text(tail.get(..end)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn libc_has_an_interpreter_of_its_own_and_needs_the_loader() {
        let exe = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let facts = Dynamic::parse(exe.as_slice()).unwrap();
        assert!(facts.interpreter.unwrap().contains("ld-linux"));
        assert!(facts.needed.iter().any(|name| name == "libc.so.6"));
    }

    #[test]
    fn another_machine_is_named() {
        let mut exe = std::fs::read("/bin/true").unwrap();
        exe[18] = 183;
        assert_eq!(
            Dynamic::parse(exe.as_slice()),
            Err(ElfError::Machine { found: 183 })
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
            let _ = Dynamic::parse(exe.as_slice());
            let _ = Dynamic::parse(&exe[..cut.min(exe.len())]);
        }
    }
}
