//! Against data whose truth is known.

use super::*;

const RULES: Rules = Rules {
    alpha: 0.05,
    relative: 0.05,
    absolute: 0.0,
};

/// Bootstrap resamples that tests can afford unoptimised.
const FEW: usize = 200;

/// Noise as hosts make it: mostly small, sometimes a run that is far off, and a drift that both of a pair share.
fn pairs(n: usize, slowdown: f64, noise: f64, rng: &mut Rng) -> Pairs {
    let normal = |rng: &mut Rng| (0..12).map(|_| rng.unit()).sum::<f64>() - 6.0;
    let mut made = Pairs::default();
    for _ in 0..n {
        let drift = 1.0 + 0.3 * rng.unit();
        let mut one = |truth: f64| {
            let outlier = if rng.below(20) == 0 {
                1.0 + rng.unit()
            } else {
                1.0
            };
            truth * drift * (noise * normal(rng)).exp() / outlier
        };
        let (a, b) = (one(1000.0), one(1000.0 * slowdown));
        made.a.push(a);
        made.b.push(b);
    }
    made
}

fn ask(made: &Pairs, rng: &mut Rng) -> (Delta, Finding) {
    let delta = compare_with(made, RULES.alpha, FEW, rng).unwrap();
    let finding = judge(std::slice::from_ref(&delta), &RULES)[0];
    (delta, finding)
}

#[test]
fn equal_revisions_raise_alarms_within_the_stated_rate() {
    let mut rng = Rng::new(1);
    for n in [6, 10, 12] {
        let trials = 300;
        // Any significant difference counts, also one too small to matter: the rate is the test's own.
        let alarms = (0..trials)
            .filter(|_| {
                Ranks::of(&log_ratios(&pairs(n, 1.0, 0.05, &mut rng))).p(&mut rng) <= RULES.alpha
            })
            .count();
        // 5 % of 300 is 15; 27 is more than three standard deviations above.
        assert!(alarms <= 27, "{alarms} alarms in {trials} with {n} pairs");
    }
}

fn log_ratios(made: &Pairs) -> Vec<f64> {
    made.a
        .iter()
        .zip(&made.b)
        .map(|(a, b)| (b / a).ln())
        .collect()
}

#[test]
fn the_rate_holds_for_all_questions_together() {
    let mut rng = Rng::new(2);
    let trials = 100;
    let mut alarms = 0;
    for _ in 0..trials {
        let deltas: Vec<Delta> = (0..8)
            .map(|_| {
                compare_with(&pairs(10, 1.0, 0.08, &mut rng), RULES.alpha, 1, &mut rng).unwrap()
            })
            .collect();
        alarms += usize::from(judge(&deltas, &RULES).contains(&Finding::Changed));
    }
    assert!(alarms <= 12, "{alarms} of {trials} families had an alarm");
}

#[test]
fn ten_percent_slower_is_found() {
    let mut rng = Rng::new(3);
    let trials = 100;
    let found = (0..trials)
        .filter(|_| ask(&pairs(12, 0.9, 0.03, &mut rng), &mut rng).1 == Finding::Changed)
        .count();
    assert!(found >= 85, "found {found} of {trials}");
    let (delta, _) = ask(&pairs(40, 0.9, 0.03, &mut rng), &mut rng);
    assert!((-0.12..-0.08).contains(&delta.change), "{}", delta.change);
    let (low, high) = (delta.low.unwrap(), delta.high.unwrap());
    assert!(
        low < delta.change && delta.change < high && delta.effect < -0.7,
        "{low} {} {high} {}",
        delta.change,
        delta.effect
    );
}

#[test]
fn the_interval_covers_the_truth() {
    let mut rng = Rng::new(4);
    let trials = 200;
    let covers = (0..trials)
        .filter(|_| {
            let (delta, _) = ask(&pairs(20, 0.9, 0.05, &mut rng), &mut rng);
            (delta.low.unwrap()..=delta.high.unwrap()).contains(&-0.1)
        })
        .count();
    // Percentile bootstrap with 20 pairs: nominal 95 %, a little less in truth.
    assert!(covers >= 176, "{covers} of {trials}");
}

#[test]
fn a_small_certain_change_is_the_same_and_a_noisy_one_is_unsure() {
    let mut rng = Rng::new(5);
    assert_eq!(
        ask(&pairs(40, 0.99, 0.002, &mut rng), &mut rng).1,
        Finding::Same
    );
    let (delta, finding) = ask(&pairs(6, 1.0, 0.3, &mut rng), &mut rng);
    assert_eq!(finding, Finding::Unsure);
    let more = more_pairs(&delta, 1, &RULES).unwrap();
    assert!((15..2000).contains(&more), "{more}");
}

#[test]
fn the_promised_number_of_runs_tells() {
    let mut rng = Rng::new(6);
    let noise = 0.056;
    let mut delta = ask(&pairs(60, 1.0, noise, &mut rng), &mut rng).0;
    delta.pairs = 0;
    let n = more_pairs(&delta, 1, &RULES).unwrap();
    let trials = 60;
    let significant = (0..trials)
        .filter(|_| {
            let made = pairs(n, 1.05, noise, &mut rng);
            Ranks::of(&log_ratios(&made)).p(&mut rng) <= RULES.alpha
        })
        .count();
    // Four of five are promised; the outliers cost a little.
    assert!(
        (40..=57).contains(&significant),
        "{significant} of {trials} with {n} pairs"
    );
}

#[test]
fn too_few_pairs_can_never_alarm() {
    assert_eq!(fewest_pairs(1, 0.05), 6);
    assert_eq!(fewest_pairs(10, 0.05), 9);
    let made = Pairs {
        a: vec![100.0; 5],
        b: vec![50.0, 51.0, 52.0, 53.0, 54.0],
        ..Pairs::default()
    };
    let (delta, finding) = ask(&made, &mut Rng::new(7));
    assert_eq!((delta.p, finding), (2.0 / 32.0, Finding::Unsure));
    assert_eq!((delta.low, delta.high), (None, None), "no 95 % of anything");
    // Noether's least, 11 pairs for an undisturbed difference, less the five that are there.
    assert_eq!(more_pairs(&delta, 1, &RULES), Some(6));
}

#[test]
fn too_few_equal_pairs_are_not_the_same_either() {
    let equal = Pairs {
        a: vec![3.0; 2],
        b: vec![3.0; 2],
        ..Pairs::default()
    };
    let (_, finding) = ask(&equal, &mut Rng::new(9));
    assert_eq!(finding, Finding::Unsure);
    let equal = Pairs {
        a: vec![3.0; 8],
        b: vec![3.0; 8],
        ..Pairs::default()
    };
    let (delta, finding) = ask(&equal, &mut Rng::new(9));
    assert_eq!((delta.p, delta.change, finding), (1.0, 0.0, Finding::Same));
    // Enough for one question, and too few for each of ten.
    let ten = vec![delta; 10];
    assert_eq!(judge(&ten, &RULES), [Finding::Unsure; 10]);
}

#[test]
fn a_metric_that_falls_to_zero_or_rises_from_it_has_changed() {
    let falls = Pairs {
        a: (0..8).map(|i| 990.0 + f64::from(i)).collect(),
        b: vec![0.0; 8],
        ..Pairs::default()
    };
    let (delta, finding) = ask(&falls, &mut Rng::new(8));
    assert_eq!(finding, Finding::Changed);
    assert!((-1.01..-0.98).contains(&delta.change), "{}", delta.change);
    let rises = Pairs {
        a: falls.b.clone(),
        b: falls.a.clone(),
        ..Pairs::default()
    };
    let (delta, finding) = ask(&rises, &mut Rng::new(8));
    assert_eq!((finding, delta.median_a), (Finding::Changed, 0.0));
    let nothing = Pairs {
        a: vec![0.0; 8],
        b: vec![0.0; 8],
        ..Pairs::default()
    };
    assert_eq!(ask(&nothing, &mut Rng::new(8)).1, Finding::Same);
    // Growth may be negative.
    let signs = Pairs {
        a: vec![-5.0, 4.0, -3.0, 6.0, -5.0, 5.0, 1.0, -1.0],
        b: vec![5.0, -4.0, 3.0, -6.0, 5.0, -5.0, -1.0, 1.0],
        ..Pairs::default()
    };
    assert_eq!(ask(&signs, &mut Rng::new(8)).1, Finding::Unsure);
}

#[test]
fn a_value_that_one_side_lacks_is_counted() {
    let mut pairs = Pairs::default();
    pairs.add(Some(1.0), None);
    assert!(pairs.vanished() && !pairs.appeared());
    pairs.add(Some(1.0), Some(2.0));
    assert!(!pairs.vanished(), "as often there as not");
    let mut new = Pairs::default();
    new.add(None, Some(1.0));
    new.add(None, None);
    assert!(new.appeared() && !new.vanished());
}

#[test]
fn both_thresholds_must_be_passed() {
    let made = Pairs {
        a: vec![100.0; 8],
        b: (0..8).map(|i| 89.0 + f64::from(i) / 10.0).collect(),
        ..Pairs::default()
    };
    let delta = compare(&made, 0.05, &mut Rng::new(10)).unwrap();
    let with = |relative, absolute| {
        judge(
            std::slice::from_ref(&delta),
            &Rules {
                relative,
                absolute,
                ..RULES
            },
        )[0]
    };
    assert_eq!(with(0.05, 5.0), Finding::Changed);
    assert_eq!(with(0.2, 0.0), Finding::Same);
    assert_eq!(with(0.05, 50.0), Finding::Same);
}

#[test]
fn quantiles_are_the_tables() {
    assert!((normal_quantile(0.975) - 1.959_964).abs() < 1e-3);
    assert!((normal_quantile(0.995) - 2.575_829).abs() < 1e-3);
}

/// `iterations_per_s` of ten runs of one revision in real VMs on a busy host (2 CPUs, tcg), one of them far off.
const RECORDED_RATE: [f64; 10] = [
    572.0, 522.8, 510.4, 543.4, 575.0, 178.3, 571.7, 567.5, 644.4, 649.7,
];
/// `cpu_time_ms` of the same runs.
const RECORDED_CPU: [f64; 10] = [
    467.0, 477.8, 468.8, 478.1, 469.9, 377.2, 464.9, 472.1, 475.0, 476.4,
];

/// Pairs drawn from recorded figures, the second side times `slowdown`.
fn drawn(recorded: &[f64], n: usize, slowdown: f64, rng: &mut Rng) -> Pairs {
    let mut one = || recorded[rng.below(recorded.len())];
    let mut made = Pairs::default();
    for _ in 0..n {
        made.a.push(one());
        made.b.push(one() * slowdown);
    }
    made
}

#[test]
fn recorded_figures_against_themselves_raise_alarms_within_the_stated_rate() {
    for recorded in [RECORDED_RATE, RECORDED_CPU] {
        let mut rng = Rng::new(7);
        let trials = 300;
        let alarms = (0..trials)
            .filter(|_| {
                let made = drawn(&recorded, 10, 1.0, &mut rng);
                Ranks::of(&log_ratios(&made)).p(&mut rng) <= RULES.alpha
            })
            .count();
        // As above: 15 are the stated rate, 27 more than three standard deviations off.
        assert!(alarms <= 27, "{alarms} alarms in {trials}");
    }
}

#[test]
fn recorded_figures_made_a_tenth_slower_are_found_with_enough_pairs() {
    let mut rng = Rng::new(8);
    let mut found = |pairs| {
        let trials = 0..40;
        let found = trials.filter(|_| {
            let made = drawn(&RECORDED_CPU, pairs, 0.9, &mut rng);
            ask(&made, &mut rng).1 == Finding::Changed
        });
        found.count()
    };
    // One run in ten is a fifth off, twice the change that is sought: a few pairs cannot be sure of it.
    let (few, many) = (found(14), found(30));
    assert!(few >= 20, "{few} of 40 with 14 pairs");
    assert!(many >= 36, "{many} of 40 with 30 pairs");
}
