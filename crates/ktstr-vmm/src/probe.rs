//! Which engine this machine can run, and why, in one line.

use std::fmt;

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

/// Finds out what `Auto` means on this machine.
#[must_use]
pub fn probe() -> Probe {
    let why = match std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/kvm")
    {
        Ok(_) => String::from("/dev/kvm opens, but this version has no kvm engine yet"),
        Err(error) => format!("/dev/kvm does not open: {error}"),
    };
    Probe {
        engine: Engine::Tcg,
        why,
    }
}
