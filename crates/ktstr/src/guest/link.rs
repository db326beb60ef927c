//! The way from a scenario to the host: what the model says, as wire messages over the link to init.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use ktstr_wire::{
    CgroupProcs, KernelOpDirection, KernelOpEntry, KernelOpMode, KernelOpRequest,
    KernelTarget as WireTarget, KernelValue, Message, Opaque, PayloadMetrics, RawPayloadOutput,
    ScenarioEnd, SchedulerAction, SchedulerFault, SchedulerRequest, SnapshotKind, SnapshotRequest,
    StepMark,
};

use crate::model::payload::PayloadReport;
use crate::model::scenario::{KernelPlace, KernelTarget};
use crate::model::transport::{
    HostRequest, KernelBatch, RawOutput, ScenarioEvent, SchedulerChange, StepFigures, Transport,
    TransportError,
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
}

impl<L: MessageLink> LinkTransport<L> {
    /// Speaks over `link`.
    pub fn new(link: L) -> Self {
        Self {
            link,
            next_id: AtomicU32::new(1),
        }
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
            SchedulerChange::Attach => SchedulerAction::Attach,
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
}

/// The batch as the wire has it.
pub(super) fn kernel_request(batch: &KernelBatch, id: u32) -> KernelOpRequest {
    let writes = batch.entries.iter().any(|(_, bytes)| bytes.is_some());
    let entries = batch.entries.iter().map(|(target, bytes)| KernelOpEntry {
        target: wire_target(target),
        value: KernelValue::Bytes(
            bytes
                .clone()
                .unwrap_or_else(|| vec![0; target.len as usize]),
        ),
    });
    KernelOpRequest {
        id,
        mode: if batch.cold {
            KernelOpMode::Cold
        } else {
            KernelOpMode::Hot
        },
        direction: if writes {
            KernelOpDirection::Write
        } else {
            KernelOpDirection::Read
        },
        tag: batch.tag.clone(),
        entries: entries.collect(),
    }
}

fn wire_target(target: &KernelTarget) -> WireTarget {
    match target.place.clone() {
        KernelPlace::Symbol(name) => WireTarget::Symbol(name),
        KernelPlace::Direct(address) => WireTarget::Direct(address),
        KernelPlace::Kva(address) => WireTarget::Kva(address),
        KernelPlace::PerCpu { symbol, field, cpu } => {
            WireTarget::PerCpuField { symbol, field, cpu }
        }
        KernelPlace::Task {
            pid,
            start_time_ns,
            field,
        } => WireTarget::TaskField {
            pid,
            start_time_ns,
            field,
        },
    }
}

pub(super) fn bytes_of(value: KernelValue) -> Vec<u8> {
    match value {
        KernelValue::U32(value) | KernelValue::OrU32(value) => value.to_le_bytes().to_vec(),
        KernelValue::U64(value) => value.to_le_bytes().to_vec(),
        KernelValue::Bytes(bytes) => bytes,
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
    let (kind, tag) = match request {
        HostRequest::Capture { tag } => (SnapshotKind::Capture, tag.as_str()),
        HostRequest::Watch { symbol } => (SnapshotKind::Watch, symbol.as_str()),
        HostRequest::PlannedExit => (SnapshotKind::PlannedExit, ""),
    };
    Message::SnapshotRequest(SnapshotRequest {
        id,
        kind,
        tag: tag.to_owned(),
    })
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
                values: vec![KernelValue::U32(7)],
            })))
        }
    }

    #[test]
    fn a_kernel_read_asks_for_bytes_and_yields_them() {
        let transport = LinkTransport::new(Memory::default());
        let batch = KernelBatch {
            tag: "t".into(),
            cold: true,
            entries: vec![(KernelTarget::symbol("jiffies", 8), None)],
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
        assert_eq!(request.entries[0].value, KernelValue::Bytes(vec![0; 8]));
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
