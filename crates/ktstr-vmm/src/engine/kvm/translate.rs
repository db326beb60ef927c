//! From a guest virtual to a guest physical address, by the guest's own page tables (Intel SDM 3A §4.5).

use super::slots::PAGE;
use crate::exit::VcpuRegs;
use crate::memory::GuestMemory;

const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const CR4_LA57: u64 = 1 << 12;
const PRESENT: u64 = 1;
/// In a PDPTE or PDE: it maps a page.
const LARGE: u64 = 1 << 7;
/// Bits 51 to 12: an address.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// Where a walk ended, and which pages it read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Translation {
    pub(super) gpa: u64,
    pub(super) tables: Vec<u64>,
}

/// Translates for 64-bit paging, and for a guest without paging.
pub(super) fn translate(
    memory: &GuestMemory,
    regs: &VcpuRegs,
    gva: u64,
) -> Result<Translation, String> {
    if regs.cr0 & CR0_PG == 0 {
        return Ok(Translation {
            gpa: gva,
            tables: Vec::new(),
        });
    }
    if regs.cr4 & CR4_PAE == 0 {
        return Err(String::from("the guest uses 32-bit paging"));
    }
    let levels = if regs.cr4 & CR4_LA57 == 0 { 4 } else { 5 };
    let mut table = regs.cr3 & ADDRESS;
    let mut tables = Vec::new();
    for level in (0..levels).rev() {
        tables.push(table);
        let shift = 12 + 9 * level;
        let mut entry = [0; 8];
        memory
            .read(table + (gva >> shift & 0x1ff) * 8, &mut entry)
            .map_err(|error| error.to_string())?;
        let entry = u64::from_le_bytes(entry);
        if entry & PRESENT == 0 {
            return Err(format!("the guest maps nothing at {gva:#x}"));
        }
        let is_page = level == 0 || (level < 3 && entry & LARGE != 0);
        if is_page {
            let within = (1u64 << shift) - 1;
            return Ok(Translation {
                gpa: entry & ADDRESS & !within | gva & within,
                tables,
            });
        }
        table = entry & ADDRESS;
    }
    Err(format!("the guest's page tables for {gva:#x} have no end"))
}

/// The first address of the page that holds `gpa`.
pub(super) fn page_of(gpa: u64) -> u64 {
    gpa & !(PAGE - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn regs(cr4: u64) -> VcpuRegs {
        VcpuRegs {
            cr0: CR0_PG | 1,
            cr3: 0x1000,
            cr4,
            ..VcpuRegs::default()
        }
    }

    /// Tables at 0x1000 to 0x5000; `entries` are (table, index, value).
    fn memory(entries: &[(u64, u64, u64)]) -> GuestMemory {
        let memory = GuestMemory::without_guest(1 << 20).unwrap();
        for (table, index, value) in entries {
            memory
                .write(table + index * 8, &value.to_le_bytes())
                .unwrap();
        }
        memory
    }

    #[test]
    fn pages_of_all_sizes() {
        let memory = memory(&[
            (0x1000, 511, 0x2003),
            (0x2000, 510, 0x3003),
            (0x2000, 1, 0x4000_0083),
            (0x3000, 1, 0x4003),
            (0x3000, 2, 0x8000_0000_0060_0083),
            (0x4000, 3, 0x7_7003),
        ]);
        let base = 0xffff_ffff_8000_0000u64;
        let at = |gva| translate(&memory, &regs(CR4_PAE), gva).map(|found| found.gpa);
        assert_eq!(at(base + 0x20_3123), Ok(0x7_7123));
        assert_eq!(at(base + 0x40_1234), Ok(0x60_1234));
        assert_eq!(at(0xffff_ff80_4000_0042), Ok(0x4000_0042));
        assert!(at(base).unwrap_err().contains("maps nothing"));
        let found = translate(&memory, &regs(CR4_PAE), base + 0x40_1234).unwrap();
        assert_eq!(found.tables, [0x1000, 0x2000, 0x3000]);
    }

    #[test]
    fn five_levels_and_none() {
        let memory = memory(&[(0x1000, 0, 0x2003), (0x2000, 0, 0x3003), (0x3000, 0, 0x83)]);
        let five = regs(CR4_PAE | CR4_LA57);
        assert_eq!(translate(&memory, &five, 0x5000).unwrap().gpa, 0x5000);
        let off = VcpuRegs::default();
        assert_eq!(translate(&memory, &off, 0x5000).unwrap().gpa, 0x5000);
        translate(&memory, &regs(0), 0x5000).unwrap_err();
    }
}
