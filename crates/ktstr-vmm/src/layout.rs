//! Where things lie in a guest of the kvm engine.
//!
//! ```text
//!   0x0_0500   GDT                      0x00_9fc00  end of low RAM
//!   0x0_6000   PVH start info           0x0e_0000   ACPI tables (RSDP first)
//!   0x0_7000   boot_params              0x10_0000   kernel (bzImage)
//!   0x0_9000   page tables              …           initrd, below the hole
//!   0x2_0000   command line             0xc000_0000 hole: virtio-mmio, IOAPIC, local APIC
//!                                       4 GiB       RAM again
//! ```

use crate::memory::MemoryRange;

/// Temporary GDT of the boot processor.
pub(crate) const GDT: u64 = 0x500;
/// PVH start info, memory map and module list (Xen `arch-x86/hvm/start_info.h`).
pub(crate) const PVH_START_INFO: u64 = 0x6000;
/// `struct boot_params` (Documentation/arch/x86/zero-page.rst).
pub(crate) const BOOT_PARAMS: u64 = 0x7000;
/// Stack of the boot processor, growing down to the page of `boot_params`.
pub(crate) const BOOT_STACK: u64 = 0x8ff0;
/// PML4, PDPT and four page directories: the first 4 GiB, one to one.
pub(crate) const PAGE_TABLES: u64 = 0x9000;
/// Command line with its terminator.
pub(crate) const CMDLINE: u64 = 0x2_0000;
/// Room for the command line (arch/x86/include/asm/setup.h: COMMAND_LINE_SIZE).
pub(crate) const CMDLINE_MAX: u64 = 2048;
/// Low RAM ends where a PC has its extended BIOS data.
pub(crate) const LOW_RAM_END: u64 = 0x9_fc00;
/// The area that Linux searches for an RSDP.
pub(crate) const ACPI: u64 = 0xe_0000;
/// Room for the tables.
pub(crate) const ACPI_MAX: u64 = 0x2_0000;
/// Above the holes of a PC; where a bzImage is loaded.
pub(crate) const HIGH_RAM: u64 = 0x10_0000;
/// Devices live from here to 4 GiB.
pub(crate) const HOLE: u64 = 0xc000_0000;
/// RAM goes on here.
pub(crate) const ABOVE_4G: u64 = 1 << 32;

/// First virtio-mmio device.
pub(crate) const VIRTIO_BASE: u32 = 0xc000_0000;
/// Distance from one virtio-mmio device to the next.
pub(crate) const VIRTIO_STRIDE: u32 = 0x1000;
/// GSIs of virtio-mmio devices: those that no other device of ours has.
pub(crate) const VIRTIO_GSIS: [u32; 14] = [5, 6, 7, 10, 11, 12, 16, 17, 18, 19, 20, 21, 22, 23];
/// KVM's IOAPIC.
pub(crate) const IOAPIC_BASE: u32 = 0xfec0_0000;
/// Local APICs.
pub(crate) const LOCAL_APIC_BASE: u32 = 0xfee0_0000;
/// Three pages that KVM needs on Intel for real mode (KVM_SET_TSS_ADDR), inside the hole.
pub(crate) const KVM_TSS: usize = 0xfffb_d000;
/// One page for an identity map on Intel (KVM_SET_IDENTITY_MAP_ADDR).
pub(crate) const KVM_IDENTITY_MAP: u64 = 0xfffb_c000;

/// Kernel console.
pub(crate) const COM1_PORT: u16 = 0x3f8;
/// Crash console.
pub(crate) const COM2_PORT: u16 = 0x2f8;
/// ISA interrupt of COM1.
pub(crate) const COM1_IRQ: u32 = 4;
/// ISA interrupt of COM2.
pub(crate) const COM2_IRQ: u32 = 3;
/// Registers of a UART.
pub(crate) const COM_PORTS: u16 = 8;
/// PM1 status and enable.
pub(crate) const PM1_EVENT_PORT: u16 = 0x600;
/// PM1 control.
pub(crate) const PM1_CONTROL_PORT: u16 = 0x604;
/// ACPI reset register.
pub(crate) const RESET_PORT: u16 = 0x60c;
/// What it takes.
pub(crate) const RESET_VALUE: u8 = 1;
/// The sleep type of S5, which our DSDT names.
pub(crate) const S5_SLEEP_TYPE: u8 = 5;
/// ACPI's interrupt.
pub(crate) const SCI_IRQ: u8 = 9;
/// Command port of the keyboard controller, whose pulse resets a PC.
pub(crate) const I8042_COMMAND: u16 = 0x64;
/// Pulse the reset line.
pub(crate) const I8042_RESET: u8 = 0xfe;

/// Where `total` bytes of memory lie.
pub(crate) fn ranges(total: u64) -> Vec<MemoryRange> {
    let low = total.min(HOLE);
    let mut ranges = vec![MemoryRange { gpa: 0, len: low }];
    if total > HOLE {
        ranges.push(MemoryRange {
            gpa: ABOVE_4G,
            len: total - HOLE,
        });
    }
    ranges
}

/// Each node's memory, the nodes laid end to end over `ranges`.
pub(crate) fn deal(ranges: &[MemoryRange], node_bytes: &[u64]) -> Vec<Vec<MemoryRange>> {
    let mut open = ranges.iter().copied();
    let mut range = open.next();
    let mut deal_one = |bytes: u64| {
        let mut left = bytes;
        let mut pieces = Vec::new();
        while let Some(current) = range.filter(|_| left > 0) {
            let len = current.len.min(left);
            pieces.push(MemoryRange {
                gpa: current.gpa,
                len,
            });
            left -= len;
            let rest = MemoryRange {
                gpa: current.gpa + len,
                len: current.len - len,
            };
            range = if rest.len > 0 {
                Some(rest)
            } else {
                open.next()
            };
        }
        pieces
    };
    node_bytes.iter().map(|bytes| deal_one(*bytes)).collect()
}

/// What an e820 entry says of its range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum E820Kind {
    /// Usable memory.
    Ram = 1,
    /// Not for the kernel's allocator.
    Reserved = 2,
}

/// The memory map that firmware would give.
pub(crate) fn e820(ranges: &[MemoryRange]) -> Vec<(MemoryRange, E820Kind)> {
    let mut map = Vec::new();
    for range in ranges {
        if range.gpa > 0 {
            map.push((*range, E820Kind::Ram));
            continue;
        }
        let low = MemoryRange {
            gpa: 0,
            len: LOW_RAM_END,
        };
        let firmware = MemoryRange {
            gpa: LOW_RAM_END,
            len: HIGH_RAM - LOW_RAM_END,
        };
        map.push((low, E820Kind::Ram));
        map.push((firmware, E820Kind::Reserved));
        if range.len > HIGH_RAM {
            let high = MemoryRange {
                gpa: HIGH_RAM,
                len: range.len - HIGH_RAM,
            };
            map.push((high, E820Kind::Ram));
        }
    }
    map
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn large_guests_have_a_hole() {
        let map = e820(&ranges(4 << 30));
        let found: Vec<(u64, u64, E820Kind)> = map
            .iter()
            .map(|(range, kind)| (range.gpa, range.len, *kind))
            .collect();
        let expected = [
            (0, 0x9_fc00, E820Kind::Ram),
            (0x9_fc00, 0x6_0400, E820Kind::Reserved),
            (0x10_0000, 0xbff0_0000, E820Kind::Ram),
            (1 << 32, 1 << 30, E820Kind::Ram),
        ];
        assert_eq!(found, expected);
    }

    proptest! {
        #[test]
        fn nodes_tile_memory(mibs in proptest::collection::vec(1u64..4096, 1..9)) {
            let bytes: Vec<u64> = mibs.iter().map(|mib| mib << 20).collect();
            let ranges = ranges(bytes.iter().sum());
            let dealt = deal(&ranges, &bytes);
            for (pieces, bytes) in dealt.iter().zip(&bytes) {
                prop_assert_eq!(pieces.iter().map(|piece| piece.len).sum::<u64>(), *bytes);
            }
            let mut joined: Vec<MemoryRange> = Vec::new();
            for piece in dealt.into_iter().flatten() {
                match joined.last_mut() {
                    Some(last) if last.gpa + last.len == piece.gpa => last.len += piece.len,
                    _ => joined.push(piece),
                }
            }
            prop_assert_eq!(joined, ranges);
        }
    }
}
