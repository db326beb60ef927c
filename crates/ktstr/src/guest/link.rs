//! The way from a scenario to the host: what the model says, as wire messages over the link to init.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use ktstr_wire::{Message, Opaque, ScenarioEnd, SnapshotKind, SnapshotRequest, StepMark};

use crate::model::transport::{HostRequest, ScenarioEvent, StepFigures, Transport, TransportError};
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
}

fn message_of(event: &ScenarioEvent) -> Message {
    match event {
        ScenarioEvent::Start => Message::ScenarioStart,
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
        HostRequest::Capture { tag } => (SnapshotKind::Capture, tag),
        HostRequest::Watch { symbol } => (SnapshotKind::Watch, symbol),
    };
    Message::SnapshotRequest(SnapshotRequest {
        id,
        kind,
        tag: tag.clone(),
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
