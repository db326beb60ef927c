//! `cargo ktstr kernel`, and the kernels that `--kernel` names.

mod build;
mod clean;
mod git;
mod list;
mod package;
mod resolve;
mod resolved;
mod spec;

use std::path::PathBuf;

use anyhow::Result;
use clap::Subcommand;
use ktstr::host::plan::kernel::default_cache;
use ktstr_kernel::Cache;

use crate::exit::Exit;

pub(crate) use build::cpus;
pub(crate) use resolve::{resolve, resolve_default};
pub(crate) use resolved::{Resolved, environment, label_apart};
pub(crate) use spec::{FORMS, KernelSpec};

/// What to do with kernels.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Show the kernels in the cache and the source trees that are kept, newest first.
    List(list::Options),
    /// Build kernels, or find them in the cache.
    Build(build::Options),
    /// Remove kernels and kept source trees from the cache; those in use are never removed.
    Clean(clean::Options),
}

/// Does it.
pub(crate) fn run(options: &Options) -> Result<Exit> {
    let cache = default_cache();
    match &options.action {
        Action::List(options) => list::run(options, &cache),
        Action::Build(options) => build::run(options, &cache),
        Action::Clean(options) => clean::run(options, &cache),
    }
}

/// Kernels taken out of packages.
pub(crate) fn packages_dir(cache: &Cache) -> PathBuf {
    cache.root().with_file_name("packages")
}

/// Kernels of newer series, which tests never take by themselves.
fn series_dir(cache: &Cache) -> Cache {
    Cache::at(cache.root().with_file_name("series"))
}

/// Clones of kernel repositories.
pub(crate) fn repositories_dir(cache: &Cache) -> PathBuf {
    cache.root().with_file_name("git")
}

/// Logs of builds that failed.
fn logs_dir(cache: &Cache) -> PathBuf {
    cache.root().with_file_name("logs")
}
