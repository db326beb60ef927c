//! What happened when, as a file for tools: `<test>.timeline.json`.
//!
//! Every time is in milliseconds since the start of the VM, on the host's clock. Phases of the sidecar count from the
//! scenario's start in the guest; [`Timeline::scenario_start_ms`] joins the two.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ktstr_monitor::sampler::MonitorReport;
use ktstr_wire::Message;
use serde::{Deserialize, Serialize};

use crate::host::evidence::artifacts::{ArtifactError, artifact_path, write_atomic};
use crate::model::result::VmResult;
use crate::model::series::SampleSeries;

/// Names the layout of [`Timeline`]; a reader checks it first.
pub const TIMELINE_SCHEMA: &str = "ktstr.timeline/1";

/// Marks and samples of one run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Timeline {
    /// [`TIMELINE_SCHEMA`].
    pub schema: String,
    /// From the VM's start to its end.
    pub duration_ms: f64,
    /// When the scenario began; absent when it never did.
    pub scenario_start_ms: Option<f64>,
    /// Boundaries and events, in time order.
    pub marks: Vec<Mark>,
    /// Runqueues, in time order.
    pub samples: Vec<DepthSample>,
}

/// One moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Mark {
    /// When.
    pub at_ms: f64,
    /// What kind of moment.
    pub kind: MarkKind,
    /// In words.
    pub text: String,
}

/// What kind of moment a mark is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum MarkKind {
    /// The guest got this far.
    Stage,
    /// A step of the scenario began or ended.
    Step,
    /// A capture of the kernel's state.
    Capture,
    /// The scheduler did something: attached, left, crashed.
    Scheduler,
    /// The guest crashed.
    Crash,
}

/// The queues of all CPUs at one moment, by CPU number.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct DepthSample {
    /// When.
    pub at_ms: f64,
    /// Runnable tasks.
    pub nr_running: Vec<u32>,
    /// Tasks in the local dispatch queue; absent without sched_ext.
    pub local_dsq: Vec<Option<u32>>,
}

impl Timeline {
    /// The marks that the guest's frames tell.
    #[must_use]
    pub fn of(vm: &VmResult) -> Self {
        let mut timeline = Self {
            schema: TIMELINE_SCHEMA.to_owned(),
            duration_ms: millis(vm.duration),
            ..Self::default()
        };
        let frames = vm
            .guest_messages
            .iter()
            .flat_map(|frames| frames.messages());
        for (at, message) in frames {
            let at_ms = millis(at);
            if matches!(message, Message::ScenarioStart) {
                timeline.scenario_start_ms = Some(at_ms);
            }
            if let Some((kind, text)) = describe(&message) {
                timeline.marks.push(Mark { at_ms, kind, text });
            }
        }
        timeline
    }

    /// Adds what the monitor sampled; its clock begins with the VM.
    pub fn add_samples(&mut self, report: &MonitorReport) {
        for sample in &report.samples {
            self.samples.push(DepthSample {
                at_ms: sample.elapsed_ms as f64,
                nr_running: sample.cpus.iter().map(|cpu| cpu.nr_running).collect(),
                local_dsq: sample.cpus.iter().map(|cpu| cpu.local_dsq_depth).collect(),
            });
        }
    }

    /// Adds the captures; without a scenario's start there is no telling when they were.
    pub fn add_captures(&mut self, captures: &SampleSeries) {
        let Some(start) = self.scenario_start_ms else {
            return;
        };
        for capture in captures.iter() {
            let text = match &capture.report {
                Ok(report) if !report.is_placeholder => capture.tag.clone(),
                _ => format!("{} (nothing was captured)", capture.tag),
            };
            self.add_mark(Mark {
                at_ms: start + capture.elapsed_ms as f64,
                kind: MarkKind::Capture,
                text,
            });
        }
    }

    /// Adds a mark at its place in time.
    pub fn add_mark(&mut self, mark: Mark) {
        let place = self
            .marks
            .partition_point(|earlier| earlier.at_ms <= mark.at_ms);
        self.marks.insert(place, mark);
    }

    /// Writes `<dir>/<test>.timeline.json`.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, dir: &Path, test: &str) -> Result<PathBuf, ArtifactError> {
        let path = path_of(dir, test);
        let json = serde_json::to_vec(self).map_err(|error| ArtifactError {
            action: "serialise",
            path: path.clone(),
            source: std::io::Error::other(error),
        })?;
        write_atomic(&path, &json)?;
        Ok(path)
    }

    /// Reads the timeline of a test, if it left a good one.
    #[must_use]
    pub fn read(dir: &Path, test: &str) -> Option<Self> {
        let bytes = fs::read(path_of(dir, test)).ok()?;
        let timeline: Self = serde_json::from_slice(&bytes).ok()?;
        (timeline.schema == TIMELINE_SCHEMA).then_some(timeline)
    }
}

fn path_of(dir: &Path, test: &str) -> PathBuf {
    artifact_path(dir, test, "timeline.json")
}

fn describe(message: &Message) -> Option<(MarkKind, String)> {
    Some(match message {
        Message::Lifecycle(life) => (MarkKind::Stage, life.stage.as_str().to_owned()),
        Message::Stimulus(step) => (MarkKind::Step, format!("step {} starts", step.step_index)),
        Message::StepEnd(step) => (MarkKind::Step, format!("step {} ends", step.step_index)),
        Message::ScenarioEnd(_) => (MarkKind::Step, String::from("scenario ends")),
        Message::SchedExit(exit) => {
            let how = match (exit.code, exit.signal) {
                (Some(code), _) => format!("with status {code}"),
                (None, Some(signal)) => format!("by signal {signal}"),
                (None, None) => String::from("for a reason unknown"),
            };
            let asked = match &exit.stop {
                None => "",
                Some(stop) if stop.killed => ", asked to stop and killed",
                Some(_) => ", as it was asked to",
            };
            (MarkKind::Scheduler, format!("scheduler ended {how}{asked}"))
        }
        Message::Crash { .. } => (MarkKind::Crash, String::from("guest crashed")),
        _ => return None,
    })
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_other_layouts_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let vm = VmResult {
            duration: Duration::from_millis(1500),
            ..VmResult::test_fixture()
        };
        let mut timeline = Timeline::of(&vm);
        let mark = |at_ms: f64| Mark {
            at_ms,
            kind: MarkKind::Capture,
            text: String::new(),
        };
        for at_ms in [5.0, 1.0, 3.0] {
            timeline.add_mark(mark(at_ms));
        }
        timeline.write(dir.path(), "t").unwrap();
        let back = Timeline::read(dir.path(), "t").unwrap();
        assert_eq!(back, timeline);
        let times: Vec<f64> = back.marks.iter().map(|mark| mark.at_ms).collect();
        assert_eq!(times, [1.0, 3.0, 5.0]);
        fs::write(path_of(dir.path(), "t"), "{\"schema\":\"other\"}").unwrap();
        assert_eq!(Timeline::read(dir.path(), "t"), None);
    }
}
