//! Where is the kernel: its image, KASLR slide and page tables, from memory alone.
//!
//! With a CR3, the first page mapped in the kernel's half GiB leads to the image, and the image to kallsyms and BTF.
//! Without one, memory is searched for the kernel's BTF; kallsyms beside it says which address that BTF has, hence
//! where the image is and where its page tables are.

mod image;
mod notes;

use image::{Image, ImageMap, find_btf};

use std::path::Path;

use crate::btf::{self, Blob, Btf};
use crate::paging::{AddressSpace, PagingMode};
use crate::symbols::{START_KERNEL_MAP, Symbols, Vmlinux, find_kallsyms};
use crate::{Error, Gpa, Kva, PhysMem, Result, bytes};

/// `ALIGN(CONFIG_PHYSICAL_START, CONFIG_PHYSICAL_ALIGN)` of every distribution, above `__START_KERNEL_map`.
const DEFAULT_TEXT: u64 = START_KERNEL_MAP + 0x100_0000;

/// How far the kernel was moved from where it was linked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Slide {
    /// Bytes.
    pub bytes: u64,
    /// What it was compared with.
    pub evidence: SlideEvidence,
}

/// What a slide was computed from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SlideEvidence {
    /// `_text` of the vmlinux.
    Vmlinux,
    /// `KERNELOFFSET` in the kernel's own VMCOREINFO.
    Vmcoreinfo,
    /// Nothing but the default link address of x86-64.
    DefaultLinkAddress,
}

/// A kernel that was found.
#[derive(Debug)]
pub struct Located {
    /// The kernel's page tables.
    pub space: AddressSpace,
    /// Virtual address of `_text`.
    pub text: Kva,
    /// First address of the image mapping, where it lies, and its length.
    pub image: ImageSpan,
    /// KASLR's move.
    pub slide: Slide,
    /// Build id, where the notes could be found.
    pub build_id: Option<Vec<u8>>,
    /// Symbols with run-time addresses.
    pub symbols: Symbols,
    /// The kernel's types.
    pub btf: Btf,
}

/// The kernel image's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct ImageSpan {
    /// First virtual address.
    pub kva: Kva,
    /// First physical address.
    pub gpa: Gpa,
    /// Length in bytes.
    pub len: u64,
}

/// What is known beside memory.
#[derive(Debug, Clone, Copy, Default)]
pub struct Known<'a> {
    /// One vCPU's CR3; 0 when unknown.
    pub cr3: u64,
    /// The kernel's ELF image.
    pub vmlinux: Option<&'a Path>,
    /// Directory of indexed BTF by build id.
    pub btf_cache: Option<&'a Path>,
}

/// Finds the kernel.
///
/// # Errors
/// [`Error::NoKernel`] with what was missing, [`Error::WrongVmlinux`] when the vmlinux is of another build.
pub fn locate(memory: &dyn PhysMem, known: Known<'_>) -> Result<Located> {
    let vmlinux = known.vmlinux.map(Vmlinux::open).transpose()?;
    let (image, space, kallsyms) = find_image(memory, known.cr3, vmlinux.as_ref())?;
    let symbols = symbols(kallsyms, vmlinux.as_ref(), image.span.kva)?;
    let text = Kva(symbols.find("_text").unwrap_or(image.span.kva.0));
    let space = own_tables(memory, &image.span, &symbols, space.mode).unwrap_or(space);
    let slide = slide(memory, &space, &symbols, text, vmlinux.as_ref());
    let build_id = notes::build_id(&image, &symbols, vmlinux.as_ref(), slide.bytes);
    if let Some(vmlinux) = &vmlinux
        && build_id.as_deref() != Some(vmlinux.build_id())
    {
        return Err(Error::WrongVmlinux {
            path: vmlinux.path().to_owned(),
            expected: build_id.map_or("(unreadable)".to_owned(), |id| bytes::hex(&id)),
            found: bytes::hex(vmlinux.build_id()),
        });
    }
    let btf = types(
        &image,
        &symbols,
        vmlinux.as_ref(),
        build_id.as_deref(),
        known.btf_cache,
    )?;
    Ok(Located {
        space,
        text,
        image: image.span,
        slide,
        build_id,
        symbols,
        btf,
    })
}

/// The symbols to go by: those in memory, or the vmlinux's where memory has none of data.
fn symbols(
    kallsyms: Option<Symbols>,
    vmlinux: Option<&Vmlinux>,
    mapped_start: Kva,
) -> Result<Symbols> {
    let text = kallsyms.as_ref().and_then(|found| found.find("_text"));
    match (kallsyms, vmlinux) {
        (Some(symbols), _) if symbols.find("init_task").is_some() => Ok(symbols),
        // Without kallsyms the image's first page is taken for `_text`; the build id then proves or refutes it.
        (_, Some(vmlinux)) => {
            vmlinux.symbols(text.unwrap_or(mapped_start.0).wrapping_sub(vmlinux.text()))
        }
        (Some(_), None) => Err(Error::NoKernel {
            why: "its kallsyms tables have no symbols of data (CONFIG_KALLSYMS_ALL is off); give its vmlinux"
                .to_owned(),
        }),
        (None, None) => Err(Error::NoKernel {
            why: "the image has no kallsyms tables; give its vmlinux".to_owned(),
        }),
    }
}

/// The name of the kernel's own top page table, which no process's end takes away.
fn own_root(symbols: &Symbols) -> Option<u64> {
    symbols
        .find("init_top_pgt")
        .or_else(|| symbols.find("swapper_pg_dir"))
}

/// The kernel's own page tables, once they map its image.
///
/// A CR3 is a process's: its kernel half is the same, but the table itself is freed with the process, and used for
/// something else while a live guest is still being read.
fn own_tables(
    memory: &dyn PhysMem,
    image: &ImageSpan,
    symbols: &Symbols,
    mode: PagingMode,
) -> Option<AddressSpace> {
    let distance = own_root(symbols)?.checked_sub(image.kva.0)?;
    if distance >= image.len {
        return None;
    }
    let space = AddressSpace::from_cr3(image.gpa.wrapping_add(distance).0, mode);
    let start = space.walk(memory, image.kva).ok()?;
    (start.gpa == image.gpa).then_some(space)
}

fn find_image(
    memory: &dyn PhysMem,
    cr3: u64,
    vmlinux: Option<&Vmlinux>,
) -> Result<(Image, AddressSpace, Option<Symbols>)> {
    let mut without_symbols = None;
    for root in roots(memory, cr3) {
        for mode in [PagingMode::X86FourLevel, PagingMode::X86FiveLevel] {
            let space = AddressSpace::from_cr3(root, mode);
            let Some(map) = ImageMap::find(memory, &space) else {
                continue;
            };
            // The constants are a fifth of the image. A kernel that is still booting has not set them apart yet.
            if let Some(image) = map.constants(memory)
                && let Some(symbols) = find_kallsyms(&image.bytes, image.start)
            {
                return Ok((image, space, Some(symbols)));
            }
            let Some(image) = map.whole(memory) else {
                continue;
            };
            match find_kallsyms(&image.bytes, image.start) {
                Some(symbols) => return Ok((image, space, Some(symbols))),
                None => without_symbols = without_symbols.or(Some((image, space, None))),
            }
        }
    }
    if let Some(found) = without_symbols {
        return Ok(found);
    }
    search(memory, vmlinux)
}

/// Page table roots that are worth a look.
fn roots(memory: &dyn PhysMem, cr3: u64) -> Vec<u64> {
    let hints = memory.hints();
    let mut given = vec![cr3];
    given.extend(hints.cr3.iter().take(4));
    given.extend(hints.vmcoreinfo.as_deref().and_then(notes::page_table_root));
    given.retain(|&root| root != 0);
    // With page table isolation, user code runs on the table behind the kernel's (`PTI_USER_PGTABLE_BIT`). That one
    // maps the kernel's text as well, and nothing of its heap: the kernel's is tried first.
    let mut roots = Vec::new();
    for root in given {
        for root in [root & !0x1000, root] {
            if !roots.contains(&root) {
                roots.push(root);
            }
        }
    }
    roots
}

/// The kernel by its BTF and the kallsyms beside it, or by a vmlinux.
///
/// Where the window lies in the kernel's addresses is not known yet, so symbols tell distances only. Those lead to the
/// page tables, and the page tables to addresses.
fn search(
    memory: &dyn PhysMem,
    vmlinux: Option<&Vmlinux>,
) -> Result<(Image, AddressSpace, Option<Symbols>)> {
    for btf_gpa in image::search_btf(memory) {
        let Some((window_gpa, window)) = image::window(memory, btf_gpa) else {
            continue;
        };
        let symbols = find_kallsyms(&window, Kva(START_KERNEL_MAP))
            .filter(|symbols| own_root(symbols).is_some());
        let distances = match (symbols, vmlinux) {
            (Some(symbols), _) => symbols,
            (None, Some(vmlinux)) => vmlinux.symbols(0)?,
            (None, None) => continue,
        };
        let (Some(btf), Some(text), Some(end), Some(root)) = (
            distances.find("__start_BTF"),
            distances.find("_text"),
            distances.find("_end"),
            own_root(&distances),
        ) else {
            continue;
        };
        let to_gpa = |kva: u64| Gpa(kva.wrapping_sub(btf).wrapping_add(btf_gpa.0));
        for mode in [PagingMode::X86FourLevel, PagingMode::X86FiveLevel] {
            let space = AddressSpace::from_cr3(to_gpa(root).0, mode);
            let Some(map) = ImageMap::find(memory, &space) else {
                continue;
            };
            let moved = to_gpa(text).0.wrapping_sub(map.span().gpa.0);
            let span = ImageSpan {
                kva: map.span().kva.wrapping_add(moved),
                gpa: to_gpa(text),
                len: end.wrapping_sub(text),
            };
            let maps_text = space
                .walk(memory, span.kva)
                .is_ok_and(|found| found.gpa == span.gpa);
            if !maps_text {
                continue;
            }
            let Some(image) = Image::from_window(span, window_gpa, &window) else {
                continue;
            };
            let symbols = find_kallsyms(&image.bytes, image.start);
            return Ok((image, space, symbols));
        }
    }
    Err(Error::NoKernel {
        why: "no page table root leads to a kernel image, and no BTF with kallsyms beside it lies in memory"
            .to_owned(),
    })
}

fn slide(
    memory: &dyn PhysMem,
    space: &AddressSpace,
    symbols: &Symbols,
    text: Kva,
    vmlinux: Option<&Vmlinux>,
) -> Slide {
    if let Some(vmlinux) = vmlinux {
        return Slide {
            bytes: text.0.wrapping_sub(vmlinux.text()),
            evidence: SlideEvidence::Vmlinux,
        };
    }
    if let Some(bytes) = notes::kernel_offset(memory, space, symbols) {
        return Slide {
            bytes,
            evidence: SlideEvidence::Vmcoreinfo,
        };
    }
    Slide {
        bytes: text.0.wrapping_sub(DEFAULT_TEXT),
        evidence: SlideEvidence::DefaultLinkAddress,
    }
}

/// The kernel's types: the vmlinux's where there is one, for memory may be damaged and a guest may lie.
///
/// Only those are kept, for later readers without a vmlinux.
fn types(
    image: &Image,
    symbols: &Symbols,
    vmlinux: Option<&Vmlinux>,
    build_id: Option<&[u8]>,
    cache: Option<&Path>,
) -> Result<Btf> {
    let cache = cache.zip(build_id);
    if let Some(btf) = cache.and_then(|(dir, build_id)| btf::load_cached(dir, build_id)) {
        return Ok(btf);
    }
    // One without a BTF section leaves those in memory.
    if let Some(btf) = vmlinux.and_then(|vmlinux| vmlinux.btf().ok()) {
        if let Some((dir, build_id)) = cache {
            // A cache that cannot be written costs time, not truth.
            let _ = btf::store_cached(dir, build_id, &btf);
        }
        return Ok(btf);
    }
    let bounds = symbols
        .find("__start_BTF")
        .zip(symbols.find("__stop_BTF"))
        .and_then(|(start, stop)| image.range(Kva(start), stop.wrapping_sub(start)));
    let range = bounds.or_else(|| find_btf(&image.bytes));
    let Some(bytes) = range.and_then(|range| image.bytes.get(range)) else {
        return Err(Error::NoKernel {
            why: "the image has no BTF (CONFIG_DEBUG_INFO_BTF)".to_owned(),
        });
    };
    Btf::new(Blob::Owned(bytes.to_vec())).map_err(|error| Error::NoKernel {
        why: format!("its types in memory are damaged ({error}); give its vmlinux"),
    })
}

#[cfg(test)]
mod tests;
