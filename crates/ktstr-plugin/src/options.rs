//! What the emulator's command line tells the plugin. Both sides use this file: one writes, the other reads.

use std::fmt::Write as _;
use std::os::fd::RawFd;

/// Costs are counted in parts of a full-speed instruction.
pub const FULL: u32 = 1024;

/// The plugin's arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Decides the lengths of turns.
    pub seed: u64,
    /// Virtual nanoseconds that one instruction of a full-speed vCPU takes; at least the number of vCPUs.
    pub insn_ns: u32,
    /// Mean length of a turn in instructions of a full-speed vCPU.
    pub quantum: u32,
    /// Virtual nanoseconds that PAUSE takes.
    pub pause_ns: u32,
    /// vCPUs of one core, which follow each other.
    pub threads: u32,
    /// What an instruction costs while a sibling runs, in parts of [`FULL`].
    pub smt: u32,
    /// What an instruction of each vCPU costs in parts of [`FULL`]; vCPUs beyond the list cost [`FULL`].
    pub costs: Vec<u32>,
    /// Virtual time at which the emulator ends, in nanoseconds from power-on.
    pub deadline_ns: u64,
    /// The stream to the host by which the plugin tells that the guest stands still; see [`crate::gate`].
    pub gate: Option<RawFd>,
    /// The guest is a copy of one that was saved at its gate: it stands still there until the host's first release.
    pub forked: bool,
    /// Where the report goes when the emulator ends. No commas.
    pub report: String,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            seed: 0,
            insn_ns: 32,
            quantum: 20_000,
            pause_ns: 300,
            threads: 1,
            smt: FULL,
            costs: Vec::new(),
            deadline_ns: u64::MAX,
            gate: None,
            forked: false,
            report: String::new(),
        }
    }
}

impl Options {
    /// `key=value` pairs as QEMU's `-plugin FILE,key=value,…` takes them.
    #[must_use]
    pub fn to_arguments(&self) -> String {
        let mut text = format!(
            "seed={},insn_ns={},quantum={},pause_ns={},threads={},smt={},deadline_ns={},report={}",
            self.seed,
            self.insn_ns,
            self.quantum,
            self.pause_ns,
            self.threads,
            self.smt,
            self.deadline_ns,
            self.report
        );
        if let Some(gate) = self.gate {
            // Writing to a String cannot fail.
            let _ = write!(text, ",gate={gate}");
        }
        if self.forked {
            text.push_str(",forked=1");
        }
        if !self.costs.is_empty() {
            let costs: Vec<String> = self.costs.iter().map(u32::to_string).collect();
            // Writing to a String cannot fail.
            let _ = write!(text, ",costs={}", costs.join(":"));
        }
        text
    }

    /// The inverse of [`to_arguments`](Self::to_arguments), from QEMU's list.
    ///
    /// # Errors
    /// With a sentence when an argument is unknown or its value is not valid.
    pub fn parse<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Result<Self, String> {
        let mut options = Self::default();
        for argument in arguments {
            let (key, value) = argument
                .split_once('=')
                .ok_or_else(|| format!("'{argument}' is not of the form key=value"))?;
            match key {
                "seed" => options.seed = number(key, value)?,
                "insn_ns" => options.insn_ns = positive(key, value)?,
                "quantum" => options.quantum = positive(key, value)?,
                "pause_ns" => options.pause_ns = number(key, value)?,
                "threads" => options.threads = positive(key, value)?,
                "smt" => options.smt = positive(key, value)?,
                "deadline_ns" => options.deadline_ns = number(key, value)?,
                "gate" => options.gate = Some(number(key, value)?),
                "forked" => options.forked = number::<u8>(key, value)? != 0,
                "report" => value.clone_into(&mut options.report),
                "costs" => {
                    let costs = value.split(':').map(|cost| positive(key, cost));
                    options.costs = costs.collect::<Result<_, _>>()?;
                }
                _ => return Err(format!("unknown argument '{key}'")),
            }
        }
        Ok(options)
    }
}

fn number<T: std::str::FromStr>(key: &str, value: &str) -> Result<T, String> {
    let invalid = |_| format!("{key}: '{value}' is not a number in range");
    value.parse().map_err(invalid)
}

fn positive(key: &str, value: &str) -> Result<u32, String> {
    match number(key, value)? {
        0 => Err(format!("{key}: 0 is not valid; expected 1 or more")),
        number => Ok(number),
    }
}
