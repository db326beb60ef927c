//! `cargo ktstr completions`

use anyhow::Result;
use clap_complete::Shell;

use crate::exit::Exit;
use crate::output;

/// Which shell.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example: cargo ktstr completions bash > ~/.local/share/bash-completion/completions/cargo-ktstr"
)]
pub(crate) struct Options {
    /// The shell.
    shell: Shell,
}

/// Prints the script.
pub(crate) fn run(options: &Options, command: &mut clap::Command) -> Result<Exit> {
    let mut script = Vec::new();
    clap_complete::generate(options.shell, command, "cargo-ktstr", &mut script);
    output::print(&String::from_utf8_lossy(&script))?;
    Ok(Exit::Pass)
}
