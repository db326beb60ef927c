//! What was found out about a host.

use serde::Serialize;

/// How good it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Health {
    /// As wished.
    Good,
    /// VMs run, but less well or with less.
    Less,
    /// Something does not run.
    Bad,
}

/// One thing about the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Finding {
    /// What was looked at, in a word or two.
    pub check: &'static str,
    /// How good it is.
    pub health: Health,
    /// What was found, in one line.
    pub found: String,
    /// The command, or the deed, that makes it better.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mend: Option<String>,
}

impl Finding {
    /// A finding without a mend.
    #[must_use]
    pub fn new(check: &'static str, health: Health, found: impl Into<String>) -> Self {
        Self {
            check,
            health,
            found: found.into(),
            mend: None,
        }
    }

    /// Names what makes it better.
    #[must_use]
    pub fn mend(mut self, mend: impl Into<String>) -> Self {
        self.mend = Some(mend.into());
        self
    }
}
