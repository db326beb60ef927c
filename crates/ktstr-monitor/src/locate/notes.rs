//! The kernel's notes: build id and VMCOREINFO.

use super::image::Image;
use crate::paging::AddressSpace;
use crate::symbols::{START_KERNEL_MAP, Symbols, Vmlinux};
use crate::{Kva, PhysMem, bytes};

const NT_GNU_BUILD_ID: u32 = 3;
const MAX_NOTES: u64 = 4096;

/// The build id of the kernel in memory.
pub(super) fn build_id(
    image: &Image,
    symbols: &Symbols,
    vmlinux: Option<&Vmlinux>,
    slide: u64,
) -> Option<Vec<u8>> {
    let start = symbols
        .find("__start_notes")
        .or_else(|| Some(vmlinux?.notes()?.wrapping_add(slide)))?;
    let len = symbols
        .find("__stop_notes")
        .map_or(MAX_NOTES, |stop| stop.wrapping_sub(start).min(MAX_NOTES));
    find_build_id(image.bytes.get(image.range(Kva(start), len)?)?)
}

/// The build id in an ELF note section.
fn find_build_id(notes: &[u8]) -> Option<Vec<u8>> {
    let mut at = 0;
    loop {
        let name_len = bytes::u32_at(notes, at)? as usize;
        let desc_len = bytes::u32_at(notes, at + 4)? as usize;
        let name_at = at + 12;
        let desc_at = name_at.checked_add(name_len)?.next_multiple_of(4);
        let desc = notes.get(desc_at..desc_at.checked_add(desc_len)?)?;
        if bytes::u32_at(notes, at + 8)? == NT_GNU_BUILD_ID
            && notes.get(name_at..name_at + name_len)? == b"GNU\0"
        {
            return Some(desc.to_vec());
        }
        at = (desc_at + desc_len).next_multiple_of(4);
    }
}

/// `KERNELOFFSET` of the kernel's own VMCOREINFO (`kernel/vmcore_info.c`): how far KASLR moved it.
pub(super) fn kernel_offset(
    memory: &dyn PhysMem,
    space: &AddressSpace,
    symbols: &Symbols,
) -> Option<u64> {
    parse_kernel_offset(&vmcoreinfo(memory, space, symbols)?)
}

/// The kernel's VMCOREINFO, lines of `KEY=value`.
fn vmcoreinfo(memory: &dyn PhysMem, space: &AddressSpace, symbols: &Symbols) -> Option<String> {
    let variable = space
        .walk(memory, Kva(symbols.find("vmcoreinfo_data")?))
        .ok()?;
    let data = memory.read_u64(variable.gpa).ok()?;
    let page = space.walk(memory, Kva(data)).ok()?;
    let mut text = vec![0; 4096];
    let room = bytes::size(4096 - page.gpa.0 % 4096);
    memory.read(page.gpa, text.get_mut(..room)?).ok()?;
    Some(bytes::text(&text))
}

fn value<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
}

fn parse_kernel_offset(text: &str) -> Option<u64> {
    u64::from_str_radix(value(text, "KERNELOFFSET")?, 16).ok()
}

/// The physical address of the kernel's page tables, by a VMCOREINFO (`arch/x86/kernel/vmcore_info_64.c`).
pub(super) fn page_table_root(vmcoreinfo: &str) -> Option<u64> {
    let table = value(vmcoreinfo, "SYMBOL(init_top_pgt)")
        .or_else(|| value(vmcoreinfo, "SYMBOL(swapper_pg_dir)"))?;
    let table = u64::from_str_radix(table, 16).ok()?;
    let base: i64 = value(vmcoreinfo, "NUMBER(phys_base)")?.parse().ok()?;
    Some(
        table
            .wrapping_sub(START_KERNEL_MAP)
            .wrapping_add(base.cast_unsigned()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_build_id_is_found_behind_other_notes() {
        let mut notes = Vec::new();
        for (name, kind, desc) in [
            (&b"Xen\0"[..], 6_u32, &[1, 2, 3, 4, 5][..]),
            (b"GNU\0", 3, &[9; 20]),
        ] {
            for word in [name.len(), desc.len()] {
                notes.extend(u32::try_from(word).unwrap().to_le_bytes());
            }
            notes.extend(kind.to_le_bytes());
            notes.extend(name);
            notes.extend(desc);
            notes.resize(notes.len().next_multiple_of(4), 0);
        }
        assert_eq!(find_build_id(&notes), Some(vec![9; 20]));
        notes.truncate(notes.len() - 4);
        assert_eq!(find_build_id(&notes), None);
        assert_eq!(find_build_id(&[0; 64]), None);
    }

    #[test]
    fn the_page_table_root_is_physical() {
        let text = "NUMBER(phys_base)=-104857600\nSYMBOL(init_top_pgt)=ffffffff8ee29000\n";
        let root = 0x0ee2_9000 - 104_857_600;
        assert_eq!(page_table_root(text), Some(root));
        assert_eq!(page_table_root("NUMBER(phys_base)=1\n"), None);
    }

    #[test]
    fn the_slide_is_hex() {
        let text = "OSRELEASE=6.12\nKERNELOFFSET=17600000\nNUMBER(phys_base)=5\n";
        assert_eq!(parse_kernel_offset(text), Some(0x1760_0000));
        assert_eq!(parse_kernel_offset("KERNELOFFSET=zz"), None);
    }
}
