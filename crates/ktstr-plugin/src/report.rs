//! What the plugin says of a run when the emulator ends. Both sides use this file: one writes, the other reads.

use std::fmt::Write as _;

/// A finished run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Hash of every turn: which vCPU, how far it had come, where it went on. Equal in equal runs.
    pub fingerprint: u64,
    /// Virtual time since power-on at the last turn, in nanoseconds.
    pub time_ns: u64,
    /// The virtual deadline was what ended it.
    pub past_deadline: bool,
    /// One per vCPU.
    pub vcpus: Vec<VcpuReport>,
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
            "fingerprint {:016x}\ntime_ns {}\npast_deadline {}\n",
            self.fingerprint, self.time_ns, self.past_deadline
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
                ("past_deadline", Some(value)) => report.past_deadline = value.parse().ok()?,
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
