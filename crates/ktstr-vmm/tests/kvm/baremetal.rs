//! What the engine itself does: ends, freezes, registers, deadlines.

use std::time::{Duration, Instant};

use ktstr_vmm::{Error, ExitReason, RunningVm, Watch};

use crate::guest::{COUNTER, Guest, LOAD, has_kvm, skip};

const LONG: Duration = Duration::from_secs(60);

#[track_caller]
fn check_end(guest: Guest, expected: &ExitReason) {
    if !has_kvm() {
        return;
    }
    let exit = guest.run();
    assert_eq!(
        exit.reason,
        *expected,
        "{}",
        String::from_utf8_lossy(&exit.com1)
    );
    println!(
        "{guest:?}: {:?}, cleanup {:?}",
        exit.duration, exit.cleanup_duration
    );
}

fn word(vm: &RunningVm, gpa: u64) -> u64 {
    let mut bytes = [0; 8];
    vm.memory().read(gpa, &mut bytes).unwrap();
    u64::from_le_bytes(bytes)
}

/// Waits until the guest counts past `above`.
#[track_caller]
fn wait_for_count(vm: &RunningVm, above: u64) {
    let until = Instant::now() + LONG;
    while word(vm, COUNTER) <= above {
        assert!(
            Instant::now() < until,
            "the guest does not count past {above}"
        );
        std::thread::yield_now();
    }
}

#[test]
fn consoles_are_kept_apart_and_pm1_powers_off() {
    if !has_kvm() {
        return;
    }
    let exit = Guest::Hello.run();
    assert_eq!(exit.reason, ExitReason::PowerOff);
    assert_eq!(exit.com1, b"hi");
    assert_eq!(exit.com2, b"no");
}

#[test]
fn resets_and_faults_are_told_apart() {
    check_end(Guest::Reset, &ExitReason::Reboot);
    check_end(Guest::Keyboard, &ExitReason::Reboot);
    check_end(Guest::Fault, &ExitReason::TripleFault);
}

#[test]
fn a_frozen_guest_stands_still_and_shows_its_registers() {
    if !has_kvm() {
        return;
    }
    let mut vm = Guest::Count.start("1n1l1c1t", LONG);
    wait_for_count(&vm, 0);
    for _ in 0..20 {
        let guard = vm.freeze(LONG).unwrap();
        let regs = guard.registers().unwrap();
        let count = word(&vm, COUNTER);
        assert_eq!(regs.len(), 1);
        assert!(
            (LOAD..LOAD + 64).contains(&regs[0].rip),
            "{:#x}",
            regs[0].rip
        );
        assert!(
            regs[0].rax.abs_diff(count) <= 1,
            "{} and {count}",
            regs[0].rax
        );
        assert_eq!(regs[0].cr3, 0x9000);
        assert_eq!(word(&vm, COUNTER), count);
        guard.resume().unwrap();
        wait_for_count(&vm, count);
    }
    vm.kill();
    assert_eq!(vm.wait().unwrap().reason, ExitReason::Killed);
    vm.freeze(LONG).unwrap_err();
}

#[test]
fn waiting_and_halted_vcpus_park_as_well() {
    if !has_kvm() {
        return;
    }
    let mut vm = Guest::Halt.start("2n4l2c1t", LONG);
    for _ in 0..20 {
        let guard = vm.freeze(LONG).unwrap();
        assert_eq!(guard.registers().unwrap().len(), 8);
    }
    vm.kill();
    vm.wait().unwrap();
}

#[test]
fn the_deadline_ends_a_guest_that_does_not() {
    if !has_kvm() {
        return;
    }
    let deadline = Duration::from_millis(200);
    let exit = Guest::Halt.start("1n1l2c1t", deadline).wait().unwrap();
    assert_eq!(exit.reason, ExitReason::Deadline);
    assert!(exit.duration >= deadline);
}

#[test]
fn never_is_a_deadline() {
    if !has_kvm() {
        return;
    }
    let mut vm = Guest::Halt.start("1n1l1c1t", Duration::MAX);
    vm.freeze(Duration::MAX).unwrap().resume().unwrap();
    vm.kill();
    assert_eq!(vm.next_watch_hit(Duration::MAX), None);
    assert_eq!(vm.wait().unwrap().reason, ExitReason::Killed);
}

#[test]
fn kvm_counts_exits() {
    if !has_kvm() {
        return;
    }
    let exit = Guest::Hello.run();
    let Some(stats) = exit.kvm_stats else {
        return skip("this host's KVM has no binary statistics");
    };
    assert_eq!(stats.len(), 1);
    assert!(stats[0]["exits"] > 0, "{stats:?}");
}

#[test]
fn performance_mode_runs_or_says_what_is_missing() {
    if !has_kvm() {
        return;
    }
    let locks = tempfile::tempdir().unwrap();
    let start = || {
        let (_image, vm) = Guest::Hello.builder("1n1l1c1t", LONG);
        vm.performance_mode(true)
            .lock_dir(locks.path())
            .build()
            .unwrap()
            .start()
    };
    match start() {
        Ok(mut vm) => {
            let second = start().unwrap_err();
            assert!(
                matches!(second, Error::ResourceContention { .. }),
                "{second}"
            );
            assert_eq!(vm.wait().unwrap().reason, ExitReason::PowerOff);
        }
        Err(error @ Error::PerfModeUnavailable { .. }) => println!("without its CPUs: {error}"),
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn a_dropped_vm_ends() {
    if !has_kvm() {
        return;
    }
    drop(Guest::Count.start("1n1l1c1t", LONG));
}

#[test]
fn cpuid_shows_the_declared_topology() {
    if !has_kvm() {
        return;
    }
    let mut vm = Guest::Cpuid.start("1n2l3c2t", LONG);
    assert_eq!(vm.wait().unwrap().reason, ExitReason::PowerOff);
    let low = word(&vm, COUNTER);
    assert_eq!(
        low & 0xffff_ffff,
        3,
        "shift to the package: 4 padded cores of 2 threads"
    );
    assert_eq!(low >> 32, 6, "threads of a package");
}

#[test]
fn a_watch_fires_once_per_write() {
    if !has_kvm() {
        return;
    }
    let mut vm = Guest::Count.start("1n1l1c1t", LONG);
    wait_for_count(&vm, 0);
    let watch = Watch::write(COUNTER, 8);
    let guard = vm.freeze(LONG).unwrap();
    let before = word(&vm, COUNTER);
    let id = vm.watch(watch).unwrap();
    guard.resume().unwrap();
    println!("{:?}", vm.watch_support());
    for _ in 0..10 {
        let hit = vm.next_watch_hit(LONG).expect("a hit per write");
        assert_eq!((hit.id, hit.vcpu), (id, 0));
        assert!((LOAD..LOAD + 64).contains(&hit.rip), "{:#x}", hit.rip);
    }
    let guard = vm.freeze(LONG).unwrap();
    vm.unwatch(id).unwrap();
    let mut hits = 10;
    while vm.next_watch_hit(Duration::ZERO).is_some() {
        hits += 1;
    }
    let writes = word(&vm, COUNTER) - before;
    assert!(
        hits == writes || hits == 4096 + 10,
        "{hits} hits, {writes} writes"
    );
    guard.resume().unwrap();
    vm.kill();
    vm.wait().unwrap();
}

/// Every kind of store, locked ones too, is one hit; neighbours are none.
#[test]
fn stores_of_all_kinds_are_seen() {
    if !has_kvm() {
        return;
    }
    for shape in ["1n1l1c1t", "1n1l2c1t"] {
        let mut vm = Guest::Writes.start(shape, LONG);
        let id = vm.watch(Watch::write(COUNTER, 4)).unwrap();
        vm.memory().write(COUNTER + 8, &[1]).unwrap();
        let exit = vm.wait().unwrap();
        assert_eq!(exit.reason, ExitReason::PowerOff, "{shape}");
        let mut rips = Vec::new();
        while let Some(hit) = vm.next_watch_hit(Duration::ZERO) {
            assert_eq!((hit.id, hit.vcpu), (id, 0));
            rips.push(hit.rip);
        }
        assert_eq!(word(&vm, COUNTER), 9 << 32 | 16, "{shape}");
        assert_eq!(word(&vm, COUNTER + 8), 9 << 32 | 1, "{shape}");
        assert_eq!(rips.len(), 8, "{shape}: {rips:x?}");
        assert!(rips.is_sorted(), "{shape}: {rips:x?}");
    }
}

/// A held hit stands before the write's successor, and the guest goes on when it is released.
#[test]
fn a_held_write_stands_still() {
    if !has_kvm() {
        return;
    }
    let mut vm = Guest::Writes.start("1n1l1c1t", LONG);
    vm.watch_and_hold(Watch::write(COUNTER, 4)).unwrap();
    vm.memory().write(COUNTER + 8, &[1]).unwrap();
    for expected in [1, 2, 3, 4, 5, 7, 15, 16] {
        let hit = vm.next_watch_hit(LONG).expect("a hit per write");
        assert!(hit.held);
        let guard = vm.freeze(LONG).unwrap();
        assert_eq!(guard.registers().unwrap()[0].rip, hit.rip);
        assert_eq!(word(&vm, COUNTER) & 0xffff_ffff, expected);
        guard.resume().unwrap();
        vm.release_hit(LONG).unwrap();
    }
    assert_eq!(vm.wait().unwrap().reason, ExitReason::PowerOff);
}

/// Watches an instruction of the function that the guest calls three times; lets two calls be seen.
#[track_caller]
fn check_breakpoint(instruction: &[u8], needs_step: bool) {
    if !has_kvm() {
        return;
    }
    let mut vm = Guest::Writes.start("1n1l1c1t", LONG);
    let gva = LOAD + Guest::Writes.offset_of(instruction);
    let id = match vm.watch_and_hold(Watch::exec(gva)) {
        Ok(id) => id,
        Err(error @ Error::Refused { .. }) if needs_step => {
            println!("refused, as it may be: {error}");
            return;
        }
        Err(error) => panic!("{error}"),
    };
    vm.memory().write(COUNTER + 8, &[1]).unwrap();
    for calls in 0..2 {
        let hit = vm.next_watch_hit(LONG).expect("a hit per call");
        assert_eq!((hit.id, hit.rip, hit.held), (id, gva, true));
        let guard = vm.freeze(LONG).unwrap();
        assert_eq!(guard.registers().unwrap()[0].rip, gva);
        assert_eq!(word(&vm, COUNTER + 0x1000), calls);
        guard.resume().unwrap();
        if calls == 1 {
            vm.unwatch(id).unwrap();
        }
        vm.release_hit(LONG).unwrap();
    }
    assert_eq!(vm.wait().unwrap().reason, ExitReason::PowerOff);
    assert_eq!(word(&vm, COUNTER + 0x1000), 3);
    assert_eq!(vm.next_watch_hit(Duration::ZERO), None);
}

#[test]
fn a_breakpoint_holds_at_each_call_and_lets_the_guest_go_on() {
    check_breakpoint(&[0xf3, 0x0f, 0x1e, 0xfa], false);
    check_breakpoint(&[0x53, 0xff, 0x87], true);
    check_breakpoint(&[0xff, 0x87, 0x00, 0x10, 0x00, 0x00], true);
}

#[test]
fn the_deadline_waits_for_a_frozen_guest() {
    if !has_kvm() {
        return;
    }
    let (deadline, frozen) = (Duration::from_millis(400), Duration::from_millis(900));
    let began = Instant::now();
    let mut vm = Guest::Halt.start("1n1l1c1t", deadline);
    let guard = vm.freeze(LONG).unwrap();
    let until = Instant::now() + frozen;
    while Instant::now() < until {
        std::thread::park_timeout(until.saturating_duration_since(Instant::now()));
    }
    guard.resume().unwrap();
    let exit = vm.wait().unwrap();
    assert_eq!(exit.reason, ExitReason::Deadline);
    assert!(
        began.elapsed() >= deadline + frozen,
        "{:?}",
        began.elapsed()
    );
}
