//! What /dev/kvm gives.

use std::path::Path;

use super::files::text;
use crate::engine::kvm::{HostKvm, mechanism};
use crate::finding::{Finding, Health};
use crate::probe::{Engine, Probe, probe};
use crate::watch::WatchMechanism;

pub(super) fn findings(root: &Path) -> Vec<Finding> {
    let cpuinfo = text(root, "/proc/cpuinfo").unwrap_or_default();
    let exists = root.join("dev/kvm").exists();
    let mut findings = vec![engine(&probe(), exists, &cpuinfo), cpu(&cpuinfo)];
    match HostKvm::ask() {
        Ok(kvm) => findings.extend(of_kvm(&kvm)),
        // The first finding says why.
        Err(error) => tracing::debug!(%error, "/dev/kvm says nothing more"),
    }
    findings
}

/// The value of a field of the first CPU.
fn field<'t>(cpuinfo: &'t str, name: &str) -> Option<&'t str> {
    cpuinfo.lines().find_map(|line| {
        let (found, value) = line.split_once(':')?;
        (found.trim() == name).then(|| value.trim())
    })
}

fn has_flag(cpuinfo: &str, flag: &str) -> bool {
    field(cpuinfo, "flags").is_some_and(|flags| flags.split(' ').any(|word| word == flag))
}

/// Genuine or not, and what to do about it.
fn engine(found: &Probe, exists: bool, cpuinfo: &str) -> Finding {
    if found.engine == Engine::Kvm {
        return Finding::new("kvm", Health::Good, &found.why);
    }
    let finding = Finding::new(
        "kvm",
        Health::Less,
        format!(
            "{}; the tcg engine is taken, which is 10 to 50 times slower",
            found.why
        ),
    );
    let is_guest = has_flag(cpuinfo, "hypervisor");
    let module = match (has_flag(cpuinfo, "vmx"), has_flag(cpuinfo, "svm")) {
        (true, _) => Some("kvm_intel"),
        (_, true) => Some("kvm_amd"),
        _ => None,
    };
    let mend = match (exists, module) {
        (true, _) if found.why.contains("ermission") => String::from(
            "sudo usermod -aG kvm $USER, then log in again (in a container: `--device /dev/kvm`)",
        ),
        (true, _) if found.why.contains("emulates") => String::from(
            "none on this host, whose hypervisor has no nested virtualisation: take one that has it, or bare metal",
        ),
        (true, _) => String::from("see `dmesg | grep -i kvm`"),
        (false, Some(module)) => {
            format!("sudo modprobe {module} (in a container: `--device /dev/kvm`)")
        }
        (false, None) if is_guest => String::from(
            "turn nested virtualisation on where this machine's VM is configured (`-cpu host` for QEMU), or take bare metal",
        ),
        (false, None) => {
            String::from("turn virtualisation (VT-x, SVM) on in the firmware's set-up")
        }
    };
    finding.mend(mend)
}

fn cpu(cpuinfo: &str) -> Finding {
    let word = |name| field(cpuinfo, name).unwrap_or("?");
    let found = format!(
        "{}, family {} model {}{}",
        word("model name"),
        word("cpu family"),
        word("model"),
        if has_flag(cpuinfo, "hypervisor") {
            ", itself in a VM"
        } else {
            ""
        }
    );
    Finding::new("cpu", Health::Good, found)
}

fn of_kvm(kvm: &HostKvm) -> Vec<Finding> {
    let mut findings = Vec::new();
    if !kvm.missing.is_empty() {
        let found = format!("/dev/kvm lacks {}", kvm.missing.join(", "));
        findings.push(
            Finding::new("kvm capabilities", Health::Bad, found).mend(
                "a kernel with these built in (KVM, KVM_IOAPIC); until then KTSTR_ENGINE=tcg",
            ),
        );
    }
    let tsc = match (kvm.features.invariant_tsc, kvm.can_set_tsc) {
        (true, true) => "the TSC is invariant, and KVM can set it",
        (true, false) => "the TSC is invariant, but KVM cannot set it",
        (false, true) => "the TSC is not invariant; KVM can set it",
        (false, false) => "the TSC is not invariant, and KVM cannot set it",
    };
    findings.push(Finding::new(
        "guests' clock",
        Health::Good,
        format!("kvm-clock, which a freeze sets back ({tsc})"),
    ));
    let watches = mechanism();
    let health = match watches.write {
        WatchMechanism::DebugRegisters => Health::Good,
        WatchMechanism::Unavailable => Health::Bad,
        _ => Health::Less,
    };
    let mut finding = Finding::new("debug registers", health, watches.why);
    if health != Health::Good {
        finding = finding.mend("none on this host: watches are in guest memory, where they cost more; bare metal has them");
    }
    findings.push(finding);
    findings.push(Finding::new("amx", Health::Good, kvm.features.amx));
    if kvm.features.fixed_llc {
        findings.push(Finding::new(
            "caches",
            Health::Good,
            "a CPU whose LLCs Linux takes to have eight threads each; guests are told of no L3 in leaf 0x80000006, and so see theirs",
        ));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(why: &str, exists: bool, flags: &str, mend: &str) {
        let found = Probe {
            engine: Engine::Tcg,
            why: why.to_owned(),
        };
        let finding = engine(&found, exists, &format!("flags\t\t: fpu {flags}\n"));
        assert_eq!(finding.health, Health::Less);
        assert!(finding.found.contains(why), "{finding:?}");
        assert!(finding.mend.as_ref().unwrap().contains(mend), "{finding:?}");
    }

    #[test]
    fn each_reason_has_its_own_mend() {
        let closed = "/dev/kvm does not open: Permission denied (os error 13)";
        check(closed, true, "vmx", "usermod -aG kvm");
        check(
            "/dev/kvm opens but emulates supervisor code (1900 ns per instruction)",
            true,
            "svm",
            "nested",
        );
        let none = "/dev/kvm does not open: No such file or directory (os error 2)";
        check(none, false, "svm", "modprobe kvm_amd");
        check(none, false, "vmx hypervisor", "modprobe kvm_intel");
        check(none, false, "hypervisor", "nested virtualisation on");
        check(none, false, "", "firmware");
        let genuine = Probe {
            engine: Engine::Kvm,
            why: String::from("/dev/kvm is genuine (0.3 ns per instruction)"),
        };
        let finding = engine(&genuine, true, "");
        assert_eq!((finding.health, finding.mend), (Health::Good, None));
    }

    #[test]
    fn a_cpu_is_named() {
        let text = "processor : 0\nmodel name\t: A CPU\ncpu family\t: 25\nmodel\t\t: 97\nflags\t: hypervisor\n";
        assert_eq!(cpu(text).found, "A CPU, family 25 model 97, itself in a VM");
    }
}
