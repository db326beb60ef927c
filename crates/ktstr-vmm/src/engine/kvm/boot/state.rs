//! The boot processor's first state: descriptor and page tables, registers.

use kvm_bindings::{kvm_regs, kvm_segment, kvm_sregs};
use vm_memory::GuestMemoryMmap;

use super::Entry;
use super::place::write;
use crate::boot_error::BootError;
use crate::layout::{BOOT_PARAMS, BOOT_STACK, GDT, PAGE_TABLES, PVH_START_INFO};

const CR0_PE: u64 = 1;
const CR0_ET: u64 = 1 << 4;
const CR0_NE: u64 = 1 << 5;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
const PRESENT_WRITABLE: u64 = 3;
const HUGE: u64 = 1 << 7;
/// The second bit of RFLAGS is always set.
const RFLAGS: u64 = 2;

/// boot.rst: `__BOOT_CS` and `__BOOT_DS`.
const CODE_SELECTOR: u16 = 0x10;
const DATA_SELECTOR: u16 = 0x18;
const TSS_SELECTOR: u16 = 0x20;

/// Writes GDT and identity map; 32-bit entries use neither, but take no harm.
pub(super) fn write_tables(memory: &GuestMemoryMmap<()>) -> Result<(), BootError> {
    // Null, unused, 64-bit code, data, TSS (Intel SDM 3A §3.4.5).
    let gdt: [u64; 5] = [
        0,
        0,
        0x00af_9b00_0000_ffff,
        0x00cf_9300_0000_ffff,
        0x008f_8b00_0000_ffff,
    ];
    write(memory, GDT, &bytes(gdt))?;
    let (pdpt, directories) = (PAGE_TABLES + 0x1000, PAGE_TABLES + 0x2000);
    write(memory, PAGE_TABLES, &bytes([pdpt | PRESENT_WRITABLE]))?;
    write(
        memory,
        pdpt,
        &bytes((0..4).map(|gib| (directories + gib * 0x1000) | PRESENT_WRITABLE)),
    )?;
    write(
        memory,
        directories,
        &bytes((0..4 * 512).map(|page| page << 21 | PRESENT_WRITABLE | HUGE)),
    )
}

fn bytes(words: impl IntoIterator<Item = u64>) -> Vec<u8> {
    words.into_iter().flat_map(u64::to_le_bytes).collect()
}

fn segment(selector: u16, kind: u8, long: bool, wide: bool) -> kvm_segment {
    kvm_segment {
        base: 0,
        limit: 0xffff_ffff,
        selector,
        type_: kind,
        present: 1,
        dpl: 0,
        db: u8::from(wide),
        s: 1,
        l: u8::from(long),
        g: 1,
        ..Default::default()
    }
}

/// Registers for `entry`; `sregs` are those that KVM gave the new vCPU.
pub(crate) fn initial_registers(entry: Entry, sregs: kvm_sregs) -> (kvm_regs, kvm_sregs) {
    const CODE: u8 = 0xb;
    const DATA: u8 = 3;
    const TSS_BUSY: u8 = 0xb;
    let long = matches!(entry, Entry::Long { .. });
    let data = segment(DATA_SELECTOR, DATA, false, true);
    let mut sregs = kvm_sregs {
        cs: segment(CODE_SELECTOR, CODE, long, !long),
        ds: data,
        es: data,
        fs: data,
        gs: data,
        ss: data,
        ..sregs
    };
    sregs.tr = kvm_segment {
        s: 0,
        limit: 0xffff,
        g: 0,
        ..segment(TSS_SELECTOR, TSS_BUSY, false, false)
    };
    sregs.gdt.base = GDT;
    sregs.gdt.limit = 5 * 8 - 1;
    sregs.idt.base = 0;
    sregs.idt.limit = 0xffff;
    let regs = kvm_regs {
        rflags: RFLAGS,
        ..Default::default()
    };
    match entry {
        Entry::Long { rip } => {
            sregs.cr0 = CR0_PE | CR0_ET | CR0_NE | CR0_PG;
            sregs.cr3 = PAGE_TABLES;
            sregs.cr4 = CR4_PAE;
            sregs.efer = EFER_LME | EFER_LMA;
            let regs = kvm_regs {
                rip,
                rsi: BOOT_PARAMS,
                rsp: BOOT_STACK,
                rbp: BOOT_STACK,
                ..regs
            };
            (regs, sregs)
        }
        Entry::Pvh { eip } => {
            sregs.cr0 = CR0_PE | CR0_ET;
            sregs.cr3 = 0;
            sregs.cr4 = 0;
            sregs.efer = 0;
            let regs = kvm_regs {
                rip: eip,
                rbx: PVH_START_INFO,
                ..regs
            };
            (regs, sregs)
        }
    }
}
