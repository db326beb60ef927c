//! The way from a scenario to the host: what the model says, as wire messages over the link to init.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use ktstr_init::Waits;
use ktstr_wire::gate::UntilState;

use ktstr_wire::{
    Ahead, CgroupProcs, KernelOpDirection, KernelOpEntry, KernelOpMode, KernelOpRequest,
    KernelTarget as WireTarget, KernelValue as WireValue, Message, Opaque, PayloadMetrics,
    RawPayloadOutput, ScenarioEnd, SchedulerAction, SchedulerFault, SchedulerRequest, SnapshotKind,
    SnapshotRequest, StepMark, Until, UntilRequest,
};

use crate::model::payload::PayloadReport;
use crate::model::scenario::{KernelTarget, KernelValue, KernelValueWidth};
use crate::model::transport::{
    Awaited, HostAct, HostRequest, KernelBatch, KernelEntries, RawOutput, ScenarioEvent,
    SchedulerChange, StepFigures, Transport, TransportError, UntilOrder,
};
use crate::model::verdict::AssertResult;

/// A connection that carries wire messages; init's link to the test's process is one.
pub trait MessageLink: Send + Sync + fmt::Debug {
    /// Sends one message.
    ///
    /// # Errors
    /// When the connection is broken.
    fn send(&self, message: &Message) -> io::Result<()>;

    /// Sends a request and waits for the reply with the same id; `None`: none came before the deadline.
    ///
    /// # Errors
    /// When the connection is broken.
    fn request(&self, message: &Message, deadline: Duration) -> io::Result<Option<Message>>;
}

impl MessageLink for ktstr_init::child::Link {
    fn send(&self, message: &Message) -> io::Result<()> {
        self.send(message)
    }

    fn request(&self, message: &Message, deadline: Duration) -> io::Result<Option<Message>> {
        self.request(message, deadline)
    }
}

/// A [`Transport`] over a [`MessageLink`].
#[derive(Debug)]
pub struct LinkTransport<L> {
    link: L,
    next_id: AtomicU32,
    /// Where this process waits for a state of the kernel; none before it first does.
    waits: Mutex<Option<Waits>>,
}

impl<L: MessageLink> LinkTransport<L> {
    /// Speaks over `link`.
    pub fn new(link: L) -> Self {
        Self {
            link,
            next_id: AtomicU32::new(1),
            waits: Mutex::default(),
        }
    }

    fn waiting<T>(&self, look: impl FnOnce(&mut Waits) -> T) -> Option<T> {
        let mut waits = self.waits.lock().unwrap_or_else(PoisonError::into_inner);
        waits.as_mut().map(look)
    }

    /// Sends the test's result.
    ///
    /// # Errors
    /// When the connection is broken.
    pub fn send_result(&self, result: &AssertResult) -> Result<(), TransportError> {
        let body =
            serde_json::to_vec(result).map_err(|fault| TransportError::Broken(fault.into()))?;
        self.send(&Message::TestResult(Opaque { body }))
    }

    fn send(&self, message: &Message) -> Result<(), TransportError> {
        self.link.send(message).map_err(TransportError::Broken)
    }
}

impl<L: MessageLink> Transport for LinkTransport<L> {
    fn event(&self, event: &ScenarioEvent) -> Result<(), TransportError> {
        self.send(&message_of(event))
    }

    fn request(&self, request: &HostRequest, deadline: Duration) -> Result<(), TransportError> {
        // Only uniqueness matters: the id publishes nothing.
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let reply = self
            .link
            .request(&request_message(request, id), deadline)
            .map_err(TransportError::Broken)?;
        match reply {
            Some(Message::SnapshotReply(reply)) => reply.result.map_err(TransportError::Refused),
            Some(other) => Err(TransportError::Refused(format!("answered with {other:?}"))),
            None => Err(TransportError::Deadline(deadline)),
        }
    }

    fn payload(
        &self,
        report: &PayloadReport,
        raw: Option<RawOutput<'_>>,
    ) -> Result<(), TransportError> {
        if let Some(RawOutput { stdout, stderr }) = raw {
            self.send(&Message::RawPayloadOutput(RawPayloadOutput {
                payload_index: report.index,
                stdout: stdout.to_owned(),
                stderr: stderr.to_owned(),
            }))?;
        }
        let body =
            serde_json::to_vec(report).map_err(|fault| TransportError::Broken(fault.into()))?;
        self.send(&Message::PayloadMetrics(PayloadMetrics {
            payload_index: report.index,
            body,
        }))
    }

    fn cgroup_procs(&self, tag: &str, cgroup: &str, pids: &[i32]) -> Result<(), TransportError> {
        self.send(&Message::CgroupProcs(CgroupProcs {
            tag: tag.to_owned(),
            cgroup: cgroup.to_owned(),
            pids: pids.to_owned(),
        }))
    }

    fn scheduler_op(
        &self,
        change: &SchedulerChange,
        deadline: Duration,
    ) -> Result<Option<i32>, TransportError> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let action = match change {
            SchedulerChange::Attach(name) => SchedulerAction::Attach(name.clone()),
            SchedulerChange::Detach => SchedulerAction::Detach,
            SchedulerChange::Restart => SchedulerAction::Restart,
            SchedulerChange::Replace(name) => SchedulerAction::Replace(name.clone()),
        };
        let request = Message::SchedulerRequest(SchedulerRequest { id, action });
        let reply = self
            .link
            .request(&request, deadline)
            .map_err(TransportError::Broken)?;
        match reply {
            Some(Message::SchedulerReply(reply)) => reply.result.map_err(|fault| match fault {
                SchedulerFault::Refused(why) => TransportError::SchedulerRefused(why),
                SchedulerFault::NotAttached(why) => TransportError::SchedulerNotAttached(why),
            }),
            Some(other) => Err(TransportError::Refused(format!("answered with {other:?}"))),
            None => Err(TransportError::Deadline(deadline)),
        }
    }

    fn kernel_op(
        &self,
        batch: &KernelBatch,
        deadline: Duration,
    ) -> Result<Vec<Vec<u8>>, TransportError> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let reply = self
            .link
            .request(
                &Message::KernelOpRequest(kernel_request(batch, id)),
                deadline,
            )
            .map_err(TransportError::Broken)?;
        match reply {
            Some(Message::KernelOpReply(reply)) => {
                reply.result.map_err(TransportError::Refused)?;
                Ok(reply.values.into_iter().map(bytes_of).collect())
            }
            Some(other) => Err(TransportError::Refused(format!("answered with {other:?}"))),
            None => Err(TransportError::Deadline(deadline)),
        }
    }

    fn until(&self, order: &UntilOrder, deadline: Duration) -> Result<Awaited, TransportError> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        {
            let mut waits = self.waits.lock().unwrap_or_else(PoisonError::into_inner);
            if waits.is_none() {
                *waits = Waits::find().map_err(TransportError::Broken)?;
            }
        }
        self.waiting(|waits| waits.begin(0));
        let request = Message::UntilRequest(until_request(order, id));
        let reply = self
            .link
            .request(&request, deadline)
            .map_err(TransportError::Broken)?;
        match reply {
            Some(Message::UntilReply(reply)) => {
                match reply.result.map_err(TransportError::Refused)? {
                    Until::Watched => {
                        self.waiting(|waits| waits.begin(id));
                        Ok(Awaited::Watched)
                    }
                    Until::Reached => Ok(Awaited::Reached),
                    Until::NotReached => Ok(Awaited::NotReached),
                }
            }
            Some(other) => Err(TransportError::Refused(format!("answered with {other:?}"))),
            None => Err(TransportError::Deadline(deadline)),
        }
    }

    fn until_state(&self) -> UntilState {
        self.waiting(|waits| waits.state())
            .unwrap_or(UntilState::Failed)
    }

    fn stop_waiting(&self) {
        self.waiting(|waits| waits.begin(0));
    }

    fn mark(&self) {
        self.waiting(|waits| waits.mark());
    }
}

fn until_request(order: &UntilOrder, id: u32) -> UntilRequest {
    let ahead = order.ahead.iter().map(|act| match act {
        HostAct::Request(request) => Ahead::Snapshot(snapshot_request(request, 0)),
        HostAct::Kernel(batch) => Ahead::KernelOp(kernel_request(batch, 0)),
    });
    UntilRequest {
        id,
        any: order.any.clone(),
        at_most_ns: u64::try_from(order.at_most.as_nanos()).unwrap_or(u64::MAX),
        cpu: order.cpu,
        ahead: ahead.collect(),
    }
}

/// The batch as the wire has it.
pub(super) fn kernel_request(batch: &KernelBatch, id: u32) -> KernelOpRequest {
    let entry = |target: &KernelTarget, value| KernelOpEntry {
        target: wire_target(target),
        value,
    };
    let (direction, entries) = match &batch.entries {
        KernelEntries::Read(reads) => {
            let reads = reads.iter();
            let entries = reads.map(|(target, width)| entry(target, wire_width(*width)));
            (KernelOpDirection::Read, entries.collect())
        }
        KernelEntries::Write(writes) => {
            let writes = writes.iter();
            let entries = writes.map(|(target, value)| entry(target, wire_value(value)));
            (KernelOpDirection::Write, entries.collect())
        }
    };
    KernelOpRequest {
        id,
        mode: if batch.cold {
            KernelOpMode::Cold
        } else {
            KernelOpMode::Hot
        },
        direction,
        tag: batch.tag.clone(),
        entries,
    }
}

fn wire_target(target: &KernelTarget) -> WireTarget {
    match target.clone() {
        KernelTarget::Symbol(name) => WireTarget::Symbol(name),
        KernelTarget::Direct(address) => WireTarget::Direct(address),
        KernelTarget::Kva(address) => WireTarget::Kva(address),
        KernelTarget::PerCpuField { symbol, field, cpu } => {
            WireTarget::PerCpuField { symbol, field, cpu }
        }
        KernelTarget::TaskField {
            pid,
            expected_start_time_ns: start_time_ns,
            field,
        } => WireTarget::TaskField {
            pid,
            start_time_ns,
            field,
        },
    }
}

/// A value of that size, which says how much is read.
fn wire_width(width: KernelValueWidth) -> WireValue {
    match width {
        KernelValueWidth::U32 => WireValue::U32(0),
        KernelValueWidth::U64 => WireValue::U64(0),
        // One byte too many is refused by the host as well, and costs no more memory than it takes.
        KernelValueWidth::Bytes(len) => {
            WireValue::Bytes(vec![0; len.min(ktstr_wire::MAX_KERNEL_REPLY + 1)])
        }
    }
}

fn wire_value(value: &KernelValue) -> WireValue {
    match value.clone() {
        KernelValue::U32(value) => WireValue::U32(value),
        KernelValue::U64(value) => WireValue::U64(value),
        KernelValue::Bytes(bytes) => WireValue::Bytes(bytes),
        KernelValue::OrU32(bits) => WireValue::OrU32(bits),
    }
}

pub(super) fn bytes_of(value: WireValue) -> Vec<u8> {
    match value {
        WireValue::U32(value) | WireValue::OrU32(value) => value.to_le_bytes().to_vec(),
        WireValue::U64(value) => value.to_le_bytes().to_vec(),
        WireValue::Bytes(bytes) => bytes,
    }
}

fn message_of(event: &ScenarioEvent) -> Message {
    match event {
        ScenarioEvent::Start => Message::ScenarioStart,
        ScenarioEvent::Pause => Message::ScenarioPause,
        ScenarioEvent::Resume => Message::ScenarioResume,
        ScenarioEvent::StepBegin { step_index } => Message::StepBegin(*step_index),
        ScenarioEvent::StepStart(figures) => Message::Stimulus(mark_of(figures)),
        ScenarioEvent::StepEnd(figures) => Message::StepEnd(mark_of(figures)),
        ScenarioEvent::End {
            elapsed_ms,
            total_iterations,
        } => Message::ScenarioEnd(ScenarioEnd {
            elapsed_ms: *elapsed_ms,
            total_iterations: *total_iterations,
        }),
    }
}

fn mark_of(figures: &StepFigures) -> StepMark {
    let StepFigures {
        step_index,
        op_count,
        op_kinds,
        elapsed_ms,
        cgroup_count,
        worker_count,
        total_iterations,
    } = *figures;
    StepMark {
        step_index,
        op_count,
        op_kinds,
        elapsed_ms,
        cgroup_count,
        worker_count,
        total_iterations,
    }
}

fn request_message(request: &HostRequest, id: u32) -> Message {
    Message::SnapshotRequest(snapshot_request(request, id))
}

fn snapshot_request(request: &HostRequest, id: u32) -> SnapshotRequest {
    let (kind, tag) = match request {
        HostRequest::Capture { tag } => (SnapshotKind::Capture, tag.as_str()),
        HostRequest::Watch { symbol } => (SnapshotKind::Watch, symbol.as_str()),
        HostRequest::PlannedExit => (SnapshotKind::PlannedExit, ""),
    };
    SnapshotRequest {
        id,
        kind,
        tag: tag.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ktstr_wire::SnapshotReply;
    use std::sync::Mutex;

    /// Records what is sent; answers every request with `reply`.
    #[derive(Debug, Default)]
    struct Loop {
        sent: Mutex<Vec<Message>>,
        reply: Option<Result<(), String>>,
    }

    impl MessageLink for Loop {
        fn send(&self, message: &Message) -> io::Result<()> {
            self.sent.lock().unwrap().push(message.clone());
            Ok(())
        }

        fn request(&self, message: &Message, _: Duration) -> io::Result<Option<Message>> {
            self.send(message)?;
            let reply = self.reply.clone();
            Ok(reply.map(|result| Message::SnapshotReply(SnapshotReply { id: 1, result })))
        }
    }

    fn capture(reply: Option<Result<(), String>>) -> String {
        let link = Loop {
            reply,
            ..Loop::default()
        };
        let request = HostRequest::Capture { tag: "t".into() };
        match LinkTransport::new(link).request(&request, Duration::from_secs(2)) {
            Ok(()) => "ok".to_owned(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn replies_and_their_absence() {
        assert_eq!(capture(Some(Ok(()))), "ok");
        assert_eq!(
            capture(Some(Err("frozen".into()))),
            "refused by the host: frozen"
        );
        assert_eq!(capture(None), "no answer from the host within 2000 ms");
    }

    /// Answers every kernel operation with one value and keeps the request.
    #[derive(Debug, Default)]
    struct Memory(Mutex<Vec<Message>>);

    impl MessageLink for Memory {
        fn send(&self, _: &Message) -> io::Result<()> {
            Ok(())
        }

        fn request(&self, message: &Message, _: Duration) -> io::Result<Option<Message>> {
            self.0.lock().unwrap().push(message.clone());
            Ok(Some(Message::KernelOpReply(ktstr_wire::KernelOpReply {
                id: 1,
                result: Ok(()),
                values: vec![WireValue::U32(7)],
            })))
        }
    }

    #[test]
    fn a_kernel_read_asks_for_bytes_and_yields_them() {
        let transport = LinkTransport::new(Memory::default());
        let batch = KernelBatch {
            tag: "t".into(),
            cold: true,
            entries: KernelEntries::Read(vec![(
                KernelTarget::symbol("jiffies"),
                KernelValueWidth::Bytes(8),
            )]),
        };
        let read = transport.kernel_op(&batch, Duration::from_secs(1)).unwrap();
        assert_eq!(read, [vec![7, 0, 0, 0]]);
        let sent = transport.link.0.lock().unwrap();
        let [Message::KernelOpRequest(request)] = sent.as_slice() else {
            panic!("{sent:?}")
        };
        assert_eq!(
            (request.mode, request.direction),
            (KernelOpMode::Cold, KernelOpDirection::Read)
        );
        assert_eq!(request.entries[0].value, WireValue::Bytes(vec![0; 8]));
    }

    #[test]
    fn each_place_and_value_is_its_own_on_the_wire() {
        let targets = [
            KernelTarget::symbol("a"),
            KernelTarget::direct(1),
            KernelTarget::kva(1),
            KernelTarget::per_cpu_field("a", "b.c", 1),
            KernelTarget::task_field(1, 2, "b.c"),
        ];
        let field = String::from("b.c");
        let wanted = [
            WireTarget::Symbol("a".into()),
            WireTarget::Direct(1),
            WireTarget::Kva(1),
            WireTarget::PerCpuField {
                symbol: "a".into(),
                field: field.clone(),
                cpu: 1,
            },
            WireTarget::TaskField {
                pid: 1,
                start_time_ns: 2,
                field,
            },
        ];
        assert_eq!(targets.each_ref().map(wire_target), wanted);
        let values = [
            KernelValue::u32(1),
            KernelValue::u64(1),
            KernelValue::bytes([1]),
            KernelValue::or_u32(1),
        ];
        let wanted = [
            WireValue::U32(1),
            WireValue::U64(1),
            WireValue::Bytes(vec![1]),
            WireValue::OrU32(1),
        ];
        assert_eq!(values.each_ref().map(wire_value), wanted);
        let widths = [
            KernelValueWidth::u32(),
            KernelValueWidth::u64(),
            KernelValueWidth::bytes(2),
        ];
        let wanted = [
            WireValue::U32(0),
            WireValue::U64(0),
            WireValue::Bytes(vec![0; 2]),
        ];
        assert_eq!(widths.map(wire_width), wanted);
    }

    #[test]
    fn a_result_travels_as_json() {
        let transport = LinkTransport::new(Loop::default());
        let result = AssertResult::skip("too small");
        transport.send_result(&result).unwrap();
        let sent = transport.link.sent.lock().unwrap();
        let [Message::TestResult(opaque)] = sent.as_slice() else {
            panic!("{sent:?}")
        };
        assert_eq!(
            serde_json::from_slice::<AssertResult>(&opaque.body).unwrap(),
            result
        );
    }
}
