//! What the plugin says of a run when the emulator ends. Both sides use this file: one writes, the other reads.

use std::fmt::Write as _;

/// A finished run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Hash of every turn: which vCPU, how far it had come, where it went on. Equal in equal runs.
    pub fingerprint: u64,
    /// Virtual time since power-on at the last turn, in nanoseconds.
    pub time_ns: u64,
    /// What ended it.
    pub end: End,
    /// One per vCPU.
    pub vcpus: Vec<VcpuReport>,
}

/// What ended a run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum End {
    /// The emulator, for a reason that it tells itself.
    #[default]
    Emulator,
    /// The virtual deadline.
    Deadline,
    /// The guest powered off.
    Shutdown,
    /// The guest reset itself, by request or by a triple fault.
    Reset,
    /// The guest told of its panic.
    Panic,
}

impl End {
    const ALL: [Self; 5] = [
        Self::Emulator,
        Self::Deadline,
        Self::Shutdown,
        Self::Reset,
        Self::Panic,
    ];

    /// The emulator's own names (`ShutdownCause` in `qapi/run-state.json`) where it has them.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Emulator => "emulator",
            Self::Deadline => "deadline",
            Self::Shutdown => "guest-shutdown",
            Self::Reset => "guest-reset",
            Self::Panic => "guest-panic",
        }
    }
}

/// One vCPU's part in a run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct VcpuReport {
    /// Instructions that it executed.
    pub instructions: u64,
    /// Turns that it had.
    pub turns: u64,
    /// How often it halted.
    pub halts: u64,
}

impl Report {
    /// Lines of a key and its values.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut text = format!(
            "fingerprint {:016x}\ntime_ns {}\nstopped_by {}\n",
            self.fingerprint,
            self.time_ns,
            self.end.name()
        );
        for vcpu in &self.vcpus {
            // Writing to a String cannot fail.
            let _ = writeln!(
                text,
                "vcpu {} {} {}",
                vcpu.instructions, vcpu.turns, vcpu.halts
            );
        }
        text.push_str("end\n");
        text
    }

    /// The inverse of [`to_text`](Self::to_text); `None` for a report that is cut short or not one.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut report = Self::default();
        for line in text.lines() {
            let mut words = line.split(' ');
            match (words.next()?, words.next()) {
                ("fingerprint", Some(value)) => {
                    report.fingerprint = u64::from_str_radix(value, 16).ok()?;
                }
                ("time_ns", Some(value)) => report.time_ns = value.parse().ok()?,
                ("stopped_by", Some(value)) => {
                    report.end = *End::ALL.iter().find(|end| end.name() == value)?;
                }
                ("vcpu", Some(instructions)) => report.vcpus.push(VcpuReport {
                    instructions: instructions.parse().ok()?,
                    turns: words.next()?.parse().ok()?,
                    halts: words.next()?.parse().ok()?,
                }),
                ("end", None) => return Some(report),
                _ => return None,
            }
        }
        None
    }
}
