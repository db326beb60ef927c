//! Tests times presets, and schedulers times presets.

use crate::fixture::Project;

#[test]
fn the_gauntlet_runs_tests_on_presets_within_limits() {
    let project = Project::new();
    let list = |extra: &[&str]| {
        let mut args = vec!["test", "--kernel", "./bzImage", "--gauntlet", "--list"];
        args.extend(extra);
        let ran = project.run(&args);
        ran.exits(0);
        ran.stdout
    };
    assert_eq!(list(&["--max-cpus", "8"]), "fails@small\npasses@small\n");
    assert_eq!(
        list(&["--max-cpus", "200", "passes"]),
        "passes@small\npasses@large\n"
    );
    assert_eq!(
        list(&["--preset", "small", "--max-cpus", "8", "passes"]),
        "passes@small\n"
    );
    // 1.5 s and 0.85 s per CPU to boot, 3 s of scenario, 2 s around: 9.9 s for four CPUs.
    assert_eq!(
        list(&["--max-cpus", "200", "--budget", "12"])
            .lines()
            .count(),
        1
    );
    let refused = |extra: &[&str], needles: &[&str]| {
        let mut args = vec!["test", "--kernel", "./bzImage", "--gauntlet"];
        args.extend(extra);
        project.run(&args).exits(1).says(needles);
    };
    refused(&["--preset", "tiny"], &["no preset 'tiny'", "small"]);
    refused(&["--budget", "1"], &["no cell is left", "--budget"]);
    for runner in ["cargo", "auto"] {
        let mut args = vec![
            "test",
            "--kernel",
            "./bzImage",
            "--gauntlet",
            "--max-cpus",
            "8",
            "--runner",
            runner,
        ];
        args.push("passes");
        project
            .run(&args)
            .exits(0)
            .says(&["gauntlet of 1 of 1 cells", "1 test in", "1 passed"]);
    }
    // A cell is a test like any other: named, rerun, replayed.
    project
        .run(&[
            "test",
            "--kernel",
            "./bzImage",
            "--include-ignored",
            "--exact",
            "fails@small",
        ])
        .exits(1);
    project
        .run(&["replay"])
        .exits(1)
        .says(&["FAIL fails@small"]);
}

#[test]
fn the_verifiers_sweep_shows_grid_counts_and_reruns() {
    let project = Project::new();
    let ran = project.run(&["verifier", "--kernel", "./bzImage"]);
    ran.exits(1).says(&[
        "✓",
        "✗",
        "s_enqueue",
        "250000",
        "75.0 %",
        "fail bad on small",
        "--exact verify-bad@small",
    ]);
    let good = project.run(&[
        "verifier",
        "--kernel",
        "./bzImage",
        "--scheduler",
        "good",
        "--json",
    ]);
    let json = good.exits(0).json();
    assert_eq!(json.as_array().unwrap().len(), 2);
    assert_eq!(json[1]["programs"][0]["headroom_pct"], 75.0);
    project
        .run(&["verifier", "--kernel", "./bzImage", "--scheduler", "none"])
        .exits(1)
        .says(&["no cell is left", "bad, good"]);
    project
        .run(&["verifier", "--kernel", "./gone"])
        .exits(1)
        .says(&["./gone"]);
}
