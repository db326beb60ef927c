//! What one boot of a VM left behind: the input of evaluation and of `post_vm` callbacks.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use ktstr_monitor::bpf::ProgVerifierStats;
use ktstr_monitor::sampler::MonitorReport;
use ktstr_monitor::sched::WatchdogOverride;
use ktstr_vmm::{BlkCounters, Clock, Engine, ExitReason, NetCounters, VirtualRun};
use ktstr_wire::{Message, Stage};
use serde::{Deserialize, Serialize};

use super::phase::PhaseKey;
pub use super::series::TimelineMark;
use super::series::{MonitorSeries, Sample, SampleSeries, add_samples, buckets_of};
use super::snapshot::{Snapshot, SnapshotBridge};
use super::stage::{StageSummary, summarize_stages};
use super::stats::{PhaseBucket, PhaseCgroupStats};
use super::stats_client::StatsClient;
use super::verdict::AssertResult;

/// One frame of the guest, in the order of its arrival.
#[derive(Debug, Clone, PartialEq)]
pub struct BulkEntry {
    /// The frame as assembled, damaged ones included.
    pub frame: ktstr_wire::Frame,
    /// Host time since the VM was started, when the frame was complete.
    pub host_elapsed: Duration,
}

impl BulkEntry {
    /// True when the frame's checksum held.
    #[must_use]
    pub fn crc_ok(&self) -> bool {
        self.frame.crc_ok
    }

    /// The message, or `None` for a damaged or unknown frame.
    #[must_use]
    pub fn message(&self) -> Option<Message> {
        if self.frame.crc_ok {
            self.frame.decode().ok()
        } else {
            None
        }
    }
}

/// Every frame of one run that is meant for result consumers, and what the stream lost.
///
/// Requests and SysReady are the coordinator's own and are not in here.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct BulkDrainResult {
    /// Frames in order of arrival.
    pub entries: Vec<BulkEntry>,
    /// Sequence gaps seen.
    pub gaps: u64,
    /// Bytes that belonged to no frame.
    pub skipped_bytes: u64,
    /// Frames with a bad checksum.
    pub bad_crc: u64,
    /// Frames that were not kept, because the guest sent more than the host keeps: the oldest output, and at last anything.
    pub dropped: u64,
    /// Bytes of those frames.
    pub dropped_bytes: u64,
}

impl BulkDrainResult {
    /// The decodable messages with the host time of their arrival.
    pub fn messages(&self) -> impl Iterator<Item = (Duration, Message)> + '_ {
        self.entries
            .iter()
            .filter_map(|e| Some((e.host_elapsed, e.message()?)))
    }
}

/// The statistics of KVM that say something about a scheduler: how often and why vCPUs left the guest. `halt_exits`,
/// `preemption_reported` and `hypercalls` exist on x86 only.
pub const KVM_INTERESTING_STATS: [&str; 8] = [
    "exits",
    "halt_exits",
    "halt_successful_poll",
    "halt_attempted_poll",
    "halt_wait_ns",
    "preemption_reported",
    "signal_exits",
    "hypercalls",
];

/// KVM's own statistics per vCPU (`KVM_GET_STATS_FD`, Linux 5.14 and later).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KvmStatsTotals {
    /// One map of counters per vCPU, by the kernel's names.
    pub per_vcpu: Vec<HashMap<String, u64>>,
}

impl KvmStatsTotals {
    /// The sum over all vCPUs; one that did not publish `name` counts as 0.
    #[must_use]
    pub fn sum(&self, name: &str) -> u64 {
        self.try_sum(name).unwrap_or(0)
    }

    /// The mean over all vCPUs; one that did not publish `name` counts as 0.
    #[must_use]
    pub fn avg(&self, name: &str) -> u64 {
        self.try_avg(name).unwrap_or(0)
    }

    /// Like [`sum`](Self::sum), but `None` when no vCPU published `name`.
    #[must_use]
    pub fn try_sum(&self, name: &str) -> Option<u64> {
        self.per_vcpu
            .iter()
            .filter_map(|vcpu| vcpu.get(name))
            .copied()
            .reduce(u64::saturating_add)
    }

    /// Like [`avg`](Self::avg), but `None` when no vCPU published `name`.
    #[must_use]
    pub fn try_avg(&self, name: &str) -> Option<u64> {
        let vcpus = u64::try_from(self.per_vcpu.len()).ok()?;
        self.try_sum(name)?.checked_div(vcpus)
    }
}

/// What one run of a VM left behind.
#[derive(Debug, Clone)]
pub struct VmResult {
    /// The guest's own verdict is a pass, and it ended by an Exit frame and power-off.
    pub success: bool,
    /// The guest's exit code; -1 when it never sent one.
    pub exit_code: i32,
    /// From the start of the VM to its end.
    pub duration: Duration,
    /// The VM's deadline ended the run.
    pub timed_out: bool,
    /// The guest's standard output and standard error, in order of arrival.
    pub output: String,
    /// The kernel console (COM1).
    pub stderr: String,
    /// The engine that ran the guest.
    pub engine: Engine,
    /// Why this engine.
    pub engine_why: String,
    /// Whose time passed in the guest.
    pub clock: Clock,
    /// Why that one.
    pub clock_why: String,
    /// In virtual time: seed, fingerprint, speed and instruction counts; `None` when the emulator was killed, too.
    pub virtual_run: Option<VirtualRun>,
    /// The guest was started as a copy of one that was saved before it had a task.
    pub forked: bool,
    /// Why so.
    pub fork_why: String,
    /// How the VM ended.
    pub exit_reason: ExitReason,
    /// Every frame in order; `None` when the guest never opened its frame port.
    pub guest_messages: Option<BulkDrainResult>,
    /// Runqueues from the guest's SysReady to the scenario's end, and during further scenarios; `None` when kernel memory could
    /// not be read.
    pub monitor: Option<MonitorReport>,
    /// Statistics of the scheduler's programs; empty when none were read.
    pub verifier_stats: Vec<ProgVerifierStats>,
    /// KVM's statistics; `None` on tcg.
    pub kvm_stats: Option<KvmStatsTotals>,
    /// The text after a `PANIC:` line on COM2.
    pub crash_message: Option<String>,
    /// From the end of the last vCPU to the assembled result.
    pub cleanup_duration: Option<Duration>,
    /// From the start of the VM to the guest's SysReady.
    pub boot_duration: Option<Duration>,
    /// The override of the scheduler's watchdog; read it with [`Self::watchdog_observation`].
    pub watchdog: Option<WatchdogOverride>,
    /// What the guest's disk did; `None` without one.
    pub virtio_blk_counters: Option<BlkCounters>,
    /// What each network card did, in the order of the test's `networks`.
    pub virtio_net_counters: Vec<NetCounters>,
    /// Captures by name.
    pub snapshot_bridge: SnapshotBridge,
    /// The way to the scheduler's stats server while the guest lived; `None` when the test has no scheduler.
    pub stats_client: Option<StatsClient>,
    /// What [`captures_series`](Self::captures_series) drained, once it did.
    pub captures: OnceLock<SampleSeries>,
    /// Periodic captures that fired, placeholders included.
    pub periodic_fired: u32,
    /// Periodic captures with real content.
    pub periodic_real: u32,
    /// Periodic captures asked for.
    pub periodic_target: u32,
    /// The KASLR slide; 0 when off or unknown.
    pub kern_kaslr_offset: u64,
    /// The test's name, stamped by the framework right after the run.
    pub entry_name: Option<String>,
    /// Where this run's artifacts go.
    pub artifact_dir: Option<PathBuf>,
    /// A valid repro artifact landed and turns the failure around.
    pub expect_auto_repro_satisfied: bool,
}

impl VmResult {
    /// What was written over the scheduler's watchdog time-out and what was read back, jiffies; `None` when none was.
    #[must_use]
    pub fn watchdog_observation(&self) -> Option<WatchdogOverride> {
        self.watchdog
    }

    /// A clean exit without telemetry, for unit tests of callbacks:
    /// `VmResult { timed_out: true, ..VmResult::test_fixture() }`.
    #[must_use]
    pub fn test_fixture() -> Self {
        Self {
            success: true,
            exit_code: 0,
            duration: Duration::ZERO,
            timed_out: false,
            output: String::new(),
            stderr: String::new(),
            engine: Engine::Tcg,
            engine_why: String::from("test fixture"),
            clock: Clock::Host,
            clock_why: String::from("test fixture"),
            virtual_run: None,
            forked: false,
            fork_why: String::from("test fixture"),
            exit_reason: ExitReason::PowerOff,
            guest_messages: None,
            monitor: None,
            verifier_stats: Vec::new(),
            kvm_stats: None,
            crash_message: None,
            cleanup_duration: None,
            boot_duration: None,
            watchdog: None,
            virtio_blk_counters: None,
            virtio_net_counters: Vec::new(),
            snapshot_bridge: SnapshotBridge::default(),
            stats_client: None,
            captures: OnceLock::new(),
            periodic_fired: 0,
            periodic_real: 0,
            periodic_target: 0,
            kern_kaslr_offset: 0,
            entry_name: None,
            artifact_dir: None,
            expect_auto_repro_satisfied: false,
        }
    }

    /// True when a KASLR slide is known and not zero.
    #[must_use]
    pub fn kaslr_enabled(&self) -> bool {
        self.kern_kaslr_offset != 0
    }

    /// How far the guest got, from its lifecycle frames.
    #[must_use]
    pub fn stages(&self) -> StageSummary {
        let stages: Vec<(Stage, String)> = self
            .messages()
            .filter_map(|(_, message)| match message {
                Message::Lifecycle(life) => Some((life.stage, life.detail)),
                _ => None,
            })
            .collect();
        summarize_stages(&stages)
    }

    /// Step starts, step ends and the terminal boundary; damaged frames are skipped.
    #[must_use]
    pub fn stimulus_timeline(&self) -> Vec<TimelineMark> {
        self.messages()
            .filter_map(|(_, message)| match message {
                Message::Stimulus(mark) => Some(TimelineMark::StepStart(mark)),
                Message::StepEnd(mark) => Some(TimelineMark::StepEnd(mark)),
                Message::ScenarioEnd(end) => Some(TimelineMark::Terminal {
                    elapsed_ms: end.elapsed_ms,
                    total_iterations: end.total_iterations,
                }),
                _ => None,
            })
            .collect()
    }

    /// All captures in time order, and what the monitor saw meanwhile. Drains the bridge once and keeps what it found, what a
    /// callback drained before included: callbacks and the framework never starve each other. A clone made after that has its
    /// own copy, one made before shares the drain.
    pub fn captures_series(&self) -> &SampleSeries {
        self.captures.get_or_init(|| {
            let entries = self.snapshot_bridge.drain_all();
            let series = SampleSeries::new(entries.into_iter().map(Sample::from).collect());
            match &self.monitor {
                Some(report) => series.with_monitor(self.monitor_points(report)),
                None => series,
            }
        })
    }

    /// The monitor's samples from the first scenario's start on, by its clock, each with its step.
    fn monitor_points(&self, report: &MonitorReport) -> MonitorSeries {
        let mut start = None;
        let mut steps: Vec<(u64, u16)> = Vec::new();
        for (at, message) in self.messages() {
            let at = u64::try_from(at.as_millis()).unwrap_or(u64::MAX);
            match message {
                Message::ScenarioStart => {
                    start.get_or_insert(at);
                    steps.push((at, 0));
                }
                Message::StepBegin(step) => steps.push((at, step)),
                _ => {}
            }
        }
        MonitorSeries::new(report, start, &steps)
    }

    /// The captures that the framework took periodically.
    #[must_use]
    pub fn periodic_series(&self) -> SampleSeries {
        self.captures_series().periodic_only()
    }

    /// What `Op::capture_snapshot` captured under this name, the first time. Asking again changes nothing.
    ///
    /// # Errors
    /// When nothing was captured under it, or the capture did not work, with the reason.
    pub fn snapshot(&self, name: &str) -> anyhow::Result<Snapshot<'_>> {
        let samples = || self.captures_series().iter();
        let Some(sample) = samples().find(|sample| sample.tag == name) else {
            let known: Vec<&str> = samples().map(|sample| sample.tag.as_str()).collect();
            anyhow::bail!(
                "there is no capture '{name}'; there are: {}",
                known.join(", ")
            );
        };
        match &sample.report {
            Ok(report) => Ok(Snapshot::new(report)?),
            Err(reason) => anyhow::bail!("capture '{name}' did not work: {reason}"),
        }
    }

    /// The scenario's phases with what was captured in each: the guest's own figures, or, when no result arrived, what the
    /// boundaries' frames tell. Asking again changes nothing.
    #[must_use]
    pub fn phase_buckets(&self) -> Vec<PhaseBucket> {
        let phases = self.guest_phases();
        let mut phases = phases.unwrap_or_else(|| buckets_of(&self.stimulus_timeline()));
        add_samples(&mut phases, self.captures_series());
        phases
    }

    /// What the workers of one cgroup did in one step, which is found by its place or its name; `None` when there was no such step, or no worker of such a cgroup in it.
    /// Of a cgroup of the backdrop it is what they did between that step's boundaries. Of several scenarios in one test, the first
    /// that has it.
    #[must_use]
    pub fn phase_cgroup<'a>(
        &self,
        phase: impl Into<PhaseKey<'a>>,
        cgroup: &str,
    ) -> Option<PhaseCgroupStats> {
        let phase = phase.into();
        let phases = self.guest_phases()?;
        let mut of_phase = phases.into_iter().filter(|bucket| bucket.is(phase));
        of_phase.find_map(|mut bucket| bucket.cgroups.remove(cgroup))
    }

    /// Iterations of all workers in one step per second of their CPU time; `None` when there was no such step, or they had none.
    #[must_use]
    pub fn step_throughput<'a>(&self, phase: impl Into<PhaseKey<'a>>) -> Option<f64> {
        let phase = phase.into();
        let phases = self.guest_phases()?;
        let bucket = phases.iter().find(|bucket| bucket.is(phase))?;
        let all = bucket.cgroups.values();
        let (iterations, cpu_ns) = all.fold((0.0, 0.0), |(iterations, cpu_ns), stats| {
            (
                iterations + stats.total_iterations as f64,
                cpu_ns + stats.total_cpu_time_ns as f64,
            )
        });
        (cpu_ns > 0.0).then(|| iterations * 1e9 / cpu_ns)
    }

    /// Throughput of the first step over that of the second; `None` when either is not known.
    #[must_use]
    pub fn throughput_ratio<'a>(
        &self,
        a: impl Into<PhaseKey<'a>>,
        b: impl Into<PhaseKey<'a>>,
    ) -> Option<f64> {
        let (of_a, of_b) = (self.step_throughput(a)?, self.step_throughput(b)?);
        (of_b > 0.0).then(|| of_a / of_b)
    }

    /// What the test function returned in the guest, with its figures: the last result that it sent. The host's own findings are
    /// not in it.
    ///
    /// # Errors
    /// When no result arrived, with the last stage that the guest was seen in, or none that can be read.
    pub fn guest_assert_result(&self) -> anyhow::Result<AssertResult> {
        let bodies = self.messages().filter_map(|(_, message)| match message {
            Message::TestResult(result) => Some(result.body),
            _ => None,
        });
        let mut fault = None;
        let mut last = None;
        for body in bodies {
            match serde_json::from_slice::<AssertResult>(&body) {
                Ok(result) => last = Some(result),
                Err(error) => fault = Some(error),
            }
        }
        match (last, fault) {
            (Some(result), _) => Ok(result),
            (None, Some(error)) => {
                anyhow::bail!(
                    "the guest's result cannot be read ({error}); does the guest run another version of ktstr?"
                )
            }
            (None, None) => {
                let StageSummary {
                    label, mut detail, ..
                } = self.stages();
                if !detail.is_empty() {
                    detail = format!(" ({detail})");
                }
                anyhow::bail!(
                    "the guest sent no result: {label}{detail}; its `output` and `guest_kmsg()` may say why"
                )
            }
        }
    }

    /// Those of the last result that the guest sent.
    fn guest_phases(&self) -> Option<Vec<PhaseBucket>> {
        let phases = self.guest_assert_result().ok()?.stats.phases;
        (!phases.is_empty()).then_some(phases)
    }

    /// The kernel log that the guest forwarded, one frame per line group.
    #[must_use]
    pub fn guest_kmsg(&self) -> String {
        let chunks: Vec<String> = self
            .messages()
            .filter_map(|(_, message)| match message {
                Message::Dmesg(bytes) if !bytes.is_empty() => {
                    Some(String::from_utf8_lossy(&bytes).into_owned())
                }
                _ => None,
            })
            .collect();
        chunks.join("\n")
    }

    /// The scheduler's own output between its log markers.
    #[must_use]
    pub fn scheduler_log(&self) -> String {
        let mut log = Vec::new();
        for (_, message) in self.messages() {
            if let Message::SchedLog(ktstr_wire::SchedLog::Chunk(bytes)) = message {
                log.extend_from_slice(&bytes);
            }
        }
        String::from_utf8_lossy(&log).into_owned()
    }

    /// Where this run's failure dump lies or would lie.
    ///
    /// # Errors
    /// When the result was not made by the framework and so has no test name or no directory.
    pub fn failure_dump_path(&self) -> anyhow::Result<PathBuf> {
        let name = self.entry_name.as_deref().ok_or_else(|| {
            anyhow::anyhow!("this VmResult has no entry_name: only the framework's runs have dumps")
        })?;
        let dir = self
            .artifact_dir
            .as_deref()
            .ok_or_else(|| anyhow::anyhow!("the run of '{name}' has no artifact directory"))?;
        Ok(dir.join(format!(
            "{}.failure-dump.json",
            super::names::file_stem(name)
        )))
    }

    fn messages(&self) -> impl Iterator<Item = (Duration, Message)> + '_ {
        self.guest_messages
            .iter()
            .flat_map(BulkDrainResult::messages)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    #[test]
    fn absent_kvm_counters_are_told_from_zero() {
        let none = KvmStatsTotals::default();
        assert_eq!(
            (
                none.sum("exits"),
                none.try_sum("exits"),
                none.try_avg("exits")
            ),
            (0, None, None)
        );
        let stats = KvmStatsTotals {
            per_vcpu: vec![
                HashMap::from([("exits".to_owned(), 6)]),
                HashMap::from([("exits".to_owned(), 4), ("halt_exits".to_owned(), 1)]),
            ],
        };
        assert_eq!((stats.sum("exits"), stats.avg("exits")), (10, 5));
        assert_eq!(
            (stats.try_sum("hypercalls"), stats.try_avg("halt_exits")),
            (None, Some(0))
        );
    }

    #[test]
    fn captures_are_drained_once_and_kept() {
        let result = VmResult::test_fixture();
        let report = ktstr_monitor::FailureDumpReport::default();
        result.snapshot_bridge.store("periodic_000", report.clone());
        result.snapshot_bridge.store("mine", report);
        let before = result.clone();
        assert_eq!(result.captures_series().len(), 2);
        assert_eq!(result.captures_series().len(), 2, "asked again");
        assert_eq!(result.periodic_series().len(), 1);
        assert_eq!(result.clone().captures_series().len(), 2, "a later clone");
        assert_eq!(before.captures_series().len(), 2, "an earlier clone");
        assert!(result.phase_buckets().is_empty());
    }

    /// A run whose guest sent these bodies as results.
    pub(in crate::model) fn with_results(bodies: &[Vec<u8>]) -> VmResult {
        let mut assembler = ktstr_wire::Assembler::new();
        for (seq, body) in (0..).zip(bodies) {
            let message = Message::TestResult(ktstr_wire::Opaque { body: body.clone() });
            assembler.push(&ktstr_wire::encode(&message, seq, 0).unwrap());
        }
        let mut frames = BulkDrainResult::default();
        while let Some(event) = assembler.next_event() {
            if let ktstr_wire::Event::Frame(frame) = event {
                frames.entries.push(BulkEntry {
                    frame,
                    host_elapsed: Duration::ZERO,
                });
            }
        }
        VmResult {
            guest_messages: Some(frames),
            ..VmResult::test_fixture()
        }
    }

    #[test]
    fn the_guests_own_result_is_the_last_that_can_be_read() {
        let body = |result: &AssertResult| serde_json::to_vec(result).unwrap();
        let (first, last) = (AssertResult::pass(), AssertResult::fail_msg("too slow"));
        let bodies = [body(&first), body(&last), b"{".to_vec()];
        assert_eq!(with_results(&bodies).guest_assert_result().unwrap(), last);
        let text = |run: VmResult| run.guest_assert_result().unwrap_err().to_string();
        let damaged = text(with_results(&[b"{".to_vec()]));
        assert!(damaged.contains("cannot be read"), "{damaged}");
        let nothing = text(VmResult::test_fixture());
        assert!(
            nothing.starts_with("the guest sent no result: init never started;"),
            "{nothing}"
        );
    }

    #[test]
    fn a_callbacks_own_drain_starves_nobody() {
        let result = VmResult::test_fixture();
        let report = ktstr_monitor::FailureDumpReport::default();
        result.snapshot_bridge.store("mine", report);
        assert_eq!(result.snapshot_bridge.drain_ordered().len(), 1);
        assert_eq!(result.captures_series().len(), 1);
    }

    #[test]
    fn dump_path_needs_a_name() {
        let err = VmResult::test_fixture().failure_dump_path().unwrap_err();
        assert!(err.to_string().contains("entry_name"), "{err}");
        let named = VmResult {
            entry_name: Some("t".into()),
            artifact_dir: Some("/runs".into()),
            ..VmResult::test_fixture()
        };
        assert_eq!(
            named.failure_dump_path().unwrap(),
            PathBuf::from("/runs/t.failure-dump.json")
        );
    }
}
