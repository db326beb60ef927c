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

/// What finds a phase: its [`Phase`], or the name that its step was given (`Step::named`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum PhaseKey<'a> {
    /// By its place.
    Phase(Phase),
    /// By its step's name.
    Name(&'a str),
}

impl PhaseKey<'_> {
    /// Whether a phase of this place and name is meant.
    pub(crate) fn finds(self, step_index: u16, name: &str) -> bool {
        match self {
            Self::Phase(phase) => phase.as_u16() == step_index,
            Self::Name(wanted) => wanted == name,
        }
    }
}

impl fmt::Display for PhaseKey<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Phase(phase) => phase.fmt(f),
            Self::Name(name) => write!(f, "step {name:?}"),
        }
    }
}

impl From<Phase> for PhaseKey<'_> {
    fn from(phase: Phase) -> Self {
        Self::Phase(phase)
    }
}

impl<'a> From<&'a str> for PhaseKey<'a> {
    fn from(name: &'a str) -> Self {
        Self::Name(name)
    }
}

impl<'a> From<&'a String> for PhaseKey<'a> {
    fn from(name: &'a String) -> Self {
        Self::Name(name)
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

    #[test]
    fn a_phase_is_found_by_its_place_or_its_name() {
        let name = String::from("swap");
        let keys: [PhaseKey<'_>; 3] = [Phase::step(0).into(), "swap".into(), (&name).into()];
        assert!(keys.iter().all(|key| key.finds(1, "swap")));
        assert_eq!(keys.map(|key| key.finds(2, "swap")), [false, true, true]);
        assert_eq!(keys.map(|key| key.finds(1, "new")), [true, false, false]);
        let shown = keys.map(|key| key.to_string());
        assert_eq!(shown, ["Step[0]", "step \"swap\"", "step \"swap\""]);
    }
}
