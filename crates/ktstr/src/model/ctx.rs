//! What a test function is given, and the plan that the host hands to the guest for it.

use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::checks::Assert;
use super::cpuset::CpuMap;
use super::payload::Payload;
use super::transport::{ScenarioEvent, Transport};

/// Environment variable with the plan's JSON itself.
pub const TEST_PLAN_ENV: &str = "KTSTR_TEST_PLAN";
/// Where the plan's JSON lies in the guest when the variable is not set.
pub const TEST_PLAN_PATH: &str = "/ktstr/test.json";
/// Workload root when the plan names none.
pub const DEFAULT_WORKLOAD_ROOT: &str = "/sys/fs/cgroup/ktstr";

/// What the host tells the test's process in the guest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TestPlan {
    /// Name of the registry entry.
    pub test: String,
    /// The guest's CPUs.
    pub topology: CpuMap,
    /// Length of the scenario.
    pub duration_ms: u64,
    /// Time between the scheduler's attach and the scenario.
    #[serde(default)]
    pub settle_ms: u64,
    /// All three layers merged.
    pub assert: Assert,
    /// Cgroup under which the workload's cgroups are made.
    #[serde(default = "default_root")]
    pub workload_root: PathBuf,
    /// Whether the host prepares the scheduler's memory before the test begins.
    #[serde(default)]
    pub waits_for_host: bool,
    /// Whether a scheduler was declared, so that its absence is a finding.
    #[serde(default)]
    pub has_scheduler: bool,
    /// Whether the host answers requests (snapshots, kernel memory); without, asking would only wait for the deadline.
    #[serde(default)]
    pub answers_requests: bool,
}

fn default_root() -> PathBuf {
    PathBuf::from(DEFAULT_WORKLOAD_ROOT)
}

impl TestPlan {
    /// A plan for `test` with nothing asserted beyond the defaults.
    pub fn new(test: impl Into<String>, topology: CpuMap, duration: Duration) -> Self {
        Self {
            test: test.into(),
            topology,
            duration_ms: u64::try_from(duration.as_millis()).unwrap_or(u64::MAX),
            settle_ms: 0,
            assert: Assert::default_checks(),
            workload_root: default_root(),
            waits_for_host: false,
            has_scheduler: false,
            answers_requests: false,
        }
    }
}

/// Which of the schedulers that the test declares.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Declared {
    /// None of them.
    #[default]
    None,
    /// The test's own.
    Own,
    /// The staged one of this name.
    Staged(String),
}

/// The scheduler that the guest is under at a moment of the test.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct SchedulerNow {
    /// Its process, if init has started one.
    pub(crate) pid: Option<i32>,
    /// Whether sched_ext is to be enabled, so that its end is one of the scheduler's.
    pub(crate) in_charge: bool,
    /// The kernel's count of enabled schedulers when it was attached; `None` where the kernel does not count.
    pub(crate) enable_seq: Option<u64>,
    /// Which it is.
    pub(crate) declared: Declared,
}

/// What a test function sees of its run.
#[derive(Debug, Clone)]
pub struct Ctx {
    plan: TestPlan,
    /// Changed by operations, and known to every scenario after them.
    scheduler: Arc<Mutex<SchedulerNow>>,
    transport: Option<Arc<dyn Transport>>,
    payloads: Vec<&'static Payload>,
    payload_runs: Arc<AtomicU32>,
    /// Pauses in force.
    pauses: Arc<AtomicU32>,
}

impl Ctx {
    /// A context for `plan`; `scheduler_pid` is the scheduler's process in this guest, if one was started.
    pub fn new(plan: TestPlan, scheduler_pid: Option<i32>) -> Self {
        let declared = match plan.has_scheduler {
            true => Declared::Own,
            false => Declared::None,
        };
        let now = SchedulerNow {
            pid: scheduler_pid,
            declared,
            ..SchedulerNow::default()
        };
        Self {
            plan,
            scheduler: Arc::new(Mutex::new(now)),
            transport: None,
            payloads: Vec::new(),
            payload_runs: Arc::default(),
            pauses: Arc::default(),
        }
    }

    /// Notes that sched_ext was enabled by init for the test; `enable_seq` is the kernel's count of that moment.
    #[must_use]
    pub fn with_sched_ext(self, enable_seq: Option<u64>) -> Self {
        self.set_scheduler(SchedulerNow {
            in_charge: true,
            enable_seq,
            ..self.scheduler_now()
        });
        self
    }

    /// The scheduler that the guest is under now.
    pub(crate) fn scheduler_now(&self) -> SchedulerNow {
        let now = self.scheduler.lock();
        now.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// From now on it is another one.
    pub(crate) fn set_scheduler(&self, next: SchedulerNow) {
        let now = self.scheduler.lock();
        *now.unwrap_or_else(PoisonError::into_inner) = next;
    }

    /// Sets the payloads that the test declares.
    #[must_use]
    pub fn with_payloads(mut self, payloads: Vec<&'static Payload>) -> Self {
        self.payloads = payloads;
        self
    }

    /// Sets the connection to the host.
    #[must_use]
    pub fn with_transport(mut self, transport: Arc<dyn Transport>) -> Self {
        self.transport = Some(transport);
        self
    }

    /// The way to the host; `None` when the function runs outside a guest.
    pub fn transport(&self) -> Option<&dyn Transport> {
        self.transport.as_deref()
    }

    /// The way to the host for requests; `None` when there is no host to answer.
    pub fn requests(&self) -> Option<&dyn Transport> {
        self.transport().filter(|_| self.plan.answers_requests)
    }

    /// The declared payload of this name.
    pub fn payload(&self, name: &str) -> Option<&'static Payload> {
        self.payloads
            .iter()
            .copied()
            .find(|payload| payload.name() == name)
    }

    /// The number of the next payload's run in this test, counted over all its scenarios.
    pub(crate) fn next_payload_index(&self) -> u32 {
        // Only uniqueness matters: the number publishes nothing.
        self.payload_runs.fetch_add(1, Ordering::Relaxed)
    }

    /// Name of the test.
    pub fn name(&self) -> &str {
        &self.plan.test
    }

    /// The guest's CPUs.
    pub fn topology(&self) -> CpuMap {
        self.plan.topology
    }

    /// Length of the scenario.
    pub fn duration(&self) -> Duration {
        Duration::from_millis(self.plan.duration_ms)
    }

    /// Stops the scenario's clock on the host until the guard goes: periodic captures come later by that time, the monitor's
    /// samples meanwhile are not judged, and the VM's deadline moves by up to a minute. For work of the test's own that is
    /// not what it tests. Pauses nest.
    pub fn pause(&self) -> PauseGuard<'_> {
        // Only the count matters: the frames are ordered by the link.
        if self.pauses.fetch_add(1, Ordering::Relaxed) == 0 {
            self.tell_pause(&ScenarioEvent::Pause);
        }
        PauseGuard { ctx: self }
    }

    /// A link that is broken is told of by whatever comes next over it.
    fn tell_pause(&self, event: &ScenarioEvent) {
        if let Some(host) = self.transport() {
            let _ = host.event(event);
        }
    }

    /// Time given to the scheduler before each scenario.
    pub fn settle(&self) -> Duration {
        Duration::from_millis(self.plan.settle_ms)
    }

    /// What is asserted, all layers merged.
    pub fn assert(&self) -> &Assert {
        &self.plan.assert
    }

    /// Cgroup under which the workload's cgroups are made.
    pub fn workload_root(&self) -> &Path {
        &self.plan.workload_root
    }

    /// The scheduler's process, if one runs: after an operation that puts another in its place, that one's.
    pub fn scheduler_pid(&self) -> Option<i32> {
        self.scheduler_now().pid
    }

    /// Whether a scheduler was declared for this test.
    pub fn has_scheduler(&self) -> bool {
        self.plan.has_scheduler
    }
}

/// The scenario's clock stands until this is dropped; see [`Ctx::pause`].
#[derive(Debug)]
#[must_use = "the clock goes on as soon as this is dropped"]
pub struct PauseGuard<'a> {
    ctx: &'a Ctx,
}

impl Drop for PauseGuard<'_> {
    fn drop(&mut self) {
        if self.ctx.pauses.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.ctx.tell_pause(&ScenarioEvent::Resume);
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Some test on four CPUs.
    pub(crate) fn any() -> Ctx {
        let map = CpuMap::new(1, 2, 2, 1);
        Ctx::new(TestPlan::new("any", map, Duration::from_secs(1)), None)
    }

    #[test]
    fn a_plan_travels_as_json() {
        let plan = TestPlan::new("t", CpuMap::new(1, 2, 2, 1), Duration::from_secs(3));
        let json = serde_json::to_string(&plan).unwrap();
        assert_eq!(serde_json::from_str::<TestPlan>(&json).unwrap(), plan);
    }

    #[derive(Debug, Default)]
    struct Told(std::sync::Mutex<Vec<ScenarioEvent>>);

    impl Transport for Told {
        fn event(
            &self,
            event: &ScenarioEvent,
        ) -> Result<(), super::super::transport::TransportError> {
            self.0.lock().unwrap().push(*event);
            Ok(())
        }

        fn request(
            &self,
            _: &super::super::transport::HostRequest,
            _: Duration,
        ) -> Result<(), super::super::transport::TransportError> {
            Ok(())
        }
    }

    #[test]
    fn pauses_nest_and_the_clock_goes_on_after_the_last() {
        let host = Arc::new(Told::default());
        let plan = TestPlan::new("t", CpuMap::new(1, 1, 1, 1), Duration::from_secs(1));
        let ctx = Ctx::new(plan, None).with_transport(host.clone());
        let outer = ctx.pause();
        drop(ctx.clone().pause());
        assert_eq!(*host.0.lock().unwrap(), [ScenarioEvent::Pause]);
        drop(outer);
        let told = host.0.lock().unwrap();
        assert_eq!(*told, [ScenarioEvent::Pause, ScenarioEvent::Resume]);
    }
}
