//! Kernel images: bzImage and ELF.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::FileExt as _;

use linux_loader::loader::bootparam::setup_header;
use linux_loader::loader::elf::PvhBootCapability;
use linux_loader::loader::{BzImage, Elf, KernelLoader as _};
use object::LittleEndian;
use object::elf::{FileHeader64, PT_LOAD};
use object::read::elf::{FileHeader as _, ProgramHeader as _};
use vm_memory::{GuestAddress, GuestMemoryMmap};

use crate::boot_error::BootError;
use crate::layout::HIGH_RAM;

/// boot.rst: the kernel has the 64-bit entry point at 0x200.
const XLF_KERNEL_64: u16 = 1;
const LONG_ENTRY: u64 = 0x200;
/// Enough for the headers of any kernel.
const ELF_HEADERS: usize = 64 << 10;

/// How the boot processor enters the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Entry {
    /// Long mode, `boot_params` in RSI (boot.rst, "64-bit boot protocol").
    Long {
        /// First instruction.
        rip: u64,
    },
    /// 32-bit protected mode without paging, start info in EBX (Xen's PVH).
    Pvh {
        /// First instruction.
        eip: u64,
    },
}

/// A kernel in guest memory.
#[derive(Debug)]
pub(crate) struct Image {
    pub(super) entry: Entry,
    /// First byte after what it needs before it knows the memory map.
    pub(super) end: u64,
    pub(super) header: Option<setup_header>,
}

/// Puts the kernel into `memory`, whose low part ends at `low_end`.
pub(super) fn load(
    memory: &GuestMemoryMmap<()>,
    low_end: u64,
    kernel: &mut File,
) -> Result<Image, BootError> {
    let mut magic = [0; 4];
    kernel.read_exact_at(&mut magic, 0).map_err(unreadable)?;
    if magic == object::elf::ELFMAG {
        load_elf(memory, low_end, kernel)
    } else {
        load_bzimage(memory, low_end, kernel)
    }
}

fn unreadable(source: std::io::Error) -> BootError {
    BootError::Unreadable {
        what: "kernel",
        source,
    }
}

fn malformed(reason: impl ToString) -> BootError {
    BootError::Malformed {
        reason: reason.to_string(),
    }
}

fn fits(end: u64, memory_end: u64) -> Result<(), BootError> {
    if end > memory_end {
        return Err(BootError::KernelTooLarge { end, memory_end });
    }
    Ok(())
}

fn load_bzimage(
    memory: &GuestMemoryMmap<()>,
    low_end: u64,
    kernel: &mut File,
) -> Result<Image, BootError> {
    let file_len = kernel.metadata().map_err(unreadable)?.len();
    fits(HIGH_RAM.saturating_add(file_len), low_end)?;
    let loaded =
        BzImage::load(memory, Some(GuestAddress(HIGH_RAM)), kernel, None).map_err(malformed)?;
    let header = loaded
        .setup_header
        .ok_or_else(|| malformed("it has no setup header"))?;
    if header.xloadflags & XLF_KERNEL_64 == 0 {
        return Err(BootError::NoLongEntry);
    }
    // The kernel unpacks itself to its preferred address, or where it was loaded if that is higher.
    let start = HIGH_RAM.max(header.pref_address);
    let end = start
        .checked_add(u64::from(header.init_size))
        .ok_or_else(|| malformed("its preferred address is too high"))?
        .max(loaded.kernel_end);
    fits(end, low_end)?;
    let entry = Entry::Long {
        rip: HIGH_RAM + LONG_ENTRY,
    };
    Ok(Image {
        entry,
        end,
        header: Some(header),
    })
}

fn load_elf(
    memory: &GuestMemoryMmap<()>,
    low_end: u64,
    kernel: &mut File,
) -> Result<Image, BootError> {
    let (start, end) = elf_extent(kernel)?;
    if start < HIGH_RAM {
        return Err(BootError::KernelTooLow {
            start,
            lowest: HIGH_RAM,
        });
    }
    fits(end, low_end)?;
    let loaded = Elf::load(memory, None, kernel, None).map_err(malformed)?;
    let entry = match loaded.pvh_boot_cap {
        PvhBootCapability::PvhEntryPresent(eip) => Entry::Pvh { eip: eip.0 },
        _ => Entry::Long {
            rip: loaded.kernel_load.0,
        },
    };
    Ok(Image {
        entry,
        end,
        header: None,
    })
}

/// Bytes of memory that an ELF kernel needs for what it loads; its file may be many times longer.
pub(crate) fn elf_len(kernel: &mut File) -> Result<u64, BootError> {
    elf_extent(kernel).map(|(start, end)| end.saturating_sub(start))
}

/// Lowest and highest physical address of what an ELF kernel loads, checked before anything is written.
fn elf_extent(kernel: &mut File) -> Result<(u64, u64), BootError> {
    kernel.seek(SeekFrom::Start(0)).map_err(unreadable)?;
    let mut head = Vec::with_capacity(ELF_HEADERS);
    (&mut *kernel)
        .take(ELF_HEADERS as u64)
        .read_to_end(&mut head)
        .map_err(unreadable)?;
    let header = FileHeader64::<LittleEndian>::parse(head.as_slice()).map_err(malformed)?;
    let endian = header.endian().map_err(malformed)?;
    if header.e_machine.get(endian) != object::elf::EM_X86_64 {
        return Err(malformed("it is not for x86-64"));
    }
    let segments = header
        .program_headers(endian, head.as_slice())
        .map_err(malformed)?;
    let mut extent: Option<(u64, u64)> = None;
    for segment in segments {
        if segment.p_type(endian) != PT_LOAD {
            continue;
        }
        let start = segment.p_paddr(endian);
        let len = segment.p_memsz(endian).max(segment.p_filesz(endian));
        let end = start
            .checked_add(len)
            .ok_or_else(|| malformed("a segment ends past the last address"))?;
        extent = Some(match extent {
            Some((low, high)) => (low.min(start), high.max(end)),
            None => (start, end),
        });
    }
    extent.ok_or_else(|| malformed("it has no segment to load"))
}
