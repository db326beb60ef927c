//! One number over time.

use std::collections::BTreeMap;

use super::Each;

/// The number of one sample.
#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    /// Name of the sample.
    pub tag: String,
    /// When it was taken, from the run's start.
    pub at_ms: u64,
    /// Step during which it was taken.
    pub step_index: Option<u16>,
    /// The number, or why there is none.
    pub value: Result<f64, String>,
}

/// One number over time, with its name and unit for messages.
#[derive(Debug, Clone, PartialEq)]
pub struct Column {
    pub(super) label: String,
    pub(super) unit: String,
    points: Vec<Point>,
}

impl Column {
    /// These points, in time order, under this name.
    pub fn new(label: impl Into<String>, points: Vec<Point>) -> Self {
        Self {
            label: label.into(),
            unit: String::new(),
            points,
        }
    }

    /// Values at these times, for tests and for numbers from elsewhere.
    pub fn of(label: impl Into<String>, values: &[(u64, f64)]) -> Self {
        let points = values.iter().map(|(at_ms, value)| Point {
            tag: format!("{at_ms} ms"),
            at_ms: *at_ms,
            step_index: None,
            value: Ok(*value),
        });
        Self::new(label, points.collect())
    }

    /// Names the unit for messages.
    #[must_use]
    pub fn unit(mut self, unit: impl Into<String>) -> Self {
        self.unit = unit.into();
        self
    }

    /// All points, also those without a number.
    pub fn points(&self) -> &[Point] {
        &self.points
    }

    /// Times and numbers of the points that have one.
    pub fn numbers(&self) -> Vec<(u64, f64)> {
        let known = self.points.iter();
        known
            .filter_map(|point| Some((point.at_ms, *point.value.as_ref().ok()?)))
            .collect()
    }

    /// Points without a number.
    pub(super) fn missing(&self) -> impl Iterator<Item = (&Point, &String)> {
        let points = self.points.iter();
        points.filter_map(|point| Some((point, point.value.as_ref().err()?)))
    }

    /// Checks of every single point.
    pub fn each(&self) -> Each<'_> {
        Each::of(self)
    }

    /// One number for each step, by this reduction of the step's numbers; steps without a number are left out.
    pub fn by_phase(&self, reduce: impl Fn(&[f64]) -> f64) -> BTreeMap<u16, f64> {
        let mut steps: BTreeMap<u16, Vec<f64>> = BTreeMap::new();
        for point in &self.points {
            if let (Some(step), Ok(value)) = (point.step_index, &point.value) {
                steps.entry(step).or_default().push(*value);
            }
        }
        steps
            .into_iter()
            .map(|(step, values)| (step, reduce(&values)))
            .collect()
    }

    /// The mean of each step.
    pub fn mean_by_phase(&self) -> BTreeMap<u16, f64> {
        self.by_phase(|values| values.iter().sum::<f64>() / values.len() as f64)
    }

    /// The growth in each step: the last number less the first.
    pub fn growth_by_phase(&self) -> BTreeMap<u16, f64> {
        self.by_phase(|values| values[values.len() - 1] - values[0])
    }

    /// A number with the unit.
    pub(super) fn show(&self, value: f64) -> String {
        if self.unit.is_empty() {
            format!("{value}")
        } else {
            format!("{value} {}", self.unit)
        }
    }
}
