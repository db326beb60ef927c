//! The in-tree configuration fragment, and whether it stuck.

use std::fs;
use std::path::Path;

/// The fragment.
pub(crate) const FRAGMENT: &str = include_str!("../assets/ktstr.kconfig");

/// What a fragment's lines are for; a line `#@ <need>` holds until the next one.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Need {
    /// The build is refused without it.
    Must,
    /// The same, where the source defines the option at all: one that is gone became unconditional.
    UnlessGone,
    /// Taken where the source has it.
    Wish,
}

impl Need {
    fn of(name: &str) -> Self {
        match name {
            "unless-gone" => Self::UnlessGone,
            "wish" => Self::Wish,
            _ => Self::Must,
        }
    }
}

/// The lines of `fragment` that `config` does not fulfil and that the build cannot do without. `defines` says whether the
/// source defines an option, by its name without `CONFIG_`.
pub(crate) fn dropped(fragment: &str, config: &str, defines: impl Fn(&str) -> bool) -> Vec<String> {
    let has = |line: &str| config.lines().any(|have| have == line);
    let is_set = |name: &str| {
        config
            .lines()
            .any(|have| have.starts_with(&format!("{name}=")))
    };
    let mut need = Need::Must;
    let mut lines = Vec::new();
    for line in fragment.lines() {
        if let Some(name) = line.strip_prefix("#@ ") {
            need = Need::of(name);
            continue;
        }
        let missing = if let Some(name) = line
            .strip_prefix("# ")
            .and_then(|rest| rest.strip_suffix(" is not set"))
        {
            is_set(name)
        } else if let Some(name) = line.strip_suffix("=n") {
            is_set(name)
        } else {
            line.starts_with("CONFIG_") && !has(line)
        };
        let bearable = match need {
            Need::Must => false,
            Need::UnlessGone => option_of(line).is_some_and(|name| !defines(name)),
            Need::Wish => true,
        };
        if missing && !bearable {
            lines.push(line.to_owned());
        }
    }
    lines
}

/// `A` of `CONFIG_A=y`.
fn option_of(line: &str) -> Option<&str> {
    Some(line.strip_prefix("CONFIG_")?.split_once('=')?.0)
}

/// Whether a Kconfig file below `tree` defines `option`. An unreadable directory defines nothing.
pub(crate) fn defines(tree: &Path, option: &str) -> bool {
    let Ok(entries) = fs::read_dir(tree) else {
        return false;
    };
    entries.flatten().any(|entry| {
        let name = entry.file_name();
        let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if is_dir {
            return defines(&entry.path(), option);
        }
        name.to_string_lossy().starts_with("Kconfig")
            && fs::read_to_string(entry.path()).is_ok_and(|text| defined_in(&text, option))
    })
}

fn defined_in(kconfig: &str, option: &str) -> bool {
    kconfig.lines().any(|line| {
        let mut words = line.split_whitespace();
        matches!(words.next(), Some("config" | "menuconfig")) && words.next() == Some(option)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_did_not_stick_is_named() {
        let fragment = "# a comment\nCONFIG_A=y\nCONFIG_B=256\n# CONFIG_C is not set\nCONFIG_D=n\n";
        let known = |_: &str| true;
        assert_eq!(
            dropped(fragment, "CONFIG_A=y\nCONFIG_B=256\n", known),
            Vec::<String>::new()
        );
        let config = "CONFIG_A=m\nCONFIG_B=64\nCONFIG_C=y\nCONFIG_D=y\n";
        assert_eq!(
            dropped(fragment, config, known),
            [
                "CONFIG_A=y",
                "CONFIG_B=256",
                "# CONFIG_C is not set",
                "CONFIG_D=n"
            ]
        );
    }

    #[test]
    fn only_what_the_source_still_defines_must_stick_and_a_wish_never() {
        let fragment =
            "#@ must\nCONFIG_A=y\n#@ unless-gone\nCONFIG_B=y\nCONFIG_C=y\n#@ wish\nCONFIG_D=y\n";
        let dropped = dropped(fragment, "", |name| name != "B");
        assert_eq!(dropped, ["CONFIG_A=y", "CONFIG_C=y"]);
    }

    #[test]
    fn an_option_is_defined_by_a_kconfig_file_below_the_tree() {
        let dir = tempfile::tempdir().unwrap();
        let sub = dir.path().join("kernel/sched");
        fs::create_dir_all(&sub).unwrap();
        fs::write(
            sub.join("Kconfig.debug"),
            "menuconfig SCHED_DEBUG\n\tbool\n",
        )
        .unwrap();
        fs::write(sub.join("core.c"), "config HIDDEN\n").unwrap();
        assert!(defines(dir.path(), "SCHED_DEBUG"));
        assert!(!defines(dir.path(), "SCHED"));
        assert!(!defines(dir.path(), "HIDDEN"));
    }

    #[test]
    fn the_fragment_has_what_tests_stand_on() {
        for option in [
            "CONFIG_SCHED_CLASS_EXT=y",
            "CONFIG_DEBUG_INFO_BTF=y",
            "CONFIG_KVM_AMD=y",
            "CONFIG_VIRTIO_CONSOLE=y",
        ] {
            assert!(FRAGMENT.lines().any(|line| line == option), "{option}");
        }
    }
}
