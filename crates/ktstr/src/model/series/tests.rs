//! Each check with a series that trips it, one that does not, and one that cannot be judged.

use serde_json::json;

use super::*;
use crate::model::claim::Verdict;
use crate::model::result::TimelineMark;
use crate::model::verdict::{DetailKind, Outcome};
use ktstr_wire::StepMark;

fn column(values: &[f64]) -> Column {
    let points: Vec<(u64, f64)> = (0..).step_by(100).zip(values.iter().copied()).collect();
    Column::of("queued", &points).unit("tasks")
}

/// The outcome of one check, and its text contains `part`.
#[track_caller]
fn check(run: impl FnOnce(&mut Verdict), outcome: Outcome, part: &str) {
    let mut verdict = Verdict::new();
    run(&mut verdict);
    let result = verdict.into_result();
    assert_eq!(result.outcome(), outcome, "{result:?}");
    let found = result.details.iter().any(|d| d.message.contains(part));
    assert!(found || part.is_empty(), "no {part:?} in {result:?}");
    let all = result.details.iter();
    assert!(
        all.clone().all(|d| d.kind == DetailKind::Temporal),
        "{result:?}"
    );
}

#[test]
fn growth() {
    let flat = column(&[1.0, 2.0, 2.0]);
    check(|v| flat.nondecreasing(v), Outcome::Pass, "");
    check(
        |v| flat.strictly_increasing(v),
        Outcome::Fail,
        "queued did not grow from 2 at 100 ms to 2 tasks at 200 ms",
    );
    let falling = column(&[3.0, 2.0, 1.0]);
    check(
        |v| falling.nondecreasing(v),
        Outcome::Fail,
        "queued fell from 3 at 0 ms to 2 tasks at 100 ms, expected it never to fall (2 times)",
    );
    let one = column(&[3.0]);
    check(
        |v| one.nondecreasing(v),
        Outcome::Inconclusive,
        "1 numbers, needs 2",
    );
    let nan = column(&[3.0, f64::NAN]);
    check(
        |v| nan.nondecreasing(v),
        Outcome::Inconclusive,
        "NaN at 100 ms",
    );
}

#[test]
fn rates() {
    let steady = column(&[0.0, 50.0, 90.0]);
    check(|v| steady.rate_within(v, 0.3, 0.5), Outcome::Pass, "");
    check(
        |v| steady.rate_within(v, 0.45, 1.0),
        Outcome::Fail,
        "queued grew by 0.4 tasks/ms from 100 to 200 ms",
    );
    let twice = Column::of("x", &[(5, 1.0), (5, 2.0)]);
    check(
        |v| twice.rate_within(v, 0.0, 1.0),
        Outcome::Inconclusive,
        "no rate",
    );
}

#[test]
fn steadiness_and_convergence() {
    let settling = column(&[100.0, 10.0, 11.0, 9.0, 10.0]);
    check(|v| settling.steady_within(v, 100, 0.11), Outcome::Pass, "");
    check(
        |v| settling.steady_within(v, 0, 0.11),
        Outcome::Fail,
        "is 100 tasks at 0 ms, expected within 11.0 % of its mean 28 tasks",
    );
    check(
        |v| settling.steady_within(v, 400, 0.1),
        Outcome::Inconclusive,
        "1 numbers after 400 ms",
    );
    check(
        |v| settling.converges_to(v, 10.0, 1.0, 400),
        Outcome::Pass,
        "",
    );
    check(
        |v| settling.converges_to(v, 10.0, 0.5, 400),
        Outcome::Fail,
        "expected 3 numbers in a row within 0.5 tasks of 10 by 400 ms",
    );
    check(
        |v| settling.converges_to(v, 10.0, 1.0, 100),
        Outcome::Inconclusive,
        "2 numbers in time",
    );
}

#[test]
fn ratios() {
    let (part, whole) = (column(&[1.0, 2.0]), column(&[4.0, 4.0]));
    check(
        |v| part.ratio_within(v, &whole, 0.25, 0.5),
        Outcome::Pass,
        "",
    );
    check(
        |v| part.ratio_within(v, &whole, 0.3, 0.5),
        Outcome::Fail,
        "queued / queued is 0.25 at 0 ms",
    );
    let zero = column(&[0.0, 4.0]);
    check(
        |v| part.ratio_within(v, &zero, 0.0, 9.0),
        Outcome::Inconclusive,
        "1 over 0 is not a finite ratio",
    );
    let elsewhere = Column::of("y", &[(7, 1.0)]);
    check(
        |v| part.ratio_within(v, &elsewhere, 0.0, 9.0),
        Outcome::Inconclusive,
        "no number at the same moment",
    );
}

#[test]
fn each_point_is_held_against_the_limit() {
    let values = column(&[1.0, 5.0, f64::NAN]);
    check(
        |v| values.each().at_least(v, 1.0),
        Outcome::Inconclusive,
        "is NaN",
    );
    check(
        |v| values.each().at_most(v, 4.0),
        Outcome::Fail,
        "queued at 100 ms (100 ms) is 5 tasks, expected at most 4 tasks",
    );
    check(
        |v| column(&[]).each().at_most(v, 4.0),
        Outcome::Inconclusive,
        "no sample",
    );
    let even = column(&[2.0, 4.0]);
    check(
        |v| even.always_true(v, "an even number", |n| n % 2.0 == 0.0),
        Outcome::Pass,
        "",
    );
    check(
        |v| even.each().between(v, 2.0, 3.0),
        Outcome::Fail,
        "expected 2 to 3 tasks",
    );
}

fn sample(tag: &str, at_ms: u64, step: u16, enqueued: u64) -> Sample {
    Sample::new(tag, at_ms)
        .in_step(step)
        .with_stats(json!({ "cpus": [{ "enqueued": enqueued }], "on": true }))
}

#[test]
fn paths_reach_into_statistics_and_say_what_is_missing() {
    let series = SampleSeries::new(vec![
        sample("periodic_001", 20, 1, 8),
        sample("periodic_000", 10, 1, 5),
        Sample::new("periodic_0002", 30),
    ]);
    let column = series.stats_path("cpus.0.enqueued");
    assert_eq!(column.numbers(), [(10, 5.0), (20, 8.0)]);
    assert_eq!(series.stats_path("on").numbers()[0].1, 1.0);
    assert_eq!(series.stats_members(), ["cpus.0.enqueued"]);
    assert_eq!(series.periodic_only().len(), 2);
    let mut verdict = Verdict::new();
    column.strictly_increasing(&mut verdict);
    let result = verdict.into_result();
    assert!(result.is_pass());
    assert!(
        result.info_notes[0].contains("1 of 3 samples have no number, the first at 30 ms"),
        "{result:?}"
    );
    let wrong = series.stats_path("cpus.0.deqeued");
    let reason = wrong.points()[0].value.as_ref().unwrap_err();
    assert_eq!(
        reason,
        "no \"deqeued\" in \"cpus.0.deqeued\"; there are: enqueued"
    );
}

#[test]
fn phases() {
    let mark = |step_index, elapsed_ms, total_iterations| StepMark {
        step_index,
        elapsed_ms,
        total_iterations,
        op_count: 0,
        op_kinds: 0,
        cgroup_count: 0,
        worker_count: 0,
    };
    let marks = [
        TimelineMark::StepStart(mark(1, 100, 10)),
        TimelineMark::StepEnd(mark(1, 1_100, 510)),
        TimelineMark::StepStart(mark(2, 1_200, 510)),
        TimelineMark::Terminal {
            elapsed_ms: 2_200,
            total_iterations: 1_510,
        },
    ];
    let mut buckets = buckets_of(&marks);
    let shape: Vec<_> = buckets
        .iter()
        .map(|b| (b.step_index, b.start_ms, b.end_ms, b.iteration_rate()))
        .collect();
    assert_eq!(
        shape,
        [
            (0, 0, 100, Some(0.0)),
            (1, 100, 1_100, Some(500.0)),
            (2, 1_200, 2_200, Some(1_000.0))
        ]
    );
    let unstamped = Sample {
        step_index: None,
        ..sample("periodic_002", 1_300, 0, 30)
    };
    let series = SampleSeries::new(vec![
        sample("a", 1, 1, 10),
        sample("b", 2, 1, 20),
        unstamped,
    ]);
    add_samples(&mut buckets, &series);
    let once = buckets.clone();
    add_samples(&mut buckets, &series);
    assert_eq!(buckets, once, "adding samples twice changes something");
    let counts: Vec<usize> = buckets.iter().map(|b| b.samples).collect();
    assert_eq!(counts, [0, 2, 1]);
    let metric = buckets[1].metrics["cpus.0.enqueued"];
    assert_eq!((metric.min, metric.mean, metric.last), (10.0, 15.0, 20.0));
    let column = series.stats_path("cpus.0.enqueued");
    assert_eq!(column.growth_by_phase()[&1], 10.0);
    check(
        |v| column.ratio_across_phases(v, (1, 7), 0.0, 1.0),
        Outcome::Inconclusive,
        "there are means of steps [1]",
    );
}

#[test]
fn no_marks_make_no_phases() {
    assert_eq!(buckets_of(&[]), []);
}

/// A guest that crashes in its first step has told where that began, and no more.
#[test]
fn a_step_that_never_ended_is_a_phase() {
    let start = StepMark {
        step_index: 1,
        elapsed_ms: 40,
        total_iterations: 0,
        op_count: 0,
        op_kinds: 0,
        cgroup_count: 0,
        worker_count: 0,
    };
    let mut buckets = buckets_of(&[TimelineMark::StepStart(start)]);
    let shape: Vec<_> = buckets.iter().map(|b| (b.step_index, b.start_ms)).collect();
    assert_eq!(shape, [(0, 0), (1, 40)]);
    add_samples(
        &mut buckets,
        &SampleSeries::new(vec![sample("a", 700, 1, 10)]),
    );
    assert_eq!((buckets[1].samples, buckets[1].end_ms), (1, 700));
}

/// A variable that goes below 0 is a number like any other; as an unsigned one there is none.
#[test]
fn negative_numbers_of_maps_stay_negative() {
    use ktstr_monitor::bpf::{BpfMap, MapContents};
    use ktstr_monitor::btf::TypeId;
    use ktstr_monitor::render::RenderedValue;
    use ktstr_monitor::{FailureDumpReport, Kva, MapSection};
    let with = |lag: i64| {
        let map = BpfMap {
            id: 1,
            name: "x.bss".into(),
            map_type: "array".into(),
            key_size: 4,
            value_size: 8,
            max_entries: 1,
            flags: 0,
            frozen: false,
            kva: Kva(0),
            btf: None,
            key_type: TypeId(0),
            value_type: TypeId(0),
            vmlinux_value_type: TypeId(0),
        };
        let members = vec![
            ("lag".to_owned(), RenderedValue::Signed(lag)),
            ("share".to_owned(), RenderedValue::Float(0.5)),
        ];
        FailureDumpReport {
            maps: vec![MapSection {
                map,
                contents: MapContents::Section(RenderedValue::Struct {
                    type_name: ".bss".into(),
                    members,
                }),
            }],
            ..FailureDumpReport::default()
        }
    };
    let samples = [(0, 5), (100, -5)].map(|(at, lag)| Sample {
        report: Ok(Arc::new(with(lag))),
        ..Sample::new("s", at)
    });
    let series = SampleSeries::new(samples.into());
    let lag = series.bpf(".bss", "lag");
    assert_eq!(lag.numbers(), [(0, 5.0), (100, -5.0)]);
    check(
        |v| lag.nondecreasing(v),
        Outcome::Fail,
        "fell from 5 at 0 ms to -5",
    );
    assert_eq!(series.bpf(".bss", "share").numbers()[0].1, 0.5);
    let report = with(-5);
    let value = Snapshot::new(&report)
        .unwrap()
        .map(".bss")
        .unwrap()
        .field("lag")
        .unwrap();
    assert_eq!(value.as_i64(), Ok(-5));
    let unsigned = value.as_u64().unwrap_err().to_string();
    assert!(
        unsigned.contains("is -5, not a number from 0 on"),
        "{unsigned}"
    );
}
