//! What performance mode would have of this host.

use super::apply::{Policy, take_cpu};
use super::hostcpu::{HostCpus, Llc};
use crate::finding::{Finding, Health};

const CHECK: &str = "performance mode";

/// Of the host as it is, with its other users.
pub(crate) fn findings() -> Vec<Finding> {
    let host = match HostCpus::read() {
        Ok(host) => host,
        Err(error) => {
            let found = format!("the host's CPUs cannot be read: {error}");
            return vec![Finding::new(CHECK, Health::Less, found).mend("mount sysfs at /sys")];
        }
    };
    let mut findings = vec![shape(&host)];
    let policy = Policy::of_host();
    let allowed = host.all().next().is_some_and(|cpu| {
        let tried = std::thread::spawn(move || take_cpu(cpu, policy));
        tried.join().is_ok_and(|taken| taken.is_ok())
    });
    findings.push(priority(policy, allowed));
    findings
}

fn shape(host: &HostCpus) -> Finding {
    let cpus = host.all().count();
    let sizes: Vec<String> = host.llcs.iter().map(words).collect();
    let smt = if host.has_smt() { ", SMT" } else { "" };
    let found = format!(
        "{cpus} CPUs in {} ({}{smt}); guests get all but one",
        match host.llcs.len() {
            1 => String::from("1 LLC"),
            llcs => format!("{llcs} LLCs"),
        },
        sizes.join(", ")
    );
    if cpus < 2 {
        return Finding::new(CHECK, Health::Less, format!("{found}, which is none"))
            .mend("a host or cpuset of more CPUs");
    }
    Finding::new(CHECK, Health::Good, found)
}

fn words(llc: &Llc) -> String {
    match llc.len() {
        1 => String::from("1 core"),
        cores => format!("{cores} cores"),
    }
}

fn priority(policy: Policy, allowed: bool) -> Finding {
    match (policy, allowed) {
        (Policy::Fifo, true) => Finding::new(
            "vCPU priority",
            Health::Good,
            "SCHED_FIFO: in performance mode nothing but the kernel comes before a vCPU",
        ),
        (Policy::Fifo, false) => Finding::new(
            "vCPU priority",
            Health::Less,
            "performance mode needs CAP_SYS_NICE for SCHED_FIFO",
        )
        .mend("run as root, or `ulimit -r 1` as set in /etc/security/limits.conf"),
        (Policy::Fair, _) => Finding::new(
            "vCPU priority",
            Health::Less,
            "pinned without SCHED_FIFO, since this kernel stops real-time threads for 50 ms of each second",
        )
        .mend("echo -1 | sudo tee /proc/sys/kernel/sched_rt_runtime_us, or Linux 6.12 and later with debugfs mounted"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_told_by_llcs_and_cores() {
        let host = HostCpus {
            llcs: vec![vec![vec![0, 4], vec![1, 5]], vec![vec![2]]],
        };
        let finding = shape(&host);
        assert_eq!(
            finding.found,
            "5 CPUs in 2 LLCs (2 cores, 1 core, SMT); guests get all but one"
        );
        let lonely = HostCpus {
            llcs: vec![vec![vec![0]]],
        };
        assert_eq!(shape(&lonely).health, Health::Less);
    }

    #[test]
    fn a_missing_priority_has_a_mend() {
        for (policy, allowed, health) in [
            (Policy::Fifo, true, Health::Good),
            (Policy::Fifo, false, Health::Less),
            (Policy::Fair, true, Health::Less),
        ] {
            let finding = priority(policy, allowed);
            assert_eq!(finding.health, health);
            assert_eq!(finding.mend.is_some(), health == Health::Less);
        }
    }
}
