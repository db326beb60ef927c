//! `cargo xtask kernel`

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};
use ktstr::host::plan::kernel::{default_cache, mirror_base};
use ktstr_kernel::{BuildOptions, Progress, Release, Source, build};

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
}

/// Builds or finds the test kernel.
pub(crate) fn run(options: &Options) -> Result<()> {
    setup::run()?;
    let source = match (&options.tree, &options.release) {
        (Some(tree), _) => Source::Tree(tree.clone()),
        (None, Some(version)) => Source::Mirror {
            base: mirror_base(),
            release: Release::parse(version)?,
        },
        (None, None) => Source::debian(),
    };
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    let options = BuildOptions {
        jobs,
        log: sh::log_path("kernel-build")?,
        min_free_bytes: BuildOptions::MIN_FREE_BYTES,
    };
    let mut bar = Bar::new();
    let kernel = build(&default_cache(), &source, &options, &mut bar)?;
    bar.0.finish_and_clear();
    println!("{}", kernel.image.display());
    Ok(())
}
