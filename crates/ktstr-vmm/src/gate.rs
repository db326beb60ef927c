//! The gate: where a guest in virtual time stands still, and what its host hears and says there.
//!
//! The guest's half is a program in it that maps the mailbox (`ktstr_wire::gate` has the layout) and executes the knock.

use std::time::Duration;

use crate::error::Error;
use crate::watch::WatchHit;

/// The guest stands still, all vCPUs of it, at an exact instruction. Until [`RunningVm::go_on`](crate::RunningVm::go_on) no
/// virtual time passes, its memory is whole, and [`RunningVm::freeze`](crate::RunningVm::freeze) shows registers.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stop {
    /// Virtual time since power-on.
    pub at: Duration,
    /// Why.
    pub cause: StopCause,
}

/// Why a guest stands still.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum StopCause {
    /// It stopped itself, and these are its bytes. A guest that is to be answered waits for the bytes of `go_on`.
    Knock(Vec<u8>),
    /// The time that the last `go_on` named has come.
    Timer,
    /// A watch was hit.
    Watch(WatchHit),
    /// It executed the mark (`ktstr_wire::gate::MARK`): what it waited for has been seen, or acted on.
    Mark,
}

/// Which vCPUs go on when the guest is let go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum RunOnly {
    /// All.
    All,
    /// This one. The others execute a few instructions at most, unless it waits for them by spinning. It ends with
    /// [`All`](Self::All), once the vCPU halts after its first mark, and after 20 ms of virtual time.
    Vcpu(u32),
}

pub(crate) fn no_gate() -> Error {
    Error::Refused {
        what: String::from("wait at the gate"),
        reason: String::from("this guest has none; virtual time with a gate gives it one"),
    }
}
