//! Captures that wait for the scheduler's own figures. In virtual time the answer is a message of a guest that has to go on for it;
//! the state is that of the request's moment.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use ktstr_monitor::FailureDumpReport;

use super::Stats;
use crate::model::snapshot::{MissingStatsReason, SnapshotEntry};
use crate::model::stats_client::{MAX_STATS_REPLY, content_of};

/// How long an answer may take, in the guest's time: a server that is built for debugging may need more than a second of it.
const DEADLINE: Duration = Duration::from_secs(5);

const TOO_LARGE: MissingStatsReason = MissingStatsReason::TooLarge {
    what: "reply",
    max: MAX_STATS_REPLY,
};

/// A capture and what is to be done with it.
#[derive(Debug)]
pub(super) struct Shot {
    pub(super) captured: Result<FailureDumpReport, String>,
    /// All but the figures.
    pub(super) side: SnapshotEntry,
    /// The request that made it; a capture of the host's own has none.
    pub(super) request: Option<u32>,
}

#[derive(Debug)]
struct Waiting {
    number: u64,
    until: Instant,
    /// Known, but one before it still waits: captures are kept in their order.
    stats: Option<Stats>,
    shot: Shot,
}

/// The captures that are not complete.
#[derive(Debug, Default)]
pub(super) struct Figures {
    waiting: VecDeque<Waiting>,
    /// Requests without an answer, those that were given up included: answers come in the order of requests.
    asked: VecDeque<u64>,
    last: u64,
    received: Vec<u8>,
    /// An answer was longer than may be: where the next one begins is not known.
    broken: bool,
}

impl Figures {
    /// A capture whose figures were asked for now.
    pub(super) fn wait(&mut self, shot: Shot, now: Instant) {
        self.last += 1;
        self.asked.push_back(self.last);
        self.waiting.push_back(Waiting {
            number: self.last,
            until: now + DEADLINE,
            stats: None,
            shot,
        });
    }

    /// One whose figures are known, behind those that wait.
    pub(super) fn pass(&mut self, shot: Shot, stats: Stats, now: Instant) {
        self.waiting.push_back(Waiting {
            number: 0,
            until: now,
            stats: Some(stats),
            shot,
        });
    }

    /// Bytes of the server.
    pub(super) fn hear(&mut self, bytes: &[u8]) {
        if self.broken {
            return;
        }
        self.received.extend_from_slice(bytes);
        while let Some(end) = self.received.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.received.drain(..=end).collect();
            let Some(number) = self.asked.pop_front() else {
                continue;
            };
            let mut waiting = self.waiting.iter_mut();
            if let Some(waiting) = waiting.find(|waiting| waiting.number == number) {
                waiting.stats = Some(content_of(&line));
            }
        }
        if self.received.len() > MAX_STATS_REPLY {
            self.received = Vec::new();
            self.broken = true;
            self.end(&TOO_LARGE);
        }
    }

    /// Why nothing that is asked will be answered any more.
    pub(super) fn broken(&self) -> Option<MissingStatsReason> {
        self.broken.then_some(TOO_LARGE)
    }

    /// No answer will come.
    pub(super) fn end(&mut self, reason: &MissingStatsReason) {
        for waiting in &mut self.waiting {
            waiting.stats.get_or_insert_with(|| Err(reason.clone()));
        }
    }

    /// When [`next`](Self::next) has something at the latest.
    pub(super) fn due(&self) -> Option<Instant> {
        self.waiting.front().map(|waiting| waiting.until)
    }

    /// The first capture that waits no longer.
    pub(super) fn next(&mut self, now: Instant) -> Option<(Shot, Stats)> {
        let ready = |waiting: &mut Waiting| waiting.stats.is_some() || waiting.until <= now;
        let done = self.waiting.pop_front_if(ready)?;
        let stats = done.stats.unwrap_or(Err(MissingStatsReason::Timeout));
        Some((done.shot, stats))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shot(tag: &str) -> Shot {
        Shot {
            captured: Ok(FailureDumpReport::default()),
            side: SnapshotEntry::new(tag.to_owned(), FailureDumpReport::default()),
            request: None,
        }
    }

    fn ready(figures: &mut Figures, now: Instant) -> Vec<(String, Stats)> {
        let all = std::iter::from_fn(|| figures.next(now));
        all.map(|(shot, stats)| (shot.side.tag, stats)).collect()
    }

    fn reply(value: u32) -> String {
        format!("{{\"errno\":0,\"args\":{{\"resp\":{value}}}}}\n")
    }

    #[test]
    fn answers_belong_to_requests_in_order_however_they_are_cut() {
        let (mut figures, now) = (Figures::default(), Instant::now());
        figures.wait(shot("a"), now);
        figures.wait(shot("b"), now);
        let bytes = reply(1) + &reply(2);
        let (head, tail) = bytes.as_bytes().split_at(reply(1).len() + 5);
        figures.hear(head);
        assert_eq!(ready(&mut figures, now), [("a".into(), Ok(1.into()))]);
        figures.hear(tail);
        assert_eq!(ready(&mut figures, now), [("b".into(), Ok(2.into()))]);
        assert_eq!(figures.due(), None);
    }

    #[test]
    fn a_late_answer_is_nobodys() {
        let (mut figures, now) = (Figures::default(), Instant::now());
        figures.wait(shot("a"), now);
        let late = figures.due().unwrap();
        let timed_out = Err(MissingStatsReason::Timeout);
        assert_eq!(ready(&mut figures, late), [("a".into(), timed_out)]);
        figures.wait(shot("b"), late);
        figures.hear(reply(1).as_bytes());
        assert_eq!(ready(&mut figures, late), []);
        figures.hear(reply(2).as_bytes());
        assert_eq!(ready(&mut figures, late), [("b".into(), Ok(2.into()))]);
    }

    #[test]
    fn captures_are_kept_in_their_order() {
        let (mut figures, now) = (Figures::default(), Instant::now());
        let held = Err(MissingStatsReason::GuestHeld);
        figures.wait(shot("a"), now);
        figures.pass(shot("b"), held.clone(), now);
        assert_eq!(ready(&mut figures, now), []);
        figures.hear(reply(1).as_bytes());
        let both = [("a".into(), Ok(1.into())), ("b".into(), held)];
        assert_eq!(ready(&mut figures, now), both);
    }

    #[test]
    fn a_guests_end_and_an_endless_answer_end_the_wait() {
        let (mut figures, now) = (Figures::default(), Instant::now());
        figures.wait(shot("a"), now);
        figures.end(&MissingStatsReason::GuestGone);
        let gone = Err(MissingStatsReason::GuestGone);
        assert_eq!(ready(&mut figures, now), [("a".into(), gone)]);
        figures.wait(shot("b"), now);
        figures.hear(&vec![b'x'; MAX_STATS_REPLY + 1]);
        let told = ready(&mut figures, now);
        assert!(matches!(
            told[..],
            [(_, Err(MissingStatsReason::TooLarge { .. }))]
        ));
        assert_eq!(figures.broken(), Some(TOO_LARGE));
    }
}
