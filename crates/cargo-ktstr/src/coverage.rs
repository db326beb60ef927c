//! `cargo ktstr coverage`: which lines of the workspace the tests reach, on the host and in the guests together.
//!
//! The tests are built once more, in `target/ktstr-coverage`, with the compiler's counters in the workspace's own crates:
//! cargo calls this program in the compiler's place for those. Host processes write their counters when they end; guests send
//! theirs as frames. LLVM's tools, of the compiler's version or a later one, merge both and render them.

use std::ffi::OsString;
use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, Result, bail};
use ktstr_kernel::Cache;

use crate::exit::Exit;
use crate::project::Project;
use crate::{interrupt, output};

/// Set for cargo: this program stands in the compiler's place.
const COMPILER_ENV: &str = "KTSTR_COVERAGE_RUSTC";

/// What to write; everything else is for the tests.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Needs LLVM's tools of the compiler's version: `rustup component add llvm-tools`.\n\
    Example: cargo ktstr coverage --html target/coverage -- --kernel ./bzImage my_test"
)]
pub(crate) struct Options {
    /// Pages, one per source file, into this directory.
    #[arg(long, value_name = "DIR")]
    html: Option<PathBuf>,
    /// For other tools, in lcov's format.
    #[arg(long, value_name = "FILE")]
    lcov: Option<PathBuf>,
    /// Totals as llvm-cov's JSON on standard output, in place of the table.
    #[arg(long)]
    json: bool,
    /// Add to the counters of earlier runs.
    #[arg(long)]
    keep: bool,
    /// The project, when it is not here.
    #[arg(long, value_name = "PATH")]
    manifest_path: Option<PathBuf>,
    /// Arguments and filters of `cargo ktstr test`, after `--`.
    #[arg(last = true, value_name = "TEST ARGUMENTS")]
    test: Vec<String>,
}

/// In the compiler's place: calls it with the option that adds counters.
pub(crate) fn compiler() -> Option<ExitCode> {
    std::env::var_os(COMPILER_ENV)?;
    let mut args = std::env::args_os().skip(1);
    // The subcommand that we call for the tests has the variable, too: it is for its cargo.
    let rustc = args.next().filter(|program| program != "ktstr")?;
    let error = Command::new(&rustc)
        .args(args)
        .arg("-Cinstrument-coverage")
        .exec();
    eprintln!("cargo ktstr: failed to run {}: {error}", rustc.display());
    Some(ExitCode::FAILURE)
}

/// Runs the tests, then merges and renders; the tests' verdict is the command's.
pub(crate) fn run(options: &Options) -> Result<Exit> {
    let tools = Tools::find()?;
    let project = Project::find(options.manifest_path.as_deref())?;
    let target = project.target_directory.join("ktstr-coverage");
    let counters = target.join("counters");
    fs::create_dir_all(&target)
        .with_context(|| format!("failed to create {}", target.display()))?;
    // No other run clears or merges these counters meanwhile.
    let _alone = Cache::at(target.clone()).lock_exclusive("counters", || {
        eprintln!(
            "cargo ktstr: waiting for another coverage run in {}",
            target.display()
        );
    })?;
    if !options.keep {
        match fs::remove_dir_all(&counters) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error)
                    .with_context(|| format!("failed to clear {}", counters.display()));
            }
            _ => {}
        }
    }
    fs::create_dir_all(&counters)
        .with_context(|| format!("failed to create {}", counters.display()))?;
    let me = std::env::current_exe().context("failed to find this program")?;
    let mut test = Command::new(&me);
    test.args(["ktstr", "test"]);
    if let Some(path) = &options.manifest_path {
        test.arg("--manifest-path").arg(path);
    }
    test.args(&options.test)
        .env("RUSTC_WORKSPACE_WRAPPER", &me)
        .env(COMPILER_ENV, "1")
        .env("CARGO_TARGET_DIR", &target)
        .env("KTSTR_COVERAGE_DIR", &counters)
        .env("LLVM_PROFILE_FILE", counters.join("host-%p-%m.profraw"));
    // The tests' own summary is no result of this command.
    test.stdout(Stdio::from(std::io::stderr()));
    let status = interrupt::run(&mut test)?;
    if let Some(signal) = interrupt::requested() {
        return Ok(Exit::Interrupted(signal));
    }
    let report = Report {
        tools: &tools,
        profile: target.join("merged.profdata"),
        objects: objects(&target)?,
        root: &project.workspace_root,
    };
    let (host, guest) = merge(&tools, &counters, &report.profile)?;
    eprintln!("cargo ktstr: counters of {host} host processes and {guest} guest processes");
    report.write(options)?;
    Ok(match status.code() {
        Some(0) => Exit::Pass,
        Some(2) => Exit::Inconclusive,
        _ => Exit::Fail,
    })
}

/// LLVM's tools.
#[derive(Debug)]
struct Tools {
    profdata: PathBuf,
    cov: PathBuf,
}

impl Tools {
    /// Beside the compiler (rustup's component), else on `PATH` in a version that reads what this compiler writes.
    fn find() -> Result<Self> {
        let wanted = llvm_of_rustc()?;
        let dir = rustc(&["--print", "target-libdir"])?;
        let beside = Path::new(dir.trim()).with_file_name("bin");
        let versioned = |name: &str| -> Vec<PathBuf> {
            let later = (wanted..wanted + 10).map(|major| PathBuf::from(format!("{name}-{major}")));
            std::iter::once(PathBuf::from(name)).chain(later).collect()
        };
        let find = |name: &str| {
            let own = beside.join(name);
            if own.is_file() {
                return Some(own);
            }
            versioned(name)
                .into_iter()
                .find(|tool| major_of(tool).is_some_and(|major| major >= wanted))
        };
        match (find("llvm-profdata"), find("llvm-cov")) {
            (Some(profdata), Some(cov)) => Ok(Self { profdata, cov }),
            _ => {
                let there = major_of(Path::new("llvm-profdata")).map_or_else(
                    || String::from("none is on PATH"),
                    |major| format!("the one on PATH is of LLVM {major}"),
                );
                bail!(
                    "llvm-profdata and llvm-cov of LLVM {wanted} or later are needed to read what this compiler's programs \
                     count ({there}); `rustup component add llvm-tools` installs them, or a package such as llvm-{wanted}"
                )
            }
        }
    }
}

fn rustc(args: &[&str]) -> Result<String> {
    let program = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(program)
        .args(args)
        .output()
        .context("failed to run rustc")?;
    if !output.status.success() {
        bail!(
            "rustc {}: {}",
            args.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn llvm_of_rustc() -> Result<u32> {
    let text = rustc(&["-vV"])?;
    major_in(&text, "LLVM version: ").context("rustc -vV names no LLVM version")
}

/// The major version of an LLVM tool; `None` when it is not there.
fn major_of(tool: &Path) -> Option<u32> {
    // Old ones know no --version of their own before a subcommand.
    for args in [&["--version"][..], &["merge", "--version"]] {
        let output = Command::new(tool).args(args).output().ok()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if let Some(major) = major_in(&text, "LLVM version ") {
            return Some(major);
        }
    }
    None
}

fn major_in(text: &str, mark: &str) -> Option<u32> {
    let (_, rest) = text.split_once(mark)?;
    rest.split(|c: char| !c.is_ascii_digit())
        .next()?
        .parse()
        .ok()
}

/// Merges all counters; how many files came from the host and from guests.
fn merge(tools: &Tools, counters: &Path, profile: &Path) -> Result<(usize, usize)> {
    let mut files = Vec::new();
    let listed =
        fs::read_dir(counters).with_context(|| format!("failed to list {}", counters.display()))?;
    for entry in listed {
        let path = entry?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "profraw")
        {
            files.push(path);
        }
    }
    if files.is_empty() {
        bail!(
            "no counters in {}: the tests were not built, or none was run",
            counters.display()
        );
    }
    files.sort();
    let is_guest = |path: &&PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("guest-")
    };
    let guests = files.iter().filter(is_guest).count();
    // A list in a file: there may be more than a command line holds.
    let list = counters.join("files");
    let lines: Vec<String> = files
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    fs::write(&list, lines.join("\n"))
        .with_context(|| format!("failed to write {}", list.display()))?;
    // A process that was killed leaves half a file: the others count all the same.
    let output = Command::new(&tools.profdata)
        .args(["merge", "-sparse", "-failure-mode=all", "-f"])
        .arg(&list)
        .arg("-o")
        .arg(profile)
        .output()
        .with_context(|| format!("failed to run {}", tools.profdata.display()))?;
    if !output.status.success() {
        bail!(
            "llvm-profdata could not merge the counters in {} (they are kept): {}",
            counters.display(),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok((files.len() - guests, guests))
}

/// Programs below the coverage target directory: test binaries, and what was built beside them.
fn objects(target: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for profile in ["debug", "release"] {
        for dir in [target.join(profile), target.join(profile).join("deps")] {
            for entry in fs::read_dir(&dir).into_iter().flatten() {
                let path = entry?.path();
                if path.extension().is_none() && is_program(&path) {
                    found.push(path);
                }
            }
        }
    }
    if found.is_empty() {
        bail!("nothing was built in {}", target.display());
    }
    found.sort();
    Ok(found)
}

fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    path.metadata()
        .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// The merged counters and what they count.
#[derive(Debug)]
struct Report<'a> {
    tools: &'a Tools,
    profile: PathBuf,
    objects: Vec<PathBuf>,
    root: &'a Path,
}

impl Report<'_> {
    fn write(&self, options: &Options) -> Result<()> {
        if let Some(dir) = &options.html {
            let mut out = OsString::from("--output-dir=");
            out.push(dir);
            self.cov("show", &["--format=html".into(), out])?;
            output::print(&format!("{}\n", dir.join("index.html").display()))?;
        }
        if let Some(file) = &options.lcov {
            let text = self.cov("export", &["--format=lcov".into()])?;
            fs::write(file, text).with_context(|| format!("failed to write {}", file.display()))?;
            output::print(&format!("{}\n", file.display()))?;
        }
        let table = if options.json {
            self.cov("export", &["--format=text".into(), "--summary-only".into()])?
        } else {
            self.cov("report", &["--show-region-summary=false".into()])?
        };
        output::print(&String::from_utf8_lossy(&table))?;
        Ok(())
    }

    fn cov(&self, verb: &str, args: &[OsString]) -> Result<Vec<u8>> {
        let mut command = Command::new(&self.tools.cov);
        command.arg(verb).args(args);
        let mut profile = OsString::from("--instr-profile=");
        profile.push(&self.profile);
        command.arg(profile);
        for (index, object) in self.objects.iter().enumerate() {
            if index > 0 {
                command.arg("--object");
            }
            command.arg(object);
        }
        // Only the workspace's own sources, wherever they are included from.
        let output = command
            .arg("--sources")
            .arg(self.root)
            .output()
            .with_context(|| format!("failed to run {}", self.tools.cov.display()))?;
        if !output.status.success() {
            bail!(
                "llvm-cov {verb}: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(output.stdout)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        assert_eq!(
            major_in("host: x\nLLVM version: 22.1.2\n", "LLVM version: "),
            Some(22)
        );
        assert_eq!(
            major_in("Debian LLVM version 14.0.6\n", "LLVM version "),
            Some(14)
        );
        assert_eq!(major_in("none", "LLVM version "), None);
        assert_eq!(major_of(Path::new("/no/such/tool")), None);
    }
}
