//! The kernel's own books in a dump of memory.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use ktstr_monitor::Attach;
pub use ktstr_monitor::invariants::{Examined, Invariant, TABLE, Violation};
use ktstr_monitor::invariants::{Stop, examine};
use ktstr_monitor::phys::Vmcore;

/// Judges a vmcore by all rules that one stop is enough for. Types and symbols are found in the dump, or are those of `vmlinux`.
///
/// # Errors
/// When the file is no vmcore, or no kernel is found in it.
pub fn of_vmcore(vmcore: &Path, vmlinux: Option<&Path>) -> anyhow::Result<Examined> {
    let memory =
        Vmcore::open(vmcore).with_context(|| format!("failed to open {}", vmcore.display()))?;
    let mut attach = Attach::new(Arc::new(memory));
    if let Some(vmlinux) = vmlinux {
        attach = attach.vmlinux(vmlinux);
    }
    let kernel = attach
        .attach()
        .with_context(|| format!("no kernel can be read in {}", vmcore.display()))?;
    Ok(examine(&kernel, &Stop::default()))
}
