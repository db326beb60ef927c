//! `stats` and `perf-delta`.

use crate::fixture::Project;

#[test]
fn stats_show_the_last_run_and_what_changed() {
    let project = Project::new();
    project
        .run(&["stats"])
        .exits(1)
        .says(&["no results", "cargo ktstr test"]);
    project.run(&["test", "--kernel", "./bzImage"]).exits(1);
    project
        .run(&["stats"])
        .exits(0)
        .says(&["passes", "new", "queue seven is gone", "bzimage"]);
    project.run(&["test", "--kernel", "./bzImage"]).exits(1);
    let json = project
        .run(&["stats", "last-run", "--json"])
        .exits(0)
        .json();
    assert_eq!(json[0]["test"], "fails");
    assert_eq!(json[0]["before"], "fail");
    project
        .run(&["stats", "last-run", "--run", "nope"])
        .exits(1)
        .says(&["no run 'nope'"]);
}

#[test]
fn trends_follow_a_metric_over_runs() {
    let project = Project::new();
    project
        .run(&["stats", "trend", "ops_per_s"])
        .exits(1)
        .says(&["no run has left any figures"]);
    for _ in 0..3 {
        project
            .run(&["test", "--kernel", "./bzImage", "passes"])
            .exits(0);
    }
    project
        .run(&["stats", "trend", "ops_per_s"])
        .exits(0)
        .says(&["passes on bzimage: ops_per_s 1/s", "CHANGE"]);
    let json = project
        .run(&[
            "stats",
            "trend",
            "ops_per_s",
            "--test",
            "passes",
            "--last",
            "2",
            "--json",
        ])
        .exits(0)
        .json();
    assert_eq!(json.as_array().unwrap().len(), 2);
    project
        .run(&["stats", "trend", "ops_per_hour"])
        .exits(1)
        .says(&["'ops_per_hour'", "did you mean ops_per_s"]);
    project.run(&["stats", "list-metrics"]).exits(0).says(&[
        "ops_per_s",
        "higher is better",
        "total_ms",
    ]);
}

fn delta(project: &Project, extra: &[&str], seed: usize) -> crate::fixture::Ran {
    let seed = seed.to_string();
    let mut args = vec![
        "perf-delta",
        "--kernel",
        "./bzImage",
        "--metric",
        "ops_per_s",
        "--exact",
        "--seed",
        &seed,
    ];
    args.extend(extra);
    let output = project
        .command(&args)
        .env("FAKE_SEED", &seed)
        .output()
        .unwrap();
    crate::fixture::Ran::new(output)
}

#[test]
fn a_revision_against_itself_raises_alarms_within_the_stated_rate() {
    let project = Project::new();
    project.commit_speeds(&[1000]);
    let alarms = (0..20)
        .filter(|seed| {
            let ran = delta(&project, &["HEAD", "HEAD", "passes", "--json"], *seed);
            let json = ran.json();
            assert_eq!(json["pairs"], 10, "{json}");
            let verdict = json["rows"][0]["verdict"].as_str().unwrap();
            matches!(verdict, "regression" | "improvement")
        })
        .count();
    // At most 5 % each: more than 3 of 20 comes by chance once in sixty.
    assert!(alarms <= 3, "{alarms} of 20");
}

#[test]
fn ten_percent_slower_is_a_regression_with_its_figures() {
    let project = Project::new();
    project.commit_speeds(&[1000, 900]);
    let ran = delta(&project, &["HEAD~1", "HEAD", "passes"], 1);
    ran.exits(1).says(&[
        "REGRESSION",
        "HEAD~1 (",
        "10 pairs",
        "at most 5.0 %",
        "--seed 1",
        "95 % INTERVAL",
    ]);
    delta(&project, &["HEAD", "HEAD~1", "passes"], 1)
        .exits(0)
        .says(&["improvement"]);
    // The working tree is HEAD here.
    delta(&project, &["HEAD~1", ".", "passes"], 1).exits(1);
    delta(
        &project,
        &["HEAD~1", "HEAD", "passes", "--threshold", "30"],
        1,
    )
    .exits(0)
    .says(&["same"]);
    let unsure = delta(&project, &["HEAD~1", "HEAD", "passes", "--pairs", "4"], 1);
    unsure
        .exits(2)
        .says(&["it takes at least 6", "more pairs would tell"]);
    delta(
        &project,
        &["HEAD~1", "HEAD", "passes", "--pairs", "4", "--allow-unsure"],
        1,
    )
    .exits(0);
}

#[test]
fn perf_delta_says_what_it_cannot_compare() {
    let project = Project::new();
    project.commit_speeds(&[1000]);
    delta(&project, &["nope", "HEAD", "passes"], 1)
        .exits(1)
        .says(&["no revision 'nope'"]);
    delta(&project, &["HEAD", "HEAD", "no_such_test"], 1)
        .exits(1)
        .says(&["no test matches on both sides"]);
    delta(&project, &["HEAD", "HEAD", "passes", "--metric", "nope"], 1)
        .exits(1)
        .says(&["no metric 'nope'", "ops_per_s"]);
    delta(&project, &["HEAD", "HEAD", "fails"], 1)
        .exits(1)
        .says(&["did not pass, left out: fails"]);
    delta(&project, &["HEAD", "HEAD", "passes", "--alpha", "2"], 1)
        .exits(1)
        .says(&["--alpha is 2"]);
}
