//! `EpollStorm`: producers put bursts of events into an eventfd; consumers wait for them on one epoll. Exercises epoll's wake-ups
//! and consumers that compete for few events.
//!
//! One iteration is one burst written or one event taken: one work unit. Consumers' wake latency is from the last write to
//! running, for which of them wakes is the kernel's choice; producers' from the last event's being taken.
//!
//! Word 0 of the group counts events that are not taken yet.

use std::sync::atomic::Ordering::{AcqRel, Relaxed, Release};

use rustix::event::epoll;

use super::super::kit::Channel;
use super::super::meter::Meter;
use super::Place;
use crate::guest::sys;
use crate::model::work::WorkType;

pub(super) fn run<'a>(
    work: &WorkType,
    leader: usize,
    member: usize,
    place: &Place<'a>,
) -> impl FnOnce(&mut Meter<'_>) + use<'a> {
    let (producers, burst) = match work {
        WorkType::EpollStorm {
            producers,
            events_per_burst,
            ..
        } => (
            *producers,
            u32::try_from(*events_per_burst).unwrap_or(u32::MAX).max(1),
        ),
        _ => (0, 1),
    };
    let channel = &place.kit.channels[leader / work.info().group_size];
    move |meter| {
        if member < producers {
            produce(channel, burst, leader, meter);
        } else {
            consume(channel, producers, leader, meter);
        }
    }
}

fn produce(channel: &Channel, burst: u32, leader: usize, meter: &mut Meter<'_>) {
    let shared = meter.slot_of(leader);
    let waiting = &shared.words[0];
    while meter.await_word(waiting, |events| events == 0) {
        waiting.fetch_add(burst, Release);
        for _ in 0..burst {
            shared.mark_ns.store(sys::monotonic_ns(), Relaxed);
            let _ = rustix::io::write(&channel.event, &1u64.to_ne_bytes());
        }
        meter.tick(1);
    }
}

fn consume(channel: &Channel, producers: usize, leader: usize, meter: &mut Meter<'_>) {
    let shared = meter.slot_of(leader);
    let mut events = [epoll::Event {
        flags: epoll::EventFlags::empty(),
        data: epoll::EventData::new_u64(0),
    }];
    while let Some(slept) = wait(channel, &mut events, meter) {
        meter.awake_since(slept, shared.mark_ns.load(Relaxed));
        if rustix::io::read(&channel.event, &mut [0u8; 8]).is_err() {
            // Another consumer was faster.
            continue;
        }
        meter.tick(1);
        if shared.words[0].fetch_sub(1, AcqRel) == 1 {
            for producer in leader..leader + producers {
                meter.call(producer);
            }
            sys::futex_wake_all(&shared.words[0]);
        }
    }
}

/// Rests on the epoll itself: whether it slept; `None` if the stop came first.
fn wait(channel: &Channel, events: &mut [epoll::Event], meter: &Meter<'_>) -> Option<bool> {
    let slice = rustix::event::Timespec {
        tv_sec: 0,
        tv_nsec: 50_000_000,
    };
    let now = rustix::event::Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    meter.rest();
    let mut slept = false;
    while !meter.stopping() {
        let timeout = if slept { &slice } else { &now };
        if epoll::wait(&channel.epoll, &mut *events, Some(timeout)).unwrap_or(0) > 0 {
            return Some(slept);
        }
        slept = true;
    }
    None
}
