//! Exit codes: what CI decides by.

use std::process::ExitCode;

use ktstr::model::verdict::Outcome;

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Everything passed or was skipped.
    Pass,
    /// Something failed, or could not be done.
    Fail,
    /// Nothing failed, but something could not be judged.
    Inconclusive,
    /// The command line makes no sense. Not 2, which is clap's habit: that means inconclusive here.
    Usage,
    /// A command that the user gave ended with this.
    Command(u8),
    /// A signal ended it.
    Interrupted(i32),
}

impl Exit {
    /// The number.
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Pass => 0,
            Self::Fail => 1,
            Self::Inconclusive => 2,
            Self::Usage => 64,
            Self::Command(code) => code,
            Self::Interrupted(signal) => 128u8.saturating_add(u8::try_from(signal).unwrap_or(0)),
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

impl From<Outcome> for Exit {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Skip | Outcome::Pass => Self::Pass,
            Outcome::Inconclusive => Self::Inconclusive,
            Outcome::Fail => Self::Fail,
        }
    }
}

/// `--help` and `--version` are no errors.
pub(crate) fn of_usage(error: &clap::Error) -> Exit {
    if error.use_stderr() {
        Exit::Usage
    } else {
        Exit::Pass
    }
}
