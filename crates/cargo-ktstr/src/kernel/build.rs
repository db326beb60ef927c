//! `cargo ktstr kernel build`

use std::path::PathBuf;

use anyhow::Result;
use ktstr_kernel::{Cache, Changes};
use serde::Serialize;

use super::resolve::resolve_changed;
use super::{FORMS, KernelSpec};
use crate::exit::Exit;
use crate::output;

/// Which kernels.
#[derive(Debug, clap::Args)]
#[command(after_help = format!("A KERNEL is {FORMS}. Versions come from the mirror in KTSTR_KERNEL_MIRROR.\n\n\
    A kernel with edits or patches is never the one that tests take by themselves: name its key or image with --kernel. A source tree is copied for it, and not written."))]
pub(crate) struct Options {
    /// Which ones; Debian's source package when none is named.
    #[arg(value_name = "KERNEL")]
    kernels: Vec<String>,
    /// Edits of the source, as a TOML file: `[[edit]]` with `file`, `function`, and `old`, which occurs in it exactly once, and
    /// `new`. Repeatable. The tree is kept, so that the next build takes a minute.
    #[arg(long, value_name = "FILE")]
    edit: Vec<PathBuf>,
    /// A patch of the source, as of `git diff`, applied before the edits. Repeatable.
    #[arg(long, value_name = "FILE")]
    patch: Vec<PathBuf>,
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
    let changes = Changes::read(&options.edit, &options.patch)?;
    let mut built = Vec::new();
    for spec in &specs {
        for kernel in resolve_changed(spec, &changes, cache, jobs)? {
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
