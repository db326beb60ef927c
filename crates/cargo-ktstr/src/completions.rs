//! `cargo ktstr completions`

use anyhow::Result;
use clap_complete::Shell;

use crate::exit::Exit;
use crate::output;

/// Which shell.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    echo 'source <(cargo ktstr completions bash)' >> ~/.bashrc\n  \
    cargo ktstr completions fish > ~/.config/fish/conf.d/cargo-ktstr.fish\n  \
    cargo ktstr completions zsh > ~/.zfunc/_cargo-ktstr    # a directory of $fpath")]
pub(crate) struct Options {
    /// The shell.
    shell: Shell,
}

/// Prints the script.
pub(crate) fn run(options: &Options, command: &mut clap::Command) -> Result<Exit> {
    let mut script = Vec::new();
    let name = match options.shell {
        // Clap's generator for bash makes two different names of a command's function where the command has a '-'.
        Shell::Bash => "cargo_ktstr",
        _ => "cargo-ktstr",
    };
    clap_complete::generate(options.shell, command, name, &mut script);
    let mut script = String::from_utf8_lossy(&script).into_owned();
    if options.shell == Shell::Bash {
        script = script.replace("-o default cargo_ktstr\n", "-o default cargo-ktstr\n");
    }
    let under_cargo = match options.shell {
        Shell::Bash => BASH_UNDER_CARGO.to_owned(),
        Shell::Fish => fish_under_cargo(&script),
        // Cargo's own function for zsh calls `_cargo-ktstr` by itself.
        _ => String::new(),
    };
    output::print(&format!("{script}{under_cargo}"))?;
    Ok(Exit::Pass)
}

/// What is typed is `cargo ktstr`, and bash asks cargo's function about that: ours stands before it and passes everything else on.
const BASH_UNDER_CARGO: &str = r#"
_cargo_ktstr_under_cargo() {
    if [[ ${COMP_CWORD} -ge 2 && ${COMP_WORDS[1]} == ktstr ]]; then
        local -a words=("${COMP_WORDS[@]:2}")
        COMP_WORDS=(cargo-ktstr "${words[@]}")
        COMP_CWORD=$((COMP_CWORD - 1))
        _cargo_ktstr cargo-ktstr "$2" "$3"
        return
    fi
    if [[ -z ${_cargo_ktstr_before} ]] && declare -F _completion_loader > /dev/null; then
        _completion_loader cargo
        local loaded
        loaded=$(complete -p cargo 2> /dev/null)
        if [[ ${loaded} =~ -F\ ([^\ ]+) && ${BASH_REMATCH[1]} != _cargo_ktstr_under_cargo ]]; then
            _cargo_ktstr_before=${BASH_REMATCH[1]}
        fi
        complete -F _cargo_ktstr_under_cargo -o bashdefault -o default cargo
    fi
    if [[ -n ${_cargo_ktstr_before} ]]; then
        "${_cargo_ktstr_before}" "$@"
    fi
}
_cargo_ktstr_before=
if [[ $(complete -p cargo 2> /dev/null) =~ -F\ ([^\ ]+) && ${BASH_REMATCH[1]} != _cargo_ktstr_under_cargo ]]; then
    _cargo_ktstr_before=${BASH_REMATCH[1]}
fi
complete -F _cargo_ktstr_under_cargo -o bashdefault -o default cargo
"#;

/// The same rules once more for `cargo`, each only behind `ktstr`.
fn fish_under_cargo(script: &str) -> String {
    let own = "complete -c cargo-ktstr ";
    let with_condition = |line: &str| -> Option<String> {
        let rest = line.strip_prefix(own)?;
        let behind = "__fish_seen_subcommand_from ktstr";
        Some(match rest.strip_prefix("-n \"") {
            Some(rest) => format!("complete -c cargo -n \"{behind}; and {rest}\n"),
            None => format!("complete -c cargo -n \"{behind}\" {rest}\n"),
        })
    };
    script.lines().filter_map(with_condition).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fish_rules_hold_behind_ktstr_only() {
        let script = "function f\nend\ncomplete -c cargo-ktstr -n \"x y\" -f -a \"test\"\ncomplete -c cargo-ktstr -s h\n";
        assert_eq!(
            fish_under_cargo(script),
            "complete -c cargo -n \"__fish_seen_subcommand_from ktstr; and x y\" -f -a \"test\"\n\
             complete -c cargo -n \"__fish_seen_subcommand_from ktstr\" -s h\n"
        );
    }
}
