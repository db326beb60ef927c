//! Whose time passed in a run, as its record and its message tell it.

use ktstr_vmm::Clock;
pub use ktstr_vmm::{Identity, Part};
use serde::{Deserialize, Serialize};

use crate::model::result::VmResult;

/// Optional fields of a sidecar.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockFigures {
    /// `host` or `virtual`; absent when no VM ran.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock: Option<String>,
    /// Why that one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock_why: Option<String>,
    /// In virtual time: what decided the interleaving of vCPUs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// In virtual time: what decided the run beside the seed, as 40 hexadecimal digits. Runs of one identity and one seed are the
    /// same run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// In virtual time: a hash of the whole run, as 16 hexadecimal digits. Equal runs have equal ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
    /// In virtual time: instructions per second of a full-speed vCPU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub speed: Option<u64>,
    /// The guest was a copy of one that was saved before it had a task; absent when no VM ran.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forked: Option<bool>,
    /// Why so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fork_why: Option<String>,
}

impl ClockFigures {
    /// Those of a run.
    #[must_use]
    pub fn of(vm: &VmResult) -> Self {
        let run = vm.virtual_run.as_ref();
        Self {
            clock: Some(vm.clock.to_string()),
            clock_why: Some(vm.clock_why.clone()),
            seed: run.map(|run| run.seed),
            identity: run.and_then(|run| Some(run.identity?.to_string())),
            fingerprint: run.map(|run| format!("{:016x}", run.fingerprint)),
            speed: run.map(|run| run.speed),
            forked: Some(vm.forked),
            fork_why: Some(vm.fork_why.clone()),
        }
    }
}

/// The lines that end a failure's message: whose time it was, and how to have the same run again.
pub(in crate::host) fn lines(test: &str, vm: &VmResult) -> Vec<String> {
    let mut lines = vec![format!("{} ({})", vm.clock, vm.clock_why)];
    if vm.clock == Clock::Virtual
        && let Some(run) = &vm.virtual_run
    {
        let (seed, fingerprint) = (run.seed, run.fingerprint);
        lines.push(format!(
            "seed {seed}, fingerprint {fingerprint:016x}, {} million instructions a second",
            run.speed / 1_000_000
        ));
        let boot = if vm.forked { "forked" } else { "booted cold" };
        lines.push(format!("{boot} ({})", vm.fork_why));
        let fingerprint = format!("{fingerprint:016x}");
        let identity = run.identity.map(|identity| identity.to_string());
        let line = replay_line(test, seed, identity.as_deref(), Some(&fingerprint));
        lines.push(format!("replay: {line}"));
    }
    lines
}

/// The command that has the same run again; `test` as a shell takes it.
#[must_use]
pub fn replay_line(
    test: &str,
    seed: u64,
    identity: Option<&str>,
    fingerprint: Option<&str>,
) -> String {
    let identity = identity.map(|hash| format!(" --identity {hash}"));
    let fingerprint = fingerprint.map(|hash| format!(" --fingerprint {hash}"));
    format!(
        "cargo ktstr replay {test} --seed {seed}{}{}",
        identity.unwrap_or_default(),
        fingerprint.unwrap_or_default()
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ktstr_vmm::VirtualRun;

    use super::*;

    #[test]
    fn a_run_in_virtual_time_says_how_to_have_it_again() {
        let mut run = VirtualRun::default();
        run.seed = 7;
        run.identity = Some(Identity::default());
        run.fingerprint = 0xab;
        run.time = Duration::from_secs(1);
        run.speed = 62_500_000;
        let vm = VmResult {
            clock: Clock::Virtual,
            clock_why: String::from("KTSTR_SEED is set"),
            virtual_run: Some(run),
            ..VmResult::test_fixture()
        };
        assert_eq!(
            lines("t", &vm),
            [
                "virtual (KTSTR_SEED is set)",
                "seed 7, fingerprint 00000000000000ab, 62 million instructions a second",
                "booted cold (test fixture)",
                "replay: cargo ktstr replay t --seed 7 --identity 0000000000000000000000000000000000000000 \
                 --fingerprint 00000000000000ab",
            ]
        );
        let stored = serde_json::to_value(ClockFigures::of(&vm)).unwrap();
        assert_eq!(stored["fingerprint"], "00000000000000ab");
        assert_eq!(
            lines("t", &VmResult::test_fixture()),
            ["host (test fixture)"]
        );
    }
}
