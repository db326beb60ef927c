//! What a frame can say. Numbers are forever; bodies are postcard.

use serde::{Deserialize, Serialize};

use crate::error::{DecodeError, EncodeError};
use crate::until::{MAX_STATE_TESTS, StateTest, UntilReply};

/// Largest payload that is written or accepted.
pub const MAX_PAYLOAD: usize = 16 << 20;

/// Largest reply to a kernel operation.
pub const MAX_KERNEL_REPLY: usize = 1 << 20;
/// Longest tag or reason of a request.
pub const MAX_TEXT: usize = 256;

/// How far a guest got, in the order of its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Stage {
    /// The kernel runs user space.
    KernelUp,
    /// Init runs.
    InitUp,
    /// File systems are mounted.
    Filesystems,
    /// The ports are open.
    Ports,
    /// The scheduler's process is being started.
    SchedulerStarting,
    /// The kernel says that the scheduler is in charge.
    SchedulerAttached,
    /// The scheduler runs, but the kernel never said so in time.
    SchedulerNotAttached,
    /// The scheduler ended before it was in charge, or during the test.
    SchedulerDied,
    /// The test's process is being started.
    PayloadStarting,
    /// The guest is about to power off.
    Done,
    /// Something that was declared could not be set up in the guest; the test does not begin.
    SetupFailed,
    /// The scheduler is about to be stopped because the test, or the test's end, wants it: its exit from now on is a planned one.
    SchedulerStopping,
}

impl Stage {
    /// The stage in words.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::KernelUp => "kernel up",
            Self::InitUp => "init up",
            Self::Filesystems => "filesystems mounted",
            Self::Ports => "ports open",
            Self::SchedulerStarting => "scheduler starting",
            Self::SchedulerAttached => "scheduler attached",
            Self::SchedulerNotAttached => "scheduler not attached",
            Self::SchedulerDied => "scheduler died",
            Self::PayloadStarting => "payload starting",
            Self::Done => "done",
            Self::SetupFailed => "set-up failed",
            Self::SchedulerStopping => "scheduler stopping",
        }
    }
}

/// The guest's kernel is up and says what it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SysReady {
    /// `uname -r`.
    pub kernel_release: String,
    /// Bytes per page.
    pub page_size: u32,
    /// Run-time address of `_text`, when kallsyms shows it.
    pub text_addr: Option<u64>,
}

/// A stage was reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lifecycle {
    /// Which one.
    pub stage: Stage,
    /// More about it; may be empty.
    pub detail: String,
}

/// The scenario is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScenarioEnd {
    /// Guest milliseconds since its start.
    pub elapsed_ms: u64,
    /// Iterations of all workers.
    pub total_iterations: u64,
}

/// A boundary of a step: its start or its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepMark {
    /// 0 is the baseline, k + 1 is step k.
    pub step_index: u16,
    /// Operations in the step.
    pub op_count: u16,
    /// One bit per kind of operation.
    pub op_kinds: u64,
    /// Guest milliseconds since the scenario's start.
    pub elapsed_ms: u32,
    /// Cgroups alive.
    pub cgroup_count: u16,
    /// Workers alive.
    pub worker_count: u16,
    /// Iterations of all workers so far.
    pub total_iterations: u64,
}

/// A body that this crate carries without looking inside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opaque {
    /// The bytes.
    #[serde(with = "serde_bytes")]
    pub body: Vec<u8>,
}

/// How the scheduler's process ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SchedExit {
    /// Its exit status, unless a signal ended it.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// What is known about the cause; may be empty.
    pub reason: String,
    /// How its stop went, when it was asked to stop; `None` when it ended by itself.
    pub stop: Option<SchedStop>,
}

/// How a scheduler followed a request to stop.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SchedStop {
    /// It did not end in time, and SIGKILL ended it.
    pub killed: bool,
    /// Its processes that outlived it, one `pid comm` each.
    pub left_behind: Vec<String>,
    /// Commands that turn a scheduler of the kernel off and failed, with their output.
    pub failed_commands: Vec<String>,
}

/// The scheduler's output between its markers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SchedLog {
    /// The log begins.
    Start,
    /// Part of it.
    Chunk(#[serde(with = "serde_bytes")] Vec<u8>),
    /// The log is complete.
    End,
}

/// Metrics of one payload run; paired with its raw output by `payload_index`, never by order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PayloadMetrics {
    /// Number of the payload's run in this test.
    pub payload_index: u32,
    /// The metrics, in the framework's own encoding.
    #[serde(with = "serde_bytes")]
    pub body: Vec<u8>,
}

/// Unparsed output of one payload run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RawPayloadOutput {
    /// Number of the payload's run in this test.
    pub payload_index: u32,
    /// Its standard output.
    #[serde(with = "serde_bytes")]
    pub stdout: Vec<u8>,
    /// Its standard error.
    #[serde(with = "serde_bytes")]
    pub stderr: Vec<u8>,
}

/// What a snapshot request wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SnapshotKind {
    /// Capture now.
    Capture,
    /// Capture at each write to the symbol that the tag names.
    Watch,
    /// The scheduler is about to leave because the test wants it to; its exit is no failure. The tag is empty.
    PlannedExit,
}

/// A guest asks for a capture.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotRequest {
    /// Pairs the reply.
    pub id: u32,
    /// What is wanted.
    pub kind: SnapshotKind,
    /// Name of the capture, or the symbol; at most 256 bytes.
    pub tag: String,
}

/// The host's answer to a [`SnapshotRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotReply {
    /// The request's id.
    pub id: u32,
    /// Done, or why not.
    pub result: Result<(), String>,
}

/// Whether the guest is frozen for a kernel operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum KernelOpMode {
    /// While it runs.
    Hot,
    /// While it is frozen.
    Cold,
}

/// Reading or writing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum KernelOpDirection {
    /// Read the targets.
    Read,
    /// Write the values to the targets.
    Write,
}

/// A place in the kernel's memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum KernelTarget {
    /// A symbol by name.
    Symbol(String),
    /// An address in the direct map.
    Direct(u64),
    /// Any kernel virtual address, by page walk.
    Kva(u64),
    /// A field of a per-CPU variable.
    PerCpuField {
        /// The variable.
        symbol: String,
        /// Dotted path in it.
        field: String,
        /// Which CPU's.
        cpu: u32,
    },
    /// A field of a task, identified so that a reused pid is noticed.
    TaskField {
        /// The task's pid.
        pid: i32,
        /// Its start time in nanoseconds.
        start_time_ns: u64,
        /// Dotted path in `struct task_struct`.
        field: String,
    },
}

/// A value read or to be written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum KernelValue {
    /// Four bytes.
    U32(u32),
    /// Eight bytes.
    U64(u64),
    /// Any bytes.
    Bytes(#[serde(with = "serde_bytes")] Vec<u8>),
    /// Set these bits of four bytes; writes only, cold only.
    OrU32(u32),
}

/// One part of a batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelOpEntry {
    /// Where.
    pub target: KernelTarget,
    /// What to write; for a read, its kind and size.
    pub value: KernelValue,
}

/// A guest asks the host to read or write its kernel's memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelOpRequest {
    /// Pairs the reply.
    pub id: u32,
    /// Running or frozen.
    pub mode: KernelOpMode,
    /// Read or write.
    pub direction: KernelOpDirection,
    /// Name under which the host logs the reply; at most 256 bytes.
    pub tag: String,
    /// The batch.
    pub entries: Vec<KernelOpEntry>,
}

/// The host's answer to a [`KernelOpRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelOpReply {
    /// The request's id.
    pub id: u32,
    /// Done, or why not; the reason has at most 256 bytes.
    pub result: Result<(), String>,
    /// One value per entry of a read; at most 1 MiB in all.
    pub values: Vec<KernelValue>,
}

/// What a test wants done with its scheduler.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SchedulerAction {
    /// Start the scheduler of this name, the test's own or a staged one.
    Attach(String),
    /// Stop the scheduler.
    Detach,
    /// Stop the scheduler and start it again.
    Restart,
    /// Stop the scheduler and start the staged one of this name.
    Replace(String),
}

/// A test asks init about its scheduler; stays within the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SchedulerRequest {
    /// Pairs the reply.
    pub id: u32,
    /// What is wanted.
    pub action: SchedulerAction,
}

/// Init's answer to a [`SchedulerRequest`]; stays within the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SchedulerReply {
    /// The request's id.
    pub id: u32,
    /// The process of the scheduler that runs now, or why it did not work.
    pub result: Result<Option<i32>, SchedulerFault>,
}

/// Why init did not do what a test wanted of its scheduler.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SchedulerFault {
    /// It makes no sense now: the scheduler runs already, or none is declared. Nothing was changed.
    Refused(String),
    /// The scheduler was started and did not attach, or its commands failed: none is in charge now.
    NotAttached(String),
}

/// The processes of a cgroup when a test asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupProcs {
    /// Name under which the host keeps them; at most 256 bytes.
    pub tag: String,
    /// The cgroup, as the test calls it.
    pub cgroup: String,
    /// Its processes.
    pub pids: Vec<i32>,
}

/// The guest's task, from a host that gives it once the guest stands at its gate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// Init's plan, as it would lie in the guest.
    #[serde(with = "serde_bytes")]
    pub plan: Vec<u8>,
    /// The test's own plan, and where it is to lie.
    #[serde(with = "serde_bytes")]
    pub test_plan: Vec<u8>,
    /// The place.
    pub test_plan_path: String,
}

/// What the host does at the very moment, before it is asked for it: the requests that follow, whose numbers say nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ahead {
    /// A capture or a watch.
    Snapshot(SnapshotRequest),
    /// Reads or writes.
    KernelOp(KernelOpRequest),
}

/// A guest asks to be told when its kernel is in a certain state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UntilRequest {
    /// Pairs the reply.
    pub id: u32,
    /// Alternatives, of each of which all is to be true at once. At most [`MAX_STATE_TESTS`] in all.
    pub any: Vec<Vec<StateTest>>,
    /// How long the host watches, in nanoseconds of the guest.
    pub at_most_ns: u64,
    /// The CPU on which the guest waits, and acts.
    pub cpu: u32,
    /// Done at the moment at which the state is reached.
    pub ahead: Vec<Ahead>,
}

macro_rules! messages {
    ($($(#[$doc:meta])* $name:ident $(($body:ty))? = $number:literal,)*) => {
        /// Everything that a frame can say.
        #[derive(Debug, Clone, PartialEq, Eq)]
        #[non_exhaustive]
        pub enum Message { $($(#[$doc])* $name $(($body))?,)* }

        /// The stable numbers of the messages.
        pub mod msg_type {
            $(
                #[doc = concat!("Number of `Message::", stringify!($name), "`.")]
                #[allow(non_upper_case_globals, reason = "named as the variants, so that grep finds both")]
                pub const $name: u16 = $number;
            )*
        }

        impl Message {
            /// The message's stable number.
            #[must_use]
            pub const fn msg_type(&self) -> u16 {
                match self { $(messages!(@pattern $name $(, $body)?) => $number,)* }
            }

            /// The message's name.
            #[must_use]
            pub const fn name(&self) -> &'static str {
                match self { $(messages!(@pattern $name $(, $body)?) => stringify!($name),)* }
            }

            fn body(&self) -> Result<Vec<u8>, postcard::Error> {
                match self { $(messages!(@bind $name, body $(, $body)?) => messages!(@encode body $(, $body)?),)* }
            }

            fn from_body(msg_type: u16, payload: &[u8]) -> Result<Self, DecodeError> {
                match msg_type {
                    $($number => messages!(@decode $name, payload $(, $body)?),)*
                    _ => Err(DecodeError::Unknown { msg_type }),
                }
            }
        }

        /// Whether this version has a message of that number.
        pub(crate) fn is_known(msg_type: u16) -> bool {
            [$($number),*].contains(&msg_type)
        }
    };
    (@pattern $name:ident) => { Self::$name };
    (@pattern $name:ident, $body:ty) => { Self::$name(_) };
    (@bind $name:ident, $var:ident) => { Self::$name };
    (@bind $name:ident, $var:ident, $body:ty) => { Self::$name($var) };
    (@encode $var:ident) => { Ok(Vec::new()) };
    (@encode $var:ident, $body:ty) => { <$body as Body>::encode($var) };
    (@decode $name:ident, $payload:ident) => {
        if $payload.is_empty() { Ok(Self::$name) } else { Err(trailing(stringify!($name), msg_type::$name, $payload.len())) }
    };
    (@decode $name:ident, $payload:ident, $body:ty) => {
        decode_body::<$body>(stringify!($name), msg_type::$name, $payload).map(Self::$name)
    };
}

messages! {
    /// The kernel is up; coordinator-internal.
    SysReady(SysReady) = 1,
    /// A stage was reached.
    Lifecycle(Lifecycle) = 2,
    /// The workload begins.
    ScenarioStart = 3,
    /// The workload is over.
    ScenarioEnd(ScenarioEnd) = 4,
    /// The scenario's clock stops.
    ScenarioPause = 5,
    /// The scenario's clock goes on.
    ScenarioResume = 6,
    /// A step's operations are done and its hold begins.
    Stimulus(StepMark) = 7,
    /// A step's hold is over.
    StepEnd(StepMark) = 8,
    /// The test's verdict, in the framework's encoding.
    TestResult(Opaque) = 9,
    /// Exit code of the test's process.
    Exit(i32) = 10,
    /// The scheduler's process ended.
    SchedExit(SchedExit) = 11,
    /// Exit code of a command run for a shell.
    ExecExit(i32) = 12,
    /// The test's standard output.
    Stdout(Vec<u8>) = 13,
    /// The test's standard error.
    Stderr(Vec<u8>) = 14,
    /// The scheduler's output.
    SchedLog(SchedLog) = 15,
    /// Kernel log lines.
    Dmesg(Vec<u8>) = 16,
    /// A crash text that could still be sent as a frame.
    Crash(String) = 17,
    /// Metrics of a payload.
    PayloadMetrics(PayloadMetrics) = 18,
    /// Raw output of a payload.
    RawPayloadOutput(RawPayloadOutput) = 19,
    /// A capture is asked for; coordinator-internal.
    SnapshotRequest(SnapshotRequest) = 20,
    /// The answer.
    SnapshotReply(SnapshotReply) = 21,
    /// A kernel operation is asked for; coordinator-internal.
    KernelOpRequest(KernelOpRequest) = 22,
    /// The answer.
    KernelOpReply(KernelOpReply) = 23,
    /// Output of auto-repro's probes.
    ProbeOutput(Vec<u8>) = 24,
    /// LLVM coverage data.
    Profraw(Vec<u8>) = 25,
    /// A trace file.
    Trace(Vec<u8>) = 26,
    /// A test asks init about its scheduler; never leaves the guest.
    SchedulerRequest(SchedulerRequest) = 27,
    /// Init's answer; never leaves the guest.
    SchedulerReply(SchedulerReply) = 28,
    /// The kernel's taint flags when the test was over (`/proc/sys/kernel/tainted`).
    Taint(u64) = 29,
    /// A step's operations begin; its hold begins with `Stimulus`.
    StepBegin(u16) = 30,
    /// The processes of a cgroup.
    CgroupProcs(CgroupProcs) = 31,
    /// Bytes for the scheduler's stats server, from a host that has no port to it.
    StatsRequest(Vec<u8>) = 32,
    /// Bytes of its answer.
    StatsReply(Vec<u8>) = 33,
    /// All that is the same for each test is set up: what is the task? Coordinator-internal.
    TaskRequest = 34,
    /// The answer.
    Task(Task) = 35,
    /// The guest waits for a state of its kernel; coordinator-internal.
    UntilRequest(UntilRequest) = 36,
    /// The answer.
    UntilReply(UntilReply) = 37,
}

/// Most bytes of a body. Small values of a batch need more memory than bytes, so a batch is refused by its length alone.
const fn max_body(msg_type: u16) -> usize {
    match msg_type {
        msg_type::SnapshotRequest => 1 << 10,
        msg_type::KernelOpRequest | msg_type::UntilRequest => 2 * MAX_KERNEL_REPLY,
        msg_type::StatsRequest | msg_type::StatsReply => 1 << 20,
        _ => MAX_PAYLOAD,
    }
}

impl Message {
    /// The message of a body, with this protocol's limits checked.
    pub(crate) fn from_payload(msg_type: u16, payload: &[u8]) -> Result<Self, DecodeError> {
        let max = max_body(msg_type);
        if payload.len() > max {
            let reason = format!("{} bytes, at most {max} are possible", payload.len());
            let name = "request";
            return Err(DecodeError::Body {
                name,
                msg_type,
                reason,
            });
        }
        let message = Self::from_body(msg_type, payload)?;
        message.check_limits().map_err(|error| DecodeError::Body {
            name: message.name(),
            msg_type,
            reason: error.to_string(),
        })?;
        Ok(message)
    }

    /// The serialised body, with this protocol's limits checked.
    pub(crate) fn to_payload(&self) -> Result<Vec<u8>, EncodeError> {
        self.check_limits()?;
        let body = self.body().map_err(|source| EncodeError::Body {
            msg_type: self.msg_type(),
            source,
        })?;
        let max = max_body(self.msg_type());
        if max < MAX_PAYLOAD {
            limit(self.name(), body.len(), max)?;
        }
        Ok(body)
    }

    fn check_limits(&self) -> Result<(), EncodeError> {
        let text = |part, text: &str| limit(part, text.len(), MAX_TEXT);
        match self {
            Self::SnapshotRequest(request) => text("snapshot tag", &request.tag),
            Self::CgroupProcs(procs) => text("cgroup.procs tag", &procs.tag),
            Self::Task(task) => text("test plan's path", &task.test_plan_path),
            Self::KernelOpRequest(request) => text("kernel operation tag", &request.tag),
            Self::UntilRequest(request) => {
                let count = request.any.iter().map(Vec::len).sum();
                if count > MAX_STATE_TESTS || request.any.len() > MAX_STATE_TESTS {
                    return Err(EncodeError::TooMany {
                        part: "tests of a condition",
                        count,
                        max: MAX_STATE_TESTS,
                    });
                }
                for test in request.any.iter().flatten() {
                    text("name in a condition", test.text())?;
                }
                request.ahead.iter().try_for_each(|ahead| match ahead {
                    Ahead::Snapshot(request) => text("snapshot tag", &request.tag),
                    Ahead::KernelOp(request) => text("kernel operation tag", &request.tag),
                })
            }
            Self::UntilReply(reply) => match &reply.result {
                Err(reason) => text("condition's reason", reason),
                Ok(_) => Ok(()),
            },
            Self::KernelOpReply(reply) => {
                if let Err(reason) = &reply.result {
                    text("kernel operation reason", reason)?;
                }
                let bytes = reply
                    .values
                    .iter()
                    .fold(0usize, |sum, value| sum.saturating_add(value.len()));
                limit("kernel operation reply", bytes, MAX_KERNEL_REPLY)
            }
            _ => Ok(()),
        }
    }
}

impl KernelValue {
    fn len(&self) -> usize {
        match self {
            Self::U32(_) | Self::OrU32(_) => 4,
            Self::U64(_) => 8,
            Self::Bytes(bytes) => bytes.len(),
        }
    }
}

fn limit(part: &'static str, len: usize, max: usize) -> Result<(), EncodeError> {
    if len <= max {
        Ok(())
    } else {
        Err(EncodeError::PartTooLarge { part, len, max })
    }
}

/// A body's postcard form. Byte strings go as one block, which serde does not do by itself: a `Vec<u8>` is a sequence to it,
/// and took three times as long. The bytes are the same.
trait Body: Sized {
    fn encode(&self) -> Result<Vec<u8>, postcard::Error>;
    /// The body and what follows it.
    fn decode(payload: &[u8]) -> Result<(Self, &[u8]), postcard::Error>;
}

impl Body for Vec<u8> {
    fn encode(&self) -> Result<Vec<u8>, postcard::Error> {
        postcard::to_stdvec(serde_bytes::Bytes::new(self))
    }

    fn decode(payload: &[u8]) -> Result<(Self, &[u8]), postcard::Error> {
        let (bytes, rest) = postcard::take_from_bytes::<&serde_bytes::Bytes>(payload)?;
        Ok((bytes.to_vec(), rest))
    }
}

macro_rules! plain_bodies {
    ($($body:ty),* $(,)?) => {$(
        impl Body for $body {
            fn encode(&self) -> Result<Vec<u8>, postcard::Error> {
                postcard::to_stdvec(self)
            }

            fn decode(payload: &[u8]) -> Result<(Self, &[u8]), postcard::Error> {
                postcard::take_from_bytes(payload)
            }
        }
    )*};
}

plain_bodies! {
    i32, u16, u64, String, Task, CgroupProcs, SysReady, Lifecycle, ScenarioEnd, StepMark, Opaque, SchedExit, SchedLog, PayloadMetrics, RawPayloadOutput,
    SnapshotRequest, SnapshotReply, KernelOpRequest, KernelOpReply, SchedulerRequest, SchedulerReply,
    UntilRequest, UntilReply,
}

fn decode_body<T: Body>(
    name: &'static str,
    msg_type: u16,
    payload: &[u8],
) -> Result<T, DecodeError> {
    match T::decode(payload) {
        Ok((body, [])) => Ok(body),
        Ok((_, rest)) => Err(trailing(name, msg_type, rest.len())),
        Err(source) => Err(DecodeError::Body {
            name,
            msg_type,
            reason: source.to_string(),
        }),
    }
}

fn trailing(name: &'static str, msg_type: u16, bytes: usize) -> DecodeError {
    DecodeError::Body {
        name,
        msg_type,
        reason: format!("{bytes} bytes too many"),
    }
}
