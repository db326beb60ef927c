//! One figure of a record: how it is stored, and which way is better.

use std::collections::BTreeMap;

/// Which way is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Polarity {
    Higher,
    Lower,
    Unknown,
}

impl Polarity {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Higher => "higher is better",
            Self::Lower => "lower is better",
            Self::Unknown => "unknown",
        }
    }
}

pub(super) fn put(metrics: &mut BTreeMap<String, f64>, name: &str, value: Option<f64>) {
    if let Some(value) = value.filter(|value| value.is_finite()) {
        metrics.insert(name.to_owned(), value);
    }
}

/// Figures above 2^53 lose their last digits, which no figure of ours has.
pub(super) fn float(value: u64) -> f64 {
    value as f64
}
