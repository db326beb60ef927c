//! Runs that never were, for tests.

use std::time::Duration;

use ktstr_wire::{Assembler, Event, Lifecycle, Message, Opaque, Stage};

use crate::host::judge::captures::Periodic;
use crate::host::judge::left::Left;
use crate::host::plan::deadlines::Deadlines;
use crate::host::watch::lost_time::LostTime;
use crate::model::result::{BulkDrainResult, BulkEntry, VmResult};
use crate::model::verdict::AssertResult;

/// A run with these frames, which ended by power-off.
pub(in crate::host) fn with_messages(messages: &[Message]) -> VmResult {
    with_messages_at(0, messages)
}

/// As [`with_messages`], with frames that were sent at this moment of the guest's clock.
pub(in crate::host) fn with_messages_at(guest_ns: u64, messages: &[Message]) -> VmResult {
    let mut assembler = Assembler::new();
    for (seq, message) in (0..).zip(messages) {
        assembler.push(&ktstr_wire::encode(message, seq, guest_ns).unwrap());
    }
    let mut frames = BulkDrainResult::default();
    while let Some(event) = assembler.next_event() {
        if let Event::Frame(frame) = event {
            frames.entries.push(BulkEntry {
                frame,
                host_elapsed: Duration::ZERO,
            });
        }
    }
    VmResult {
        success: false,
        guest_messages: Some(frames),
        ..VmResult::test_fixture()
    }
}

/// A stage that was reached.
pub(in crate::host) fn life(stage: Stage) -> Message {
    Message::Lifecycle(Lifecycle {
        stage,
        detail: String::new(),
    })
}

/// The guest's verdict as a frame.
pub(in crate::host) fn verdict(result: &AssertResult) -> Message {
    Message::TestResult(Opaque {
        body: serde_json::to_vec(result).unwrap(),
    })
}

/// What that run left, with nothing beside it.
pub(in crate::host) fn left(vm: VmResult) -> Left {
    Left {
        vm,
        deadlines: Deadlines {
            vm: Duration::from_secs(40),
            watchdog: Duration::from_secs(5),
            duration: Duration::from_secs(12),
        },
        exit: None,
        lost: LostTime::default(),
        periodic: Periodic::default(),
        books: None,
    }
}
