//! Checks of how a number moves.
//!
//! A check of neighbours passes over points without a number, and says in a note how many; with fewer than two numbers
//! there is nothing to compare, which is Inconclusive. The first breach is told, with the count of all.

use super::Column;
use crate::model::claim::Verdict;
use crate::model::comparison::Judge as _;
use crate::model::verdict::DetailKind;

/// Numbers in a row that must be close to the target before it counts as reached.
const CONVERGED: usize = 3;

type Pair = ((u64, f64), (u64, f64));

impl Column {
    /// No number is below the one before it.
    pub fn nondecreasing(&self, verdict: &mut Verdict) {
        self.pairs(verdict, "expected it never to fall", |(before, now)| {
            (now.1 < before.1).then(|| self.step_text((before, now), "fell"))
        });
    }

    /// Every number is above the one before it.
    pub fn strictly_increasing(&self, verdict: &mut Verdict) {
        self.pairs(verdict, "expected it always to grow", |(before, now)| {
            (now.1 <= before.1).then(|| self.step_text((before, now), "did not grow"))
        });
    }

    /// The growth per millisecond from each number to the next lies between the limits, both included. Two samples of one
    /// moment have no rate.
    pub fn rate_within(&self, verdict: &mut Verdict, low: f64, high: f64) {
        let unit = format!("{}/ms", self.unit);
        let wanted = format!("expected {low} to {high} {unit}");
        if let Some((at_ms, _)) = self.moment_twice() {
            let label = &self.label;
            let text = || format!("{label}: two samples at {at_ms} ms, so no rate between them");
            return verdict.judge(DetailKind::Temporal, None, text);
        }
        self.pairs(verdict, &wanted, |(before, now)| {
            let rate = (now.1 - before.1) / (now.0 - before.0) as f64;
            let good = rate >= low && rate <= high;
            (!good).then(|| format!("grew by {rate} {unit} from {} to {} ms", before.0, now.0))
        });
    }

    fn moment_twice(&self) -> Option<(u64, f64)> {
        let numbers = self.numbers();
        let twice = numbers.windows(2).find(|pair| pair[0].0 == pair[1].0);
        twice.map(|pair| pair[0])
    }

    /// After the warm-up, every number is within `tolerance` (a share, 0.1 is 10 %) of the mean of those after it.
    pub fn steady_within(&self, verdict: &mut Verdict, warm_up_ms: u64, tolerance: f64) {
        let label = &self.label;
        let start_ms = self.points().first().map_or(0, |point| point.at_ms);
        let from_ms = start_ms.saturating_add(warm_up_ms);
        let warm: Vec<(u64, f64)> = self
            .numbers()
            .into_iter()
            .filter(|(at_ms, _)| *at_ms >= from_ms)
            .collect();
        if warm.len() < 2 {
            let text = || {
                let count = warm.len();
                format!("{label}: {count} numbers after {warm_up_ms} ms of warm-up, needs 2")
            };
            return verdict.judge(DetailKind::Temporal, None, text);
        }
        let mean = warm.iter().map(|(_, value)| value).sum::<f64>() / warm.len() as f64;
        let far = |value: f64| (value - mean).abs();
        let allowed = tolerance * mean.abs();
        let worst = warm.iter().copied().reduce(|worst, point| {
            if far(point.1) > far(worst.1) {
                point
            } else {
                worst
            }
        });
        let Some((at_ms, value)) = worst else { return };
        let holds = (!mean.is_nan()).then(|| far(value) <= allowed);
        verdict.judge(DetailKind::Temporal, holds, || {
            format!(
                "{label} is {} at {at_ms} ms, expected within {:.1} % of its mean {}",
                self.show(value),
                tolerance * 100.0,
                self.show(mean)
            )
        });
    }

    /// Within `deadline_ms` of the first sample, three numbers in a row are no further than `tolerance` from `target`.
    pub fn converges_to(
        &self,
        verdict: &mut Verdict,
        target: f64,
        tolerance: f64,
        deadline_ms: u64,
    ) {
        let label = &self.label;
        let start_ms = self.points().first().map_or(0, |point| point.at_ms);
        let in_time: Vec<f64> = self
            .numbers()
            .into_iter()
            .take_while(|(at_ms, _)| at_ms.saturating_sub(start_ms) <= deadline_ms)
            .map(|(_, value)| value)
            .collect();
        let wanted = || {
            format!(
                "expected {CONVERGED} numbers in a row within {} of {target} by {deadline_ms} ms",
                self.show(tolerance)
            )
        };
        if in_time.len() < CONVERGED {
            let text = || format!("{label}: {} numbers in time, {}", in_time.len(), wanted());
            return verdict.judge(DetailKind::Temporal, None, text);
        }
        let close = |value: &f64| (value - target).abs() <= tolerance;
        let reached = in_time.windows(CONVERGED).any(|row| row.iter().all(close));
        verdict.judge(DetailKind::Temporal, Some(reached), || {
            let last = in_time.last().copied().unwrap_or(f64::NAN);
            format!("{label} was {} at last, {}", self.show(last), wanted())
        });
    }

    /// The statement holds for every sample; one without a number is not passed over.
    pub fn always_true(&self, verdict: &mut Verdict, statement: &str, holds: impl Fn(f64) -> bool) {
        self.each().holds(verdict, statement, holds);
    }

    /// At every moment that both have, this number over the other's lies between the limits, both included. A denominator of
    /// zero is Inconclusive.
    pub fn ratio_within(&self, verdict: &mut Verdict, other: &Self, low: f64, high: f64) {
        let name = format!("{} / {}", self.label, other.label);
        let mut compared = 0;
        for (mine, theirs) in self.points().iter().filter_map(|point| {
            let same = other.points().iter().find(|o| o.tag == point.tag)?;
            Some((point, same))
        }) {
            let (Ok(numerator), Ok(denominator)) = (&mine.value, &theirs.value) else {
                continue;
            };
            compared += 1;
            let ratio = numerator / denominator;
            let known = *denominator != 0.0 && !ratio.is_nan();
            let holds = known.then_some(ratio >= low && ratio <= high);
            verdict.judge(DetailKind::Temporal, holds, || {
                let at_ms = mine.at_ms;
                if known {
                    format!("{name} is {ratio} at {at_ms} ms, expected {low} to {high} (a ratio)")
                } else {
                    format!(
                        "{name} at {at_ms} ms: {numerator} over {denominator} is not a finite ratio"
                    )
                }
            });
        }
        if compared == 0 {
            let text = || format!("{name}: the two have no number at the same moment");
            verdict.judge(DetailKind::Temporal, None, text);
        }
    }

    /// The mean of one step over that of another lies between the limits, both included.
    pub fn ratio_across_phases(
        &self,
        verdict: &mut Verdict,
        (step, of_step): (u16, u16),
        low: f64,
        high: f64,
    ) {
        let means = self.mean_by_phase();
        let label = &self.label;
        let pair = means.get(&step).zip(means.get(&of_step));
        let ratio = pair
            .filter(|(_, base)| **base != 0.0)
            .map(|(value, base)| value / base);
        let holds = ratio.map(|ratio| ratio >= low && ratio <= high);
        verdict.judge(DetailKind::Temporal, holds, || match ratio {
            Some(ratio) => format!(
                "{label} of step {step} is {ratio} of that of step {of_step}, expected {low} to {high} (a ratio)"
            ),
            None => format!(
                "{label}: no ratio of step {step} to step {of_step}; there are means of steps {:?}",
                means.keys().collect::<Vec<_>>()
            ),
        });
    }

    fn step_text(&self, (before, now): Pair, verb: &str) -> String {
        format!(
            "{verb} from {} at {} ms to {} at {} ms",
            before.1,
            before.0,
            self.show(now.1),
            now.0
        )
    }

    /// Holds every number against the one before it.
    fn pairs(&self, verdict: &mut Verdict, wanted: &str, breach: impl Fn(Pair) -> Option<String>) {
        let label = &self.label;
        let numbers = self.numbers();
        self.note_gaps(verdict);
        if numbers.len() < 2 {
            let text = || format!("{label}: {} numbers, needs 2: {wanted}", numbers.len());
            return verdict.judge(DetailKind::Temporal, None, text);
        }
        if let Some((at_ms, _)) = numbers.iter().find(|(_, value)| value.is_nan()) {
            let text = || format!("{label} is NaN at {at_ms} ms, {wanted}");
            return verdict.judge(DetailKind::Temporal, None, text);
        }
        let pairs = numbers.windows(2);
        let breaches: Vec<String> = pairs.filter_map(|p| breach((p[0], p[1]))).collect();
        verdict.judge(DetailKind::Temporal, Some(breaches.is_empty()), || {
            let first = breaches.first().map_or("", String::as_str);
            format!("{label} {first}, {wanted} ({} times)", breaches.len())
        });
    }

    fn note_gaps(&self, verdict: &mut Verdict) {
        let count = self.missing().count();
        if let Some((point, reason)) = self.missing().next() {
            verdict.note(format!(
                "{}: {count} of {} samples have no number, the first at {} ms: {reason}",
                self.label,
                self.points().len(),
                point.at_ms
            ));
        }
    }
}
