//! Whether two revisions differ, from runs in pairs. Pure.
//!
//! Each pair is one run of A and one of B, next to each other in time and in random order. If the revisions are the same,
//! swapping the labels within a pair changes nothing: so the distribution of the signed-rank sum over all label swaps is known
//! exactly, and the chance of a false alarm is at most the stated rate, whatever the noise looks like. No normal
//! distribution is assumed anywhere. Differences are log ratios, so that a change is relative; where a value is zero or
//! negative, which has no logarithm, they are plain differences by the median size of A's values (B's, where those are zero).
//!
//! - estimate: the median of all pairwise means (Hodges-Lehmann), which a few disturbed runs do not move;
//! - interval: percentile bootstrap of the estimate over pairs;
//! - effect size: matched-pairs rank-biserial correlation, -1..1;
//! - p: two-sided signed-rank randomisation test; adjusted for the number of questions (Holm).

use super::rng::Rng;

/// What counts as a change.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Rules {
    /// Chance that equal revisions raise any alarm.
    pub(crate) alpha: f64,
    /// Smallest change that matters, as a share (0.05: 5 %).
    pub(crate) relative: f64,
    /// Smallest change that matters, in the metric's unit.
    pub(crate) absolute: f64,
}

/// Values of one metric, pair by pair.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Pairs {
    pub(crate) a: Vec<f64>,
    pub(crate) b: Vec<f64>,
    /// Pairs in which only A had the metric.
    pub(crate) only_a: usize,
    /// Pairs in which only B had it.
    pub(crate) only_b: usize,
}

impl Pairs {
    /// Takes a pair in; a value counts as one only where both sides have it.
    pub(crate) fn add(&mut self, a: Option<f64>, b: Option<f64>) {
        match (a, b) {
            (Some(a), Some(b)) => {
                self.a.push(a);
                self.b.push(b);
            }
            (Some(_), None) => self.only_a += 1,
            (None, Some(_)) => self.only_b += 1,
            (None, None) => {}
        }
    }

    /// B lacks it more often than both have it.
    pub(crate) fn vanished(&self) -> bool {
        self.only_a > self.a.len()
    }

    /// Only B ever had it.
    pub(crate) fn appeared(&self) -> bool {
        self.a.is_empty() && self.only_a == 0 && self.only_b > 0
    }
}

/// What the pairs say.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub(crate) struct Delta {
    pub(crate) pairs: usize,
    pub(crate) median_a: f64,
    pub(crate) median_b: f64,
    /// Relative change from A to B (0.1: 10 % more).
    pub(crate) change: f64,
    /// Interval of the change at the level `1 - alpha`; absent where the pairs are too few for one.
    pub(crate) low: Option<f64>,
    pub(crate) high: Option<f64>,
    /// -1: B below A in all pairs; 1: above in all.
    pub(crate) effect: f64,
    pub(crate) p: f64,
    /// Standard deviation of the pairs' differences, robust against far-off runs.
    pub(crate) noise: f64,
    /// What a change is a share of, in the metric's unit.
    #[serde(skip)]
    reference: f64,
    /// Whether differences are log ratios.
    #[serde(skip)]
    logarithmic: bool,
    /// Means of every two log ratios, less the estimate: what the number of runs is reckoned from.
    #[serde(skip)]
    centred_means: Vec<f64>,
}

/// The answer to one question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Finding {
    /// B differs, and by enough to matter.
    Changed,
    /// Any change is smaller than what matters.
    Same,
    /// Neither can be said yet.
    Unsure,
}

/// Bootstrap resamples: the ends of a 95 % interval rest on fifty of them each.
const RESAMPLES: usize = 2000;
/// Up to here all label swaps are counted; beyond, this many random ones are drawn.
const EXACT_PAIRS: usize = 16;
const DRAWN_SWAPS: usize = 1 << EXACT_PAIRS;

/// Compares; `None` without two pairs, or when a value is no number.
pub(crate) fn compare(pairs: &Pairs, alpha: f64, rng: &mut Rng) -> Option<Delta> {
    compare_with(pairs, alpha, RESAMPLES, rng)
}

fn compare_with(pairs: &Pairs, alpha: f64, resamples: usize, rng: &mut Rng) -> Option<Delta> {
    let all: Vec<(f64, f64)> = pairs
        .a
        .iter()
        .copied()
        .zip(pairs.b.iter().copied())
        .collect();
    if all.len() < 2 || !all.iter().all(|(a, b)| a.is_finite() && b.is_finite()) {
        return None;
    }
    let median_a = median(&mut pairs.a.clone());
    let logarithmic = all.iter().all(|(a, b)| *a > 0.0 && *b > 0.0);
    let reference = if logarithmic { median_a } else { size(pairs) };
    let difference = |(a, b): &(f64, f64)| {
        if logarithmic {
            (b / a).ln()
        } else {
            (b - a) / reference
        }
    };
    let differences: Vec<f64> = all.iter().map(difference).collect();
    let share = |difference: f64| {
        if logarithmic {
            difference.exp_m1()
        } else {
            difference
        }
    };
    let ranks = Ranks::of(&differences);
    let estimate = pseudo_median(&differences);
    let interval = (differences.len() >= fewest_pairs(1, alpha))
        .then(|| bootstrap(&differences, alpha, resamples, rng));
    Some(Delta {
        pairs: differences.len(),
        median_a,
        median_b: median(&mut pairs.b.clone()),
        change: share(estimate),
        low: interval.map(|(low, _)| share(low)),
        high: interval.map(|(_, high)| share(high)),
        effect: ranks.effect(),
        p: ranks.p(rng),
        noise: spread(&differences),
        reference,
        logarithmic,
        centred_means: pairwise_means(&differences)
            .iter()
            .map(|mean| mean - estimate)
            .collect(),
    })
}

/// The size of a typical value, of A where it has one that is not zero; 1 where all are zero.
fn size(pairs: &Pairs) -> f64 {
    let median_size = |values: &[f64]| {
        let mut sizes: Vec<f64> = values.iter().map(|value| value.abs()).collect();
        median(&mut sizes)
    };
    let largest = pairs.a.iter().chain(&pairs.b).map(|value| value.abs());
    [
        median_size(&pairs.a),
        median_size(&pairs.b),
        largest.fold(0.0, f64::max),
    ]
    .into_iter()
    .find(|size| *size > 0.0)
    .unwrap_or(1.0)
}

/// Judges every question at once, so that the stated rate holds for all of them together (Holm's step-down).
pub(crate) fn judge(deltas: &[Delta], rules: &Rules) -> Vec<Finding> {
    let mut order: Vec<usize> = (0..deltas.len()).collect();
    order.sort_by(|i, j| p_of(deltas, *i).total_cmp(&p_of(deltas, *j)));
    let mut significant = vec![false; deltas.len()];
    for (rank, index) in order.iter().enumerate() {
        let left = count(deltas.len() - rank);
        if p_of(deltas, *index) > rules.alpha / left {
            break;
        }
        if let Some(slot) = significant.get_mut(*index) {
            *slot = true;
        }
    }
    let least = fewest_pairs(deltas.len(), rules.alpha);
    deltas
        .iter()
        .zip(significant)
        .map(|(delta, significant)| {
            // Not "the same" either: so few pairs could not have told a change.
            if delta.pairs < least {
                Finding::Unsure
            } else {
                finding(delta, significant, rules)
            }
        })
        .collect()
}

fn p_of(deltas: &[Delta], index: usize) -> f64 {
    deltas.get(index).map_or(1.0, |delta| delta.p)
}

fn finding(delta: &Delta, significant: bool, rules: &Rules) -> Finding {
    let matters = |change: f64| {
        change.abs() >= rules.relative && (change * delta.reference).abs() >= rules.absolute
    };
    if significant {
        return if matters(delta.change) {
            Finding::Changed
        } else {
            Finding::Same
        };
    }
    match (delta.low, delta.high) {
        (Some(low), Some(high)) if !matters(low) && !matters(high) => Finding::Same,
        _ => Finding::Unsure,
    }
}

/// How many more pairs would tell a change of the smallest size that matters, four times out of five; `None` when it is
/// more than is practical.
///
/// Noether's sample size for the signed-rank test: it rests on how often the mean of two pairs would lie on the right
/// side, which the data tell themselves, far-off runs included. Never fewer than it takes for the smallest p to pass.
pub(crate) fn more_pairs(delta: &Delta, questions: usize, rules: &Rules) -> Option<usize> {
    const POWER_80: f64 = 0.8416;
    const MOST: f64 = 2_000.0;
    let share = rules.relative.max(rules.absolute / delta.reference.abs());
    let size = if delta.logarithmic {
        share.ln_1p()
    } else {
        share
    };
    if size <= 0.0 || delta.centred_means.is_empty() {
        return None;
    }
    let above = delta
        .centred_means
        .iter()
        .filter(|mean| **mean + size > 0.0)
        .count();
    let certainty = count(above) / count(delta.centred_means.len()) - 0.5;
    let z = normal_quantile(1.0 - rules.alpha / count(questions.max(1)) / 2.0) + POWER_80;
    let needed = z.powi(2) / (3.0 * certainty.powi(2));
    if certainty <= 0.0 || !needed.is_finite() || needed > MOST {
        return None;
    }
    let needed = ceil(needed).max(fewest_pairs(questions, rules.alpha));
    Some(needed.saturating_sub(delta.pairs).max(1))
}

/// The fewest pairs with which `questions` questions can be answered at all: 2 / 2^n must pass Holm's first step.
pub(crate) fn fewest_pairs(questions: usize, alpha: f64) -> usize {
    let bar = alpha / count(questions.max(1));
    (2..64)
        .find(|n| 2f64.powi(1 - *n) <= bar)
        .and_then(|n| usize::try_from(n).ok())
        .unwrap_or(64)
}

/// Signed ranks of differences; equal ones share the mean of their ranks, doubled so that all are whole numbers. Zeros
/// have no sign and are left out.
#[derive(Debug)]
struct Ranks {
    signed: Vec<i64>,
}

impl Ranks {
    fn of(differences: &[f64]) -> Self {
        let mut sorted: Vec<f64> = differences.iter().copied().filter(|d| *d != 0.0).collect();
        sorted.sort_by(|a, b| a.abs().total_cmp(&b.abs()));
        let mut signed = Vec::new();
        let mut first: i64 = 1;
        for equal in sorted.chunk_by(|a, b| a.abs() == b.abs()) {
            let len = i64::try_from(equal.len()).unwrap_or(i64::MAX);
            let doubled_mean = 2 * first + len - 1;
            signed.extend(equal.iter().map(|d| {
                if *d > 0.0 {
                    doubled_mean
                } else {
                    -doubled_mean
                }
            }));
            first += len;
        }
        Self { signed }
    }

    fn total(&self) -> i64 {
        self.signed.iter().map(|rank| rank.abs()).sum()
    }

    fn effect(&self) -> f64 {
        let total = self.total();
        if total == 0 {
            0.0
        } else {
            self.signed.iter().sum::<i64>() as f64 / total as f64
        }
    }

    /// The share of label swaps that give a sum at least as far from zero.
    fn p(&self, rng: &mut Rng) -> f64 {
        let observed = self.signed.iter().sum::<i64>().abs();
        let n = self.signed.len();
        if n == 0 {
            return 1.0;
        }
        let sum_of = |swaps: u64| -> i64 {
            let signed = self.signed.iter().enumerate();
            signed
                .map(|(bit, rank)| {
                    if swaps >> (bit % 64) & 1 == 1 {
                        rank.abs()
                    } else {
                        -rank.abs()
                    }
                })
                .sum()
        };
        if n <= EXACT_PAIRS {
            let all = 1u64 << n;
            let far = (0..all)
                .filter(|swaps| sum_of(*swaps).abs() >= observed)
                .count();
            return count(far) / all as f64;
        }
        let mut far = 1;
        for _ in 0..DRAWN_SWAPS {
            let sum: i64 = self
                .signed
                .iter()
                .map(|rank| if rng.coin() { rank.abs() } else { -rank.abs() })
                .sum();
            far += usize::from(sum.abs() >= observed);
        }
        count(far) / count(DRAWN_SWAPS + 1)
    }
}

/// Median of the means of every two values, each with itself, too.
fn pseudo_median(values: &[f64]) -> f64 {
    median(&mut pairwise_means(values))
}

fn pairwise_means(values: &[f64]) -> Vec<f64> {
    let mut means = Vec::with_capacity(values.len() * (values.len() + 1) / 2);
    for (i, a) in values.iter().enumerate() {
        means.extend(values.iter().skip(i).map(|b| (a + b) / 2.0));
    }
    means
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let mid = values.len() / 2;
    let at = |index: usize| values.get(index).copied().unwrap_or(0.0);
    if values.len() % 2 == 1 {
        at(mid)
    } else {
        (at(mid.saturating_sub(1)) + at(mid)) / 2.0
    }
}

fn bootstrap(values: &[f64], alpha: f64, resamples: usize, rng: &mut Rng) -> (f64, f64) {
    let mut estimates: Vec<f64> = (0..resamples)
        .map(|_| {
            let sample: Vec<f64> = values
                .iter()
                .map(|_| values.get(rng.below(values.len())).copied().unwrap_or(0.0))
                .collect();
            pseudo_median(&sample)
        })
        .collect();
    estimates.sort_by(f64::total_cmp);
    let at = |share: f64| {
        let index = ceil(share * count(resamples))
            .saturating_sub(1)
            .min(resamples.saturating_sub(1));
        estimates.get(index).copied().unwrap_or(0.0)
    };
    (at(alpha / 2.0), at(1.0 - alpha / 2.0))
}

/// Standard deviation as the median absolute deviation tells it; the plain one where that is zero.
fn spread(values: &[f64]) -> f64 {
    const MAD_TO_SD: f64 = 1.4826;
    let middle = median(&mut values.to_vec());
    let mut deviations: Vec<f64> = values.iter().map(|value| (value - middle).abs()).collect();
    let robust = median(&mut deviations) * MAD_TO_SD;
    if robust > 0.0 {
        return robust;
    }
    let squares: f64 = values.iter().map(|value| (value - middle).powi(2)).sum();
    (squares / count(values.len().max(1))).sqrt()
}

/// Quantile of the standard normal distribution above one half (Abramowitz and Stegun 26.2.23, error below 4.5e-4).
fn normal_quantile(p: f64) -> f64 {
    let t = (-2.0 * (1.0 - p).ln()).sqrt();
    let above = 2.515_517 + t * (0.802_853 + t * 0.010_328);
    let below = 1.0 + t * (1.432_788 + t * (0.189_269 + t * 0.001_308));
    t - above / below
}

fn count(n: usize) -> f64 {
    n as f64
}

/// Upwards to a whole number; counts of runs are small and positive.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "callers bound the value, and `as` saturates"
)]
fn ceil(value: f64) -> usize {
    value.ceil().max(0.0) as usize
}

#[cfg(test)]
mod tests;
