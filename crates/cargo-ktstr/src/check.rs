//! `cargo ktstr check`: whether a kernel's own books in a vmcore contradict themselves.

use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::Result;
use ktstr::host::tools::check::{Examined, TABLE, of_vmcore};

use crate::exit::Exit;
use crate::output;

/// Which dump.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit codes: 0 no rule is broken, 1 some are, 2 the dump could not be judged."
)]
pub(crate) struct Options {
    /// An ELF vmcore: of kdump, of QEMU's dump-guest-memory, or what KTSTR_VMCORE=1 keeps of a failed test.
    #[arg(required_unless_present = "list")]
    vmcore: Option<PathBuf>,
    /// The kernel's ELF image. Without it, types and symbols are found in the dump.
    #[arg(long, value_name = "FILE")]
    vmlinux: Option<PathBuf>,
    /// As JSON.
    #[arg(long)]
    json: bool,
    /// Print the rules instead.
    #[arg(long, conflicts_with_all = ["vmcore", "vmlinux", "json"])]
    list: bool,
}

/// Judges it.
pub(crate) fn run(options: &Options) -> Result<Exit> {
    if options.list {
        output::print(&list())?;
        return Ok(Exit::Pass);
    }
    let vmcore = options.vmcore.as_deref().unwrap_or_else(|| "".as_ref());
    let examined = match of_vmcore(vmcore, options.vmlinux.as_deref()) {
        Ok(examined) => examined,
        Err(error) => {
            eprintln!("cargo ktstr check: {error:#}");
            return Ok(Exit::Inconclusive);
        }
    };
    if options.json {
        output::print_json(&examined)?;
    } else {
        output::print(&render(&examined))?;
    }
    Ok(exit_of(&examined))
}

fn exit_of(examined: &Examined) -> Exit {
    if !examined.violations.is_empty() {
        Exit::Fail
    } else if examined.judged == 0 || !examined.problems.is_empty() {
        Exit::Inconclusive
    } else {
        Exit::Pass
    }
}

fn list() -> String {
    let mut table = output::table(["INVARIANT", "IN TESTS", "THE RULE", "KERNELS"]);
    for rule in TABLE {
        let in_tests = if rule.by_default { "on" } else { "by name" };
        table.add_row([rule.name, in_tests, rule.what, rule.kernels]);
    }
    format!("{table}\n")
}

fn render(examined: &Examined) -> String {
    let mut text = String::new();
    for violation in &examined.violations {
        let _ = writeln!(text, "{violation}");
    }
    for unjudged in &examined.unjudged {
        let _ = writeln!(text, "not judged: CPU {}: {}", unjudged.cpu, unjudged.why);
    }
    for problem in examined.problems.iter() {
        let _ = writeln!(text, "not read: {}: {}", problem.what, problem.why);
    }
    let _ = writeln!(
        text,
        "{} violations; {} rules, {} runqueues judged, {} not",
        examined.violations.len(),
        examined.rules,
        examined.judged,
        examined.unjudged.len()
    );
    text
}
