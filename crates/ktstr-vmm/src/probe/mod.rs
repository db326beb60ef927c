//! Which engine this machine can run, and why, in one line.

mod timing;

use std::fmt;
use std::sync::OnceLock;
use std::time::Duration;

/// What executes the guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Engine {
    /// The host's CPU, through /dev/kvm.
    Kvm,
    /// QEMU's TCG.
    Tcg,
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        })
    }
}

/// What the user asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EngineChoice {
    /// The fastest that works here.
    #[default]
    Auto,
    /// Only kvm.
    Kvm,
    /// Only tcg.
    Tcg,
}

/// An engine and the reason for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// The engine that `Auto` takes.
    pub engine: Engine,
    /// Why, in one line.
    pub why: String,
}

/// A supervisor instruction that takes longer is emulated: silicon takes less than a nanosecond, nested virtualisation some
/// tens with its exits, a host without supervisor mode about 2000.
const EMULATED: Duration = Duration::from_nanos(200);
/// Whether this build has the kvm engine.
const HAS_KVM_ENGINE: bool = true;

/// Finds out what `Auto` means on this machine; measured once per process.
///
/// A /dev/kvm that opens is not yet one that works: a host that is itself a guest without nested virtualisation may emulate every
/// supervisor instruction, which no stock kernel survives. So a small loop is timed.
#[must_use]
pub fn probe() -> Probe {
    static PROBE: OnceLock<Probe> = OnceLock::new();
    PROBE
        .get_or_init(|| judge(timing::per_instruction()))
        .clone()
}

fn judge(measured: Result<Duration, String>) -> Probe {
    let (engine, why) = match measured {
        Err(why) => (Engine::Tcg, why),
        Ok(time) if time > EMULATED => {
            let why = format!(
                "/dev/kvm opens but emulates supervisor code ({} ns per instruction)",
                time.as_nanos()
            );
            (Engine::Tcg, why)
        }
        Ok(time) if HAS_KVM_ENGINE => {
            let why = format!(
                "/dev/kvm is genuine ({} ns per instruction)",
                time.as_nanos()
            );
            (Engine::Kvm, why)
        }
        Ok(_) => {
            let why = String::from("/dev/kvm is genuine, but this version has no kvm engine yet");
            (Engine::Tcg, why)
        }
    };
    Probe { engine, why }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_emulating_host_and_a_missing_device_mean_tcg_and_say_so() {
        let slow = judge(Ok(Duration::from_nanos(1900)));
        assert_eq!(slow.engine, Engine::Tcg);
        assert!(slow.why.contains("1900 ns"), "{}", slow.why);
        let none = judge(Err(String::from("/dev/kvm does not open: no")));
        assert_eq!(
            (none.engine, none.why.as_str()),
            (Engine::Tcg, "/dev/kvm does not open: no")
        );
    }

    #[test]
    fn a_reason_is_one_line() {
        let probe = probe();
        assert!(
            !probe.why.is_empty() && !probe.why.contains('\n'),
            "{}",
            probe.why
        );
    }
}
