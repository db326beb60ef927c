//! `cargo ktstr shell`

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, ExitStatus};

use anyhow::{Context as _, Result, bail};
use ktstr::host::tools::shell::{self, SHELL_ENV, ShellOrder, check_includes};

use crate::engine::{self, EngineChoice};
use crate::exit::Exit;
use crate::interrupt::{self, Unwinding};
use crate::test;
use crate::test::Selection;
use crate::test::cargo;

/// Which guest, and what to do in it.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The guest has busybox, the files named with --include under /include-files, and powers off when the shell \
    ends.\n\nExit code: that of the command; 124 when --exec-timeout cut it off, 125 when the guest crashed or ended before \
    the command did."
)]
pub(crate) struct Options {
    /// The VM of this test, with its scheduler running.
    #[arg(long, value_name = "NAME", conflicts_with_all = ["topology", "memory_mib"])]
    test: Option<String>,
    /// CPUs as NODESnLLCSlCOREScTHREADSt.
    #[arg(long, default_value = "1n1l2c1t")]
    topology: String,
    /// Guest memory.
    #[arg(long, value_name = "MIB", default_value_t = 512, value_parser = clap::value_parser!(u32).range(128..))]
    memory_mib: u32,
    /// Put this file into the guest, with the libraries that it needs.
    #[arg(long, short, value_name = "FILE")]
    include: Vec<PathBuf>,
    /// Run this command instead of an interactive shell.
    #[arg(long, short, value_name = "COMMAND")]
    exec: Option<String>,
    /// Time for the command, in seconds, counted from its start.
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    exec_timeout: u64,
    /// Print the guest's console at the end.
    #[arg(long)]
    dmesg: bool,
    /// The kernel.
    #[arg(long, short)]
    kernel: Option<String>,
    /// What runs the VM.
    #[arg(long, value_parser = engine::parser(), value_name = "ENGINE")]
    engine: Option<EngineChoice>,
    /// Only this package, when --test is given.
    #[arg(long, short, value_name = "SPEC")]
    package: Vec<String>,
    /// Features to turn on, when --test is given.
    #[arg(long, short = 'F', value_name = "FEATURES")]
    features: Vec<String>,
    /// Build without the network.
    #[arg(long)]
    offline: bool,
    /// The project, when it is not here.
    #[arg(long, value_name = "PATH")]
    manifest_path: Option<PathBuf>,
}

/// First argument of this program as the runner of a plain guest.
const INNER: &str = "--ktstr-inner-shell";

/// Boots it and gives the shell.
pub(crate) fn run(options: &Options) -> Result<Exit> {
    let order = ShellOrder {
        exec: options.exec.clone(),
        exec_timeout_s: options.exec_timeout,
        // The guest is booted from another directory.
        include: options
            .include
            .iter()
            .map(|path| path.canonicalize().unwrap_or_else(|_| path.clone()))
            .collect(),
        dmesg: options.dmesg,
    };
    check_includes(&order)?;
    let named: Vec<String> = options.kernel.iter().cloned().collect();
    let kernels = test::kernels(&named)?;
    let [kernel] = kernels.as_slice() else {
        bail!(
            "--kernel names {} kernels; a shell runs on one",
            kernels.len()
        );
    };
    let mut command = match &options.test {
        Some(name) => {
            let selection = Selection {
                package: options.package.clone(),
                features: options.features.clone(),
                offline: options.offline,
                manifest_path: options.manifest_path.clone(),
                ..Selection::default()
            };
            cargo::find(name, &selection, None)?
        }
        None => plain(options)?,
    };
    let json = serde_json::to_string(&order).context("failed to serialise the order")?;
    command.env(SHELL_ENV, json);
    if let Some(value) = &kernel.value {
        command.envs(crate::kernel::environment(value));
    }
    if let Some(engine) = options.engine {
        command.env("KTSTR_ENGINE", engine.as_str());
    }
    let status = if order.exec.is_some() {
        interrupt::run(&mut command)?
    } else {
        interactive(&mut command)?
    };
    if let Some(signal) = interrupt::requested() {
        return Ok(Exit::Interrupted(signal));
    }
    Ok(Exit::Command(
        status
            .code()
            .and_then(|code| u8::try_from(code).ok())
            .unwrap_or(1),
    ))
}

/// In our own process group, so that it may read the terminal.
fn interactive(command: &mut Command) -> Result<ExitStatus> {
    let _unwinding = Unwinding::begin();
    command
        .status()
        .context("failed to start the guest's runner")
}

fn plain(options: &Options) -> Result<Command> {
    // A wrong topology is told here, where the user's words are known.
    shell::plain_vm(&options.topology, options.memory_mib)?;
    let mut command = Command::new(std::env::current_exe().context("failed to find this program")?);
    command
        .arg(INNER)
        .arg(&options.topology)
        .arg(options.memory_mib.to_string());
    Ok(command)
}

/// This program as the runner of a plain guest; `None` when it was not called so.
pub(crate) fn inner() -> Option<ExitCode> {
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    let [flag, topology, memory] = args.as_slice() else {
        return None;
    };
    if flag != INNER {
        return None;
    }
    let run = || -> Result<u8> {
        let order = ShellOrder::from_env()
            .context("the request for a shell is missing")?
            .map_err(|error| anyhow::anyhow!(error))?;
        let memory = memory
            .to_string_lossy()
            .parse()
            .context("memory: not a number")?;
        shell::run(
            shell::plain_vm(&topology.to_string_lossy(), memory)?,
            &order,
            Path::new("."),
        )
    };
    Some(match run() {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("cargo ktstr: {error:#}");
            ExitCode::FAILURE
        }
    })
}
