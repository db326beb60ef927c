//! Addresses in words.

use super::Kernel;
use crate::Kva;

impl Kernel {
    /// The symbol of the kernel's image that an address lies in or behind, and the distance from its start.
    ///
    /// None outside of the image, where modules and BPF programs are: see [`Kernel::describe`].
    #[must_use]
    pub fn symbolize(&self, kva: Kva) -> Option<(&str, u64)> {
        let inside = kva
            .0
            .checked_sub(self.image.kva.0)
            .is_some_and(|offset| offset < self.image.len);
        inside.then(|| self.symbols.symbolize(kva)).flatten()
    }

    /// `symbol+0x12` for an address in the kernel, `bpf_prog_<tag>_<name>+0x12` in a BPF program, or the bare address.
    #[must_use]
    pub fn describe(&self, kva: Kva) -> String {
        match self.symbolize(kva) {
            Some((name, offset)) => format!("{name}+{offset:#x}"),
            None => self.describe_bpf(kva).unwrap_or_else(|| kva.to_string()),
        }
    }
}
