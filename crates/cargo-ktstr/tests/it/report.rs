//! The page and the trace: what is in them, and that a real browser shows it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::fixture::{Project, files_below, lacks};

/// A run with every verdict of the fake tests, and a timeline with queue depths for one of them.
fn project_with_a_run() -> (Project, PathBuf) {
    let project = Project::new();
    project
        .run(&[
            "test",
            "--kernel",
            "./bzImage",
            "--include-ignored",
            "--exact",
            "passes",
            "fails",
            "unsure",
            "skips",
        ])
        .exits(1);
    let sidecar = files_below(&project.runs())
        .into_iter()
        .find(|path| path.ends_with("fails.json"))
        .unwrap();
    let dir = sidecar.parent().unwrap().to_owned();
    let samples: Vec<Value> = (0..100)
        .map(|i| json!({"at_ms": 500.0 + f64::from(i) * 10.0, "nr_running": [i % 7, 1], "local_dsq": [i % 3, null]}))
        .collect();
    let timeline = json!({
        "schema": "ktstr.timeline/1", "duration_ms": 1600.0, "scenario_start_ms": 500.0, "samples": samples,
        "marks": [
            {"at_ms": 100.0, "kind": "stage", "text": "kernel up"},
            {"at_ms": 700.0, "kind": "capture", "text": "periodic_000"},
            {"at_ms": 900.0, "kind": "scheduler", "text": "scheduler ended by signal 11"},
        ],
    });
    fs::write(dir.join("fails.timeline.json"), timeline.to_string()).unwrap();
    // A failure text that would break a careless page.
    let text = fs::read_to_string(&sidecar)
        .unwrap()
        .replace("because of fails", "</pre><script>alert(1)</script>");
    fs::write(&sidecar, text).unwrap();
    (project, dir)
}

#[test]
fn a_page_for_maintainers_holds_the_failure_and_nothing_of_the_machine() {
    let (project, dir) = project_with_a_run();
    let path = dir.join("fails.json");
    let mut record: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let host_path = dir.join("src/lib.rs:12");
    let finding = format!("worker 3 waited at {}", host_path.display());
    record["result"]["details"][0]["message"] = json!(finding);
    record["clock"] = json!("virtual");
    record["seed"] = json!(7);
    record["speed"] = json!(62_500_000);
    record["fingerprint"] = json!("00000000000000ab");
    record["message"] = json!(format!(
        "BUG SUMMARY: queue seven is gone\n--- timeline\n      0 ms  step 0 starts\n--- sched_ext dump\n  cpu 1: idle\n\
         --- artifacts\n  {}/fails.console\nkernel: 6.12 ({}/bzImage)\n",
        dir.display(),
        dir.display()
    ));
    fs::write(&path, record.to_string()).unwrap();
    let ran = project.run(&["report", "fails", "--for-maintainers"]);
    ran.exits(0).says(&[
        "queue seven is gone\n===================\n",
        "kernel     6.12\n",
        "machine    1n1l2c1t: 2 CPUs; ",
        "time       virtual, seed 7, 62 million",
        "worker 3 waited at lib.rs:12",
        "cargo ktstr replay fails --seed 7 --fingerprint 00000000000000ab",
        "Steps\n-----\n    0 ms  step 0 starts",
        "State at the failure",
        "cpu 1: idle",
    ]);
    let root = project.root().display().to_string();
    assert!(!ran.stdout.contains(&root), "{}", ran.stdout);
    assert!(!ran.stdout.contains("fails.console"), "{}", ran.stdout);
    project
        .run(&["report", "passes", "--for-maintainers"])
        .exits(1)
        .says(&["'passes' did not fail"]);
    project
        .run(&["report", "nobody", "--for-maintainers"])
        .exits(1)
        .says(&["no test 'nobody'", "fails, "]);
    project.run(&["report", "fails"]).exits(64);
    project.run(&["report", "--for-maintainers"]).exits(64);
}

#[test]
fn the_page_holds_everything_and_needs_nothing() {
    let (project, dir) = project_with_a_run();
    let ran = project.run(&["report"]);
    ran.exits(0);
    let path = PathBuf::from(ran.stdout.trim());
    assert_eq!(path, dir.join("report.html"));
    let page = fs::read_to_string(&path).unwrap();
    for needed in [
        "<!doctype html>",
        "lang=en",
        "name=viewport",
        "prefers-color-scheme: dark",
        "fails.failure-dump.json",
        "queue seven is gone",
        "no such device",
        "CPU 0",
        "periodic_000 at 700 ms",
        "scheduler ended by signal 11",
        "--include-ignored --exact fails",
        "ops_per_s",
    ] {
        assert!(page.contains(needed), "{needed:?} is not in the page");
    }
    for foreign in ["http://", "https://", " src=", "<link", "@import", "url("] {
        assert!(!page.contains(foreign), "the page reaches out: {foreign}");
    }
    assert!(
        !page.contains("<script>alert"),
        "text of a test became markup"
    );
    assert_eq!(page.matches("<details id=t").count(), 4);
    assert_eq!(
        page.matches("<details").count(),
        page.matches("</details>").count()
    );
    assert_eq!(page.matches("<div").count(), page.matches("</div>").count());
    project
        .run(&["report", "--run", "nope"])
        .exits(1)
        .says(&["no run 'nope'"]);
    project
        .run(&["report", "--output", "Cargo.toml/x.html"])
        .exits(1)
        .says(&["cannot be written", "Cargo.toml/x.html"]);
}

#[test]
fn the_trace_is_what_the_viewer_reads() {
    let (project, _) = project_with_a_run();
    project
        .run(&["report", "--perfetto", "trace.json"])
        .exits(0);
    let trace: Value =
        serde_json::from_slice(&fs::read(project.root().join("trace.json")).unwrap()).unwrap();
    let events = trace["traceEvents"].as_array().unwrap();
    for event in events {
        // What the format's description demands of each kind of event.
        assert!(
            event["pid"].is_u64() && event["name"].is_string(),
            "{event}"
        );
        match event["ph"].as_str().unwrap() {
            "X" => assert!(
                event["ts"].is_number() && event["dur"].as_f64().unwrap() >= 0.0,
                "{event}"
            ),
            "C" => assert!(
                event["ts"].is_number() && event["args"]["tasks"].is_u64(),
                "{event}"
            ),
            "i" => assert!(event["ts"].is_number() && event["s"] == "t", "{event}"),
            "M" => assert!(event["args"].is_object(), "{event}"),
            other => panic!("unexpected phase {other}"),
        }
    }
    let counters = |name: &str| events.iter().filter(|event| event["name"] == name).count();
    assert_eq!(counters("CPU 000 runnable"), 100);
    assert_eq!(counters("CPU 000 local DSQ"), 100);
    assert_eq!(
        counters("CPU 001 local DSQ"),
        0,
        "a queue that does not exist has no track"
    );
    assert!(
        events
            .iter()
            .any(|event| event["name"] == "boot" && event["dur"] == 1000.0)
    );
}

fn browser() -> Option<&'static str> {
    ["chromium", "chromium-browser", "google-chrome"]
        .into_iter()
        .find(|name| {
            Command::new(name)
                .arg("--version")
                .output()
                .is_ok_and(|output| output.status.success())
        })
}

/// Looks at the page from inside of the browser, after using its keys.
const PROBE: &str = r#"<script>{
const press = (key) => (document.activeElement || document.body).dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
const here = () => { const test = document.activeElement.closest("details.test"); return test ? test.dataset.verdict : null; };
const found = {};
found.width = innerWidth;
found.overflow = document.documentElement.scrollWidth - innerWidth;
found.ground = getComputedStyle(document.body).backgroundColor;
found.strips = Array.from(document.querySelectorAll(".strip")).map((strip) => strip.getBoundingClientRect().width > 50 && strip.querySelectorAll("rect").length > 20);
found.open = Array.from(document.querySelectorAll("details.test[open]")).map((test) => test.dataset.verdict).sort();
press("j"); found.first = here();
press("j"); press("j"); press("k"); found.second = here();
document.activeElement.blur(); press("f"); found.failure = here();
document.activeElement.blur(); press("/"); found.filtering = document.activeElement.id;
const filter = document.getElementById("filter"); filter.value = "skips"; filter.dispatchEvent(new Event("input"));
found.filtered = document.getElementById("shown").textContent;
filter.value = ""; filter.dispatchEvent(new Event("input"));
const bad = document.getElementById("bad");
bad.focus(); bad.click(); press("j"); found.badonly = here(); bad.checked = false; bad.dispatchEvent(new Event("change"));
found.labels = Array.from(document.querySelectorAll(".axis i")).map((label) => {
  const box = label.getBoundingClientRect();
  return label.scrollHeight < 30 && box.left >= 0 && box.right <= innerWidth;
});
document.querySelector("td.pass a").click();
document.body.dataset.found = JSON.stringify(found);
}</script></body>"#;

fn probe(browser: &str, page: &Path, size: &str, dark: bool) -> Value {
    let home = tempfile::tempdir().unwrap();
    let scheme = if dark { "0" } else { "1" };
    let output = Command::new(browser)
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            "--virtual-time-budget=2000",
            "--dump-dom",
        ])
        .arg(format!("--user-data-dir={}", home.path().display()))
        .arg(format!("--window-size={size}"))
        .arg(format!("--blink-settings=preferredColorScheme={scheme}"))
        .arg(format!("file://{}", page.display()))
        .output()
        .unwrap();
    let dom = String::from_utf8_lossy(&output.stdout).into_owned();
    let found = dom
        .split_once("data-found=\"")
        .and_then(|(_, rest)| rest.split('"').next())
        .unwrap_or_else(|| {
            panic!(
                "no probe in:\n{dom}\n{}",
                String::from_utf8_lossy(&output.stderr)
            )
        });
    serde_json::from_str(&found.replace("&quot;", "\"")).unwrap()
}

#[test]
fn a_browser_shows_it_wide_narrow_light_and_dark() {
    let Some(browser) = browser() else {
        return lacks(
            "chromium",
            "there is no Chromium on this host; `cargo xtask setup --checks` installs it",
        );
    };
    let (project, dir) = project_with_a_run();
    project.run(&["report"]).exits(0);
    let page = fs::read_to_string(dir.join("report.html")).unwrap();
    let probed = dir.join("probed.html");
    fs::write(&probed, page.replace("</body>", PROBE)).unwrap();

    let wide = probe(browser, &probed, "1280,900", false);
    assert_eq!(wide["overflow"], 0, "{wide}");
    assert_eq!(wide["strips"], json!([true, true, true]), "{wide}");
    assert_eq!(wide["open"], json!(["fail", "inconclusive"]), "{wide}");
    assert_eq!(
        (&wide["first"], &wide["second"]),
        (&json!("fail"), &json!("pass")),
        "{wide}"
    );
    assert_eq!(
        (&wide["failure"], &wide["filtering"]),
        (&json!("fail"), &json!("filter")),
        "{wide}"
    );
    assert_eq!(wide["filtered"], "1 of 4 shown", "{wide}");

    assert_eq!(
        wide["badonly"], "fail",
        "the keys work after a click on it: {wide}"
    );

    let phone = probe(browser, &probed, "390,844", false);
    for view in [&wide, &phone] {
        let labels = view["labels"].as_array().unwrap();
        assert!(
            labels.len() > 5 && labels.iter().all(|whole| *whole == true),
            "{view}"
        );
    }
    assert!(phone["width"].as_u64().unwrap() <= 500, "{phone}");
    assert_eq!(phone["overflow"], 0, "{phone}");
    let dark = probe(browser, &probed, "1280,900", true);
    assert_ne!(dark["ground"], wide["ground"]);
}
