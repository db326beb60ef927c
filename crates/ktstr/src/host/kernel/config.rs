//! The in-tree configuration fragment, and whether it stuck.

/// The fragment.
pub(super) const FRAGMENT: &str = include_str!("../../../assets/ktstr.kconfig");

/// The lines of `fragment` that `config` does not fulfil.
pub(super) fn dropped(fragment: &str, config: &str) -> Vec<String> {
    let has = |line: &str| config.lines().any(|have| have == line);
    let is_set = |name: &str| {
        config
            .lines()
            .any(|have| have.starts_with(&format!("{name}=")))
    };
    fragment
        .lines()
        .filter(|line| {
            if let Some(name) = line
                .strip_prefix("# ")
                .and_then(|rest| rest.strip_suffix(" is not set"))
            {
                is_set(name)
            } else if let Some(name) = line.strip_suffix("=n") {
                is_set(name)
            } else {
                line.starts_with("CONFIG_") && !has(line)
            }
        })
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_did_not_stick_is_named() {
        let fragment = "# a comment\nCONFIG_A=y\nCONFIG_B=256\n# CONFIG_C is not set\nCONFIG_D=n\n";
        assert_eq!(
            dropped(fragment, "CONFIG_A=y\nCONFIG_B=256\n"),
            Vec::<String>::new()
        );
        let config = "CONFIG_A=m\nCONFIG_B=64\nCONFIG_C=y\nCONFIG_D=y\n";
        assert_eq!(
            dropped(fragment, config),
            [
                "CONFIG_A=y",
                "CONFIG_B=256",
                "# CONFIG_C is not set",
                "CONFIG_D=n"
            ]
        );
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
