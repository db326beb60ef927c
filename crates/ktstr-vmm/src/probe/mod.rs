//! Which engine this machine can run, and why, in one line.

mod timing;
mod tiny;

pub(crate) use tiny::{CODE as TINY_CODE, Tiny, create_vm};

use std::fmt;
use std::sync::OnceLock;
use std::time::Duration;

use self::timing::Times;
use crate::error::{BuildError, BuildFault};

/// What executes the guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
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
#[non_exhaustive]
pub enum EngineChoice {
    /// The fastest that works here.
    #[default]
    Auto,
    /// Only kvm.
    Kvm,
    /// Only tcg.
    Tcg,
}

impl EngineChoice {
    /// Every choice, in the order in which they are offered.
    pub const ALL: [Self; 3] = [Self::Auto, Self::Kvm, Self::Tcg];

    /// The name by which a user asks for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }

    /// The engine that a VM gets that asks for this, and why.
    #[must_use]
    pub fn resolve(self) -> Probe {
        let asked = |engine| Probe {
            engine,
            why: String::from("asked for"),
        };
        match self {
            Self::Auto => probe(),
            Self::Kvm => asked(Engine::Kvm),
            Self::Tcg => asked(Engine::Tcg),
        }
    }

    /// Refuses kvm where it was asked for and no stock kernel survives it, with what was measured. Building a VM does not ask this:
    /// a guest of a few instructions runs there.
    ///
    /// # Errors
    /// [`BuildFault::Engine`] with the probe's reason.
    pub fn check(self) -> Result<(), BuildError> {
        match self {
            Self::Kvm => fit_for_kvm(probe()),
            Self::Auto | Self::Tcg => Ok(()),
        }
    }
}

fn fit_for_kvm(found: Probe) -> Result<(), BuildError> {
    if found.engine == Engine::Kvm {
        return Ok(());
    }
    let what = format!("it was asked for, and {}; use auto or tcg", found.why);
    let engine = Engine::Kvm;
    Err(BuildError {
        faults: vec![BuildFault::Engine { engine, what }],
    })
}

/// Text that is not the name of an engine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown engine '{0}'; expected auto, kvm or tcg")]
pub struct UnknownEngine(pub String);

impl std::str::FromStr for EngineChoice {
    type Err = UnknownEngine;

    fn from_str(text: &str) -> Result<Self, UnknownEngine> {
        let mut all = Self::ALL.into_iter();
        all.find(|choice| choice.as_str() == text)
            .ok_or_else(|| UnknownEngine(text.to_owned()))
    }
}

/// An engine and the reason for it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Probe {
    /// The engine that `Auto` takes.
    pub engine: Engine,
    /// Why, in one line.
    pub why: String,
}

impl Probe {
    /// An engine and why it was taken.
    pub fn new(engine: Engine, why: impl Into<String>) -> Self {
        let why = why.into();
        Self { engine, why }
    }
}

/// A supervisor instruction that takes longer is emulated: silicon takes less than a nanosecond, nested virtualisation some
/// tens with its exits, a host without supervisor mode about 2000.
const EMULATED: Duration = Duration::from_nanos(200);
/// Entry and exit take silicon a microsecond or two, and some ten where it is nested; KVM within an emulator takes hundreds.
const SLOW_ROUND_TRIP: Duration = Duration::from_micros(40);

/// Finds out what `Auto` means on this machine; measured once per process.
///
/// A /dev/kvm that opens is not yet one that works: a host that is itself a guest without nested virtualisation may emulate every
/// supervisor instruction, which no stock kernel survives. So a small loop is timed.
#[must_use]
pub fn probe() -> Probe {
    judge(measured().map(|times| times.instruction))
}

/// KVM is there, works, and is slower than any silicon: what waits for a guest wants more patience.
#[must_use]
pub fn is_slow_kvm() -> bool {
    measured().is_ok_and(|times| times.round_trip > SLOW_ROUND_TRIP)
}

/// What /dev/kvm takes, measured once.
fn measured() -> Result<Times, String> {
    static MEASURED: OnceLock<Result<Times, String>> = OnceLock::new();
    MEASURED.get_or_init(|| timing::measure(EMULATED)).clone()
}

fn judge(measured: Result<Duration, String>) -> Probe {
    let (engine, why) = match measured {
        Err(why) => (Engine::Tcg, why),
        Ok(time) if time > EMULATED => {
            let why = format!(
                "/dev/kvm opens but emulates supervisor code ({} per instruction)",
                words(time)
            );
            (Engine::Tcg, why)
        }
        Ok(time) => {
            let why = format!("/dev/kvm is genuine ({} per instruction)", words(time));
            (Engine::Kvm, why)
        }
    };
    Probe { engine, why }
}

/// A time in nanoseconds, a short one with its fraction.
fn words(time: Duration) -> String {
    let nanos = time.as_secs_f64() * 1e9;
    let digits = if nanos < 10.0 { 1 } else { 0 };
    format!("{nanos:.digits$} ns")
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
    fn kvm_is_refused_where_it_emulates_with_what_was_measured() {
        let error = fit_for_kvm(judge(Ok(Duration::from_nanos(1900)))).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("1900 ns") && text.contains("use auto or tcg"),
            "{text}"
        );
        assert!(fit_for_kvm(judge(Ok(Duration::from_nanos(1)))).is_ok());
        // Asked for only where kvm is required.
        assert!(EngineChoice::Tcg.check().is_ok() && EngineChoice::Auto.check().is_ok());
    }

    /// What waits for guests in the lab must have patience.
    #[test]
    fn kvm_within_an_emulator_is_slow() {
        if std::env::var_os("KTSTR_LAB").is_some() {
            assert!(is_slow_kvm(), "{:?}", measured());
        }
        println!("{:?}", measured());
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
