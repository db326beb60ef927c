//! How a worker measures itself. Runs in the worker; takes no lock, allocates nothing.
//!
//! A worker that sleeps because it wants to says so ([`Meter::rest`]); a waker says that
//! ([`Meter::call`]). What lies between the call and its running is wake latency and gap; the sleep before is neither.

use std::os::fd::AsFd;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::page::{ASLEEP, Control, Slot, WAKE_SAMPLES};
use crate::guest::sys;
use crate::model::work::WorkLoop;

/// Longest single sleep: bounds how late a worker notices a stop whose wake-up it missed.
pub(super) const SLICE: Duration = Duration::from_millis(50);

/// An iteration is a stall as far as it takes longer than this many usual ones.
const STALL_FACTOR: u64 = 4;
/// Iterations after which it is known what is usual.
const STALL_WARM_UP: u64 = 8;

/// One worker's measurement, from the opening of the barrier on.
#[derive(Debug)]
pub(super) struct Meter<'a> {
    control: &'a Control,
    slots: &'a [Slot],
    slot: &'a Slot,
    index: usize,
    start_ns: u64,
    /// From here the next gap is measured.
    base_ns: u64,
    cpu_ns: u64,
    cpu: Option<u32>,
    /// CPU time that an iteration usually takes: a moving average.
    typical_ns: u64,
    /// State of a small generator, for the choice of wake-ups that are kept and for the work types' own choices.
    choice: u64,
}

impl<'a> Meter<'a> {
    /// Begins to measure worker `index`; the barrier has just opened.
    pub(super) fn start(control: &'a Control, slots: &'a [Slot], index: usize) -> Self {
        let slot = &slots[index];
        let start_ns = control.start_ns.load(Relaxed);
        let cpu_ns = sys::thread_cpu_ns();
        slot.cpu_start_ns.store(cpu_ns, Relaxed);
        slot.cpu_now_ns.store(cpu_ns, Relaxed);
        Self {
            control,
            slots,
            slot,
            index,
            start_ns,
            base_ns: start_ns,
            cpu_ns,
            cpu: None,
            typical_ns: 0,
            choice: start_ns ^ (index as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15),
        }
    }

    /// Whether the worker has been asked to stop.
    pub(super) fn stopping(&self) -> bool {
        self.control.stop.load(Relaxed) != 0
    }

    /// When the barrier opened.
    pub(super) fn start_ns(&self) -> u64 {
        self.start_ns
    }

    /// This worker's number among all that were started with it.
    pub(super) fn index(&self) -> usize {
        self.index
    }

    /// What another worker of the same start shares.
    pub(super) fn slot_of(&self, other: usize) -> &'a Slot {
        &self.slots[other]
    }

    /// Tasks of the other workers of the same start.
    pub(super) fn others(&self) -> Vec<i32> {
        let others = self.slots.iter().enumerate();
        others
            .filter(|(index, _)| *index != self.index)
            .filter_map(|(_, slot)| i32::try_from(slot.tid.load(Relaxed)).ok())
            .filter(|tid| *tid > 0)
            .collect()
    }

    /// What only the threads of this worker write.
    pub(super) fn shared(&self) -> (&'a Control, &'a Slot) {
        (self.control, self.slot)
    }

    /// An iteration that did `units` of work is over.
    pub(super) fn tick(&mut self, units: u64) {
        self.tick_many(1, units);
    }

    /// So many iterations are over that did `units` of work in all: for those that are short against a look at the clocks.
    pub(super) fn tick_many(&mut self, iterations: u64, units: u64) {
        let on_cpu_ns = self.progress();
        self.note_stall(on_cpu_ns);
        self.slot.iterations.fetch_add(iterations, Relaxed);
        self.slot.work_units.fetch_add(units, Relaxed);
    }

    /// Notes by how much an iteration took longer than usual: the vCPU was stopped from outside. An iteration that is long
    /// by nature is no stall.
    fn note_stall(&mut self, on_cpu_ns: u64) {
        let seen = self.slot.iterations.load(Relaxed);
        let usual_ns = self.typical_ns.saturating_mul(STALL_FACTOR);
        if seen >= STALL_WARM_UP {
            let stall_ns = on_cpu_ns.saturating_sub(usual_ns);
            self.slot.stall_ns.fetch_max(stall_ns, Relaxed);
        }
        self.typical_ns = match self.typical_ns {
            0 => on_cpu_ns,
            typical_ns => (typical_ns * 7 + on_cpu_ns.min(usual_ns)) / 8,
        };
    }

    /// Notes that the worker runs: gap, CPU time, CPU. Returns the CPU time since the last note.
    pub(super) fn progress(&mut self) -> u64 {
        let now = self.now_in_window();
        let cpu_ns = sys::thread_cpu_ns();
        let on_cpu_ns = cpu_ns.saturating_sub(self.cpu_ns);
        self.note_cpu();
        self.note_gap(now, on_cpu_ns);
        self.base_ns = now;
        self.cpu_ns = cpu_ns;
        self.slot.base_ns.store(now, Relaxed);
        self.slot.cpu_now_ns.store(cpu_ns, Relaxed);
        on_cpu_ns
    }

    /// Now, but not later than the end of the window.
    fn now_in_window(&self) -> u64 {
        let now = sys::monotonic_ns();
        match self.control.stop_ns.load(Acquire) {
            0 => now,
            stop_ns => now.min(stop_ns),
        }
    }

    fn note_cpu(&mut self) {
        let cpu = sys::current_cpu();
        // Each time: the parent takes the notes away when the allowed CPUs change.
        self.slot.note_cpu(cpu);
        if self.cpu.replace(cpu) == Some(cpu) {
            return;
        }
        // The first CPU is where it started, not a migration.
        if self.slot.iterations.load(Relaxed) > 0 {
            self.slot.migrations.fetch_add(1, Relaxed);
        }
    }

    fn note_gap(&self, now: u64, on_cpu_ns: u64) {
        let base_ns = self.base_ns.max(self.control.excused_ns.load(Relaxed));
        let wall_ns = now.saturating_sub(base_ns);
        if wall_ns <= self.slot.gap_wall_ns.load(Relaxed) {
            return;
        }
        self.slot.gap_wall_ns.store(wall_ns, Relaxed);
        self.slot
            .gap_on_cpu_ns
            .store(on_cpu_ns.min(wall_ns), Relaxed);
        self.slot.gap_at_ns.store(base_ns, Relaxed);
        let cpu = self.cpu.map_or(0, |cpu| u64::from(cpu) + 1);
        self.slot.gap_cpu.store(cpu, Relaxed);
    }

    /// Sleeps until `due_ns` or the stop; what passes after `due_ns` is wake latency and gap.
    pub(super) fn sleep_until(&mut self, due_ns: u64) {
        self.slot.base_ns.store(due_ns, Relaxed);
        loop {
            let now = sys::monotonic_ns();
            if self.stopping() {
                return;
            }
            if now >= due_ns {
                break;
            }
            let left = Duration::from_nanos(due_ns - now);
            sys::futex_wait(&self.control.stop, 0, left);
        }
        self.woken(due_ns);
    }

    /// Sleeps this long or until the stop, without measuring the wake-up.
    pub(super) fn rest_for(&mut self, time: Duration) {
        self.rest();
        let until_ns = sys::monotonic_ns().saturating_add(nanos(time));
        loop {
            let left_ns = until_ns.saturating_sub(sys::monotonic_ns());
            if left_ns == 0 || self.stopping() {
                break;
            }
            sys::futex_wait(&self.control.stop, 0, Duration::from_nanos(left_ns));
        }
        self.resume();
    }

    /// Sleeps this long or until the stop.
    pub(super) fn sleep_for(&mut self, time: Duration) {
        self.sleep_until(sys::monotonic_ns().saturating_add(nanos(time)));
    }

    /// From now on the worker does not want to run until it is called.
    pub(super) fn rest(&self) {
        self.slot.base_ns.store(ASLEEP, Relaxed);
    }

    /// From now on `other` ought to run, if it rests.
    pub(super) fn call(&self, other: usize) {
        let now = sys::monotonic_ns();
        let base = &self.slots[other].base_ns;
        // Another caller may have been first, or the worker may not rest at all: both are fine.
        let _ = base.compare_exchange(ASLEEP, now, AcqRel, Relaxed);
    }

    /// The worker runs again after a rest; a sleep that a call ended counts as a wake-up.
    pub(super) fn awake(&mut self, slept: bool) {
        match self.slot.base_ns.load(Acquire) {
            ASLEEP => self.resume(),
            due_ns if slept => self.woken(due_ns),
            due_ns => self.base_ns = due_ns,
        }
    }

    /// As [`awake`](Self::awake), where the waker could not know whom it wakes: the wake-up was due at `due_ns`.
    pub(super) fn awake_since(&mut self, slept: bool, due_ns: u64) {
        if slept && due_ns > 0 {
            self.woken(due_ns);
        } else {
            self.resume();
        }
    }

    /// Without a call: the rest is no gap.
    fn resume(&mut self) {
        self.base_ns = self.now_in_window();
        self.slot.base_ns.store(self.base_ns, Relaxed);
    }

    /// The worker runs again after it was due at `due_ns`.
    fn woken(&mut self, due_ns: u64) {
        self.base_ns = due_ns;
        self.note_wake(sys::monotonic_ns().saturating_sub(due_ns));
        self.progress();
    }

    /// Rests until `ready` holds for the word; `false` if the stop came first.
    pub(super) fn await_word(&mut self, word: &AtomicU32, ready: impl Fn(u32) -> bool) -> bool {
        let Some(slept) = self.rest_on(word, ready) else {
            return false;
        };
        self.awake(slept);
        true
    }

    /// Sleeps without returning to work: whether it slept at all; `None` if the stop came first.
    pub(super) fn rest_on(
        &mut self,
        word: &AtomicU32,
        ready: impl Fn(u32) -> bool,
    ) -> Option<bool> {
        self.rest();
        let mut slept = false;
        loop {
            let value = word.load(Acquire);
            if ready(value) {
                return Some(slept);
            }
            if self.stopping() {
                return None;
            }
            sys::futex_wait(word, value, SLICE);
            slept = true;
        }
    }

    /// Rests until `fd` can be read, without the return to work: whether it slept; `None` if the stop came first.
    pub(super) fn rest_on_fd(&mut self, fd: impl AsFd) -> Option<bool> {
        self.rest();
        let slice = Timespec::try_from(SLICE).ok();
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let mut slept = false;
        let mut fds = [PollFd::new(&fd, PollFlags::IN)];
        while !self.stopping() {
            let timeout = if slept { slice.as_ref() } else { Some(&now) };
            if poll(&mut fds, timeout).unwrap_or(0) > 0 {
                return Some(slept);
            }
            slept = true;
        }
        None
    }

    /// Same, and back to work; `false` if the stop came first.
    pub(super) fn await_fd(&mut self, fd: impl AsFd) -> bool {
        let Some(slept) = self.rest_on_fd(fd) else {
            return false;
        };
        self.awake(slept);
        true
    }

    /// Whether it is this worker's turn.
    pub(super) fn has_turn(&self) -> bool {
        self.slot.handoff.load(Acquire) != 0
    }

    /// Waits for this worker's turn; `false` if the stop came first.
    pub(super) fn await_turn(&mut self) -> bool {
        let mut slept = false;
        while self.slot.handoff.load(Acquire) == 0 {
            if self.stopping() {
                return false;
            }
            sys::futex_wait(&self.slot.handoff, 0, SLICE);
            slept = true;
        }
        let due_ns = self.slot.base_ns.load(Relaxed);
        if slept && due_ns != ASLEEP {
            self.woken(due_ns);
        }
        !self.stopping()
    }

    /// Gives the turn to worker `other` of the same group and wakes it.
    pub(super) fn hand_over(&self, other: usize) {
        let partner = &self.slots[other];
        // Own word and base first: as soon as the partner runs, it may write both.
        self.slot.base_ns.store(ASLEEP, Relaxed);
        self.slot.handoff.store(0, Relaxed);
        partner.base_ns.store(sys::monotonic_ns(), Relaxed);
        partner.handoff.store(1, Release);
        sys::futex_wake_all(&partner.handoff);
    }

    /// Spins until this much wall time has passed, in steps that end early at the stop.
    pub(super) fn burn_wall(&self, time: Duration) {
        let until_ns = sys::monotonic_ns().saturating_add(nanos(time));
        while sys::monotonic_ns() < until_ns && !self.stopping() {
            spin(BURN);
        }
    }

    /// Uses this much CPU time in steps that end early at the stop.
    pub(super) fn burn(&self, time: Duration) {
        let until_ns = sys::thread_cpu_ns().saturating_add(nanos(time));
        while sys::thread_cpu_ns() < until_ns && !self.stopping() {
            spin(BURN);
        }
    }

    /// Keeps a uniform choice of all wake-ups (algorithm R).
    pub(super) fn note_wake(&mut self, latency_ns: u64) {
        let seen = self.slot.wake_count.fetch_add(1, Relaxed);
        self.slot.wake_max_ns.fetch_max(latency_ns, Relaxed);
        let place = if seen < WAKE_SAMPLES as u64 {
            seen
        } else {
            self.next_choice() % (seen + 1)
        };
        if let Some(sample) = usize::try_from(place)
            .ok()
            .and_then(|place| self.slot.wake_samples.get(place))
        {
            sample.store(latency_ns, Relaxed);
        }
    }

    /// xorshift64: good enough to choose samples and places.
    pub(super) fn next_choice(&mut self) -> u64 {
        self.choice = xorshift(self.choice);
        self.choice
    }
}

impl WorkLoop for Meter<'_> {
    fn tick(&mut self, units: u64) {
        self.tick(units);
    }

    fn sleep(&mut self, time: Duration) {
        self.sleep_for(time);
    }
}

/// A duration in the unit of the clocks.
pub(super) fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// The next state of a small generator; zero stays zero.
pub(super) fn xorshift(mut state: u64) -> u64 {
    state ^= state << 13;
    state ^= state >> 7;
    state ^ (state << 17)
}

/// Multiplications between two looks at the clock of what works for a time: some 4 us natively, and more than the look takes.
const BURN: u64 = 4_096;

/// Multiplications of one pass of [`spin`]'s loop. A long pass is cheap to emulate: emulators count and leave at blocks.
const PASS: u64 = 64;

/// What chains multiply by: odd, so that they never come to 0.
pub(super) const FACTOR: u64 = 6_364_136_223_846_793_005;

/// A chain of `steps` multiplications, each of which waits for the one before.
pub(super) fn spin(steps: u64) {
    chain(steps);
}

/// [`FACTOR`] multiplied by itself: its power `steps`.
///
/// In assembly, so that a step is one instruction whatever the test was built with: without optimisation Rust's own loop took 60.
fn chain(steps: u64) -> u64 {
    let mut value = 1_u64;
    // SAFETY: writes to the named registers alone; the loop counts down from 1 or more to 0.
    unsafe {
        std::arch::asm!(
            "test {passes}, {passes}",
            "jz 3f",
            "2:",
            ".rept {pass}",
            "imul {value}, {factor}",
            ".endr",
            "dec {passes}",
            "jnz 2b",
            // Less than a pass is left, of which each bit stands for as many steps.
            "3:",
            "test {rest:e}, 32",
            "jz 4f",
            ".rept 32",
            "imul {value}, {factor}",
            ".endr",
            "4:",
            "test {rest:e}, 16",
            "jz 5f",
            ".rept 16",
            "imul {value}, {factor}",
            ".endr",
            "5:",
            "test {rest:e}, 8",
            "jz 6f",
            ".rept 8",
            "imul {value}, {factor}",
            ".endr",
            "6:",
            "test {rest:e}, 4",
            "jz 7f",
            ".rept 4",
            "imul {value}, {factor}",
            ".endr",
            "7:",
            "test {rest:e}, 2",
            "jz 8f",
            "imul {value}, {factor}",
            "imul {value}, {factor}",
            "8:",
            "test {rest:e}, 1",
            "jz 9f",
            "imul {value}, {factor}",
            "9:",
            pass = const PASS,
            passes = inout(reg) steps / PASS => _,
            rest = in(reg) steps % PASS,
            factor = in(reg) FACTOR,
            value = inout(reg) value,
            options(nomem, nostack),
        );
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_is_as_long_as_was_asked_for() {
        for steps in (0..200).chain([1 << 20, (1 << 20) + 63]) {
            let power = FACTOR.wrapping_pow(u32::try_from(steps).unwrap());
            assert_eq!(chain(steps), power, "{steps} steps");
        }
    }
}
