//! Images made by hand, loaded into memory that holds no VM.

use std::fs::File;
use std::io::{Seek as _, Write as _};

use super::image::Entry;
use super::*;
use crate::acpi;
use crate::boot_error::BootError;
use crate::layout::{self, BOOT_PARAMS, CMDLINE, PVH_START_INFO};
use crate::memory::{Backing, GuestMemory, map};
use crate::topology::Topology;

fn memory(mib: u64) -> GuestMemory {
    let backing = Backing::new(mib << 20).unwrap();
    map(&[backing], &layout::ranges(mib << 20)).unwrap()
}

fn file(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file.rewind().unwrap();
    file
}

/// A setup header and one sector of payload.
fn bzimage(init_size: u32, xloadflags: u16) -> Vec<u8> {
    let mut image = vec![0; 0x400 + 0x200];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    put(0x1f1, &[1]);
    put(0x202, b"HdrS");
    put(0x206, &0x020fu16.to_le_bytes());
    put(0x211, &[1]);
    put(0x214, &0x10_0000u32.to_le_bytes());
    put(0x22c, &0x7fff_ffffu32.to_le_bytes());
    put(0x236, &xloadflags.to_le_bytes());
    put(0x258, &0x100_0000u64.to_le_bytes());
    put(0x260, &init_size.to_le_bytes());
    put(0x400, b"payload");
    image
}

/// An ELF file with one segment, and a PVH note if asked for.
fn elf(paddr: u64, memsz: u64, pvh: Option<u32>) -> Vec<u8> {
    let code = b"\xf4\xeb\xfd";
    let phnum = 1 + u16::from(pvh.is_some());
    let data_at = 64 + 56 * u64::from(phnum);
    let mut image = b"\x7fELF\x02\x01\x01".to_vec();
    image.resize(16, 0);
    let mut word = |bytes: &[u8]| image.extend_from_slice(bytes);
    word(&2u16.to_le_bytes());
    word(&62u16.to_le_bytes());
    word(&1u32.to_le_bytes());
    for value in [paddr, 64, 0] {
        word(&value.to_le_bytes());
    }
    word(&0u32.to_le_bytes());
    for value in [64, 56, phnum, 0, 0, 0] {
        word(&value.to_le_bytes());
    }
    let mut segment = |kind: u32, offset: u64, filesz: u64, memsz: u64| {
        word(&kind.to_le_bytes());
        word(&7u32.to_le_bytes());
        for value in [offset, paddr, paddr, filesz, memsz, 4] {
            word(&value.to_le_bytes());
        }
    };
    let note_at = (data_at + code.len() as u64).next_multiple_of(4);
    segment(1, data_at, code.len() as u64, memsz);
    if pvh.is_some() {
        segment(4, note_at, 20, 20);
    }
    image.extend_from_slice(code);
    if let Some(entry) = pvh {
        image.resize(usize::try_from(note_at).unwrap(), 0);
        for value in [4u32, 4, 18] {
            image.extend_from_slice(&value.to_le_bytes());
        }
        image.extend_from_slice(b"Xen\0");
        image.extend_from_slice(&entry.to_le_bytes());
    }
    image
}

fn boot(memory: &GuestMemory, kernel: &[u8], initrd: Option<&[u8]>) -> Result<Entry, BootError> {
    let topology = Topology::default();
    let node_memory = [memory.ranges()];
    let machine = acpi::Machine {
        topology: &topology,
        node_memory: &node_memory,
        virtio: &[],
    };
    let mut initrd = initrd.map(file);
    let plan = Plan {
        kernel: &mut file(kernel),
        initrd: initrd.as_mut(),
        cmdline: "console=ttyS0",
        machine,
    };
    prepare(memory, plan)
}

#[track_caller]
fn check_refused(mib: u64, kernel: &[u8], initrd: Option<&[u8]>, expected: &str) {
    let found = boot(&memory(mib), kernel, initrd).unwrap_err().to_string();
    assert!(found.contains(expected), "{found}");
}

fn read(memory: &GuestMemory, gpa: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    memory.read(gpa, &mut bytes).unwrap();
    bytes
}

#[test]
fn a_bzimage_starts_in_long_mode_with_its_zero_page() {
    let memory = memory(64);
    let entry = boot(&memory, &bzimage(0x10_0000, 1), Some(b"archive")).unwrap();
    assert_eq!(entry, Entry::Long { rip: 0x10_0200 });
    assert_eq!(read(&memory, 0x10_0000, 7), b"payload");
    assert_eq!(read(&memory, CMDLINE, 14), b"console=ttyS0\0");
    let params = read(&memory, BOOT_PARAMS, 4096);
    assert_eq!(params[0x70..0x78], layout::ACPI.to_le_bytes());
    assert_eq!(params[0x1e8], 3, "e820 entries");
    assert_eq!(params[0x218..0x21c], 0x3ff_f000u32.to_le_bytes(), "initrd");
    assert_eq!(params[0x21c..0x220], 7u32.to_le_bytes());
    assert_eq!(read(&memory, 0x3ff_f000, 7), b"archive");
}

#[test]
fn an_elf_kernel_starts_where_it_says() {
    let memory = memory(64);
    let entry = boot(&memory, &elf(0x100_0000, 0x1000, None), None).unwrap();
    assert_eq!(entry, Entry::Long { rip: 0x100_0000 });
    let entry = boot(
        &memory,
        &elf(0x100_0000, 0x1000, Some(0x100_0004)),
        Some(b"x"),
    )
    .unwrap();
    assert_eq!(entry, Entry::Pvh { eip: 0x100_0004 });
    let info = read(&memory, PVH_START_INFO, 56);
    assert_eq!(info[..4], 0x336e_c578u32.to_le_bytes());
    assert_eq!(info[12..16], 1u32.to_le_bytes(), "modules");
    assert_eq!(info[24..32], CMDLINE.to_le_bytes());
}

#[test]
fn what_does_not_fit_is_refused_with_the_reason() {
    check_refused(
        16,
        &bzimage(0x10_0000, 1),
        None,
        "needs memory up to 0x1100000",
    );
    check_refused(64, &bzimage(0x10_0000, 0), None, "no 64-bit entry");
    check_refused(
        18,
        &bzimage(0x10_0000, 1),
        Some(&[0; 0x20_0000]),
        "are free above the kernel's end",
    );
    check_refused(64, &elf(0x1000, 0x1000, None), None, "starts at 0x1000");
    check_refused(
        64,
        &elf(0x100_0000, 1 << 30, None),
        None,
        "needs memory up to",
    );
    check_refused(
        64,
        &elf(0x100_0000, u64::MAX, None),
        None,
        "past the last address",
    );
    check_refused(64, b"neither an ELF file nor a bzImage", None, "malformed");
}

#[test]
fn truncated_images_are_refused() {
    let whole = bzimage(0x10_0000, 1);
    for len in [0, 3, 0x1f0, 0x210, 0x3ff] {
        boot(&memory(64), &whole[..len], None).unwrap_err();
    }
    let whole = elf(0x100_0000, 0x1000, Some(0x100_0000));
    for len in [4, 63, 100, 150, 180] {
        boot(&memory(64), &whole[..len], None).unwrap_err();
    }
}
