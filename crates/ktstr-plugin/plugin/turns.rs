//! Which vCPU runs for how long, and how far the clock moves: the rules, without QEMU.
//!
//! A vCPU's progress is counted in instructions of a full-speed vCPU. While k vCPUs are running, the clock moves by 1/k of
//! what the running one consumes, so that k running vCPUs make progress in parallel. A turn ends when its length, drawn from the
//! seed, is used up, or at the next timer; a vCPU that is ahead of the slowest running one gets half a turn.

use crate::options::{FULL, Options};
use crate::report::{End, Report, VcpuReport};

/// A vCPU that was passed over this often is halted though its HLT was not seen (it was reset).
const PASSED_OVER: u32 = 8;

/// One vCPU.
#[derive(Debug, Clone, Default)]
struct Vcpu {
    runs: bool,
    /// Progress in full-speed instructions, and the rest in parts of [`FULL`].
    done: u64,
    rest: u64,
    cost: u64,
    passed_over: u32,
    report: VcpuReport,
}

/// The state of all vCPUs.
#[derive(Debug)]
pub(crate) struct Turns {
    vcpus: Vec<Vcpu>,
    running: u64,
    /// Whose turn it is; `None` after a turn was ended.
    current: Option<usize>,
    previous: usize,
    /// The current turn ends when its vCPU's progress is past this.
    limit: u64,
    pace: Pace,
    insn_ns: u64,
    quantum: u64,
    threads: usize,
    smt: u64,
    random: u64,
    /// What the clock is behind by, in parts of a nanosecond of which [`Pace::unit`] are one.
    carry: u64,
    fingerprint: u64,
}

/// What a turn's blocks are counted with, each of which would compute the same.
#[derive(Debug, Clone, Copy)]
struct Pace {
    /// What an instruction costs, in parts of [`FULL`].
    cost: u64,
    /// Parts of a nanosecond: [`FULL`] times the running vCPUs.
    unit: u64,
    /// Nanoseconds that an instruction moves the clock by, at least one, and the parts that are left.
    whole_ns: u64,
    parts: u64,
}

impl Pace {
    /// That of a vCPU whose instructions cost `cost`, one of `running`.
    fn new(cost: u64, insn_ns: u64, running: u64) -> Self {
        let unit = u64::from(FULL) * running.max(1);
        let step = cost * insn_ns;
        Self {
            cost,
            unit,
            whole_ns: step / unit,
            parts: step % unit,
        }
    }
}

/// Instructions of a block: as many as the plugin's callback can be told, more than QEMU translates at once.
pub(crate) const BLOCK: u64 = 0x3fff;

/// Whether no vCPU is faster than a full-speed one, and what a block takes can be counted in 64 bits.
///
/// # Errors
/// With a sentence when one costs too little or too much.
pub(crate) fn check(options: &Options) -> Result<(), String> {
    let cheapest = options.costs.iter().copied().chain([options.smt]).min();
    if let Some(cost) = cheapest.filter(|cost| *cost < FULL) {
        return Err(format!(
            "a cost of {cost}/{FULL} is less than that of a full-speed instruction; expected {FULL} or more"
        ));
    }
    let dearest = options.costs.iter().copied().max().unwrap_or(FULL);
    let cost = u128::from(dearest) * u128::from(options.smt) / u128::from(FULL);
    let longest = u128::from(BLOCK) + u128::from(options.pause_ns / options.insn_ns);
    let parts = cost * longest * u128::from(options.insn_ns);
    if parts < 1 << 62 {
        return Ok(());
    }
    Err(format!(
        "instructions of {} ns at {dearest}/{FULL} of their cost, {}/{FULL} beside a sibling, are too long to be counted",
        options.insn_ns, options.smt
    ))
}

/// What a block of instructions means for the clock and for the turn.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Step {
    /// Nanoseconds to add to QEMU's clock, which by itself counts one per instruction.
    pub(crate) bias_ns: i64,
    /// The turn is over after this block.
    pub(crate) ends_turn: bool,
}

impl Turns {
    /// [`check`] has accepted the options.
    pub(crate) fn new(vcpus: usize, options: &Options) -> Self {
        let cost = |index: usize| u64::from(options.costs.get(index).copied().unwrap_or(FULL));
        let vcpu = |index| Vcpu {
            cost: cost(index),
            ..Vcpu::default()
        };
        Self {
            vcpus: (0..vcpus).map(vcpu).collect(),
            running: 0,
            current: None,
            previous: 0,
            limit: 0,
            pace: Pace::new(u64::from(FULL), u64::from(options.insn_ns), 1),
            insn_ns: u64::from(options.insn_ns),
            quantum: u64::from(options.quantum),
            threads: options.threads as usize,
            smt: u64::from(options.smt),
            random: mix(options.seed.wrapping_add(0x9e37_79b9_7f4a_7c15)) | 1,
            carry: 0,
            fingerprint: 0,
        }
    }

    /// Whether the next block of `vcpu` begins a turn, which [`begin`](Self::begin) must be told of first.
    pub(crate) fn begins(&self, vcpu: usize) -> bool {
        self.current != Some(vcpu)
    }

    /// A turn of `vcpu` begins at address `at`; the next timer is due in `timer_ns`, if there is one.
    pub(crate) fn begin(&mut self, vcpu: usize, at: u64, timer_ns: Option<u64>) {
        self.wake(vcpu);
        self.pass_over(vcpu);
        self.previous = vcpu;
        self.current = Some(vcpu);
        let slowest = self.slowest();
        let turn = self.draw();
        let Some(this) = self.vcpus.get_mut(vcpu) else {
            return;
        };
        this.passed_over = 0;
        this.report.turns += 1;
        let ahead = this.done.saturating_sub(slowest);
        let mut length = if ahead > turn { turn / 2 } else { turn };
        if let Some(timer_ns) = timer_ns {
            // The clock moves by insn_ns / running per instruction.
            length = length.min(timer_ns.saturating_mul(self.running) / self.insn_ns);
        }
        self.limit = this.done.saturating_add(length);
        self.fingerprint =
            mix(self.fingerprint ^ mix(this.done ^ at.rotate_left(24)) ^ vcpu as u64);
        self.pace = Pace::new(self.cost(vcpu), self.insn_ns, self.running);
    }

    /// `vcpu`, whose turn it is, executes a block of `count` instructions that takes `extra_ns` longer than they do.
    ///
    /// Called for each block of a run, tens of millions of times per second: what a turn's blocks share is in [`Pace`], and no
    /// number is wider than a register.
    #[inline]
    pub(crate) fn block(&mut self, vcpu: usize, count: u64, extra_ns: u64) -> Step {
        let Pace {
            cost,
            unit,
            whole_ns,
            parts,
        } = self.pace;
        let limit = self.limit;
        let Some(this) = self.vcpus.get_mut(vcpu) else {
            return Step {
                bias_ns: 0,
                ends_turn: false,
            };
        };
        this.report.instructions += count;
        let all = match extra_ns {
            0 => count,
            _ => count + extra_ns / self.insn_ns,
        };
        let used = this.rest + all * cost;
        this.done += used / u64::from(FULL);
        this.rest = used % u64::from(FULL);
        let ends_turn = this.done > limit;
        // The clock moves by cost / FULL * insn_ns / running for each instruction; QEMU itself counts one.
        let mut moves_ns = all * whole_ns;
        self.carry += all * parts;
        if self.carry >= unit {
            moves_ns += self.carry / unit;
            self.carry %= unit;
        }
        let bias_ns = moves_ns.cast_signed() - count.cast_signed();
        if ends_turn {
            self.current = None;
        }
        Step { bias_ns, ends_turn }
    }

    /// Whether `vcpu` has something to do, as far as is known.
    pub(crate) fn runs(&self, vcpu: usize) -> bool {
        self.vcpus.get(vcpu).is_some_and(|this| this.runs)
    }

    /// The turn ends, whatever is left of it.
    pub(crate) fn cut(&mut self) {
        self.current = None;
    }

    /// `vcpu` is about to halt.
    pub(crate) fn halt(&mut self, vcpu: usize) {
        if let Some(this) = self.vcpus.get_mut(vcpu) {
            this.report.halts += 1;
            if this.runs {
                this.runs = false;
                self.running -= 1;
            }
        }
        // It may go on at once, in the turn that it has.
        self.pace = Pace::new(self.pace.cost, self.insn_ns, self.running);
    }

    pub(crate) fn report(&self, time_ns: u64, end: End) -> Report {
        Report {
            fingerprint: self.fingerprint,
            time_ns,
            end,
            vcpus: self.vcpus.iter().map(|vcpu| vcpu.report).collect(),
        }
    }

    /// A vCPU that starts or wakes gets no credit for the time it did nothing.
    fn wake(&mut self, vcpu: usize) {
        let slowest = (self.running > 0).then(|| self.slowest());
        if let Some(this) = self.vcpus.get_mut(vcpu)
            && !this.runs
        {
            this.done = this.done.max(slowest.unwrap_or(0));
            this.runs = true;
            self.running += 1;
        }
    }

    /// QEMU goes round in order: those between the previous and this one had no turn.
    fn pass_over(&mut self, vcpu: usize) {
        let count = self.vcpus.len();
        let mut index = (self.previous + 1) % count;
        while index != vcpu {
            let previous = self.previous;
            if let Some(other) = self.vcpus.get_mut(index)
                && index != previous
                && other.runs
            {
                other.passed_over += 1;
                if other.passed_over > PASSED_OVER {
                    other.runs = false;
                    self.running -= 1;
                }
            }
            index = (index + 1) % count;
        }
    }

    fn slowest(&self) -> u64 {
        let running = self.vcpus.iter().filter(|vcpu| vcpu.runs);
        running.map(|vcpu| vcpu.done).min().unwrap_or(0)
    }

    /// What an instruction of `vcpu` costs now, in parts of [`FULL`].
    fn cost(&self, vcpu: usize) -> u64 {
        let cost = self
            .vcpus
            .get(vcpu)
            .map_or(u64::from(FULL), |this| this.cost);
        let first = vcpu - vcpu % self.threads;
        let siblings = self.vcpus.iter().enumerate().skip(first).take(self.threads);
        let busy = siblings
            .filter(|(index, _)| *index != vcpu)
            .any(|(_, sibling)| sibling.runs);
        if busy {
            cost * self.smt / u64::from(FULL)
        } else {
            cost
        }
    }

    /// The length of a turn: half to one and a half of the mean.
    fn draw(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.quantum / 2 + self.random % self.quantum
    }
}

/// The finaliser of splitmix64: each bit of the result depends on each bit of `x`.
fn mix(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
