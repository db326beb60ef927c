//! Whose time passes in a guest.

use std::fmt;
use std::time::Duration;

use crate::error::BuildFault;
use crate::identity::Identity;
use crate::probe::Engine;
use crate::topology::Topology;

/// Whose time passes in a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Clock {
    /// The host's: a busy host slows the guest.
    #[default]
    Host,
    /// Counted instructions: the host cannot be seen, and a seed decides the interleaving.
    Virtual,
}

impl fmt::Display for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Host => "host",
            Self::Virtual => "virtual",
        })
    }
}

/// Virtual nanoseconds that an instruction of a full-speed vCPU takes: 62.5 million a second, of which 1000 timer ticks take 7 %.
const INSN_NS: u32 = 16;
/// Mean length of a turn, in instructions of a full-speed vCPU.
const QUANTUM: u32 = 20_000;
/// PAUSE takes 40 to 140 cycles and more on processors.
const PAUSE_NS: u32 = 300;
/// Two busy siblings do 1.25 times the work of one.
const SMT_FACTOR: f64 = 1.6;

/// How a guest's virtual time is made: tcg only, without ports, disks and network cards.
///
/// Each vCPU is a processor of its own speed, whether the others are busy or not. Equal arguments, kernel, archive and seed give the
/// same run, instruction by instruction.
#[derive(Debug, Clone, PartialEq)]
pub struct VirtualTime {
    pub(crate) seed: u64,
    pub(crate) speeds: Vec<f64>,
    pub(crate) smt_factor: f64,
    pub(crate) wall_limit: Duration,
    pub(crate) gate: bool,
}

impl VirtualTime {
    /// Virtual time whose turns are drawn from `seed`.
    #[must_use]
    pub fn seed(seed: u64) -> Self {
        Self {
            seed,
            speeds: Vec::new(),
            smt_factor: SMT_FACTOR,
            wall_limit: Duration::from_secs(600),
            gate: false,
        }
    }

    /// The speed of each vCPU, above 0 and up to 1.0, which is full speed; vCPUs beyond the list have full speed.
    #[must_use]
    pub fn speeds(mut self, speeds: impl IntoIterator<Item = f64>) -> Self {
        self.speeds = speeds.into_iter().collect();
        self
    }

    /// How many times longer an instruction takes while a sibling thread of its core is busy; 1.6 unless set, 1.0 for siblings
    /// that do not slow each other.
    #[must_use]
    pub fn smt_factor(mut self, factor: f64) -> Self {
        self.smt_factor = factor;
        self
    }

    /// Time of the host's after which the emulator is killed; ten minutes unless set. The VM's own deadline is virtual.
    #[must_use]
    pub fn wall_limit(mut self, limit: Duration) -> Self {
        self.wall_limit = limit;
        self
    }

    /// Gives the guest a gate: moments at which it stands still and host and guest may speak. Such a VM must be followed
    /// by [`RunningVm::next_stop`](crate::RunningVm::next_stop) and `go_on`.
    #[must_use]
    pub fn gate(mut self) -> Self {
        self.gate = true;
        self
    }

    pub(crate) fn check(&self, topology: &Topology, faults: &mut Vec<BuildFault>) {
        let mut refuse = |what: String| {
            faults.push(BuildFault::Engine {
                engine: Engine::Tcg,
                what,
            });
        };
        let cpus = topology.total_cpus() as usize;
        if self.speeds.len() > cpus {
            refuse(format!(
                "has speeds for {} vCPUs, and topology {topology} has {cpus}",
                self.speeds.len()
            ));
        }
        // The comparison is false for what is not a number, too.
        if let Some(speed) = self
            .speeds
            .iter()
            .find(|speed| !(**speed >= 0.001 && **speed <= 1.0))
        {
            refuse(format!(
                "cannot run a vCPU at speed {speed}; expected 0.001 to 1.0"
            ));
        }
        if !(self.smt_factor >= 1.0 && self.smt_factor <= 16.0) {
            let factor = self.smt_factor;
            refuse(format!(
                "cannot slow siblings by a factor of {factor}; expected 1.0 to 16.0"
            ));
        }
    }

    pub(crate) fn options(&self, topology: &Topology, deadline: Duration) -> ktstr_plugin::Options {
        ktstr_plugin::Options {
            seed: self.seed,
            insn_ns: INSN_NS.max(topology.total_cpus()),
            quantum: QUANTUM,
            pause_ns: PAUSE_NS,
            threads: topology.threads_per_core(),
            smt: parts(self.smt_factor),
            costs: self.speeds.iter().map(|speed| parts(1.0 / speed)).collect(),
            deadline_ns: u64::try_from(deadline.as_nanos()).unwrap_or(u64::MAX),
            gate: None,
            forked: false,
            report: String::new(),
        }
    }
}

/// A factor in the plugin's unit; the values were checked, and beyond that the cast saturates.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "checked to be between 1 and 1000; a cast from float saturates"
)]
fn parts(factor: f64) -> u32 {
    (factor * f64::from(ktstr_plugin::FULL)).round() as u32
}

/// What a finished run in virtual time was.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct VirtualRun {
    /// The seed.
    pub seed: u64,
    /// What decided the run beside the seed; `None` where its files could not be read again.
    pub identity: Option<Identity>,
    /// Equal for equal runs, and only for those.
    pub fingerprint: u64,
    /// Virtual time from power-on to the end.
    pub time: Duration,
    /// Instructions per second of a full-speed vCPU.
    pub speed: u64,
    /// Instructions that each vCPU executed.
    pub instructions: Vec<u64>,
}

impl VirtualRun {
    pub(crate) fn new(
        options: &ktstr_plugin::Options,
        identity: Option<Identity>,
        report: &ktstr_plugin::Report,
    ) -> Self {
        Self {
            seed: options.seed,
            identity,
            fingerprint: report.fingerprint,
            time: Duration::from_nanos(report.time_ns),
            speed: 1_000_000_000 / u64::from(options.insn_ns),
            instructions: report.vcpus.iter().map(|vcpu| vcpu.instructions).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(time: &VirtualTime) -> String {
        let mut faults = Vec::new();
        time.check(&"1n1l2c1t".parse().unwrap(), &mut faults);
        let lines: Vec<String> = faults.iter().map(ToString::to_string).collect();
        lines.join("\n")
    }

    #[test]
    fn what_no_vcpu_can_be_is_refused() {
        assert_eq!(faults(&VirtualTime::seed(1).speeds([1.0, 0.25])), "");
        let many = faults(&VirtualTime::seed(1).speeds([1.0; 3]));
        assert!(many.contains("speeds for 3 vCPUs"), "{many}");
        for speed in [0.0, -1.0, 1.5, f64::NAN] {
            let found = faults(&VirtualTime::seed(1).speeds([speed]));
            assert!(found.contains("expected 0.001 to 1.0"), "{speed}: {found}");
        }
        for factor in [0.9, f64::NAN, 17.0] {
            let found = faults(&VirtualTime::seed(1).smt_factor(factor));
            assert!(found.contains("expected 1.0 to 16.0"), "{factor}: {found}");
        }
    }

    #[test]
    fn the_plugin_is_told_costs_of_vcpus_and_siblings() {
        let time = VirtualTime::seed(9).speeds([1.0, 0.25]);
        let options = time.options(&"1n1l2c2t".parse().unwrap(), Duration::from_secs(2));
        assert_eq!((options.seed, options.threads), (9, 2));
        assert_eq!(options.costs, [1024, 4096]);
        assert_eq!(options.smt, 1638);
        assert_eq!(options.deadline_ns, 2_000_000_000);
    }

    /// The clock moves by insn_ns / vCPUs at least, and QEMU itself counts a nanosecond per instruction.
    #[test]
    fn more_vcpus_than_nanoseconds_per_instruction_are_slower() {
        let options = |shape: &str| {
            VirtualTime::seed(0).options(&shape.parse().unwrap(), Duration::from_secs(1))
        };
        assert_eq!(options("1n1l4c1t").insn_ns, 16);
        assert_eq!(options("1n8l8c1t").insn_ns, 64);
    }
}
