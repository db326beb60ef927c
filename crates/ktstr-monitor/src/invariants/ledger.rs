//! Several stops of one machine.

use std::collections::BTreeMap;

use super::{Examined, Stop, Valid, Violation, examine, find};
use crate::Kernel;

/// Different violations of one run that are kept.
const MAX_KEPT: usize = 64;
/// Broken rules that wait for a second stop.
const MAX_WAITING: usize = 1024;

/// Looks at one machine at several stops. A violation is told once; a rule that may be broken for a while is broken when a
/// later stop finds the same.
#[derive(Debug, Default)]
pub struct Ledger {
    stop: Stop,
    /// Since when, in nanoseconds of the guest's time.
    waiting: BTreeMap<String, u64>,
    kept: Vec<Violation>,
    stops: u64,
    judged: u64,
    unjudged: u64,
}

impl Ledger {
    /// None so far.
    #[must_use]
    pub fn new(stop: Stop) -> Self {
        Self {
            stop,
            ..Self::default()
        }
    }

    /// Looks at the machine, which stands still; what is broken and was not told yet.
    pub fn look(&mut self, kernel: &Kernel) -> Vec<Violation> {
        self.take(examine(kernel, &self.stop))
    }

    fn take(&mut self, examined: Examined) -> Vec<Violation> {
        let at_ns = examined.at_ns;
        self.stops += 1;
        self.judged += examined.judged as u64;
        self.unjudged += examined.unjudged.len() as u64;
        let mut broken = examined.violations;
        let mut waiting = BTreeMap::new();
        for violation in examined.unsettled {
            let key = violation.to_string();
            let since = self.waiting.get(&key).copied().unwrap_or(at_ns);
            let patience = match find(violation.invariant).map(|rule| rule.valid) {
                Some(Valid::TwoStops(ms)) => u64::from(ms) * 1_000_000,
                _ => 0,
            };
            if since < at_ns && at_ns - since >= patience {
                broken.push(violation);
            }
            if waiting.len() < MAX_WAITING {
                waiting.insert(key, since);
            }
        }
        self.waiting = waiting;
        // One that lasts is told at its first stop: figures may differ at the next.
        broken.retain(|new| {
            !self.kept.iter().any(|old| {
                (old.invariant, old.cpu, &old.entity) == (new.invariant, new.cpu, &new.entity)
            })
        });
        let room = MAX_KEPT.saturating_sub(self.kept.len());
        broken.truncate(room);
        self.kept.extend(broken.iter().cloned());
        broken
    }

    /// All that was broken.
    #[must_use]
    pub fn violations(&self) -> &[Violation] {
        &self.kept
    }

    /// Stops, runqueues judged at them, and runqueues that were not.
    #[must_use]
    pub fn counts(&self) -> (u64, u64, u64) {
        (self.stops, self.judged, self.unjudged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broken(invariant: &'static str, found: &str) -> Violation {
        Violation {
            invariant,
            cpu: Some(1),
            entity: String::from("a task"),
            expected: String::from("1"),
            found: found.to_owned(),
        }
    }

    #[test]
    fn what_may_last_a_while_needs_two_stops_and_is_told_once() {
        let mut ledger = Ledger::default();
        let stop = |ledger: &mut Ledger, ms: u64, found: &str| {
            let examined = Examined {
                at_ns: ms * 1_000_000,
                unsettled: vec![broken("ext-transfer", found)],
                ..Examined::default()
            };
            ledger.take(examined).len()
        };
        assert_eq!(stop(&mut ledger, 10, "2"), 0);
        // Another value is another transfer.
        assert_eq!(stop(&mut ledger, 300, "3"), 0);
        assert_eq!(stop(&mut ledger, 350, "3"), 0);
        assert_eq!(stop(&mut ledger, 400, "3"), 1);
        assert_eq!(stop(&mut ledger, 500, "3"), 0);
        assert_eq!(ledger.violations().len(), 1);
    }

    #[test]
    fn what_is_broken_at_once_is_told_once_and_counted() {
        let mut ledger = Ledger::default();
        for found in ["2", "3"] {
            let examined = Examined {
                violations: vec![broken("rq-nr-running", found)],
                judged: 3,
                ..Examined::default()
            };
            ledger.take(examined);
        }
        assert_eq!(ledger.violations(), [broken("rq-nr-running", "2")]);
        assert_eq!(ledger.counts(), (2, 6, 0));
    }
}
