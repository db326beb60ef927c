//! `cargo ktstr export`

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use ktstr::host::tools::export::EXPORT_ENV;

use crate::exit::Exit;
use crate::test::Selection;
use crate::test::cargo;
use crate::{interrupt, output};

/// Which test, and where to.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The file needs sh, tar and xz on the other machine. It refuses to run there without root, beside another \
    scheduler, or on another topology than the test's."
)]
pub(crate) struct Options {
    /// The test, by its whole name.
    test: String,
    /// The file; the test's name with `.sh` by default.
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Only this package.
    #[arg(long, short, value_name = "SPEC")]
    package: Vec<String>,
    /// Features to turn on.
    #[arg(long, short = 'F', value_name = "FEATURES")]
    features: Vec<String>,
    /// Build optimised.
    #[arg(long, short)]
    release: bool,
    /// Build without the network.
    #[arg(long)]
    offline: bool,
    /// The project, when it is not here.
    #[arg(long, value_name = "PATH")]
    manifest_path: Option<PathBuf>,
}

/// Writes it and prints where.
pub(crate) fn run(options: &Options) -> Result<Exit> {
    let selection = Selection {
        package: options.package.clone(),
        features: options.features.clone(),
        release: options.release,
        offline: options.offline,
        manifest_path: options.manifest_path.clone(),
        ..Selection::default()
    };
    let mut command = cargo::find(&options.test, &selection)?;
    let path = options
        .output
        .clone()
        .unwrap_or_else(|| PathBuf::from(format!("{}.sh", options.test)));
    let here = std::env::current_dir().context("failed to find the working directory")?;
    let path = here.join(&path);
    if path.parent().is_some_and(|dir| !Path::is_dir(dir)) {
        bail!("{} lies in no directory that exists", path.display());
    }
    let status = interrupt::run(command.env(EXPORT_ENV, &path))?;
    if let Some(signal) = interrupt::requested() {
        return Ok(Exit::Interrupted(signal));
    }
    if !status.success() {
        bail!(
            "'{}' could not be exported; the reason is above",
            options.test
        );
    }
    output::print(&format!("{}\n", path.display()))?;
    Ok(Exit::Pass)
}
