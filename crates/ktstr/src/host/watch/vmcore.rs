//! A guest's memory as an ELF vmcore, in the form that kdump gives it: drgn and crash open it beside the kernel's vmlinux.
//!
//! ```text
//! ELF header | program headers | notes: NT_PRSTATUS per vCPU, VMCOREINFO | memory, page-aligned, one PT_LOAD per range
//! ```
//!
//! Zero pages are holes of the file. Layout: System V gABI chapter 5, kernel `fs/proc/vmcore.c` and
//! `include/linux/elfcore.h`.

use std::fs::File;
use std::io::{self, BufWriter, Seek as _, SeekFrom, Write as _};
use std::path::Path;

use ktstr_monitor::Kernel;
use ktstr_vmm::VcpuRegs;
use object::elf::{
    ELFCLASS64, ELFDATA2LSB, ELFMAG, ELFOSABI_NONE, EM_X86_64, ET_CORE, EV_CURRENT, FileFlags,
    FileHeader64, Ident, NT_PRSTATUS, NoteHeader64, NoteType, PF_R, PF_W, PF_X, PT_LOAD, PT_NOTE,
    ProgramHeader64, ProgramType, SymbolSection,
};
use object::pod::bytes_of;
use object::{LittleEndian as Le, U16, U32, U64};

use crate::host::watch::unnamed::Unnamed;

const EHDR: usize = size_of::<FileHeader64<Le>>();
const PHDR: usize = size_of::<ProgramHeader64<Le>>();
/// Memory is read and skipped in pieces of this size.
const CHUNK: usize = 64 << 10;
/// `struct elf_prstatus`: its size, and where `pr_pid` and `pr_reg` lie in it.
const PRSTATUS: usize = 336;
const PR_PID: usize = 32;
const PR_REG: usize = 112;

/// Writes all memory of `kernel`'s machine to `path`, which is there when it is whole.
///
/// # Errors
/// When the file cannot be written; memory that cannot be read is a hole.
pub(in crate::host) fn write(
    path: &Path,
    kernel: &Kernel,
    registers: &[VcpuRegs],
) -> io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(dir)?;
    let partial = Unnamed::new_in(dir)?;
    let ranges = kernel.memory().ranges();
    let notes = notes(registers, kernel.vmcoreinfo().ok().as_deref());
    let notes_at = EHDR + PHDR * (1 + ranges.len());
    let mut at = (notes_at + notes.len()).next_multiple_of(4096);
    let mut head = header(ranges.len() + 1);
    program_header(&mut head, PT_NOTE, notes_at, 0, 0, notes.len() as u64);
    let mut places = Vec::new();
    for range in &ranges {
        let kva = kernel.page_offset().wrapping_add(range.gpa.0);
        program_header(&mut head, PT_LOAD, at, kva.0, range.gpa.0, range.len);
        places.push(at as u64);
        at += usize::try_from(range.len).map_err(io::Error::other)?;
    }
    let mut file = BufWriter::with_capacity(CHUNK * 2, partial.as_file());
    file.write_all(&head)?;
    file.write_all(&notes)?;
    for (range, place) in ranges.iter().zip(places) {
        copy(&mut file, kernel, range.gpa, range.len, place)?;
    }
    file.flush()?;
    drop(file);
    partial.as_file().set_len(at as u64)?;
    partial.persist(path)
}

fn copy(
    file: &mut BufWriter<&File>,
    kernel: &Kernel,
    gpa: ktstr_monitor::Gpa,
    len: u64,
    place: u64,
) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    let mut done = 0;
    while done < len {
        let size = usize::try_from(len - done).map_or(CHUNK, |left| left.min(CHUNK));
        let Some(part) = buffer.get_mut(..size) else {
            break;
        };
        let read = kernel.memory().read(gpa.wrapping_add(done), part);
        if read.is_ok() && part.iter().any(|byte| *byte != 0) {
            file.seek(SeekFrom::Start(place + done))?;
            file.write_all(part)?;
        }
        done += size as u64;
    }
    Ok(())
}

/// Program headers right behind this one, no sections.
fn header(segments: usize) -> Vec<u8> {
    let size = |len: usize| U16::new(Le, u16::try_from(len).unwrap_or(u16::MAX));
    let header = FileHeader64::<Le> {
        e_ident: Ident {
            magic: ELFMAG,
            class: ELFCLASS64,
            data: ELFDATA2LSB,
            version: EV_CURRENT,
            os_abi: ELFOSABI_NONE,
            abi_version: 0,
            padding: [0; 7],
        },
        e_type: U16::new(Le, ET_CORE),
        e_machine: U16::new(Le, EM_X86_64),
        e_version: U32::new(Le, EV_CURRENT.0.into()),
        e_entry: U64::new(Le, 0),
        e_phoff: U64::new(Le, EHDR as u64),
        e_shoff: U64::new(Le, 0),
        e_flags: U32::new(Le, FileFlags(0)),
        e_ehsize: size(EHDR),
        e_phentsize: size(PHDR),
        e_phnum: size(segments),
        e_shentsize: size(0),
        e_shnum: size(0),
        e_shstrndx: U16::new(Le, SymbolSection(0)),
    };
    bytes_of(&header).to_vec()
}

fn program_header(
    out: &mut Vec<u8>,
    kind: ProgramType,
    offset: usize,
    vaddr: u64,
    paddr: u64,
    len: u64,
) {
    let header = ProgramHeader64::<Le> {
        p_type: U32::new(Le, kind),
        p_flags: U32::new(Le, PF_R | PF_W | PF_X),
        p_offset: U64::new(Le, offset as u64),
        p_vaddr: U64::new(Le, vaddr),
        p_paddr: U64::new(Le, paddr),
        p_filesz: U64::new(Le, len),
        p_memsz: U64::new(Le, len),
        p_align: U64::new(Le, 0),
    };
    out.extend_from_slice(bytes_of(&header));
}

fn notes(registers: &[VcpuRegs], vmcoreinfo: Option<&str>) -> Vec<u8> {
    let mut out = Vec::new();
    for vcpu in registers {
        note(&mut out, b"CORE\0", NT_PRSTATUS, &prstatus(vcpu));
    }
    if let Some(text) = vmcoreinfo {
        note(&mut out, b"VMCOREINFO\0", NoteType(0), text.as_bytes());
    }
    out
}

fn note(out: &mut Vec<u8>, name: &[u8], kind: NoteType, content: &[u8]) {
    let len = |part: &[u8]| U32::new(Le, u32::try_from(part.len()).unwrap_or(u32::MAX));
    let header = NoteHeader64::<Le> {
        n_namesz: len(name),
        n_descsz: len(content),
        n_type: U32::new(Le, kind),
    };
    out.extend_from_slice(bytes_of(&header));
    for part in [name, content] {
        out.extend_from_slice(part);
        out.resize(out.len().next_multiple_of(4), 0);
    }
}

fn prstatus(vcpu: &VcpuRegs) -> Vec<u8> {
    let mut out = vec![0; PRSTATUS];
    let mut put = |at: usize, bytes: &[u8]| {
        if let Some(place) = out.get_mut(at..at + bytes.len()) {
            place.copy_from_slice(bytes);
        }
    };
    // As QEMU's dump-guest-memory numbers them (target/i386/arch_dump.c): tools look for the number of the CPU, plus one.
    put(PR_PID, &vcpu.vcpu.wrapping_add(1).to_le_bytes());
    for (number, value) in user_regs(vcpu).into_iter().enumerate() {
        put(PR_REG + number * 8, &value.to_le_bytes());
    }
    out
}

/// `struct user_regs_struct` (arch/x86/include/asm/user_64.h) as far as the stack pointer; segments are not known.
fn user_regs(vcpu: &VcpuRegs) -> [u64; 20] {
    let [r8, r9, r10, r11, r12, r13, r14, r15] = vcpu.r8_15;
    let (orig_ax, cs) = (0, 0);
    [
        r15,
        r14,
        r13,
        r12,
        vcpu.rbp,
        vcpu.rbx,
        r11,
        r10,
        r9,
        r8,
        vcpu.rax,
        vcpu.rcx,
        vcpu.rdx,
        vcpu.rsi,
        vcpu.rdi,
        orig_ax,
        vcpu.rip,
        cs,
        vcpu.rflags,
        vcpu.rsp,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_object_crate_reads_the_headers() {
        use object::read::elf::{FileHeader as _, ProgramHeader as _};
        let mut registers = VcpuRegs::default();
        registers.vcpu = 1;
        registers.rip = 0x1234;
        registers.r8_15 = [8, 0, 0, 0, 0, 0, 0, 15];
        let notes = notes(&[registers], Some("OSRELEASE=6.12\n"));
        let mut bytes = header(2);
        let notes_at = EHDR + 2 * PHDR;
        program_header(&mut bytes, PT_NOTE, notes_at, 0, 0, notes.len() as u64);
        program_header(
            &mut bytes,
            PT_LOAD,
            4096,
            0xffff_8880_0010_0000,
            0x10_0000,
            8192,
        );
        bytes.extend_from_slice(&notes);
        let endian = object::LittleEndian;
        let head =
            object::elf::FileHeader64::<object::LittleEndian>::parse(bytes.as_slice()).unwrap();
        let segments = head.program_headers(endian, bytes.as_slice()).unwrap();
        assert_eq!(segments.len(), 2);
        assert_eq!(segments[1].p_paddr(endian), 0x10_0000);
        let mut found = segments[0]
            .notes(endian, bytes.as_slice())
            .unwrap()
            .unwrap();
        let status = found.next().unwrap().unwrap();
        assert_eq!(
            (status.name(), status.desc().len()),
            (b"CORE".as_slice(), PRSTATUS)
        );
        // Offsets of pr_pid, r15, r8 and rip in struct elf_prstatus.
        for (at, wanted) in [(32, 2), (112, 15), (184, 8), (240, 0x1234_u32)] {
            assert_eq!(status.desc()[at..][..4], wanted.to_le_bytes());
        }
        let info = found.next().unwrap().unwrap();
        assert_eq!(info.name(), b"VMCOREINFO");
        assert_eq!(info.desc(), b"OSRELEASE=6.12\n");
    }
}
