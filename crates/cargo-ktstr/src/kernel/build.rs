//! `cargo ktstr kernel build`

use std::path::PathBuf;

use anyhow::Result;
use ktstr_kernel::Cache;
use serde::Serialize;

use super::{FORMS, KernelSpec, resolve};
use crate::exit::Exit;
use crate::output;

/// Which kernels.
#[derive(Debug, clap::Args)]
#[command(after_help = format!("A KERNEL is {FORMS}. Versions come from the mirror in KTSTR_KERNEL_MIRROR."))]
pub(crate) struct Options {
    /// Which ones; Debian's source package when none is named.
    #[arg(value_name = "KERNEL")]
    kernels: Vec<String>,
    /// Jobs of make; all CPUs by default.
    #[arg(long, short)]
    jobs: Option<usize>,
    /// As JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Built {
    kernel: String,
    image: PathBuf,
}

/// Builds or finds them and prints their images.
pub(crate) fn run(options: &Options, cache: &Cache) -> Result<Exit> {
    let jobs = options.jobs.unwrap_or_else(cpus);
    let mut specs = Vec::new();
    // All are looked at before the first is built.
    for text in &options.kernels {
        specs.push(KernelSpec::parse(text)?);
    }
    if specs.is_empty() {
        specs.push(KernelSpec::DebianSource);
    }
    let mut built = Vec::new();
    for spec in &specs {
        for kernel in resolve(spec, cache, jobs)? {
            built.push(Built {
                kernel: kernel.value.unwrap_or(kernel.label),
                image: kernel.image,
            });
        }
    }
    if options.json {
        output::print_json(&built)?;
    } else {
        let lines: String = built
            .iter()
            .map(|one| format!("{}\n", one.image.display()))
            .collect();
        output::print(&lines)?;
    }
    Ok(Exit::Pass)
}

/// CPUs of this host.
pub(crate) fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
