//! A guest's clocks across a freeze.

use std::time::{Duration, Instant};

use ktstr_vmm::{Engine, RunningVm, probe};

use crate::guest::{COUNTER, Guest, has_kvm, skip};
use crate::linux::linux;

const LONG: Duration = Duration::from_secs(60);
/// A freeze too long to be taken for a delay.
const FROZEN: Duration = Duration::from_secs(2);
/// Where the guest has KVM put its clock.
const PVCLOCK: u64 = COUNTER + 0x1000;

/// What a guest that stands still would read.
#[derive(Debug, Clone, Copy)]
struct Clocks {
    tsc: u64,
    tsc_ns: u64,
    /// kvm-clock; `None` where the host's KVM has none.
    kvm_ns: Option<u64>,
}

/// The guest's clocks as of its last reading of the TSC (Documentation/virt/kvm/x86/msr.rst: `pvclock_vcpu_time_info`).
fn clocks(vm: &RunningVm) -> Clocks {
    let mut bytes = [0; 40];
    vm.memory().read(PVCLOCK, &mut bytes[..32]).unwrap();
    vm.memory().read(COUNTER, &mut bytes[32..]).unwrap();
    let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    let (tsc, at, system) = (word(32), word(8), word(16));
    let mul = u64::from(u32::from_le_bytes(bytes[24..28].try_into().unwrap()));
    let shift = i8::from_le_bytes([bytes[28]]);
    let ns = |ticks: u64| {
        let shifted = if shift < 0 {
            ticks >> shift.unsigned_abs()
        } else {
            ticks << shift
        };
        u64::try_from((u128::from(shifted) * u128::from(mul)) >> 32).unwrap()
    };
    Clocks {
        tsc,
        tsc_ns: ns(tsc),
        kvm_ns: (mul != 0).then(|| system.wrapping_add(ns(tsc.wrapping_sub(at)))),
    }
}

/// Waits until the guest's TSC has moved past `above`.
#[track_caller]
fn wait_for_tsc(vm: &RunningVm, above: u64) {
    let until = Instant::now() + LONG;
    while clocks(vm).tsc == above {
        assert!(Instant::now() < until, "the guest does not run");
        std::thread::yield_now();
    }
}

/// Lets the time of a freeze pass.
fn stand_still() {
    let until = Instant::now() + FROZEN;
    while Instant::now() < until {
        std::thread::park_timeout(until.saturating_duration_since(Instant::now()));
    }
}

/// Freezes a guest for a while; its clocks may go on by what it ran in between, and by nothing of the freeze.
#[track_caller]
fn check(invariant_tsc: bool) {
    if !has_kvm() {
        return;
    }
    // A host that emulates (PVM) runs RDTSC on the CPU, whatever offset KVM was told.
    let found = probe();
    let in_lab = std::env::var_os("KTSTR_LAB").is_some();
    if invariant_tsc && found.engine != Engine::Kvm && !in_lab {
        return skip(&found.why);
    }
    let (_image, vm) = Guest::Clock.builder("1n1l1c1t", LONG);
    let started = vm.invariant_tsc(invariant_tsc).build().unwrap().start();
    let mut vm = match started {
        Ok(vm) => vm,
        Err(error) if invariant_tsc && !in_lab && error.to_string().contains("invariant TSC") => {
            return println!("refused, as it may be: {error}");
        }
        Err(error) => panic!("{error}"),
    };
    wait_for_tsc(&vm, 0);
    let guard = vm.freeze(LONG).unwrap();
    let before = clocks(&vm);
    stand_still();
    let resumed = Instant::now();
    guard.resume().unwrap();
    wait_for_tsc(&vm, before.tsc);
    let guard = vm.freeze(LONG).unwrap();
    let ran = resumed.elapsed();
    let after = clocks(&vm);
    guard.resume().unwrap();
    let passed = |before: u64, after: u64| Duration::from_nanos(after.wrapping_sub(before));
    let most = ran + FROZEN / 4;
    println!("ran {ran:?}, {before:?}, {after:?}");
    if let (Some(before), Some(after)) = (before.kvm_ns, after.kvm_ns) {
        let passed = passed(before, after);
        assert!(passed < most, "kvm-clock went on by {passed:?} in {ran:?}");
    }
    if invariant_tsc {
        let passed = passed(before.tsc_ns, after.tsc_ns);
        assert!(passed < most, "the TSC went on by {passed:?} in {ran:?}");
    }
    vm.kill();
    vm.wait().unwrap();
}

#[test]
fn a_freeze_does_not_show_in_kvm_clock() {
    check(false);
}

#[test]
fn a_freeze_shows_neither_in_kvm_clock_nor_in_an_invariant_tsc() {
    check(true);
}

/// What Linux says of its clocks in one breath, in milliseconds: CLOCK_MONOTONIC, `sched_clock`, and jiffies as they are.
#[derive(Debug, Clone, Copy)]
struct Reading {
    monotonic: f64,
    sched: f64,
    jiffies: f64,
}

/// The readings on a console: lines of /sys/kernel/debug/sched/debug.
fn readings(console: &str) -> Vec<Reading> {
    let value = |line: Option<&str>, name: &str| -> Option<f64> {
        let (found, value) = line?.trim().split_once(':')?;
        (found.trim() == name).then(|| value.trim().parse().ok())?
    };
    let mut all = Vec::new();
    // The last line may not be whole.
    let whole = console.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let mut lines = whole.lines();
    while let Some(line) = lines.next() {
        let Some(monotonic) = value(Some(line), "ktime") else {
            continue;
        };
        let sched = value(lines.next(), "sched_clk");
        let jiffies = value(lines.next(), "jiffies");
        if let (Some(sched), Some(jiffies)) = (sched, jiffies) {
            all.push(Reading {
                monotonic,
                sched,
                jiffies,
            });
        }
    }
    all
}

/// Waits until the guest has said `count` more than it has said.
#[track_caller]
fn more_readings(vm: &mut RunningVm, count: usize) -> Vec<Reading> {
    let console = vm.com1();
    let text = || readings(&String::from_utf8_lossy(&console.snapshot()));
    let wanted = text().len() + count;
    loop {
        let found = text();
        if found.len() >= wanted {
            return found;
        }
        let ended = vm
            .wait_until(Instant::now() + Duration::from_millis(50))
            .unwrap();
        assert!(ended.is_none(), "{ended:?}");
    }
}

/// Linux' clocks stay together across a freeze: none jumps ahead of the others.
#[track_caller]
fn check_linux(invariant_tsc: bool, clocksource: &str) {
    let script = "$bb mount -t debugfs d /sys/kernel/debug\n\
        echo clocksource $($bb cat /sys/devices/system/clocksource/clocksource0/current_clocksource)\n\
        while :; do $bb grep -E '^(ktime|sched_clk|jiffies) ' /sys/kernel/debug/sched/debug; $bb sleep 1; done";
    let Some(vm) = linux(script, "1n1l1c1t") else {
        return;
    };
    let vm = vm.invariant_tsc(invariant_tsc);
    let mut vm = vm.build().unwrap().start().unwrap();
    let before = more_readings(&mut vm, 3);
    let guard = vm.freeze(LONG).unwrap();
    stand_still();
    guard.resume().unwrap();
    let after = more_readings(&mut vm, 2);
    let console = String::from_utf8_lossy(&vm.com1().snapshot()).into_owned();
    vm.kill();
    vm.wait().unwrap();
    let said = format!("clocksource {clocksource}");
    assert!(console.contains(&said), "{console}");
    let (first, last) = (before[0], before[before.len() - 1]);
    let found = (last.jiffies - first.jiffies) * 1000.0 / (last.monotonic - first.monotonic);
    let hz = [100.0, 250.0, 300.0, 1000.0]
        .into_iter()
        .min_by(|a: &f64, b: &f64| (a - found).abs().total_cmp(&(b - found).abs()))
        .unwrap();
    let apart = |reading: &Reading| {
        let ticks = reading.jiffies * 1000.0 / hz;
        [reading.monotonic - reading.sched, reading.monotonic - ticks]
    };
    let end = after[after.len() - 1];
    println!("{clocksource}, {hz} Hz: {first:?}, {last:?}, {end:?}");
    // The kernel reads the first two in one breath, and jiffies when it has printed them, which takes the lab some milliseconds.
    let most = [2.0 * 1000.0 / hz + 1.0, FROZEN.as_secs_f64() * 100.0];
    let pairs = apart(&last).into_iter().zip(apart(&end));
    for ((before, after), most) in pairs.zip(most) {
        let moved = (after - before).abs();
        assert!(
            moved <= most,
            "clocks are {moved} ms farther apart: {last:?}, {end:?}"
        );
    }
}

#[test]
fn linux_on_kvm_clock_sees_no_freeze() {
    check_linux(false, "kvm-clock");
}

#[test]
fn linux_on_its_tsc_sees_no_freeze() {
    check_linux(true, "tsc");
}
