//! Choices that the environment names.

use std::str::FromStr;

/// What `KTSTR_TIME` asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TimeChoice {
    /// Virtual time where a seed asks for it, or where the engine is tcg and test and emulator allow it; else the host's.
    #[default]
    Auto,
    /// The host's time.
    Host,
    /// Virtual time; a test that cannot have it fails.
    Virtual,
}

impl TimeChoice {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Auto, Self::Host, Self::Virtual];

    /// As it is written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Host => "host",
            Self::Virtual => "virtual",
        }
    }
}

impl FromStr for TimeChoice {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL
            .into_iter()
            .find(|choice| choice.as_str() == text)
            .ok_or(())
    }
}
