//! The VMM's rows: memory, freeze, and what the kvm engine costs.

mod cards;
mod kvm;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use comfy_table::Table;

use super::{add, median};

/// Adds every row.
pub(super) fn rows(table: &mut Table) -> Result<()> {
    add(
        table,
        "freeze + registers + resume, tcg",
        2,
        Some(freeze()?),
    );
    add(table, "guest memory set-up, 64 GiB", 10, Some(memory()?));
    kvm::rows(table)?;
    cards::rows(table)
}

/// Sets up a large guest's memory without a guest.
fn memory() -> Result<Duration> {
    let mut times = Vec::new();
    for _ in 0..20 {
        let started = Instant::now();
        let memory = ktstr_vmm::GuestMemory::without_guest(64 << 30)?;
        times.push(started.elapsed());
        anyhow::ensure!(!memory.ranges().is_empty(), "no memory");
    }
    median(times).context("nothing was measured")
}

/// Stops a booting guest, reads its registers, lets it go.
fn freeze() -> Result<Duration> {
    let image: PathBuf = ktstr::host::plan::kernel::resolve_test_kernel()?.image;
    let vm = ktstr_vmm::Vm::builder()
        .kernel(Path::new(&image))
        .cmdline("console=ttyS0")
        .build()?;
    let running = vm.start()?;
    let deadline = Duration::from_secs(10);
    let mut times = Vec::new();
    for _ in 0..50 {
        let started = Instant::now();
        let guard = running.freeze(deadline)?;
        let registers = guard.registers()?;
        guard.resume()?;
        anyhow::ensure!(!registers.is_empty(), "no registers");
        times.push(started.elapsed());
    }
    median(times).context("nothing was measured")
}
