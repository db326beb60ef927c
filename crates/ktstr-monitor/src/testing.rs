//! A kernel in memory built by hand, for tests.

use std::sync::Arc;

use crate::btf::Btf;
use crate::locate::{ImageSpan, Located, Slide, SlideEvidence};
use crate::paging::{AddressSpace, PagingMode};
use crate::phys::SparseMem;
use crate::{Gpa, Kernel, Kva, Symbols};

/// Where the image is mapped; it lies at the start of memory.
pub(crate) const TEXT: u64 = 0xffff_ffff_8100_0000;
/// Where all memory is mapped.
pub(crate) const DIRECT: u64 = 0xffff_8880_0000_0000;
/// Length of the image.
pub(crate) const IMAGE: u64 = 0x4000;

/// A kernel with these types and symbols in this memory.
pub(crate) fn kernel(memory: Arc<SparseMem>, btf: Btf, symbols: &[(&str, u64)]) -> Arc<Kernel> {
    let located = Located {
        space: AddressSpace::from_cr3(0, PagingMode::X86FourLevel),
        text: Kva(TEXT),
        image: ImageSpan {
            kva: Kva(TEXT),
            gpa: Gpa(0),
            len: IMAGE,
        },
        slide: Slide {
            bytes: 0,
            evidence: SlideEvidence::DefaultLinkAddress,
        },
        build_id: None,
        symbols: Symbols::collect(
            symbols
                .iter()
                .map(|(name, at)| (b'd', name.as_bytes(), *at)),
        ),
        btf,
    };
    Arc::new(Kernel::from_located(memory, located))
}
