//! One number that a payload measured, what is known of it beforehand, and what must hold of it.

use serde::{Deserialize, Serialize};

/// Which way is better.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Polarity {
    /// Throughputs.
    HigherBetter,
    /// Latencies, costs.
    LowerBetter,
    /// The nearer to this, the better.
    Target(f64),
    /// Not stated.
    #[default]
    Unknown,
}

/// Which of a payload's outputs a metric was read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error, because standard output gave none.
    Stderr,
}

/// What is known of a metric before it is measured.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct MetricHint {
    /// The metric's dotted path.
    pub name: &'static str,
    /// Its unit; empty for a count.
    pub unit: &'static str,
    /// Which way is better.
    pub polarity: Polarity,
    /// Lowest and highest value that can be true, both included. A value outside was not measured: Inconclusive.
    pub bounds: Option<(f64, f64)>,
}

impl MetricHint {
    const fn new(name: &'static str, unit: &'static str, polarity: Polarity) -> Self {
        Self {
            name,
            unit,
            polarity,
            bounds: None,
        }
    }

    /// A metric of which more is better.
    #[must_use]
    pub const fn higher(name: &'static str, unit: &'static str) -> Self {
        Self::new(name, unit, Polarity::HigherBetter)
    }

    /// A metric of which less is better.
    #[must_use]
    pub const fn lower(name: &'static str, unit: &'static str) -> Self {
        Self::new(name, unit, Polarity::LowerBetter)
    }

    /// A metric that should come near to `target`.
    #[must_use]
    pub const fn target(name: &'static str, unit: &'static str, target: f64) -> Self {
        Self::new(name, unit, Polarity::Target(target))
    }

    /// Declares the plausible range of its values; one outside it makes the test inconclusive.
    #[must_use]
    pub const fn bounds(mut self, lowest: f64, highest: f64) -> Self {
        self.bounds = Some((lowest, highest));
        self
    }

    /// What is wrong with it, in words.
    pub(super) fn fault(&self) -> Option<String> {
        let (lowest, highest) = self.bounds?;
        // NaN is no bound either.
        let ordered = lowest <= highest;
        (!ordered).then(|| {
            format!(
                "metric {:?} has the empty range {lowest}..={highest}",
                self.name
            )
        })
    }
}

/// One number that a payload measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Metric {
    /// Dotted path in the payload's JSON.
    pub name: String,
    /// The number.
    pub value: f64,
    /// Its unit; empty when not stated.
    pub unit: String,
    /// Which way is better.
    pub polarity: Polarity,
    /// `json`, or the extractor's name.
    pub source: String,
    /// Which output it was read from.
    pub stream: Stream,
}

/// What must hold of each run of a payload.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[non_exhaustive]
pub enum MetricCheck {
    /// At least this.
    Min {
        /// The metric.
        metric: &'static str,
        /// Lowest value that passes.
        at_least: f64,
    },
    /// At most this.
    Max {
        /// The metric.
        metric: &'static str,
        /// Highest value that passes.
        at_most: f64,
    },
    /// Both ends included.
    Range {
        /// The metric.
        metric: &'static str,
        /// Lowest value that passes.
        at_least: f64,
        /// Highest value that passes.
        at_most: f64,
    },
    /// It was measured at all.
    Exists {
        /// The metric.
        metric: &'static str,
    },
    /// The exit status, in place of 0.
    ExitCode(i32),
}

impl MetricCheck {
    /// At least `lowest`.
    #[must_use]
    pub const fn min(metric: &'static str, lowest: f64) -> Self {
        Self::Min {
            metric,
            at_least: lowest,
        }
    }

    /// At most `highest`.
    #[must_use]
    pub const fn max(metric: &'static str, highest: f64) -> Self {
        Self::Max {
            metric,
            at_most: highest,
        }
    }

    /// From `lowest` to `highest`, both included.
    #[must_use]
    pub const fn range(metric: &'static str, lowest: f64, highest: f64) -> Self {
        Self::Range {
            metric,
            at_least: lowest,
            at_most: highest,
        }
    }

    /// It was measured at all.
    #[must_use]
    pub const fn exists(metric: &'static str) -> Self {
        Self::Exists { metric }
    }

    /// The exit status is this, in the place of 0.
    #[must_use]
    pub const fn exit_code_eq(status: i32) -> Self {
        Self::ExitCode(status)
    }
}
