//! A step that ends at a state of the kernel, and the operations that act in that state.
//!
//! ```text
//!   pin to a CPU without workers ─ ask the host ─ [ sleep 1 ms ─ look into the mailbox ]* ─ mark ─ the next step's operations ─ mark
//! ```
//!
//! In virtual time nothing enters a running guest, so the scenario looks every millisecond. From the moment at which the state is
//! reached until the second mark its CPU alone runs: what it finds is what the host saw.

use std::time::Duration;

use ktstr_wire::gate::UntilState;
use rustix::thread::{CpuSet as KernelCpus, sched_getaffinity, sched_setaffinity};

use super::ScenarioError;
use super::acts::{Ahead, host_acts, is_by_host};
use super::engine::{Engine, after};
use super::place_of;
use super::program::Scope;
use crate::guest::sys::{self, monotonic_ns};
use crate::guest::worker::kernel_cpuset;
use crate::model::cpuset::CpuSet;
use crate::model::scenario::{HoldSpec, Op, Step, Until};
use crate::model::transport::{Awaited, TransportError, UntilOrder};
use crate::model::verdict::{AssertDetail, DetailKind, Outcome};

/// How long the scenario sleeps between two looks: as long as a tick.
const LOOK_EVERY: Duration = Duration::from_millis(1);
/// Looks between two at the scheduler's and the workers' lives.
const LOOKS_PER_LIVENESS: u32 = 20;
/// How much longer than the step the host may take to say that it is over.
const HOST_TIME: Duration = Duration::from_secs(30);
/// Where cgroups are mounted; paths of the hierarchy begin behind it.
const CGROUP_MOUNT: &str = "/sys/fs/cgroup";

impl Engine<'_> {
    /// Holds a step until its state is reached; `next` is the step whose operations act in it.
    pub(super) fn hold_until(
        &mut self,
        step: &str,
        until: &Until,
        length: Duration,
        next: Option<&Step>,
    ) {
        let place = format!("{step}: {}", until.condition);
        let began_ns = monotonic_ns();
        // What the step made is torn down before the next one begins.
        let is_clean = self.has_nothing_of(Scope::Step);
        let next = next.filter(|next| is_clean && !matches!(next.hold, HoldSpec::Loop { .. }));
        let ops = next.map_or(&[][..], |next| next.ops.as_slice());
        let ended = self.await_state(until, length, ops);
        let elapsed = Duration::from_nanos(monotonic_ns().saturating_sub(began_ns));
        self.held = self.held.saturating_add(elapsed.min(length));
        let took = elapsed.as_secs_f64() * 1000.0;
        match ended {
            Ok(End::Sampled) => self.result.note(format!(
                "{place} was reached {took:.3} ms after the hold began, as seen by looking about every millisecond: without virtual \
                 time the moment is not exact, and the operations that follow come later"
            )),
            Ok(End::Exact) => {
                let held = self.act(ops, next);
                self.result.note(format!(
                    "{place} was reached {took:.3} ms after the hold began (exact: looked at after each switch and wake-up and at each \
                     tick){held}"
                ));
                if !is_clean {
                    self.result.note(format!(
                        "{step}: its own cgroups and workers are torn down before the next step's operations act; what is to \
                         be there for them belongs to the backdrop"
                    ));
                }
            }
            Ok(End::NotReached { exact }) => {
                let how = if exact {
                    "looked at after each switch and wake-up and at each tick"
                } else {
                    "looked at about every millisecond"
                };
                let (outcome, milliseconds) = match until.or_fail {
                    true => (Outcome::Fail, length.as_millis()),
                    false => (Outcome::Inconclusive, length.as_millis()),
                };
                self.result.push(AssertDetail::new(
                    outcome,
                    DetailKind::StateNotReached,
                    format!("{place} was not reached within {milliseconds} ms ({how})"),
                ));
                self.halted = true;
            }
            Ok(End::Halted) => {}
            Err(error) => {
                self.fault(&place, &error);
                self.halted = true;
            }
        }
    }

    fn await_state(
        &mut self,
        until: &Until,
        length: Duration,
        ops: &[Op],
    ) -> Result<End, ScenarioError> {
        let host = self.ctx.requests().ok_or(TransportError::NotSupported)?;
        let any = until.condition.tests(|name| {
            let path = self.ctx.workload_root().join(name);
            let path = path.strip_prefix(CGROUP_MOUNT).unwrap_or(&path);
            format!("/{}", path.display())
        });
        let cpu = self.quiet_cpu(&until.condition.cpus());
        let order = UntilOrder {
            any,
            at_most: length,
            cpu,
            ahead: host_acts(ops).0,
        };
        let _stay = StayOn::cpu(cpu);
        match host.until(&order, length.saturating_add(HOST_TIME))? {
            Awaited::Reached => return Ok(End::Sampled),
            Awaited::NotReached => return Ok(End::NotReached { exact: false }),
            Awaited::Watched => {}
        }
        let give_up_ns = after(length.saturating_add(HOST_TIME));
        for look in 1.. {
            sys::sleep_until(after(LOOK_EVERY));
            match host.until_state() {
                UntilState::Waiting => {}
                UntilState::Over => return Ok(End::NotReached { exact: true }),
                UntilState::Failed => {
                    let why = "the condition could not be evaluated any more; the host's standard error says why";
                    return Err(TransportError::Refused(String::from(why)).into());
                }
                _ => return Ok(End::Exact),
            }
            if look % LOOKS_PER_LIVENESS == 0 {
                self.wait_once(monotonic_ns());
                if self.halted {
                    host.stop_waiting();
                    return Ok(End::Halted);
                }
                if monotonic_ns() >= give_up_ns {
                    host.stop_waiting();
                    return Err(TransportError::Deadline(length.saturating_add(HOST_TIME)).into());
                }
            }
        }
        Ok(End::Halted)
    }

    /// Carries out what of the next step's operations is the guest's and can come first. Says whether the state held until then.
    fn act(&mut self, ops: &[Op], next: Option<&Step>) -> &'static str {
        let Some(host) = self.ctx.requests() else {
            return "";
        };
        host.mark();
        let held = match host.until_state() {
            UntilState::Held => ", and it held when the next operations began",
            UntilState::Lost => {
                ", but it held no more when the next operations began: on this machine another CPU than the scenario's does not stand \
                 still for long enough"
            }
            _ => "",
        };
        let from = host_acts(ops).1;
        let rest = ops.get(from..).unwrap_or_default();
        let mine = rest.iter().take_while(|op| !is_by_host(op));
        let mut to = from;
        for op in mine {
            to += 1;
            if let Err(error) = self.apply(op, Scope::Step) {
                let number = usize::from(self.step) + 1;
                let place = next.map_or_else(String::new, |next| place_of(number, next));
                self.fault(&format!("{place}: {}", op.name()), &error);
            }
            if self.halted {
                break;
            }
        }
        host.mark();
        if next.is_some() {
            self.ahead = Some(Ahead { from, to });
        }
        held
    }

    /// The CPU that fewest workers may use and no part of the condition is about: looking there disturbs least.
    fn quiet_cpu(&self, named: &[u32]) -> u32 {
        let workers = self.live.iter().flat_map(|live| live.group.pids());
        let masks: Vec<KernelCpus> = workers
            .filter_map(|pid| sched_getaffinity(rustix::process::Pid::from_raw(pid)).ok())
            .collect();
        let users = |cpu: u32| {
            masks
                .iter()
                .filter(|mask| mask.is_set(cpu as usize))
                .count()
        };
        let cpus = 0..self.ctx.topology().total_cpus();
        cpus.min_by_key(|cpu| (named.contains(cpu), users(*cpu), *cpu))
            .unwrap_or(0)
    }

    fn has_nothing_of(&self, scope: Scope) -> bool {
        self.live.iter().all(|live| live.scope != scope)
            && self.owners.values().all(|owner| *owner != scope)
            && self.payloads.iter().all(|payload| payload.scope != scope)
    }
}

/// How a wait ended.
enum End {
    Exact,
    Sampled,
    NotReached {
        exact: bool,
    },
    /// Something died.
    Halted,
}

/// Keeps this thread on a CPU until it is dropped; where the kernel does not allow that, it stays where it likes.
struct StayOn(Option<KernelCpus>);

impl StayOn {
    fn cpu(cpu: u32) -> Self {
        let before = sched_getaffinity(None).ok();
        let moved = sched_setaffinity(None, &kernel_cpuset(&CpuSet::from([cpu])));
        Self(before.filter(|_| moved.is_ok()))
    }
}

impl Drop for StayOn {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            let _ = sched_setaffinity(None, before);
        }
    }
}
