//! Writes everything a kernel finds in memory when it starts.

use std::fs::File;

use linux_loader::loader::bootparam::{boot_e820_entry, boot_params};
use linux_loader::loader::start_info::{hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info};
use vm_memory::{ByteValued, Bytes as _, GuestAddress, GuestMemoryMmap};

use super::image::{self, Entry, Image};
use super::place::write;
use super::state;
use crate::acpi;
use crate::boot_error::BootError;
use crate::layout::{
    self, ACPI, ACPI_MAX, BOOT_PARAMS, CMDLINE, CMDLINE_MAX, E820Kind, HOLE, PVH_START_INFO,
};
use crate::memory::{GuestMemory, MemoryRange};

const PAGE: u64 = 0x1000;
/// boot.rst: "undefined" boot loader.
const LOADER_UNDEFINED: u8 = 0xff;
const HDRS: u32 = 0x5372_6448;
const BOOT_FLAG: u16 = 0xaa55;
const PVH_MAGIC: u32 = 0x336e_c578;
/// Where the PVH start info has its memory map and its module list.
const PVH_MEMMAP: u64 = PVH_START_INFO + 0x100;
const PVH_MODULES: u64 = PVH_START_INFO + 0x800;

/// The wrappers that vm-memory wants around foreign types.
#[derive(Debug, Clone, Copy, Default)]
#[repr(transparent)]
struct BootParams(boot_params);
#[derive(Debug, Clone, Copy, Default)]
#[repr(transparent)]
struct StartInfo(hvm_start_info);
#[derive(Debug, Clone, Copy, Default)]
#[repr(transparent)]
struct MemmapEntry(hvm_memmap_table_entry);
#[derive(Debug, Clone, Copy, Default)]
#[repr(transparent)]
struct ModuleEntry(hvm_modlist_entry);

// SAFETY: `boot_params` is `repr(C, packed)` with integers and arrays of them only.
unsafe impl ByteValued for BootParams {}
// SAFETY: `hvm_start_info` is `repr(C)`, made of integers without padding (its crate asserts 56 bytes).
unsafe impl ByteValued for StartInfo {}
// SAFETY: `hvm_memmap_table_entry` is `repr(C)`: two u64 and two u32 without padding.
unsafe impl ByteValued for MemmapEntry {}
// SAFETY: `hvm_modlist_entry` is `repr(C)`: four u64.
unsafe impl ByteValued for ModuleEntry {}

/// What is put into the guest.
#[derive(Debug)]
pub(crate) struct Plan<'a> {
    pub(crate) kernel: &'a mut File,
    pub(crate) initrd: Option<&'a mut File>,
    pub(crate) cmdline: &'a str,
    pub(crate) machine: acpi::Machine<'a>,
}

/// Fills `memory`; gives how the boot processor starts.
pub(crate) fn prepare(memory: &GuestMemory, plan: Plan<'_>) -> Result<Entry, BootError> {
    let ranges = memory.ranges();
    let low_end = ranges
        .iter()
        .take_while(|range| range.gpa < HOLE)
        .map(|range| range.gpa + range.len)
        .max()
        .unwrap_or(0);
    let inner = memory.inner().ok_or_else(|| BootError::Malformed {
        reason: String::from("guest memory is not mapped here"),
    })?;
    let image = image::load(inner, low_end, plan.kernel)?;
    let initrd = plan
        .initrd
        .map(|file| load_initrd(inner, file, &image, low_end))
        .transpose()?;
    write_cmdline(inner, plan.cmdline)?;
    let tables = acpi::build(&plan.machine, ACPI);
    let len = tables.bytes.len() as u64;
    if len > ACPI_MAX {
        return Err(BootError::TablesTooLarge { len, max: ACPI_MAX });
    }
    write(inner, ACPI, &tables.bytes)?;
    let map = layout::e820(&joined(&ranges));
    state::write_tables(inner)?;
    match image.entry {
        Entry::Long { .. } => zero_page(inner, &image, initrd, plan.cmdline, &map, tables.rsdp)?,
        Entry::Pvh { .. } => start_info(inner, initrd, &map, tables.rsdp)?,
    }
    Ok(image.entry)
}

/// Neighbouring ranges as one.
fn joined(ranges: &[MemoryRange]) -> Vec<MemoryRange> {
    let mut joined: Vec<MemoryRange> = Vec::new();
    for range in ranges {
        match joined.last_mut() {
            Some(last) if last.gpa + last.len == range.gpa => last.len += range.len,
            _ => joined.push(*range),
        }
    }
    joined
}

fn write_cmdline(memory: &GuestMemoryMmap<()>, cmdline: &str) -> Result<(), BootError> {
    let mut bytes = cmdline.as_bytes().to_vec();
    bytes.push(0);
    let len = bytes.len() as u64;
    if len > CMDLINE_MAX {
        return Err(BootError::CmdlineTooLong {
            len: len - 1,
            max: CMDLINE_MAX - 1,
        });
    }
    write(memory, CMDLINE, &bytes)
}

/// Reads the archive to the end of low memory, as high as the kernel takes it.
fn load_initrd(
    memory: &GuestMemoryMmap<()>,
    file: &mut File,
    image: &Image,
    low_end: u64,
) -> Result<MemoryRange, BootError> {
    let unreadable = |source| BootError::Unreadable {
        what: "initrd",
        source,
    };
    let len = file.metadata().map_err(unreadable)?.len();
    let highest = image.header.map_or(u64::MAX, |header| {
        u64::from(header.initrd_addr_max).saturating_add(1)
    });
    let end = low_end.min(highest);
    let kernel_end = image.end.next_multiple_of(PAGE);
    let room = end.saturating_sub(kernel_end);
    let gpa = end.checked_sub(len).map(|start| start & !(PAGE - 1));
    let Some(gpa) = gpa.filter(|start| *start >= kernel_end) else {
        return Err(BootError::InitrdTooLarge {
            len,
            room,
            kernel_end,
        });
    };
    let size = usize::try_from(len).map_err(|error| unreadable(std::io::Error::other(error)))?;
    memory
        .read_exact_volatile_from(GuestAddress(gpa), file, size)
        .map_err(|error| unreadable(std::io::Error::other(error)))?;
    Ok(MemoryRange { gpa, len })
}

fn low32(value: u64) -> u32 {
    u32::try_from(value & 0xffff_ffff).unwrap_or(0)
}

fn zero_page(
    memory: &GuestMemoryMmap<()>,
    image: &Image,
    initrd: Option<MemoryRange>,
    cmdline: &str,
    map: &[(MemoryRange, E820Kind)],
    rsdp: u64,
) -> Result<(), BootError> {
    let mut params = boot_params {
        acpi_rsdp_addr: rsdp,
        ..Default::default()
    };
    if let Some(header) = image.header {
        params.hdr = header;
    } else {
        params.hdr.header = HDRS;
        params.hdr.boot_flag = BOOT_FLAG;
        params.hdr.kernel_alignment = 0x100_0000;
    }
    params.hdr.type_of_loader = LOADER_UNDEFINED;
    params.hdr.cmd_line_ptr = low32(CMDLINE);
    params.hdr.cmdline_size = u32::try_from(cmdline.len()).unwrap_or(u32::MAX);
    if let Some(initrd) = initrd {
        params.hdr.ramdisk_image = low32(initrd.gpa);
        params.hdr.ramdisk_size = low32(initrd.len);
        params.ext_ramdisk_size = low32(initrd.len >> 32);
    }
    let mut table = params.e820_table;
    for (slot, (range, kind)) in table.iter_mut().zip(map) {
        *slot = boot_e820_entry {
            addr: range.gpa,
            size: range.len,
            r#type: *kind as u32,
        };
    }
    params.e820_table = table;
    params.e820_entries = u8::try_from(map.len()).unwrap_or(u8::MAX);
    write(memory, BOOT_PARAMS, BootParams(params).as_slice())
}

fn start_info(
    memory: &GuestMemoryMmap<()>,
    initrd: Option<MemoryRange>,
    map: &[(MemoryRange, E820Kind)],
    rsdp: u64,
) -> Result<(), BootError> {
    for (index, (range, kind)) in (0u64..).zip(map) {
        let entry = MemmapEntry(hvm_memmap_table_entry {
            addr: range.gpa,
            size: range.len,
            type_: *kind as u32,
            reserved: 0,
        });
        let at = PVH_MEMMAP + index * entry.as_slice().len() as u64;
        write(memory, at, entry.as_slice())?;
    }
    if let Some(initrd) = initrd {
        let module = ModuleEntry(hvm_modlist_entry {
            paddr: initrd.gpa,
            size: initrd.len,
            ..Default::default()
        });
        write(memory, PVH_MODULES, module.as_slice())?;
    }
    let info = StartInfo(hvm_start_info {
        magic: PVH_MAGIC,
        version: 1,
        nr_modules: u32::from(initrd.is_some()),
        modlist_paddr: initrd.map_or(0, |_| PVH_MODULES),
        cmdline_paddr: CMDLINE,
        rsdp_paddr: rsdp,
        memmap_paddr: PVH_MEMMAP,
        memmap_entries: u32::try_from(map.len()).unwrap_or(0),
        ..Default::default()
    });
    write(memory, PVH_START_INFO, info.as_slice())
}
