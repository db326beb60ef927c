//! Time that the host took from vCPUs: how long their threads were ready and did not run.
//!
//! ```text
//! VM starts ─ look ─ look ─ look ─ … ─ VM ends     every 50 ms, in a thread of its own
//!                 └ ScenarioStart … ScenarioEnd ┘  only what lies in between counts
//! ```
//!
//! A wait shows when it is over, in one look: the longest growth from one look to the next is the longest time for which a
//! vCPU stood still, to 50 ms. The guest cannot see that; what it took for the scheduler's doing becomes Inconclusive.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ktstr_vmm::VcpuClocks;
use ktstr_wire::Message;

use crate::model::result::VmResult;
use crate::model::verdict::AssertResult;

/// Time between two looks.
const PERIOD: Duration = Duration::from_millis(50);
/// From here on the user is told, whatever came of it.
const NOTEWORTHY: Duration = Duration::from_millis(200);

/// All vCPUs' run delays at one moment.
#[derive(Debug, Clone)]
struct Look {
    /// Since the VM's start.
    at: Duration,
    delays_ns: Vec<u64>,
}

/// Looks at vCPU threads until it is ended.
#[derive(Debug)]
pub(in crate::host) struct Watch {
    /// Dropping it ends the thread.
    stop: Sender<()>,
    thread: JoinHandle<Vec<Look>>,
}

impl Watch {
    /// Watches the `vcpus` vCPU threads of `pid`, those of `clocks` where they are known already; `None` when the thread cannot be
    /// started, which costs the excuse and nothing else.
    pub(in crate::host) fn start(
        pid: u32,
        vcpus: usize,
        clocks: VcpuClocks,
        started: Instant,
    ) -> Option<Self> {
        let (stop, stopped) = channel();
        let look_around = move || {
            let mut looks = Vec::new();
            let mut clocks = clocks;
            while stopped.recv_timeout(PERIOD) == Err(RecvTimeoutError::Timeout) {
                if clocks.is_empty() {
                    clocks = VcpuClocks::of(pid, vcpus);
                }
                let delays_ns = clocks.run_delays();
                if !delays_ns.is_empty() {
                    let at = started.elapsed();
                    looks.push(Look { at, delays_ns });
                }
            }
            looks
        };
        let builder = std::thread::Builder::new().name("ktstr-lost-time".to_owned());
        let thread = builder.spawn(look_around).ok()?;
        Some(Self { stop, thread })
    }

    /// Ends the watch; what it saw.
    pub(in crate::host) fn end(self) -> LostTime {
        let Self { stop, thread } = self;
        drop(stop);
        LostTime(thread.join().unwrap_or_default())
    }
}

/// What a watch saw.
#[derive(Debug, Default, Clone)]
pub(in crate::host) struct LostTime(Vec<Look>);

impl LostTime {
    /// The longest time for which a vCPU waited without interruption between two moments, and which vCPU it was.
    fn longest(&self, from: Duration, to: Duration) -> Option<(Duration, usize)> {
        let within = |look: &Look| look.at >= from && look.at <= to;
        // The look before the first one inside: a wait that began outside ends inside.
        let pairs = self.0.windows(2).filter(|pair| within(&pair[1]));
        let growths = pairs.flat_map(|pair| {
            let both = pair[0].delays_ns.iter().zip(&pair[1].delays_ns);
            both.map(|(before, now)| now.saturating_sub(*before))
                .enumerate()
        });
        let (vcpu, ns) = growths.max_by_key(|(_, ns)| *ns)?;
        Some((Duration::from_nanos(ns), vcpu))
    }

    /// Turns failures of a result that the lost time explains into Inconclusive ones, and tells it where it is long.
    pub(in crate::host) fn excuse(&self, result: &mut AssertResult, vm: &VmResult) {
        let Some((from, to)) = scenario(vm) else {
            return;
        };
        let Some((longest, vcpu)) = self.longest(from, to) else {
            return;
        };
        let ms = longest.as_millis();
        let reason = format!("the host kept vCPU {vcpu} waiting for up to {ms} ms (run delay)");
        let longest_ns = u64::try_from(longest.as_nanos()).unwrap_or(u64::MAX);
        result.excuse_by_stall(longest_ns, &reason);
        if longest >= NOTEWORTHY {
            result.note(reason);
        }
    }
}

/// From the arrival of the first scenario's start to that of the last one's end.
fn scenario(vm: &VmResult) -> Option<(Duration, Duration)> {
    let frames = vm.guest_messages.as_ref()?;
    let (mut from, mut to) = (None, None);
    for (at, message) in frames.messages() {
        match message {
            Message::ScenarioStart => from = from.or(Some(at)),
            Message::ScenarioEnd(_) => to = Some(at),
            _ => {}
        }
    }
    from.zip(to)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(at_ms: u64, delays_ms: [u64; 2]) -> Look {
        Look {
            at: Duration::from_millis(at_ms),
            delays_ns: delays_ms.map(|ms| ms * 1_000_000).to_vec(),
        }
    }

    #[test]
    fn the_longest_wait_inside_counts() {
        let seen = LostTime(vec![
            look(0, [0, 0]),
            look(50, [900, 0]),
            look(100, [900, 10]),
            look(150, [930, 310]),
            look(200, [930, 320]),
            look(250, [9_000, 320]),
        ]);
        let longest = |from, to| {
            let ms = Duration::from_millis;
            let found = seen.longest(ms(from), ms(to));
            found.map(|(wait, vcpu)| (wait.as_millis(), vcpu))
        };
        assert_eq!(longest(60, 200), Some((300, 1)));
        assert_eq!(longest(0, 200), Some((900, 0)));
        assert_eq!(longest(60, 400), Some((8_070, 0)));
        assert_eq!(longest(300, 400), None);
        assert_eq!(
            LostTime::default().longest(Duration::ZERO, Duration::MAX),
            None
        );
    }

    #[test]
    fn a_watch_without_vcpus_sees_nothing_and_ends() {
        let watch = Watch::start(1, 1, VcpuClocks::default(), Instant::now()).unwrap();
        assert!(watch.end().0.is_empty());
    }
}
