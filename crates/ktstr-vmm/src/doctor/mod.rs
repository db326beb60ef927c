//! What a host gives to VMs, in findings that a person can act on.
//!
//! ```text
//!   kvm:   asks /dev/kvm (genuine? capabilities, clocks, debug registers, AMX)
//!   files: reads /proc and /sys below a root, so that tests have made-up hosts
//! ```

mod files;
mod kvm;

use std::path::{Path, PathBuf};

use crate::engine::{kvm as engine, tcg};
use crate::finding::{Finding, Health};
use crate::probe::{Engine, probe};

/// Looks at this host: /dev/kvm, the CPU, its clocks, memory, limits, what performance mode would get, and the emulator `qemu`.
/// Starts VMs of a few instructions; takes less than a second.
#[must_use]
pub fn doctor(qemu: Option<&Path>) -> Vec<Finding> {
    let root = Path::new("/");
    let mut findings = kvm::findings(root);
    findings.extend(files::findings(root));
    findings.extend(engine::performance_findings());
    // With a genuine KVM only virtual time wants an emulator.
    let health = match probe().engine {
        Engine::Kvm => Health::Less,
        Engine::Tcg => Health::Bad,
    };
    findings.extend(qemu_findings(qemu, health));
    findings
}

/// The emulators: the one that VMs take, and others on `PATH`. `without` is how bad it is to have none.
fn qemu_findings(named: Option<&Path>, without: Health) -> Vec<Finding> {
    let chosen = named.unwrap_or(Path::new(tcg::DEFAULT_QEMU));
    let mut found: Vec<PathBuf> = Vec::new();
    let default = Path::new(tcg::DEFAULT_QEMU);
    for other in [chosen, default].into_iter().flat_map(tcg::on_path) {
        let same = |known: &PathBuf| match (known.canonicalize(), other.canonicalize()) {
            (Ok(known), Ok(other)) => known == other,
            _ => *known == other,
        };
        if !found.iter().any(same) {
            found.push(other);
        }
    }
    if found.is_empty() {
        let nothing = format!("no '{}'; the tcg engine needs it", chosen.display());
        let finding = Finding::new("qemu", without, nothing)
            .mend("apt install qemu-system-x86, or name one in KTSTR_QEMU");
        return vec![finding];
    }
    found
        .iter()
        .map(|program| {
            let place = program.display();
            match tcg::told_by(program) {
                Some(version) => Finding::new("qemu", Health::Good, format!("{version} ({place})")),
                None => Finding::new(
                    "qemu",
                    without,
                    format!("'{place}' does not tell its version"),
                )
                .mend(format!("run `{place} --version` and see why")),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_host_is_looked_at_and_every_finding_is_one_line() {
        let findings = doctor(None);
        for check in [
            "kvm",
            "cpu",
            "clock",
            "cpus",
            "smt",
            "huge pages",
            "limits",
            "performance mode",
            "qemu",
        ] {
            assert!(
                findings.iter().any(|finding| finding.check == check),
                "{check}: {findings:#?}"
            );
        }
        for finding in &findings {
            println!("{finding:?}");
            assert!(
                !finding.found.is_empty() && !finding.found.contains('\n'),
                "{finding:?}"
            );
            if finding.health == Health::Bad {
                assert!(finding.mend.is_some(), "{finding:?}");
            }
        }
    }

    #[test]
    fn an_emulator_that_is_none_is_told_with_what_installs_one() {
        let none = Path::new("/nonexistent/qemu");
        let findings = qemu_findings(Some(none), Health::Bad);
        assert!(
            findings
                .iter()
                .all(|finding| !finding.found.contains("nonexistent")
                    || finding.health == Health::Bad)
        );
        let liar = qemu_findings(Some(Path::new("/bin/true")), Health::Bad);
        let [first, ..] = &liar[..] else {
            panic!("{liar:?}")
        };
        assert_eq!((first.check, first.health), ("qemu", Health::Bad));
        assert!(first.mend.as_ref().unwrap().contains("/bin/true --version"));
    }
}
