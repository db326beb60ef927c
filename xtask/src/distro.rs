//! Which distribution this is, and how packages come onto it: functions of its `/etc/os-release`.

use std::fs;

/// Distributions that have the same packages by the same names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Family {
    Debian,
    Ubuntu,
    Fedora,
    Arch,
    /// By its own name.
    Other(String),
}

impl Family {
    /// This machine's.
    pub(crate) fn here() -> Self {
        let text = ["/etc/os-release", "/usr/lib/os-release"]
            .iter()
            .find_map(|path| fs::read_to_string(path).ok());
        Self::of(&text.unwrap_or_default())
    }

    /// By the text of an os-release file: its own name first, then those that it is like, the closest first.
    pub(crate) fn of(os_release: &str) -> Self {
        let value = |key: &str| {
            let found = os_release
                .lines()
                .find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
            found.unwrap_or_default().trim_matches(['"', '\'', ' '])
        };
        let id = value("ID");
        let known = |name: &str| match name {
            "debian" => Some(Self::Debian),
            "ubuntu" => Some(Self::Ubuntu),
            "fedora" => Some(Self::Fedora),
            "arch" => Some(Self::Arch),
            _ => None,
        };
        let mut names = std::iter::once(id).chain(value("ID_LIKE").split_whitespace());
        names
            .find_map(known)
            .unwrap_or_else(|| Self::Other(id.to_owned()))
    }

    /// The one command that installs packages, for whoever may not or would not have it done for them.
    pub(crate) fn command(&self, packages: &[&str], is_root: bool) -> Option<String> {
        let sudo = if is_root { "" } else { "sudo " };
        let packages = packages.join(" ");
        match self {
            Self::Debian | Self::Ubuntu => Some(format!(
                "{sudo}apt-get update && {sudo}apt-get install -y --no-install-recommends {packages}"
            )),
            Self::Fedora => Some(format!("{sudo}dnf install -y {packages}")),
            // Without an upgrade of the rest, Arch has no promise that a new package runs.
            Self::Arch => Some(format!("{sudo}pacman -Syu --needed {packages}")),
            Self::Other(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(os_release: &str, family: &Family) {
        assert_eq!(&Family::of(os_release), family, "{os_release}");
    }

    #[test]
    fn a_distribution_is_known_by_its_name_or_by_what_it_is_like() {
        check(
            "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nVERSION_ID=\"12\"\nID=debian\n",
            &Family::Debian,
        );
        check(
            "NAME=\"Ubuntu\"\nID=ubuntu\nID_LIKE=debian\n",
            &Family::Ubuntu,
        );
        check("ID=linuxmint\nID_LIKE=\"ubuntu debian\"\n", &Family::Ubuntu);
        check("NAME=\"Fedora Linux\"\nID=fedora\n", &Family::Fedora);
        check(
            "ID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"\n",
            &Family::Fedora,
        );
        check("ID=arch\n", &Family::Arch);
        check("ID='manjaro'\nID_LIKE='arch'\n", &Family::Arch);
        check(
            "VARIANT_ID=debian\nID=nixos\n",
            &Family::Other("nixos".into()),
        );
        check("", &Family::Other(String::new()));
    }

    #[test]
    fn there_is_one_command_for_each() {
        let command = |family: Family, is_root| family.command(&["a", "b"], is_root);
        for (family, expected) in [
            (
                Family::Ubuntu,
                "sudo apt-get update && sudo apt-get install -y --no-install-recommends a b",
            ),
            (Family::Fedora, "sudo dnf install -y a b"),
            (Family::Arch, "sudo pacman -Syu --needed a b"),
        ] {
            assert_eq!(command(family, false).as_deref(), Some(expected));
        }
        let as_root = command(Family::Fedora, true);
        assert_eq!(as_root.as_deref(), Some("dnf install -y a b"));
        assert_eq!(command(Family::Other("nixos".into()), true), None);
    }
}
