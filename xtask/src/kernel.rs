//! `cargo xtask kernel`

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use ktstr::host::plan::config::cache_dir;
use ktstr::host::plan::kernel::{default_cache, mirror_base};
use ktstr_kernel::{
    BuildOptions, Cache, Changes, Kernel, KernelError, Progress, Release, Source, build,
    build_changed,
};

use crate::apt::Suite;
use crate::stock_kernel::{BACKPORTS, NEWEST_SERIES};
use crate::{setup, sh};

/// A spinner on a terminal, lines in a pipe.
struct Bar(ProgressBar);

impl Bar {
    fn new() -> Self {
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} ({pos} lines, {elapsed})")
        {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(200));
        Self(bar)
    }
}

impl Progress for Bar {
    fn step(&mut self, text: &str) {
        if self.0.is_hidden() {
            eprintln!("  {text} …");
        }
        self.0.set_position(0);
        self.0.set_message(text.to_owned());
    }

    fn tick(&mut self) {
        self.0.inc(1);
    }
}

/// Which kernel.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct Options {
    /// A local source tree instead of the distribution's source package.
    #[arg(long, value_name = "DIR")]
    tree: Option<PathBuf>,
    /// A release such as 6.12.30, fetched from the mirror that KTSTR_KERNEL_MIRROR names (default: kernel.org).
    #[arg(long, value_name = "VERSION", conflicts_with = "tree")]
    release: Option<String>,
    /// A newer series such as 7.3, from Debian's backports. It never becomes the kernel that tests take by themselves: name
    /// its image in KTSTR_KERNEL.
    #[arg(long, value_name = "SERIES", conflicts_with_all = ["tree", "release"])]
    series: Option<String>,
    /// Edits of the source, one file of `tests/bugs`. Repeatable. The tree is kept, so that the next build takes a minute.
    #[arg(long, value_name = "FILE")]
    edit: Vec<PathBuf>,
    /// A patch of the source, applied before the edits. Repeatable.
    #[arg(long, value_name = "FILE")]
    patch: Vec<PathBuf>,
}

/// Builds or finds the test kernel.
pub(crate) fn run(options: &Options) -> Result<()> {
    setup::run()?;
    let changes = Changes::read(&options.edit, &options.patch)?;
    let (cache, source) = match (&options.tree, &options.release, &options.series) {
        (Some(tree), ..) => (default_cache(), Source::Tree(tree.clone())),
        (None, Some(version), _) => {
            let source = Source::Mirror {
                base: mirror_base(),
                release: Release::parse(version)?,
            };
            (default_cache(), source)
        }
        (None, None, Some(series)) => source_of_series(series)?,
        (None, None, None) => (default_cache(), Source::debian()),
    };
    let image = if changes.is_empty() {
        made(&cache, &source)?
    } else {
        changed(&cache, &source, &changes)?
    };
    println!("{}", image.display());
    Ok(())
}

/// The kernel of a newer series, built from Debian's source where it is not there yet. It has a cache of its own, so that
/// what tests run on does not change by it.
pub(crate) fn of_series(series: &str) -> Result<PathBuf> {
    let (cache, source) = source_of_series(series)?;
    made(&cache, &source)
}

/// The source of a series and the cache of its kernels. 6.12 is the one that tests stand on.
pub(crate) fn source_of_series(series: &str) -> Result<(Cache, Source)> {
    if series == "6.12" {
        return Ok((default_cache(), Source::debian()));
    }
    let source = Source::Archive(source_of(series)?);
    Ok((Cache::at(cache_dir().join("series")), source))
}

/// Debian's source archive of that series, fetched once.
fn source_of(series: &str) -> Result<PathBuf> {
    ensure!(
        !series.is_empty() && series.chars().all(|c| c.is_ascii_digit() || c == '.'),
        "invalid kernel series '{series}'; expected one such as {NEWEST_SERIES}"
    );
    let _one_at_a_time = sh::lock("set-up")?;
    let sources = cache_dir().join("sources");
    let name = format!("linux-source-{series}.tar.xz");
    let archive = sources.join(&name);
    if archive.is_file() {
        return Ok(archive);
    }
    fs::create_dir_all(&sources)
        .with_context(|| format!("failed to create {}", sources.display()))?;
    let package = format!("linux-source-{series}");
    let suite = Suite::update(BACKPORTS)?;
    suite.version(&package)?;
    let work = tempfile::tempdir_in(&sources).context("failed to create a directory")?;
    suite.unpack(&[&package], &[], work.path())?;
    let unpacked = work.path().join("usr/src").join(&name);
    fs::rename(&unpacked, &archive)
        .with_context(|| format!("failed to move {} into place", unpacked.display()))?;
    Ok(archive)
}

fn made(cache: &Cache, source: &Source) -> Result<PathBuf> {
    with_progress(|options, bar| build(cache, source, options, bar))
}

/// The same from a tree that is kept, with changes of it.
pub(crate) fn changed(cache: &Cache, source: &Source, changes: &Changes) -> Result<PathBuf> {
    with_progress(|options, bar| build_changed(cache, source, changes, options, bar))
}

fn with_progress(
    build: impl FnOnce(&BuildOptions, &mut Bar) -> Result<Kernel, KernelError>,
) -> Result<PathBuf> {
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    let options = BuildOptions {
        jobs,
        log: sh::log_path("kernel-build")?,
        min_free_bytes: BuildOptions::MIN_FREE_BYTES,
    };
    let mut bar = Bar::new();
    let kernel = build(&options, &mut bar)?;
    bar.0.finish_and_clear();
    Ok(kernel.image)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_series_reaches_apt() {
        for text in ["", "7.3;x", "../7.3", "7.3 -o x"] {
            let error = source_of(text).unwrap_err().to_string();
            assert!(error.contains("invalid kernel series"), "{error}");
        }
    }
}
