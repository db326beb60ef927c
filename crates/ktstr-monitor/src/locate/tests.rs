//! Page tables of a process and of the kernel, in memory built by hand.

use super::*;
use crate::phys::SparseMem;

const TEXT: u64 = 0xffff_ffff_8100_0000;
const IMAGE: u64 = 0x40_0000;
const PRESENT: u64 = 1;
const LARGE: u64 = 1 << 7;
/// Where the kernel's and a process's top tables lie. The kernel's is part of its image.
const OWN: u64 = IMAGE + 0x1000;
const BORROWED: u64 = 0x8000;

fn span() -> ImageSpan {
    ImageSpan {
        kva: Kva(TEXT),
        gpa: Gpa(IMAGE),
        len: 2 << 20,
    }
}

/// A large page with the image, under two top tables that share what lies below.
fn memory() -> SparseMem {
    let memory = SparseMem::new();
    let put = |table: u64, index: u64, value: u64| {
        memory.put(Gpa(table + index * 8), &value.to_le_bytes());
    };
    memory.populate(Gpa(IMAGE), 2 << 20);
    for top in [OWN, BORROWED] {
        put(top, 511, 0x2000 | PRESENT);
    }
    put(0x2000, 510, 0x3000 | PRESENT);
    put(0x3000, 8, IMAGE | LARGE | PRESENT);
    memory
}

fn named(names: &[(&str, u64)]) -> Symbols {
    Symbols::collect(names.iter().map(|(name, at)| (b'd', name.as_bytes(), *at)))
}

#[test]
fn the_kernels_own_tables_are_taken() {
    let memory = memory();
    let mode = PagingMode::X86FourLevel;
    let own = |name, at| own_tables(&memory, &span(), &named(&[(name, at)]), mode);
    let expected = AddressSpace::from_cr3(OWN, mode);
    assert_eq!(own("init_top_pgt", TEXT + 0x1000), Some(expected));
    assert_eq!(own("swapper_pg_dir", TEXT + 0x1000), Some(expected));
    // While a kernel boots they map nothing, and a symbol outside the image leads nowhere.
    assert_eq!(own("init_top_pgt", TEXT + 0x2000), None);
    assert_eq!(own("init_top_pgt", TEXT + (4 << 20)), None);
    assert_eq!(own("init_task", TEXT + 0x1000), None);
}

/// Memory that knows a CR3.
#[derive(Debug)]
struct Hinted(SparseMem, Vec<u64>);

impl PhysMem for Hinted {
    fn read(&self, gpa: Gpa, buffer: &mut [u8]) -> Result<()> {
        self.0.read(gpa, buffer)
    }

    fn ranges(&self) -> Vec<crate::Range> {
        self.0.ranges()
    }

    fn hints(&self) -> crate::phys::Hints {
        crate::phys::Hints {
            cr3: self.1.clone(),
            ..crate::phys::Hints::default()
        }
    }
}

/// The user's half of a pair of tables maps the kernel's text too, but nothing of its heap.
#[test]
fn the_kernels_half_of_a_pair_of_tables_is_tried_first() {
    let memory = Hinted(memory(), vec![0x9000, 0x9000, 0xb000]);
    assert_eq!(roots(&memory, 0), [0x8000, 0x9000, 0xa000, 0xb000]);
    assert_eq!(roots(&memory, 0x7000)[..2], [0x6000, 0x7000]);
}

#[test]
fn tables_without_symbols_of_data_are_not_enough() {
    let text_only = named(&[("_text", TEXT), ("schedule", TEXT + 64)]);
    let refusal = symbols(Some(text_only), None, Kva(TEXT)).unwrap_err();
    let said = refusal.to_string();
    assert!(said.contains("CONFIG_KALLSYMS_ALL is off"), "{said}");
    assert!(said.contains("give its vmlinux"), "{said}");
    let whole = named(&[("_text", TEXT), ("init_task", TEXT + 64)]);
    assert_eq!(symbols(Some(whole), None, Kva(TEXT)).unwrap().len(), 2);
}
