//! Glue of the workspace: set-up, test kernel, demo, checks, benchmarks.
#![expect(
    clippy::print_stdout,
    reason = "a command line talks on standard output"
)]

mod apt;
mod bench;
mod book;
mod bugs;
mod ci;
mod demo;
mod distro;
mod doctor;
mod dpkg;
mod fuzz;
mod kernel;
mod lab;
mod lab_tests;
mod needs;
mod other;
mod qemu;
mod setup;
mod sh;
mod space;
mod steps;
mod stock_kernel;
mod tidy;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    about = "Set-up, test kernel, demo, checks and benchmarks of ktstr",
    version
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install what is missing (as root on a Debian-like system), or print the one command that does.
    Setup {
        /// Also what only this repository's own checks need: referees, cargo-nextest, a scheduler of the crates registry.
        #[arg(long)]
        checks: bool,
    },
    /// Build the test kernel, or find it in the cache.
    Kernel(kernel::Options),
    /// Run three small tests, one of them a failure to look at.
    Demo {
        /// Also test this scheduler from the crates registry.
        #[arg(long, value_name = "CRATE", value_parser = setup::crate_name)]
        scheduler: Option<String>,
    },
    /// Run every check, and list all that failed.
    Ci {
        /// Only the steps that run in the lab.
        #[arg(long)]
        lab: bool,
        /// All whole-system tests on the newer kernel, too, which is built for it.
        #[arg(long, conflicts_with = "lab")]
        all_kernels: bool,
    },
    /// Run a command in a VM whose /dev/kvm is genuine.
    Lab(lab::Options),
    /// Run the fuzz targets; needs the nightly toolchain.
    Fuzz(fuzz::Options),
    /// Make the guide's web pages.
    Book,
    /// Write the guide's page of what `cargo ktstr doctor` says here and in the lab.
    Doctor,
    /// Check what no compiler checks: arrows between crates, file length, names.
    Tidy,
    /// Run the tests of scheduler bugs that happened, on kernels with and without them, and make the book's table of them.
    Bugs(bugs::Options),
    /// Measure the budgets of the design.
    Bench {
        /// The monitor's rows alone.
        #[arg(long)]
        monitor: bool,
    },
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Setup { checks: false } => setup::run(),
        Command::Setup { checks: true } => setup::run().and_then(|()| setup::for_checks()),
        Command::Kernel(options) => kernel::run(&options),
        Command::Demo { scheduler } => demo::run(scheduler.as_deref()),
        Command::Ci { lab: true, .. } => ci::lab(),
        Command::Ci { all_kernels, .. } => ci::run(all_kernels),
        Command::Lab(options) => match lab::run(&options) {
            Ok(code) => return code,
            Err(error) => Err(error),
        },
        Command::Fuzz(options) => fuzz::run(&options),
        Command::Book => book::run(),
        Command::Doctor => doctor::run(),
        Command::Tidy => tidy::run(),
        Command::Bugs(options) => bugs::run(&options),
        Command::Bench { monitor } => bench::run(monitor),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// It was refused after set-up, kernel and all builds.
    #[test]
    fn a_bad_crate_name_is_refused_before_anything_is_built() {
        let demo = |name: &str| Cli::try_parse_from(["xtask", "demo", "--scheduler", name]);
        assert!(demo("scx_rusty").is_ok());
        for bad in ["no such crate", "../scx", "", "9lives"] {
            let said = demo(bad).err().unwrap().to_string();
            assert!(said.contains("is not the name of a crate"), "{said}");
        }
    }
}
