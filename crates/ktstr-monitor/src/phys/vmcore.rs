//! ELF dumps of physical memory, as QEMU's `dump-guest-memory` (paging off) and kdump's ELF form write them.
//!
//! Each `PT_LOAD` segment holds physical memory at `p_paddr`. Notes tell more: QEMU writes one `QEMU` note per vCPU
//! with its control registers, kdump one `CORE` note per CPU and one `VMCOREINFO` note.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use super::mapped::{MappedMem, Piece};
use super::{BatchRead, Hints, PhysMem, Range, VcpuHint};
use crate::{Error, Gpa, Result, bytes};

/// An ELF vmcore, mapped read-only.
#[derive(Debug)]
pub struct Vmcore {
    memory: MappedMem,
    hints: Hints,
    missing: u64,
}

const EHDR: usize = 64;
const PHDR: usize = 56;
const SHDR: usize = 64;
const ET_CORE: u16 = 4;
const EM_X86_64: u16 = 62;
const NT_PRSTATUS: u32 = 1;
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
/// `e_phnum` that says: look at `sh_info` of section 0.
const PN_XNUM: u16 = 0xffff;
/// More segments than any machine has memory slots.
const MAX_SEGMENTS: usize = 1 << 16;
/// Notes of 4096 vCPUs and a VMCOREINFO fit.
const MAX_NOTES: u64 = 16 << 20;

impl Vmcore {
    /// Opens a dump.
    ///
    /// A dump that was cut short loses the memory behind its end: reads there fail with their address.
    ///
    /// # Errors
    /// [`Error::Io`] when the file cannot be read, [`Error::BadVmcore`] when it is something else.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(Error::io("open", path))?;
        let refuse = |why: &str| Error::BadVmcore {
            path: path.to_owned(),
            why: why.to_owned(),
        };
        let head = read_some(&file, 0, EHDR).map_err(Error::io("read", path))?;
        check_header(&head).map_err(|why| refuse(&why))?;
        let table = program_headers(&file, &head).ok_or_else(|| {
            refuse("it has no program headers where its ELF header says; was it cut short?")
        })?;
        let mut pieces = Vec::new();
        let mut hints = Hints::default();
        let mut prstatus = Vec::new();
        for header in table.chunks_exact(PHDR) {
            let field = |at| bytes::u64_at(header, at).unwrap_or(0);
            let (offset, paddr, filesz) = (field(8), field(24), field(32));
            match bytes::u32_at(header, 0) {
                Some(PT_LOAD) => pieces.push(Piece {
                    gpa: Gpa(paddr),
                    offset,
                    len: filesz,
                }),
                Some(PT_NOTE) => {
                    let len = bytes::size(filesz.min(MAX_NOTES));
                    let notes = read_some(&file, offset, len).map_err(Error::io("read", path))?;
                    read_notes(&notes, &mut hints, &mut prstatus);
                }
                _ => {}
            }
        }
        if pieces.is_empty() {
            return Err(refuse("it has no memory segments"));
        }
        // QEMU writes both kinds, and its own knows more.
        if hints.vcpus.is_empty() {
            hints.vcpus = prstatus;
        }
        let file_len = file.metadata().map_err(Error::io("read", path))?.len();
        let missing = pieces
            .iter()
            .map(|piece| {
                let there = file_len.saturating_sub(piece.offset);
                piece.len.saturating_sub(there)
            })
            .fold(0, u64::saturating_add);
        let memory = MappedMem::read_only(&file, path, &without_overlap(pieces))?;
        Ok(Self {
            memory,
            hints,
            missing,
        })
    }

    /// Bytes of memory that the headers promise and the file does not have: not 0 when it was cut short.
    #[must_use]
    pub fn missing(&self) -> u64 {
        self.missing
    }
}

impl PhysMem for Vmcore {
    fn read(&self, gpa: Gpa, buffer: &mut [u8]) -> Result<()> {
        self.memory.read(gpa, buffer)
    }

    fn ranges(&self) -> Vec<Range> {
        self.memory.ranges()
    }

    fn read_batch(&self, reads: &mut [BatchRead<'_>]) {
        self.memory.read_batch(reads);
    }

    fn hints(&self) -> Hints {
        self.hints.clone()
    }
}

/// Pieces that follow each other: kdump lists the kernel's image twice, and QEMU with paging on lists each mapping.
fn without_overlap(mut pieces: Vec<Piece>) -> Vec<Piece> {
    pieces.sort_by_key(|piece| (piece.gpa, std::cmp::Reverse(piece.len)));
    let mut end = Gpa(0);
    pieces.retain_mut(|piece| {
        let hidden = end.0.saturating_sub(piece.gpa.0);
        let Some(rest) = piece.len.checked_sub(hidden).filter(|&rest| rest > 0) else {
            return false;
        };
        let Some(next) = piece.gpa.checked_add(piece.len) else {
            return false;
        };
        *piece = Piece {
            gpa: piece.gpa.wrapping_add(hidden),
            offset: piece.offset.saturating_add(hidden),
            len: rest,
        };
        end = next;
        true
    });
    pieces
}

fn check_header(head: &[u8]) -> std::result::Result<(), String> {
    if head.starts_with(b"KDUMP   ") {
        return Err(
            "it is a compressed kdump; convert it with `makedumpfile -E` or dump without -z"
                .to_owned(),
        );
    }
    if !head.starts_with(b"\x7fELF") {
        return Err(match head {
            [] => "it is empty".to_owned(),
            _ => "it does not begin with an ELF header".to_owned(),
        });
    }
    if head.get(4..6) != Some(&[2, 1]) {
        return Err("it is not 64-bit little-endian".to_owned());
    }
    let half = |at| bytes::u16_at(head, at).unwrap_or(0);
    match (half(16), half(18)) {
        (ET_CORE, EM_X86_64) => Ok(()),
        (ET_CORE, machine) => Err(format!("ELF machine {machine}, expected {EM_X86_64}")),
        (kind, _) => Err(format!(
            "ELF type {kind}, expected {ET_CORE}: it is a program or an object file, not a dump"
        )),
    }
}

fn program_headers(file: &File, head: &[u8]) -> Option<Vec<u8>> {
    let offset = bytes::u64_at(head, 32)?;
    if usize::from(bytes::u16_at(head, 54)?) != PHDR {
        return None;
    }
    let count = match bytes::u16_at(head, 56)? {
        PN_XNUM => {
            let section = read_some(file, bytes::u64_at(head, 40)?, SHDR).ok()?;
            bytes::u32_at(&section, 44)? as usize
        }
        count => usize::from(count),
    };
    let table = read_some(file, offset, count.min(MAX_SEGMENTS) * PHDR).ok()?;
    (table.len() >= PHDR).then_some(table)
}

/// Up to `len` bytes; fewer at the end of the file.
fn read_some(file: &File, offset: u64, len: usize) -> std::io::Result<Vec<u8>> {
    let rest = file.metadata()?.len().saturating_sub(offset);
    let mut buffer = vec![0; len.min(bytes::size(rest))];
    file.read_exact_at(&mut buffer, offset)?;
    Ok(buffer)
}

/// Walks an ELF note segment: name size, descriptor size, type, then both padded to 4 bytes.
fn read_notes(notes: &[u8], hints: &mut Hints, prstatus: &mut Vec<VcpuHint>) {
    let mut at = 0;
    while let (Some(name_len), Some(desc_len)) =
        (bytes::u32_at(notes, at), bytes::u32_at(notes, at + 4))
    {
        let name_at = at + 12;
        let desc_at = name_at + (name_len as usize).next_multiple_of(4);
        let end = desc_at + desc_len as usize;
        let (Some(name), Some(desc)) = (
            notes.get(name_at..name_at + name_len as usize),
            notes.get(desc_at..end),
        ) else {
            return;
        };
        match name {
            b"QEMU\0" => {
                hints.cr3.extend(qemu_cr3(desc));
                hints.vcpus.extend(qemu_registers(desc));
            }
            b"CORE\0" if bytes::u32_at(notes, at + 8) == Some(NT_PRSTATUS) => {
                prstatus.extend(prstatus_registers(desc));
            }
            b"VMCOREINFO\0" => hints.vmcoreinfo = Some(bytes::text(desc)),
            _ => {}
        }
        at = end.next_multiple_of(4);
    }
}

/// Registers in `struct elf_prstatus`: at 112 `struct user_regs_struct`, 27 words.
fn prstatus_registers(desc: &[u8]) -> Option<VcpuHint> {
    let word = |number: usize| bytes::u64_at(desc, 112 + number * 8);
    Some(VcpuHint {
        rip: word(16)?,
        rsp: word(19)?,
        rflags: word(18)?,
        cr3: 0,
    })
}

/// Registers in QEMU's per-vCPU note, laid out as below: rsp is the seventh of the general ones.
fn qemu_registers(desc: &[u8]) -> Option<VcpuHint> {
    let word = |number: usize| bytes::u64_at(desc, 8 + number * 8);
    Some(VcpuHint {
        rip: word(16)?,
        rsp: word(6)?,
        rflags: word(17)?,
        cr3: qemu_cr3(desc).unwrap_or(0),
    })
}

/// CR3 in QEMU's per-vCPU note (QEMU `target/i386/arch_dump.c`, struct `QEMUCPUState`): version and size, 16 general
/// registers, rip, rflags, ten segments of 24 bytes, then cr0 to cr4.
fn qemu_cr3(desc: &[u8]) -> Option<u64> {
    const CR0: usize = 8 + 18 * 8 + 10 * 24;
    let cr0 = bytes::u64_at(desc, CR0)?;
    let cr3 = bytes::u64_at(desc, CR0 + 3 * 8)?;
    let paging_is_on = cr0 >> 31 & 1 == 1;
    (paging_is_on && cr3 != 0).then_some(cr3)
}
