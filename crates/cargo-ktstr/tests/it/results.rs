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
    delta(
        &project,
        &["HEAD~1", "HEAD", "passes", "--threshold-abs", "500"],
        1,
    )
    .exits(0)
    .says(&["same"]);
    // With two pairs, neither an interval nor "the same" is a thing to say.
    let two = ["HEAD", "HEAD", "passes", "--pairs", "2"];
    delta(&project, &two, 1)
        .exits(2)
        .says(&["too few pairs", "unsure"]);
    let unsure = delta(&project, &["HEAD~1", "HEAD", "passes", "--pairs", "4"], 1);
    unsure
        .exits(2)
        .says(&["use at least 6", "more pairs would tell"]);
    delta(
        &project,
        &["HEAD~1", "HEAD", "passes", "--pairs", "4", "--allow-unsure"],
        1,
    )
    .exits(0);
}

#[test]
fn a_metric_that_falls_to_zero_or_vanishes_is_a_row_and_counts() {
    let project = Project::new();
    project.commit_speeds(&[1000, 0, -1]);
    let fallen = delta(&project, &["HEAD~2", "HEAD~1", "passes"], 1);
    fallen.exits(1).says(&["REGRESSION", " 0 1/s"]);
    let risen = delta(&project, &["HEAD~1", "HEAD~2", "passes"], 1);
    risen.exits(0).says(&["improvement", "from 0"]);
    let gone = ["HEAD~2", "HEAD", "passes", "--pairs", "2"];
    delta(&project, &gone, 1)
        .exits(1)
        .says(&["VANISHED: 2 pairs have it in A only"]);
    let new = ["HEAD", "HEAD~2", "passes", "--pairs", "2", "--json"];
    let json = delta(&project, &new, 1).exits(0).json();
    assert_eq!(json["rows"][0]["verdict"], "appeared", "{json:#}");
    assert_eq!(json["seed"], 1);
}

#[test]
fn perf_delta_names_its_kernel() {
    let project = Project::new();
    project.commit_speeds(&[1000]);
    std::fs::write(project.root().join("otherImage"), "no real kernel").unwrap();
    let kernel = |path: &str| {
        let args = [
            "perf-delta",
            ".",
            ".",
            "passes",
            "--pairs",
            "2",
            "--metric",
            "ops_per_s",
            "--json",
            "--kernel",
            path,
        ];
        project.run(&args).json()["kernel"].clone()
    };
    assert_eq!(
        (kernel("./bzImage"), kernel("./otherImage")),
        ("bzimage".into(), "otherimage".into())
    );
}

#[test]
fn a_comparison_is_no_run_and_no_trend() {
    let project = Project::new();
    project.commit_speeds(&[1000]);
    project
        .run(&["test", "--kernel", "./bzImage", "passes"])
        .exits(0);
    let trend = ["stats", "trend", "ops_per_s", "--json"];
    let last = ["stats", "last-run", "--json"];
    let before = [&trend[..], &last].map(|args| project.run(args).exits(0).json());
    delta(&project, &["HEAD", ".", "passes", "--pairs", "2"], 1).exits(2);
    let after = [&trend[..], &last].map(|args| project.run(args).exits(0).json());
    assert_eq!(before, after);
}

#[test]
fn runs_of_another_workspace_in_the_same_target_directory_are_not_taken() {
    let (mine, other) = (Project::new(), Project::new());
    let shared = mine.root().join("target");
    let run = |project: &Project, args: &[&str]| {
        let mut command = project.command(args);
        let output = command.env("CARGO_TARGET_DIR", &shared).output().unwrap();
        crate::fixture::Ran::new(output)
    };
    run(&mine, &["test", "--kernel", "./bzImage", "passes"]).exits(0);
    run(&other, &["test", "--kernel", "./bzImage", "fails"]).exits(1);
    let tests = |project: &Project| {
        let json = run(project, &["stats", "last-run", "--json"])
            .exits(0)
            .json();
        json[0]["test"].as_str().unwrap().to_owned()
    };
    assert_eq!(
        (tests(&mine), tests(&other)),
        ("passes".into(), "fails".into())
    );
    run(&mine, &["replay", "--dry-run"])
        .exits(0)
        .says(&["nothing failed"]);
    run(&mine, &["stats", "trend", "total_ms", "--test", "fails"])
        .exits(1)
        .says(&["no metric"]);
}

#[test]
fn perf_delta_says_what_it_cannot_compare() {
    let project = Project::new();
    project.commit_speeds(&[1000]);
    delta(&project, &["nope", "HEAD", "passes"], 1)
        .exits(1)
        .says(&["does not know revision 'nope'"]);
    delta(&project, &["HEAD", "HEAD", "no_such_test"], 1)
        .exits(1)
        .says(&["no test matches on both sides"]);
    delta(&project, &["HEAD", "HEAD", "passes", "--metric", "nope"], 1)
        .exits(1)
        .says(&["no metric 'nope'", "ops_per_s"]);
    project
        .run(&["perf-delta", ".", ".", "passes", "--kernel", "./bzImage"])
        .exits(1)
        .says(&["iterations_per_s or wake_p99_ns", "--metric"]);
    delta(&project, &["HEAD", "HEAD", "fails"], 1)
        .exits(1)
        .says(&["did not pass, left out: fails"]);
    delta(&project, &["HEAD", "HEAD", "passes", "--alpha", "2"], 1)
        .exits(1)
        .says(&["--alpha is 2"]);
}
