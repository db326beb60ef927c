//! `cargo ktstr new`: a package with one test, which passes.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::exit::Exit;
use crate::output;
use crate::project::cargo;

/// Which package, and which ktstr it is tested with.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The package is made by `cargo new --lib`, which also adds it to a workspace around it."
)]
pub(crate) struct Options {
    /// The new directory; its name is the package's.
    path: PathBuf,
    /// The directory of the `ktstr` crate in a source tree, instead of the published version.
    #[arg(long, value_name = "DIR")]
    ktstr_path: Option<PathBuf>,
}

const LIBRARY: &str =
    "//! The scheduler's own code may stand here; its tests are in `tests/sched.rs`.\n";

const TESTS: &str = r#"//! Scheduler tests: each boots a kernel in a VM of its own.

use ktstr::prelude::*;

// A scheduler of this workspace, or one on `PATH`; a test names it with `scheduler = MINE`.
// declare_scheduler!(MINE, { name: "mine", binary: "scx_mine" });

/// Two busy workers on two CPUs: neither stands still for long.
#[ktstr_test(topology = "1n1l2c1t", duration_s = 2, not_stuck)]
fn two_workers_get_on(ctx: &Ctx) -> Result<AssertResult> {
    execute_defs(ctx, vec![CgroupDef::named("mine").workers(2)])
}
"#;

/// Writes it and says what comes next.
pub(crate) fn run(options: &Options) -> Result<Exit> {
    let dependency = match &options.ktstr_path {
        Some(dir) => path_dependency(dir)?,
        None => format!("ktstr = {:?}", env!("CARGO_PKG_VERSION")),
    };
    let dir = &options.path;
    let made = cargo()
        .args(["new", "--lib", "--quiet"])
        .arg(dir)
        .status()
        .context("failed to run cargo")?;
    if !made.success() {
        bail!(
            "cargo made no package in {}; see its output above",
            dir.display()
        );
    }
    let manifest = dir.join("Cargo.toml");
    let text = fs::read_to_string(&manifest)
        .with_context(|| format!("failed to read {}", manifest.display()))?;
    let text = format!("{}\n\n[dev-dependencies]\n{dependency}\n", text.trim_end());
    fs::create_dir_all(dir.join("tests")).context("failed to make the tests' directory")?;
    for (name, text) in [
        ("Cargo.toml", text.as_str()),
        ("src/lib.rs", LIBRARY),
        ("tests/sched.rs", TESTS),
    ] {
        let path = dir.join(name);
        fs::write(&path, text).with_context(|| format!("failed to write {}", path.display()))?;
    }
    output::print(&format!(
        "{dir}: a package with one test, in tests/sched.rs. Run it:\n  cd {dir}\n  cargo ktstr kernel build   # once per machine\n  cargo ktstr test\n",
        dir = dir.display()
    ))?;
    Ok(Exit::Pass)
}

/// A line for the manifest, checked before anything is written.
fn path_dependency(dir: &Path) -> Result<String> {
    let manifest = dir.join("Cargo.toml");
    let text = fs::read_to_string(&manifest)
        .with_context(|| format!("--ktstr-path: failed to read {}", manifest.display()))?;
    if !text.lines().any(|line| line.trim() == "name = \"ktstr\"") {
        bail!(
            "--ktstr-path: {} is not the manifest of the crate `ktstr`; in its repository that is crates/ktstr",
            manifest.display()
        );
    }
    let whole = dir
        .canonicalize()
        .context("failed to resolve --ktstr-path")?;
    let path = whole
        .to_str()
        .context("--ktstr-path is not UTF-8, which a manifest must be")?;
    Ok(format!("ktstr = {{ path = {path:?} }}"))
}
