use proptest::prelude::*;

use super::*;
use crate::alone::Lead;
use crate::gate::{ALONE_AT_MOST_NS, Alone};
use crate::turns::{self, Turns};

/// Runs vCPUs as QEMU does: in order, each until its turn ends, blocks of fifty instructions. Returns the clock.
fn run(turns: &mut Turns, vcpus: &[usize], rounds: usize) -> i64 {
    let mut clock = 0;
    for _ in 0..rounds {
        for vcpu in vcpus {
            assert!(turns.begins(*vcpu));
            turns.begin(*vcpu, 0x1000, None);
            loop {
                let step = turns.block(*vcpu, 50, 0);
                clock += 50 + step.bias_ns;
                if step.ends_turn {
                    break;
                }
            }
        }
    }
    clock
}

fn instructions(turns: &Turns) -> Vec<u64> {
    let report = turns.report(0, End::Emulator);
    report.vcpus.iter().map(|vcpu| vcpu.instructions).collect()
}

#[test]
fn each_vcpu_has_its_own_speed_whoever_is_busy() {
    for busy in [&[0][..], &[0, 1], &[0, 1, 2, 3]] {
        let mut turns = Turns::new(4, &Options::default());
        let clock = run(&mut turns, busy, 200);
        let done = instructions(&turns);
        for vcpu in busy {
            let expected = clock / 32;
            let found = i64::try_from(done[*vcpu]).unwrap();
            let off = (found - expected).abs();
            assert!(off * 50 < expected, "{busy:?}: {found}, {expected}");
        }
    }
}

#[test]
fn a_slow_vcpu_executes_less_in_the_same_time() {
    let options = Options {
        costs: vec![FULL, 2 * FULL, 4 * FULL],
        ..Options::default()
    };
    let mut turns = Turns::new(3, &options);
    run(&mut turns, &[0, 1, 2], 300);
    let done = instructions(&turns);
    assert!((done[0] * 100 / done[1]).abs_diff(200) <= 2, "{done:?}");
    assert!((done[0] * 100 / done[2]).abs_diff(400) <= 4, "{done:?}");
}

#[test]
fn busy_siblings_slow_each_other_and_others_do_not() {
    let options = Options {
        threads: 2,
        smt: FULL * 8 / 5,
        ..Options::default()
    };
    let work = |busy: &[usize]| {
        let mut turns = Turns::new(4, &options);
        let clock = run(&mut turns, busy, 300);
        let done: u64 = instructions(&turns).iter().sum();
        done * 32 * 1000 / u64::try_from(clock).unwrap()
    };
    assert!(work(&[0, 2]).abs_diff(2000) <= 20, "{}", work(&[0, 2]));
    assert!(work(&[0, 1]).abs_diff(1250) <= 15, "{}", work(&[0, 1]));
}

#[test]
fn a_turn_ends_at_the_next_timer() {
    let mut turns = Turns::new(2, &Options::default());
    turns.begin(0, 0, Some(3200));
    let mut count = 0;
    while !turns.block(0, 1, 0).ends_turn {
        count += 1;
    }
    assert_eq!(count, 100, "3200 ns are 100 instructions of 32 ns");
}

#[test]
fn a_sleeper_gets_no_credit() {
    let mut turns = Turns::new(2, &Options::default());
    run(&mut turns, &[0, 1], 10);
    turns.halt(1);
    run(&mut turns, &[0], 100);
    let before = instructions(&turns);
    run(&mut turns, &[1, 0], 100);
    let after = instructions(&turns);
    let (first, second) = (after[0] - before[0], after[1] - before[1]);
    assert!(
        (first * 100 / second).abs_diff(100) <= 3,
        "{first} {second}"
    );
}

#[test]
fn pause_takes_its_time() {
    let mut turns = Turns::new(1, &Options::default());
    turns.begin(0, 0, None);
    let step = turns.block(0, 2, 320);
    assert_eq!(2 + step.bias_ns, 2 * 32 + 320);
}

#[test]
fn seeds_decide_the_turns() {
    let fingerprint = |seed| {
        let options = Options {
            seed,
            ..Options::default()
        };
        let mut turns = Turns::new(2, &options);
        run(&mut turns, &[0, 1], 50);
        turns.report(0, End::Emulator).fingerprint
    };
    let mut all: Vec<u64> = (0..100).map(fingerprint).collect();
    assert_eq!(fingerprint(7), fingerprint(7));
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), 100);
}

#[test]
fn costs_that_cannot_be_counted_are_refused() {
    let check = |cost, smt, insn_ns| {
        turns::check(&Options {
            costs: vec![FULL, cost],
            smt,
            insn_ns,
            ..Options::default()
        })
    };
    // The slowest that a test can declare.
    assert_eq!(check(1000 * FULL, 16 * FULL, 1024), Ok(()));
    for (cost, smt) in [(FULL - 1, FULL), (FULL, 1)] {
        let error = check(cost, smt, 16).unwrap_err();
        assert!(error.contains("expected 1024 or more"), "{error}");
    }
    let error = check(u32::MAX, 16 * FULL, 8192).unwrap_err();
    assert!(
        error.contains("8192 ns") && error.contains("too long"),
        "{error}"
    );
}

#[test]
fn a_report_that_is_cut_short_is_none() {
    let report = Report {
        fingerprint: 0xab,
        time_ns: 5,
        end: End::Deadline,
        vcpus: vec![VcpuReport {
            instructions: 1,
            turns: 2,
            halts: 3,
        }],
    };
    let text = report.to_text();
    assert_eq!(Report::parse(&text), Some(report));
    for end in 0..text.len() - 1 {
        assert_eq!(Report::parse(&text[..end]), None, "{end}");
    }
}

#[test]
fn wrong_arguments_are_named() {
    for (argument, needle) in [
        ("seed", "key=value"),
        ("sed=1", "unknown argument 'sed'"),
        ("insn_ns=0", "insn_ns"),
        ("seed=-1", "'-1'"),
        ("costs=1:x", "'x'"),
    ] {
        let error = Options::parse([argument]).unwrap_err();
        assert!(error.contains(needle), "{error}");
    }
}

/// The clock by its definition: each instruction moves it by its cost times the length of a full-speed one, divided by the
/// number of vCPUs that run. Exact, in parts of a nanosecond that all numbers of vCPUs divide.
#[derive(Default)]
struct Ideal {
    parts: i128,
}

impl Ideal {
    /// Divisible by 1 to 4, the vCPUs here.
    const WHOLE: i128 = 12 * FULL as i128;

    fn block(&mut self, count: u64, cost: u64, running: usize, insn_ns: u32) {
        let used = i128::from(count) * i128::from(cost) * i128::from(insn_ns);
        self.parts += used * 12 / i128::try_from(running.max(1)).unwrap();
    }
}

proptest! {
    #[test]
    fn the_clock_is_its_definition_at_each_block(
        blocks in prop::collection::vec((0..4_usize, 1..512_u64, prop::bool::weighted(0.1), prop::bool::weighted(0.1), prop::bool::weighted(0.2)), 1..400),
        costs in prop::collection::vec(FULL..1000 * FULL, 4),
        smt in FULL..16 * FULL,
        insn_ns in 4..1024_u32,
    ) {
        let options = Options { costs: costs.clone(), smt, threads: 2, insn_ns, ..Options::default() };
        prop_assert_eq!(turns::check(&options), Ok(()));
        let mut turns = Turns::new(4, &options);
        let (mut ideal, mut clock) = (Ideal::default(), 0_i128);
        let (mut current, mut before, mut changes) = (0, 0, 0);
        // What is left of a nanosecond, counted with one wide division per block.
        let mut carry = 0_i128;
        for (next, count, halts, cuts, pauses) in blocks {
            if turns.begins(current) {
                current = next;
                turns.begin(current, 0, None);
            }
            let running = (0..4).filter(|vcpu| turns.runs(*vcpu)).count();
            let own = u64::from(costs[current]);
            let cost = if turns.runs(current ^ 1) { own * u64::from(smt) / u64::from(FULL) } else { own };
            let extra_ns = if pauses { 300 } else { 0 };
            let step = turns.block(current, count, extra_ns);
            let all = count + extra_ns / u64::from(insn_ns);
            ideal.block(all, cost, running, insn_ns);
            let unit = i128::from(FULL) * i128::try_from(running.max(1)).unwrap();
            carry += i128::from(all) * i128::from(cost) * i128::from(insn_ns) - i128::from(count) * unit;
            prop_assert_eq!(i128::from(step.bias_ns), carry / unit);
            carry %= unit;
            clock += i128::from(count) + i128::from(step.bias_ns);
            // What is left of a nanosecond is counted on in parts of another size when the number of vCPUs changes.
            changes += i128::from(running != before);
            before = running;
            let behind = ideal.parts - clock * Ideal::WHOLE;
            prop_assert!(behind.abs() <= changes * Ideal::WHOLE, "{} ns", behind / Ideal::WHOLE);
            if halts {
                turns.halt(current);
            }
            if cuts {
                turns.cut();
            }
        }
    }

    #[test]
    fn options_come_through_the_command_line(
        seed: u64, insn_ns in 1..u32::MAX, costs in prop::collection::vec(1..u32::MAX, 0..5), deadline_ns: u64,
    ) {
        let options = Options { seed, insn_ns, costs, deadline_ns, report: String::from("/proc/self/fd/9"), ..Options::default() };
        let text = options.to_arguments();
        prop_assert_eq!(Options::parse(text.split(',')), Ok(options));
    }

    #[test]
    fn the_clock_never_goes_back(
        blocks in prop::collection::vec((0..4_usize, 1..200_u64, prop::bool::ANY), 1..300),
    ) {
        let mut turns = Turns::new(4, &Options::default());
        for (vcpu, count, halts) in blocks {
            if turns.begins(vcpu) {
                turns.begin(vcpu, 0, None);
            }
            let step = turns.block(vcpu, count, 0);
            prop_assert!(step.bias_ns + i64::try_from(count).unwrap() > 0);
            if halts {
                turns.halt(vcpu);
            }
        }
    }
}

#[test]
fn one_goes_on_alone_until_it_has_acted() {
    let mut lead = Lead::default();
    assert!(!lead.holds_back(0, 0));
    lead.follow(Alone::Only(1), 100);
    lead.follow(Alone::AsBefore, 150);
    assert_eq!(
        (lead.holds_back(0, 200), lead.holds_back(1, 200)),
        (true, false)
    );
    // One that was just woken has its turn before the clock moves again.
    let halts = [true, true, false, true, true, true, true, true, true];
    let skips: Vec<bool> = halts.map(|halts| lead.may_skip(halts, 2)).to_vec();
    let expected = [false, false, false, false, false, true, false, false, true];
    assert_eq!(skips, expected);
    // It sleeps until its timer wakes it: it has not acted yet.
    lead.halt(1);
    lead.mark(0);
    lead.halt(0);
    assert_eq!(lead.vcpu(), Some(1));
    lead.mark(1);
    assert!(lead.holds_back(0, 300));
    lead.halt(1);
    assert!(!lead.holds_back(0, 400), "nothing is left to wait for");
    lead.follow(Alone::Only(1), 1000);
    lead.follow(Alone::All, 1100);
    assert_eq!(lead.vcpu(), None);
    lead.follow(Alone::Only(1), 2000);
    assert!(lead.holds_back(0, 2000 + ALONE_AT_MOST_NS - 1));
    assert!(!lead.holds_back(0, 2000 + ALONE_AT_MOST_NS), "not for ever");
}

#[test]
fn a_turn_that_is_cut_is_over() {
    let mut turns = Turns::new(2, &Options::default());
    turns.begin(1, 0, None);
    assert!(turns.runs(1) && !turns.runs(0) && !turns.begins(1));
    turns.cut();
    assert!(turns.begins(1) && turns.runs(1));
}
