//! What the monitor saw during a test's scenarios, by their clock.

use ktstr_monitor::sampler::{MonitorReport, MonitorSample, WatchedField};

use super::Point;

/// The monitor's samples from the first scenario's start on.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct MonitorSeries {
    /// Each with its time since the first scenario's start, and its step.
    samples: Vec<(u64, u16, MonitorSample)>,
    watched: Vec<WatchedField>,
}

impl MonitorSeries {
    /// Those of `report` from `start_ms` on. It and the `steps`, which are in order, each with its index, are by the clock of
    /// the report; without a start no scenario began, and there are none.
    pub fn new(report: &MonitorReport, start_ms: Option<u64>, steps: &[(u64, u16)]) -> Self {
        let step_at = |at: u64| {
            let begun = steps.iter().rev().find(|(begin, _)| *begin <= at);
            begun.map_or(0, |(_, step)| *step)
        };
        let start = start_ms.unwrap_or(u64::MAX);
        let samples = report
            .samples
            .iter()
            .filter(|sample| sample.elapsed_ms >= start)
            .map(|sample| {
                let at = sample.elapsed_ms;
                (at - start, step_at(at), sample.clone())
            });
        Self {
            samples: samples.collect(),
            watched: report.watched.clone(),
        }
    }

    pub(super) fn points(
        &self,
        number: impl Fn(&MonitorSample) -> Result<f64, String>,
    ) -> Vec<Point> {
        let points = self.samples.iter().map(|(at_ms, step, sample)| Point {
            tag: format!("{at_ms} ms"),
            at_ms: *at_ms,
            step_index: Some(*step),
            value: number(sample),
        });
        points.collect()
    }

    /// The place of a watched member among those of a sample.
    pub(super) fn place_of(&self, label: &str) -> Result<usize, String> {
        let place = self.watched.iter().position(|field| field.label == label);
        place.ok_or_else(|| {
            let have: Vec<&str> = self.watched.iter().map(|f| f.label.as_str()).collect();
            format!(
                "nothing is watched as '{label}'; there are: {}",
                have.join(", ")
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::SampleSeries;
    use super::*;
    use crate::model::claim::Verdict;
    use ktstr_monitor::sampler::CpuSnapshot;

    fn report() -> MonitorReport {
        let sample = |number: u64| MonitorSample {
            elapsed_ms: number * 100,
            cpus: vec![CpuSnapshot {
                nr_running: u32::try_from(number).unwrap(),
                rq_clock: number + 1,
                ..CpuSnapshot::default()
            }],
            watched: vec![(number != 7).then_some(number * 10)],
            ..MonitorSample::default()
        };
        let label = String::from("dispatched");
        MonitorReport::new((0..10).map(sample).collect(), 1000)
            .with_watched(vec![WatchedField::gauge(label)])
    }

    #[test]
    fn the_monitors_figures_are_judged_over_time() {
        let monitor = MonitorSeries::new(&report(), Some(300), &[(300, 0), (500, 1)]);
        let series = SampleSeries::default().with_monitor(monitor);
        let running = series.monitor("running", |s| Some(f64::from(s.cpus[0].nr_running)));
        let points: Vec<_> = running.numbers();
        assert_eq!(
            (points.len(), points[0], points[6]),
            (7, (0, 3.0), (600, 9.0))
        );
        assert_eq!(running.points()[1].step_index, Some(0));
        assert_eq!(running.points()[2].step_index, Some(1));
        let mut verdict = Verdict::new();
        running.strictly_increasing(&mut verdict);
        running.each().at_most(&mut verdict, 8.0);
        let judged = verdict.into_result();
        assert_eq!(judged.details.len(), 1, "{judged:?}");
        let watched = series.watched("dispatched");
        assert_eq!((watched.points().len(), watched.numbers().len()), (7, 6));
        let wrong = series.watched("dispached").points()[0].value.clone();
        assert!(wrong.unwrap_err().contains("there are: dispatched"));
    }

    #[test]
    fn without_a_scenario_there_is_nothing() {
        let monitor = MonitorSeries::new(&report(), None, &[]);
        let series = SampleSeries::default().with_monitor(monitor);
        assert!(series.monitor("x", |_| Some(1.0)).points().is_empty());
    }
}
