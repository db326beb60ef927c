//! Probes of a second run: trace events and function calls into the kernel's own ring buffer, which a scheduler's exit
//! closes, so that it keeps what led there (Documentation/trace/{events,kprobetrace}.rst).
//!
//! Whatever a kernel does not offer is left out and named.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::path::Path;

use serde::{Deserialize, Serialize};

/// Where the kernel's tracing lies.
pub(crate) const TRACING: &str = "/sys/kernel/tracing";
/// Group of our own function probes.
const GROUP: &str = "ktstr";
/// Longest record that is passed on: its end is what counts.
const MAX_RECORD: usize = 1 << 20;
/// Longest text that is read from the ring buffer.
const MAX_READ: u64 = 64 << 20;

/// What to record.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbePlan {
    /// Trace events: `group/name`, or a whole `group`.
    pub events: Vec<String>,
    /// Kernel functions whose calls are recorded.
    pub functions: Vec<String>,
    /// Kernel functions that end the record; the first one that this kernel has is used.
    pub stop_at: Vec<String>,
    /// Size of each CPU's ring buffer.
    pub buffer_kib: u32,
}

/// What became of a plan.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeReport {
    /// What was recorded.
    pub armed: Vec<String>,
    /// What could not be, and why.
    pub refused: Vec<(String, String)>,
    /// The function that ends the record.
    pub stop_at: Option<String>,
    /// It did: the record's end is that moment.
    pub stopped: bool,
}

/// Begins to record.
pub(crate) fn arm(root: &Path, plan: &ProbePlan) -> ProbeReport {
    let mut report = ProbeReport::default();
    let settings = [
        ("tracing_on", String::from("0")),
        ("buffer_size_kb", plan.buffer_kib.to_string()),
        // The clock of frames.
        ("trace_clock", String::from("mono")),
    ];
    for (file, value) in settings {
        note(&mut report.refused, file, put(&root.join(file), &value));
    }
    for event in &plan.events {
        let enable = root.join("events").join(event).join("enable");
        if note(&mut report.refused, event, put(&enable, "1")) {
            report.armed.push(event.clone());
        }
    }
    for function in &plan.functions {
        if note(&mut report.refused, function, probe(root, function, "1")) {
            report.armed.push(function.clone());
        }
    }
    for function in &plan.stop_at {
        let name = format!("{function}(stop)");
        let stops = probe(root, function, "1").and_then(|()| {
            let trigger = event_dir(root, function).join("trigger");
            put(&trigger, "traceoff")
        });
        if note(&mut report.refused, &name, stops) {
            report.stop_at = Some(function.clone());
            // Those of other kernels are missing here, which is no news.
            report.refused.retain(|(what, _)| !what.ends_with("(stop)"));
            break;
        }
    }
    note(
        &mut report.refused,
        "tracing_on",
        put(&root.join("tracing_on"), "1"),
    );
    report
}

/// Ends the record and returns its end.
pub(crate) fn collect(root: &Path, report: &mut ProbeReport) -> Vec<u8> {
    let on = root.join("tracing_on");
    report.stopped =
        report.stop_at.is_some() && fs::read_to_string(&on).is_ok_and(|text| text.trim() == "0");
    note(&mut report.refused, "tracing_on", put(&on, "0"));
    let mut record = Vec::new();
    let read = fs::File::open(root.join("trace"))
        .and_then(|file| file.take(MAX_READ).read_to_end(&mut record));
    note(&mut report.refused, "trace", read.map(drop));
    let surplus = record.len().saturating_sub(MAX_RECORD);
    if surplus > 0 {
        record.drain(..surplus);
        let line = record.iter().position(|byte| *byte == b'\n');
        record.drain(..line.map_or(0, |end| end + 1));
    }
    record
}

fn note(refused: &mut Vec<(String, String)>, what: &str, done: io::Result<()>) -> bool {
    match done {
        Ok(()) => true,
        Err(error) => {
            refused.push((what.to_owned(), error.to_string()));
            false
        }
    }
}

fn event_name(function: &str) -> String {
    function.replace(|c: char| !c.is_ascii_alphanumeric(), "_")
}

fn event_dir(root: &Path, function: &str) -> std::path::PathBuf {
    root.join("events").join(GROUP).join(event_name(function))
}

/// Makes an event of a function's entry, and turns it on.
fn probe(root: &Path, function: &str, enable: &str) -> io::Result<()> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.');
    if function.is_empty() || !function.chars().all(plain) {
        return Err(io::Error::other("no function's name"));
    }
    let line = format!("p:{GROUP}/{} {function}\n", event_name(function));
    put(&root.join("kprobe_events"), &line)?;
    put(&event_dir(root, function).join("enable"), enable)
}

/// Adds to a file of the kernel's, which takes each write as a command and is never made by us.
fn put(path: &Path, text: &str) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().append(true).open(path)?;
    file.write_all(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    /// A made-up tracing directory with these files.
    fn tracing(files: &[&str]) -> (tempfile::TempDir, impl Fn(&str) -> String) {
        let dir = tempfile::tempdir().unwrap();
        for file in files {
            let path = dir.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        let root: PathBuf = dir.path().to_owned();
        (dir, move |file: &str| {
            fs::read_to_string(root.join(file)).unwrap()
        })
    }

    fn plan() -> ProbePlan {
        ProbePlan {
            events: vec!["sched/sched_switch".into(), "nothing".into()],
            functions: vec!["do_it.isra.0".into(), "bad name".into()],
            stop_at: vec!["older_exit".into(), "exit_fn".into()],
            buffer_kib: 64,
        }
    }

    #[test]
    fn what_a_kernel_has_is_armed_and_the_rest_is_named() {
        let (dir, text) = tracing(&[
            "tracing_on",
            "buffer_size_kb",
            "trace_clock",
            "kprobe_events",
            "trace",
            "events/sched/sched_switch/enable",
            "events/ktstr/do_it_isra_0/enable",
            "events/ktstr/exit_fn/enable",
            "events/ktstr/exit_fn/trigger",
        ]);
        let report = arm(dir.path(), &plan());
        assert_eq!(report.armed, ["sched/sched_switch", "do_it.isra.0"]);
        let refused: Vec<&str> = report
            .refused
            .iter()
            .map(|(what, _)| what.as_str())
            .collect();
        assert_eq!(refused, ["nothing", "bad name"]);
        assert_eq!(report.stop_at.as_deref(), Some("exit_fn"));
        assert_eq!(text("events/ktstr/exit_fn/trigger"), "traceoff");
        assert!(text("kprobe_events").contains("p:ktstr/do_it_isra_0 do_it.isra.0\n"));
        assert_eq!(text("tracing_on"), "01");
    }

    #[test]
    fn the_records_end_is_kept_and_whether_the_exit_closed_it() {
        let (dir, _) = tracing(&["tracing_on", "trace"]);
        let mut report = ProbeReport {
            stop_at: Some("exit_fn".into()),
            ..ProbeReport::default()
        };
        fs::write(dir.path().join("tracing_on"), "0\n").unwrap();
        let line = "0123456789".repeat(10) + "\n";
        let long = line.repeat(MAX_RECORD / line.len() + 5) + "last\n";
        fs::write(dir.path().join("trace"), &long).unwrap();
        let record = collect(dir.path(), &mut report);
        assert!(report.stopped);
        assert!(record.len() <= MAX_RECORD && record.ends_with(b"last\n"));
        assert!(record.starts_with(b"0123456789"));
    }

    #[test]
    fn a_kernel_without_tracing_is_told() {
        let mut report = arm(Path::new("/no/such"), &plan());
        assert!(
            report.armed.is_empty() && report.refused.len() >= 7,
            "{report:?}"
        );
        assert!(collect(Path::new("/no/such"), &mut report).is_empty());
        assert!(!report.stopped);
    }
}
