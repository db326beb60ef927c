//! Checks of every single point: strict, a point without a number is not passed over.

use super::Column;
use crate::model::claim::Verdict;
use crate::model::comparison::Judge as _;
use crate::model::verdict::DetailKind;

/// Checks of every single point of a column.
#[derive(Debug, Clone, Copy)]
#[must_use = "each() alone checks nothing"]
pub struct Each<'c> {
    column: &'c Column,
}

impl<'c> Each<'c> {
    pub(super) fn of(column: &'c Column) -> Self {
        Self { column }
    }

    /// Every number is `limit` or more.
    pub fn at_least(self, verdict: &mut Verdict, limit: f64) {
        let wanted = format!("at least {}", self.column.show(limit));
        self.holds(verdict, &wanted, |value| value >= limit);
    }

    /// Every number is `limit` or less.
    pub fn at_most(self, verdict: &mut Verdict, limit: f64) {
        let wanted = format!("at most {}", self.column.show(limit));
        self.holds(verdict, &wanted, |value| value <= limit);
    }

    /// Every number lies between the limits, both included.
    pub fn between(self, verdict: &mut Verdict, low: f64, high: f64) {
        let wanted = format!("{low} to {}", self.column.show(high));
        self.holds(verdict, &wanted, |value| value >= low && value <= high);
    }

    pub(super) fn holds(self, verdict: &mut Verdict, wanted: &str, good: impl Fn(f64) -> bool) {
        let column = self.column;
        let label = &column.label;
        if column.points().is_empty() {
            let text = || format!("{label}: no sample to hold against {wanted}");
            return verdict.judge(DetailKind::Temporal, None, text);
        }
        for point in column.points() {
            let at = format!("{label} at {} ms ({})", point.at_ms, point.tag);
            match &point.value {
                Ok(value) if value.is_nan() => {
                    let text = || format!("{at} is NaN, expected {wanted}");
                    verdict.judge(DetailKind::Temporal, None, text);
                }
                Ok(value) => {
                    let text = || format!("{at} is {}, expected {wanted}", column.show(*value));
                    verdict.judge(DetailKind::Temporal, Some(good(*value)), text);
                }
                Err(reason) => {
                    let text = || format!("{at} is unknown ({reason}), expected {wanted}");
                    verdict.judge(DetailKind::Temporal, None, text);
                }
            }
        }
    }
}
