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
    let (image, space, kallsyms) = find_image(memory, known.cr3)?;
    let mapped_start = image.span.kva;
    let symbols = match (kallsyms, &vmlinux) {
        (Some(symbols), _) => symbols,
        // Without kallsyms the image's first page is taken for `_text`; the build id then proves or refutes it.
        (None, Some(vmlinux)) => vmlinux.symbols(mapped_start.0.wrapping_sub(vmlinux.text()))?,
        (None, None) => {
            return Err(Error::NoKernel {
                why: "the image has no kallsyms tables; give its vmlinux".to_owned(),
            });
        }
    };
    let text = Kva(symbols.find("_text").unwrap_or(mapped_start.0));
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
        known,
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

fn find_image(memory: &dyn PhysMem, cr3: u64) -> Result<(Image, AddressSpace, Option<Symbols>)> {
    let mut roots = vec![cr3];
    let hints = memory.hints();
    roots.extend(hints.cr3.iter().take(4));
    roots.extend(hints.vmcoreinfo.as_deref().and_then(notes::page_table_root));
    roots.retain(|&root| root != 0);
    // With page table isolation, user code runs on the table behind the kernel's (`PTI_USER_PGTABLE_BIT`).
    let kernel_halves: Vec<u64> = roots.iter().map(|root| root & !0x1000).collect();
    roots.extend(kernel_halves);
    roots.dedup();
    let mut without_symbols = None;
    for root in roots {
        for mode in [PagingMode::X86FourLevel, PagingMode::X86FiveLevel] {
            let space = AddressSpace::from_cr3(root, mode);
            let Some(map) = ImageMap::find(memory, &space) else {
                continue;
            };
            // The constants are a fifth of the image. A kernel that is still booting has not set them apart yet.
            if let Some(image) = map.constants(memory)
                && let Some(symbols) = find_kallsyms(&image.bytes)
            {
                return Ok((image, space, Some(symbols)));
            }
            let Some(image) = map.whole(memory) else {
                continue;
            };
            match find_kallsyms(&image.bytes) {
                Some(symbols) => return Ok((image, space, Some(symbols))),
                None => without_symbols = without_symbols.or(Some((image, space, None))),
            }
        }
    }
    if let Some(found) = without_symbols {
        return Ok(found);
    }
    search(memory)
}

/// The kernel by its BTF and the kallsyms beside it.
fn search(memory: &dyn PhysMem) -> Result<(Image, AddressSpace, Option<Symbols>)> {
    for btf_gpa in image::search_btf(memory) {
        let Some((window_gpa, window)) = image::window(memory, btf_gpa) else {
            continue;
        };
        let Some(symbols) = find_kallsyms(&window) else {
            continue;
        };
        let (Some(btf_kva), Some(text), Some(end), Some(root)) = (
            symbols.find("__start_BTF"),
            symbols.find("_text"),
            symbols.find("_end"),
            symbols
                .find("init_top_pgt")
                .or_else(|| symbols.find("swapper_pg_dir")),
        ) else {
            continue;
        };
        let to_gpa = |kva: u64| Gpa(kva.wrapping_sub(btf_kva).wrapping_add(btf_gpa.0));
        let span = ImageSpan {
            kva: Kva(text),
            gpa: to_gpa(text),
            len: end.wrapping_sub(text),
        };
        let Some(image) = Image::from_window(span, window_gpa, &window) else {
            continue;
        };
        for mode in [PagingMode::X86FourLevel, PagingMode::X86FiveLevel] {
            let space = AddressSpace::from_cr3(to_gpa(root).0, mode);
            if space
                .walk(memory, Kva(text))
                .is_ok_and(|found| found.gpa == span.gpa)
            {
                return Ok((image, space, Some(symbols)));
            }
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

fn types(
    image: &Image,
    symbols: &Symbols,
    vmlinux: Option<&Vmlinux>,
    build_id: Option<&[u8]>,
    known: Known<'_>,
) -> Result<Btf> {
    let cache = known.btf_cache.zip(build_id);
    if let Some(btf) = cache.and_then(|(dir, build_id)| btf::load_cached(dir, build_id)) {
        return Ok(btf);
    }
    let bounds = symbols
        .find("__start_BTF")
        .zip(symbols.find("__stop_BTF"))
        .and_then(|(start, stop)| image.range(Kva(start), stop.wrapping_sub(start)));
    let range = bounds.or_else(|| find_btf(&image.bytes));
    let btf = match (range.and_then(|range| image.bytes.get(range)), vmlinux) {
        (Some(bytes), vmlinux) => match (Btf::new(Blob::Owned(bytes.to_vec())), vmlinux) {
            (Ok(btf), _) => btf,
            // A type that is damaged hides all behind it; the file has them whole.
            (Err(_), Some(vmlinux)) => vmlinux.btf()?,
            (Err(error), None) => {
                return Err(Error::NoKernel {
                    why: format!("its types in memory are damaged ({error}); give its vmlinux"),
                });
            }
        },
        (None, Some(vmlinux)) => vmlinux.btf()?,
        (None, None) => {
            return Err(Error::NoKernel {
                why: "the image has no BTF (CONFIG_DEBUG_INFO_BTF)".to_owned(),
            });
        }
    };
    if let Some((dir, build_id)) = cache {
        // A cache that cannot be written costs time, not truth.
        let _ = btf::store_cached(dir, build_id, &btf);
    }
    Ok(btf)
}
