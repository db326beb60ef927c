//! What a scenario tells the host and asks of it, without knowing how the words travel.

use std::fmt;
use std::time::Duration;

use ktstr_wire::StateTest;
use ktstr_wire::gate::UntilState;

use super::kernel_memory::{KernelTarget, KernelValue, KernelValueWidth};
use super::payload::PayloadReport;

/// The figures at a step's start or end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StepFigures {
    /// 0 is the baseline before the first step, k + 1 is step k.
    pub step_index: u16,
    /// Operations of the step.
    pub op_count: u16,
    /// One bit for each kind of operation in it, see [`Op::bit`](super::scenario::Op::bit).
    pub op_kinds: u64,
    /// Since the scenario's start.
    pub elapsed_ms: u32,
    /// Cgroups that exist.
    pub cgroup_count: u16,
    /// Workers that run.
    pub worker_count: u16,
    /// Iterations of all workers since the scenario's start, also of those that are gone.
    pub total_iterations: u64,
}

/// A boundary in a scenario.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScenarioEvent {
    /// It begins.
    Start,
    /// Its clock stops.
    Pause,
    /// Its clock goes on.
    Resume,
    /// A step's operations begin.
    StepBegin {
        /// As in [`StepFigures`].
        step_index: u16,
    },
    /// A step's operations are done and its cgroups run: the hold begins.
    StepStart(StepFigures),
    /// A step's hold is over.
    StepEnd(StepFigures),
    /// It is over.
    End {
        /// Its length.
        elapsed_ms: u64,
        /// Iterations of all workers.
        total_iterations: u64,
    },
}

/// Name under which a failing test asks for the capture that its failure message shows.
pub const FAILURE_TAG: &str = "ktstr.failure";

/// Name under which a test waits until the host has prepared the scheduler for it.
pub const READY_TAG: &str = "ktstr.ready";

/// Something that only the host can do.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum HostRequest {
    /// Take a snapshot now.
    Capture {
        /// Name to store it under.
        tag: String,
    },
    /// Take a snapshot whenever this symbol is written.
    Watch {
        /// The symbol.
        symbol: String,
    },
    /// Know that the scheduler is about to leave because the test wants it to: its exit is no failure.
    PlannedExit,
}

/// What to do with the test's scheduler.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SchedulerChange {
    /// Start the one of this name, the test's own or a staged one.
    Attach(String),
    /// Stop it.
    Detach,
    /// Stop and start it.
    Restart,
    /// Put the staged one of this name in its place.
    Replace(String),
}

/// What a batch does; all of it is of one direction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KernelEntries {
    /// Where, and how much.
    Read(Vec<(KernelTarget, KernelValueWidth)>),
    /// Where, and what.
    Write(Vec<(KernelTarget, KernelValue)>),
}

/// A batch of reads or writes of kernel memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelBatch {
    /// Name under which the host keeps the reply.
    pub tag: String,
    /// Whether the guest is frozen meanwhile.
    pub cold: bool,
    /// What is read or written.
    pub entries: KernelEntries,
}

/// A state of the kernel that a step waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UntilOrder {
    /// Alternatives, of each of which all is to be true at once.
    pub any: Vec<Vec<StateTest>>,
    /// How long it may take.
    pub at_most: Duration,
    /// The CPU that the scenario stays on meanwhile.
    pub cpu: u32,
    /// What the host does at the very moment; asked for it later, it gives what came of that.
    pub ahead: Vec<HostAct>,
}

/// Something that the host does for a scenario.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostAct {
    /// A capture or a watch.
    Request(HostRequest),
    /// Reads or writes.
    Kernel(KernelBatch),
}

/// What the host says of an [`UntilOrder`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Awaited {
    /// It looks at each switch, wake-up and tick; [`Transport::until_state`] says what became of it.
    Watched,
    /// Looking now and then, it saw the state.
    Reached,
    /// Looking now and then, it did not see it in time.
    NotReached,
}

/// Why the host could not be told or asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransportError {
    /// This run has no means for it.
    #[error("not supported by this run")]
    NotSupported,
    /// The host did it, and it did not work.
    #[error("refused by the host: {0}")]
    Refused(String),
    /// Init did not do it, and changed nothing.
    #[error("{0}")]
    SchedulerRefused(String),
    /// A scheduler was started and is not in charge.
    #[error("no scheduler is in charge now: {0}")]
    SchedulerNotAttached(String),
    /// No answer in time.
    #[error("no answer from the host within {} ms", .0.as_millis())]
    Deadline(Duration),
    /// The link is broken.
    #[error("the link to the host is broken")]
    Broken(#[source] std::io::Error),
}

/// What a payload wrote, for the host's extractor.
#[derive(Debug, Clone, Copy)]
pub struct RawOutput<'a> {
    /// Its standard output.
    pub stdout: &'a [u8],
    /// Its standard error.
    pub stderr: &'a [u8],
}

/// The way from a scenario to the host.
pub trait Transport: Send + Sync + fmt::Debug {
    /// Tells the host of a boundary.
    ///
    /// # Errors
    /// When the link is broken.
    fn event(&self, event: &ScenarioEvent) -> Result<(), TransportError>;

    /// Asks the host and waits for its answer, at most this long.
    ///
    /// # Errors
    /// When the host refuses, does not answer in time, or cannot be reached.
    fn request(&self, request: &HostRequest, deadline: Duration) -> Result<(), TransportError>;

    /// Tells the host of a payload's end; with its output when the host has to read the metrics out of it.
    ///
    /// # Errors
    /// When the link is broken.
    fn payload(
        &self,
        report: &PayloadReport,
        raw: Option<RawOutput<'_>>,
    ) -> Result<(), TransportError> {
        let _ = (report, raw);
        Ok(())
    }

    /// Hands the host the processes of a cgroup, to be kept under `tag`.
    ///
    /// # Errors
    /// When the link is broken.
    fn cgroup_procs(&self, tag: &str, cgroup: &str, pids: &[i32]) -> Result<(), TransportError> {
        let _ = (tag, cgroup, pids);
        Ok(())
    }

    /// Has init do something with the scheduler; the process of the one that runs then.
    ///
    /// # Errors
    /// When init refuses or it does not work, does not answer in time, or cannot be reached.
    fn scheduler_op(
        &self,
        change: &SchedulerChange,
        deadline: Duration,
    ) -> Result<Option<i32>, TransportError> {
        let _ = (change, deadline);
        Err(TransportError::NotSupported)
    }

    /// Has the host read or write kernel memory; the bytes read, one entry for each of the batch.
    ///
    /// # Errors
    /// As [`request`](Self::request).
    fn kernel_op(
        &self,
        batch: &KernelBatch,
        deadline: Duration,
    ) -> Result<Vec<Vec<u8>>, TransportError> {
        let _ = (batch, deadline);
        Err(TransportError::NotSupported)
    }

    /// Has the host wait for a state of the kernel.
    ///
    /// # Errors
    /// As [`request`](Self::request).
    fn until(&self, order: &UntilOrder, deadline: Duration) -> Result<Awaited, TransportError> {
        let _ = (order, deadline);
        Err(TransportError::NotSupported)
    }

    /// What became of the last [`until`](Self::until) that is watched.
    fn until_state(&self) -> UntilState {
        UntilState::Failed
    }

    /// The scenario waits no longer.
    fn stop_waiting(&self) {}

    /// Says that the scenario acts on what it waited for; said again when it has.
    fn mark(&self) {}
}
