//! `struct bpf_ksym`: names of the machine code that the kernel made of BPF programs, trampolines and dispatchers.
//!
//! The kernel's own symbols end with its image; an instruction pointer beyond it is most often in here. Programs that
//! were loaded with line information say where in their source it is, too (`bpf_prog_aux::jited_linfo`).

use std::fmt;

use serde::Serialize;

use crate::{Error, Kernel, Kva, Object, Problems, Result, Walk, bytes};

/// A program has a few functions, a machine under test a few hundred programs.
const MAX_SYMBOLS: usize = 8192;
/// Code of one program is at most a few hundred KiB; this is what a corrupt entry may claim.
const MAX_CODE: u64 = 16 << 20;
/// Lines of one program and its functions.
const MAX_LINES: u64 = 1 << 17;
/// Bytes of a source line that are kept.
const MAX_LINE: usize = 120;

/// A piece of machine code with a name, `bpf_prog_<tag>_<name>` for a program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BpfSymbol {
    /// Where it begins.
    pub start: Kva,
    /// The first address behind it.
    pub end: Kva,
    /// Its name, as `/proc/kallsyms` has it.
    pub name: String,
}

/// A line of a program's source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SourceLine {
    /// The file as the compiler was given it.
    pub file: String,
    /// The line, from 1 on.
    pub line: u32,
    /// Its text.
    pub text: String,
}

impl fmt::Display for SourceLine {
    /// `fixture.bpf.c:123`, without directories.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = self.file.rsplit('/').next().unwrap_or_default();
        write!(f, "{file}:{}", self.line)
    }
}

/// `struct bpf_line_info`, as user space hands it over (`include/uapi/linux/bpf.h`).
const LINE_INFO: u64 = 16;

impl Kernel {
    /// All BPF machine code by name, in the order of the kernel's list (`bpf_kallsyms`).
    #[must_use]
    pub fn bpf_symbols(&self) -> Walk<Vec<BpfSymbol>> {
        let mut problems = Problems::new();
        let entries = self.bpf_ksyms(&mut problems);
        let entries = problems.keep("BPF symbols", entries).unwrap_or_default();
        let found = entries
            .into_iter()
            .filter_map(|ksym| {
                let symbol = read_symbol(&ksym);
                problems.need("a BPF symbol", symbol)
            })
            .collect();
        Walk { found, problems }
    }

    /// The source line that an address in a BPF program was made from; none for other addresses, and for programs
    /// without line information.
    ///
    /// # Errors
    /// When the program's records cannot be read.
    pub fn bpf_source(&self, kva: Kva) -> Result<Option<SourceLine>> {
        match self.bpf_ksym_of(kva)? {
            Some(ksym) => self.source_line(&ksym, kva),
            None => Ok(None),
        }
    }

    /// `bpf_prog_<tag>_<name>+0x12`; none for addresses outside of BPF code.
    pub(crate) fn describe_bpf(&self, kva: Kva) -> Option<String> {
        let ksym = self.bpf_ksym_of(kva).ok()??;
        let symbol = read_symbol(&ksym).ok()?;
        Some(format!("{}+{:#x}", symbol.name, kva.0 - symbol.start.0))
    }

    fn bpf_ksyms(&self, problems: &mut Problems) -> Result<Vec<Object<'_>>> {
        let head = self.symbol("bpf_kallsyms")?;
        self.walk_list("BPF symbols", head, MAX_SYMBOLS, problems)
            .into_iter()
            .map(|node| self.container_of(node, "bpf_ksym", "lnode"))
            .collect()
    }

    fn bpf_ksym_of(&self, kva: Kva) -> Result<Option<Object<'_>>> {
        let ksyms = self.bpf_ksyms(&mut Problems::new())?;
        Ok(ksyms.into_iter().find(|ksym| {
            let (start, end) = (ksym.pointer("start"), ksym.pointer("end"));
            matches!((start, end), (Ok(start), Ok(end)) if start <= kva && kva < end)
        }))
    }

    fn source_line(&self, ksym: &Object<'_>, kva: Kva) -> Result<Option<SourceLine>> {
        if ksym.uint("prog")? & 1 == 0 {
            return Ok(None);
        }
        let aux = self.container_of(ksym.kva(), "bpf_prog_aux", "ksym")?;
        let (lines, places) = (aux.pointer("linfo")?, aux.pointer("jited_linfo")?);
        let (first, count) = (aux.uint("linfo_idx")?, aux.uint("nr_linfo")?);
        if lines.is_null() || places.is_null() || first >= count {
            return Ok(None);
        }
        if count > MAX_LINES {
            return Err(Error::Implausible {
                what: "number of a program's source lines",
                value: count,
            });
        }
        // A function's lines are in order of address; those of the next function lie elsewhere.
        let at = places.wrapping_add(first * 8);
        let raw = self.read_bytes(at, (count - first) * 8, bytes::size(MAX_LINES * 8))?;
        let start = ksym.uint("start")?;
        let behind = raw
            .as_chunks::<8>()
            .0
            .iter()
            .map(|place| u64::from_le_bytes(*place))
            .take_while(|place| (start..=kva.0).contains(place))
            .count();
        let Some(number) = (behind as u64).checked_sub(1) else {
            return Ok(None);
        };
        let at = lines.wrapping_add((first + number) * LINE_INFO);
        let [_, file, text, place] = [0, 4, 8, 12].map(|part| self.read_u32(at.wrapping_add(part)));
        let btf = self.btf_at(aux.pointer("btf")?)?;
        let text = btf.string(text?).trim();
        Ok(Some(SourceLine {
            file: btf.string(file?).to_owned(),
            // The low ten bits are the column.
            line: place? >> 10,
            text: text.chars().take(MAX_LINE).collect(),
        }))
    }
}

fn read_symbol(ksym: &Object<'_>) -> Result<BpfSymbol> {
    let (start, end) = (ksym.pointer("start")?, ksym.pointer("end")?);
    if end < start || end.0 - start.0 > MAX_CODE {
        return Err(Error::Implausible {
            what: "end of BPF code",
            value: end.0,
        });
    }
    Ok(BpfSymbol {
        start,
        end,
        name: ksym.text("name")?,
    })
}
