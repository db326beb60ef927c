//! The threads that turn a VM's life into events, and the loop that hands them to the coordinator.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle, Scope};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use ktstr_kernel::with_debug_information;
use ktstr_vmm::{ExitReason, PortStream, RunningVm, Stop, StopCause, WatchHit};
use ktstr_wire::Message;
use rustix::event::{PollFd, PollFlags, poll};

use super::live::{GuestView, Live};
use super::replies::Replies;
use super::{Coordinator, Event, Orders, Outcome, gdb};
use crate::host::watch::drain::{Drain, Drained};

/// Longest sleep of a thread that the VM's end wakes earlier.
const LONGEST_SLEEP: Duration = Duration::from_secs(3600);

/// Frames and captures of one run. The frames are complete once the VM is dropped, which closes its ports.
#[derive(Debug)]
pub(in crate::host) struct Followed {
    pub(in crate::host) outcome: Outcome,
    /// In virtual time: from the VM's start until the guest was given its task, by the host's clock.
    pub(in crate::host) given_task: Option<Duration>,
    frames: Frames,
}

/// Where the frames are collected.
#[derive(Debug)]
enum Frames {
    Thread(JoinHandle<Drained>),
    Collected(Drained),
}

impl Followed {
    /// The frames; call when the VM is gone.
    ///
    /// # Errors
    /// When the thread panicked.
    pub(in crate::host) fn frames(self) -> anyhow::Result<(Drained, Outcome)> {
        let drained = match self.frames {
            Frames::Thread(thread) => thread
                .join()
                .map_err(|_| anyhow::anyhow!("the frame thread panicked"))?,
            Frames::Collected(drained) => drained,
        };
        Ok((drained, self.outcome))
    }
}

/// What the threads send, before the coordinator's names are put to it.
enum Raw {
    Message(Message),
    Hit(WatchHit),
    Ended,
}

/// Follows the VM to its end.
///
/// # Errors
/// When a thread cannot be started.
pub(in crate::host) fn follow(
    vm: &RunningVm,
    port: PortStream,
    view: GuestView,
    started: Instant,
    orders: Orders,
) -> anyhow::Result<Followed> {
    let (events, inbox) = channel();
    let live = Live::new(vm, view, Replies::to(&port));
    let to_loop = events.clone();
    let frames = thread::Builder::new()
        .name(String::from("ktstr-frames"))
        .spawn(move || read_frames(port, started, &to_loop))
        .context("failed to start the frame thread")?;
    let outcome = thread::scope(|scope| -> anyhow::Result<Outcome> {
        let hits = events.clone();
        thread::Builder::new()
            .name(String::from("ktstr-hits"))
            .spawn_scoped(scope, move || wait_for_hits(vm, &hits))
            .context("failed to start the hit thread")?;
        thread::Builder::new()
            .name(String::from("ktstr-exit"))
            .spawn_scoped(scope, move || wait_for_exit(vm, &events))
            .context("failed to start the exit thread")?;
        Ok(run(Coordinator::new(live, orders), vm, &inbox))
    })?;
    Ok(Followed {
        outcome,
        frames: Frames::Thread(frames),
        given_task: None,
    })
}

/// Follows a VM in virtual time to its end: the guest stands still while anything is done, so its times alone count.
///
/// # Errors
/// When the emulator is not understood.
pub(in crate::host) fn follow_at_gate(
    vm: &RunningVm,
    view: GuestView,
    orders: Orders,
) -> anyhow::Result<Followed> {
    // A debugger is served beside it.
    thread::scope(|scope| at_gate(scope, vm, view, orders))
}

fn at_gate<'scope, 'env>(
    scope: &'scope Scope<'scope, 'env>,
    vm: &'env RunningVm,
    view: GuestView,
    orders: Orders,
) -> anyhow::Result<Followed> {
    let started = orders.started;
    // With types and lines, where it is one of the cache's.
    let vmlinux = view.vmlinux.clone();
    let vmlinux = vmlinux.map(|elf| with_debug_information(&elf).unwrap_or(elf));
    let mut coordinator = Coordinator::new(Live::new(vm, view, Replies::at_gate()), orders);
    let mut drain = Drain::new(started);
    let mut given_task = None;
    while let Some(Stop { at, cause, .. }) = vm.next_stop()? {
        let now = started + at;
        let knocks = matches!(cause, StopCause::Knock(_));
        match cause {
            StopCause::Knock(bytes) => {
                let mut messages = Vec::new();
                drain.push(&bytes, now, &mut |message| {
                    tell(message);
                    if concerns_coordinator(message) {
                        messages.push(message.clone());
                    }
                });
                for message in messages {
                    match message {
                        Message::TaskRequest => {
                            coordinator.machine.give_task();
                            given_task.get_or_insert_with(|| started.elapsed());
                        }
                        message => coordinator.handle(Event::Message(message), now),
                    }
                }
            }
            // Of the run, not of the test.
            StopCause::Watch(hit) if coordinator.machine.records(&hit, at) => {}
            StopCause::Watch(hit) => {
                let token = coordinator.machine.token_of(&hit);
                coordinator.handle(Event::Hit(token), now);
            }
            StopCause::Mark => coordinator.handle(Event::Mark, now),
            _ => {}
        }
        coordinator.tick(now);
        let wake = coordinator.next_wake();
        let wake = wake.map(|wake| wake.saturating_duration_since(started));
        // A guest that stands still for another reason reads none.
        let answers = if knocks {
            coordinator.machine.take_answers()
        } else {
            Vec::new()
        };
        if coordinator.takes_gdb() {
            let symbols = (vmlinux.clone(), coordinator.kaslr_offset);
            gdb::offer(scope, vm, &answers, symbols)?;
        } else {
            vm.go_on(&answers, wake)?;
        }
    }
    wait_for_end(vm);
    let panicked = vm.ended_by() == Some(ExitReason::Panic);
    coordinator.handle(Event::Ended { panicked }, started);
    Ok(Followed {
        outcome: coordinator.finish(),
        frames: Frames::Collected(drain.finish()),
        given_task,
    })
}

fn run(mut coordinator: Coordinator<Live<'_>>, vm: &RunningVm, inbox: &Receiver<Raw>) -> Outcome {
    loop {
        let left = coordinator.next_wake().map_or(LONGEST_SLEEP, |wake| {
            wake.saturating_duration_since(Instant::now())
        });
        match inbox.recv_timeout(left) {
            Ok(Raw::Message(message)) => {
                coordinator.handle(Event::Message(message), Instant::now());
            }
            Ok(Raw::Hit(hit)) => {
                let token = coordinator.machine.token_of(&hit);
                coordinator.handle(Event::Hit(token), Instant::now());
            }
            Ok(Raw::Ended) => {
                let panicked = vm.ended_by() == Some(ExitReason::Panic);
                coordinator.handle(Event::Ended { panicked }, Instant::now());
                // What the guest asked last is answered too, if only by a reason.
                while let Ok(left) = inbox.try_recv() {
                    if let Raw::Message(message) = left {
                        coordinator.handle(Event::Message(message), Instant::now());
                    }
                }
                return coordinator.finish();
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return coordinator.finish(),
        }
        coordinator.tick(Instant::now());
    }
}

fn read_frames(mut port: PortStream, started: Instant, events: &Sender<Raw>) -> Drained {
    let mut drain = Drain::new(started);
    let pass = |message: &Message| {
        tell(message);
        if concerns_coordinator(message) {
            // The loop has ended: there is no receiver.
            let _ = events.send(Raw::Message(message.clone()));
        }
    };
    if let Err(error) = drain.read_to_end(&mut port, pass) {
        tracing::warn!(%error, "the frame port broke");
    }
    drain.finish()
}

fn concerns_coordinator(message: &Message) -> bool {
    matches!(
        message,
        Message::SysReady(_)
            | Message::Lifecycle(_)
            | Message::ScenarioStart
            | Message::ScenarioPause
            | Message::ScenarioResume
            | Message::ScenarioEnd(_)
            | Message::StepBegin(_)
            | Message::Stimulus(_)
            | Message::TestResult(_)
            | Message::Exit(_)
            | Message::SnapshotRequest(_)
            | Message::KernelOpRequest(_)
            | Message::StatsReply(_)
            | Message::TaskRequest
            | Message::UntilRequest(_)
    )
}

/// What the guest prints is logged at once; `--nocapture` shows it.
fn tell(message: &Message) {
    match message {
        Message::Stdout(bytes) | Message::Stderr(bytes) => {
            tracing::debug!(target: "ktstr::guest", "{}", String::from_utf8_lossy(bytes).trim_end());
        }
        Message::Lifecycle(life) => {
            tracing::debug!(stage = life.stage.as_str(), detail = %life.detail, "guest");
        }
        _ => {}
    }
}

fn wait_for_hits(vm: &RunningVm, events: &Sender<Raw>) {
    while let Some(hit) = vm.next_watch_hit(LONGEST_SLEEP) {
        if events.send(Raw::Hit(hit)).is_err() {
            return;
        }
    }
}

fn wait_for_exit(vm: &RunningVm, events: &Sender<Raw>) {
    wait_for_end(vm);
    let _ = events.send(Raw::Ended);
}

fn wait_for_end(vm: &RunningVm) {
    let mut fds = [PollFd::new(vm, PollFlags::IN)];
    // An interrupted sleep is slept again; any other error would come at every call, and the end must be told.
    while poll(&mut fds, None) == Err(rustix::io::Errno::INTR) {}
}
