//! `cargo ktstr`: run scheduler tests, look at their results, manage kernels.
//!
//! Each subcommand is a module with its arguments and its `run`; this file only dispatches. Knows the framework's host
//! side (kernels, sidecars, descriptions of test binaries); nothing of VMs, devices or guests.

mod bisect;
mod check;
mod completions;
mod coverage;
mod delta;
mod doctor;
mod engine;
mod exit;
mod export;
mod interrupt;
mod kernel;
mod knobs;
mod locks;
mod new;
mod output;
mod progress;
mod project;
mod replay;
mod report;
mod results;
mod runs;
mod seeds;
mod seen;
mod shell;
mod stats;
mod test;
mod verifier;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

use exit::Exit;

/// Test Linux process schedulers: run tests in VMs, look at their results, manage test kernels.
#[derive(Debug, Parser)]
#[command(name = "cargo-ktstr", bin_name = "cargo ktstr", version)]
#[command(
    after_help = "Start with `cargo ktstr new NAME` and `cargo ktstr kernel build`, then `cargo ktstr test`."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a package with one test, to start from.
    New(new::Options),
    /// Run the tests of this workspace, each in its own VM.
    Test(Box<test::Options>),
    /// Run the failed tests of the last run again, or one test under one seed.
    Replay(replay::Options),
    /// Run one test under many seeds of virtual time.
    Explore(Box<seeds::explore::Options>),
    /// Show the guest's state at a moment of one run of virtual time.
    Look(Box<seeds::look::Options>),
    /// Find the version or revision that brought a failure.
    Bisect(Box<bisect::Options>),
    /// Show the last run, or a metric over all runs.
    Stats(stats::Options),
    /// Write a run as one HTML page, or as a trace for ui.perfetto.dev.
    Report(report::Options),
    /// Tell whether one revision is faster or slower than another.
    PerfDelta(Box<delta::Options>),
    /// Load every declared scheduler on every kernel and preset, and count what the verifier did.
    Verifier(Box<verifier::Options>),
    /// Run tests with coverage, of what runs on the host and in the guests together.
    Coverage(Box<coverage::Options>),
    /// A shell in a guest: a plain one, or the VM of a test.
    Shell(Box<shell::Options>),
    /// Write a test as one file that runs it on bare metal.
    Export(export::Options),
    /// Tell whether a kernel's own books in a vmcore contradict themselves.
    Check(check::Options),
    /// List, build and clean test kernels.
    Kernel(kernel::Options),
    /// Show what this host gives to tests, and what makes it better.
    Doctor(doctor::Options),
    /// Show which processes hold VMs and kernels.
    Locks(locks::Options),
    /// Print the tab completion of a shell.
    Completions(completions::Options),
    /// Print every name that has an effect, flags included, as JSON: what `cargo xtask tidy` compares with `tests/knobs.toml`.
    #[command(hide = true)]
    Knobs,
}

fn main() -> ExitCode {
    // A guest is booted from this very program.
    if let Some(code) = ktstr::guest_main() {
        return code;
    }
    if let Some(code) = shell::inner() {
        return code;
    }
    if let Some(code) = coverage::compiler() {
        return code;
    }
    let cli = match Cli::try_parse_from(arguments()) {
        Ok(cli) => cli,
        Err(error) => {
            // Nothing can be done if even this cannot be printed.
            let _ = error.print();
            return exit::of_usage(&error).into();
        }
    };
    if let Err(error) = interrupt::install() {
        eprintln!("cargo ktstr: failed to watch for signals: {error}");
        return Exit::Fail.into();
    }
    let done = match cli.command {
        Command::New(options) => new::run(&options),
        Command::Test(options) => test::run(&options),
        Command::Replay(options) => replay::run(&options),
        Command::Explore(options) => seeds::explore::run(&options),
        Command::Look(options) => seeds::look::run(&options),
        Command::Bisect(options) => bisect::run(&options),
        Command::Stats(options) => stats::run(&options),
        Command::Report(options) => report::run(&options),
        Command::PerfDelta(options) => delta::run(&options),
        Command::Verifier(options) => verifier::run(&options),
        Command::Coverage(options) => coverage::run(&options),
        Command::Shell(options) => shell::run(&options),
        Command::Export(options) => export::run(&options),
        Command::Check(options) => check::run(&options),
        Command::Kernel(options) => kernel::run(&options),
        Command::Doctor(options) => doctor::run(&options),
        Command::Locks(options) => locks::run(&options),
        Command::Completions(options) => completions::run(&options, &mut Cli::command()),
        Command::Knobs => knobs::run(&Cli::command()),
    };
    match done {
        Ok(exit) => exit.into(),
        Err(error) => {
            eprintln!("cargo ktstr: {error:#}");
            interrupt::requested()
                .map_or(Exit::Fail, Exit::Interrupted)
                .into()
        }
    }
}

/// Cargo calls `cargo-ktstr ktstr test`; a user may call `cargo-ktstr test`.
fn arguments() -> Vec<OsString> {
    let mut args: Vec<OsString> = std::env::args_os().collect();
    if args.get(1).is_some_and(|arg| arg == "ktstr") {
        args.remove(1);
    }
    args
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Cli::command().debug_assert();
    }

    /// The workflow that users copy is not read by anything here but this.
    #[test]
    fn the_guides_workflow_has_commands_that_exist() {
        let read = |name: &str| {
            let book = concat!(env!("CARGO_MANIFEST_DIR"), "/../../book/src");
            std::fs::read_to_string(format!("{book}/{name}")).unwrap()
        };
        let workflow = read("ktstr.yml") + &read("ktstr-archive.yml");
        let parts = [1, 2, 3].map(|part| workflow.replace("${{ matrix.part }}", &part.to_string()));
        let mut shards = 0;
        for text in parts {
            let commands = text
                .lines()
                .filter_map(|line| line.split_once("run: cargo ktstr ")?.1.into());
            for command in commands {
                let words = std::iter::once("cargo-ktstr").chain(command.split(' '));
                let cli = Cli::try_parse_from(words);
                assert!(cli.is_ok(), "{command}: {cli:?}");
                if let Ok(Command::Test(options)) = cli.map(|cli| cli.command) {
                    assert!(options.check().is_ok(), "{command}");
                    shards += 1;
                }
            }
        }
        assert_eq!(shards, 3);
    }
}
