//! `cargo ktstr knobs`, which is hidden: every name that has an effect.

use anyhow::Result;
use ktstr::host::tools::knobs::{Knob, knobs};

use crate::exit::Exit;
use crate::output;

/// Prints them as JSON.
pub(crate) fn run(command: &clap::Command) -> Result<Exit> {
    let mut all = knobs();
    collect(command, "", &mut all);
    output::print_json(&all)?;
    Ok(Exit::Pass)
}

/// `test --kernel` for each flag of each command; the names are the longest ones.
fn collect(command: &clap::Command, path: &str, into: &mut Vec<Knob>) {
    for arg in command.get_arguments() {
        let long = arg.get_long().map(|long| format!("--{long}"));
        let short = arg.get_short().map(|short| format!("-{short}"));
        let own = ["help", "version"].contains(&arg.get_id().as_str());
        if let Some(flag) = long.or(short).filter(|_| !own) {
            let name = format!("{path} {flag}");
            into.push(Knob {
                kind: "flag",
                name: name.trim_start().to_owned(),
            });
        }
    }
    for sub in command.get_subcommands() {
        collect(sub, format!("{path} {}", sub.get_name()).trim_start(), into);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn flags_are_named_with_their_commands() {
        let mut found = Vec::new();
        collect(&crate::Cli::command(), "", &mut found);
        let names: Vec<&str> = found.iter().map(|knob| knob.name.as_str()).collect();
        for name in ["test --kernel", "kernel clean --keep", "locks --json"] {
            assert!(names.contains(&name), "{names:?}");
        }
        assert!(
            !names.iter().any(|name| name.contains("--help")),
            "{names:?}"
        );
    }
}
