//! Which part of a scenario a figure is of.

use std::fmt;

/// A part of a scenario: what was before its first step, or one of its steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Phase(u16);

impl Phase {
    /// Before the first step.
    pub const BASELINE: Self = Self(0);

    /// A step; the first is 0.
    #[must_use]
    pub const fn step(zero_indexed: u16) -> Self {
        Self(zero_indexed.saturating_add(1))
    }

    /// Whether it is what was before the first step.
    #[must_use]
    pub const fn is_baseline(self) -> bool {
        self.0 == 0
    }

    /// 0 is the baseline, k + 1 is step k: a bucket's and a sample's `step_index`.
    #[must_use]
    pub const fn as_u16(self) -> u16 {
        self.0
    }
}

/// By a `step_index`: 0 is the baseline, k + 1 is step k.
impl From<u16> for Phase {
    fn from(step_index: u16) -> Self {
        Self(step_index)
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.checked_sub(1) {
            None => f.pad("BASELINE"),
            Some(step) => write!(f, "Step[{step}]"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_step_follows_the_baseline() {
        assert!(Phase::BASELINE.is_baseline() && !Phase::step(0).is_baseline());
        assert!(Phase::BASELINE < Phase::step(0) && Phase::step(0) < Phase::step(1));
        assert_eq!(
            (Phase::step(0).as_u16(), Phase::from(1)),
            (1, Phase::step(0))
        );
        let shown = [Phase::BASELINE, Phase::step(2)].map(|phase| phase.to_string());
        assert_eq!(shown, ["BASELINE", "Step[2]"]);
    }
}
