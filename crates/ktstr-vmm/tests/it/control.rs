//! What a host does with a running guest.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::time::{Duration, Instant};

use ktstr_vmm::{ExitReason, RunningVm, Watch};

use crate::guest::guest;

const DEADLINE: Duration = Duration::from_secs(30);

/// A started guest that has said `ready` on its port and then waits for a line there.
fn ready(script: &str) -> (RunningVm, BufReader<ktstr_vmm::PortStream>) {
    let script = format!("exec 3<>$(port ctl)\necho ready >&3\nread line <&3\n{script}");
    let mut vm = guest(&script).port("ctl").build().unwrap().start().unwrap();
    let port = vm.take_port("ctl").unwrap();
    assert!(vm.take_port("ctl").is_none(), "a port is taken once");
    port.set_read_timeout(Some(Duration::from_secs(90)))
        .unwrap();
    let mut port = BufReader::new(port);
    let mut line = String::new();
    port.read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    (vm, port)
}

#[test]
fn ten_megabytes_cross_a_port_both_ways_unharmed() {
    let (mut vm, mut port) = ready("$bb head -c 10000000 <&3 >&3");
    let bytes: Vec<u8> = (0..10_000_000u32)
        .map(|i| u8::try_from(i % 251).unwrap())
        .collect();
    let mut writer = port.get_ref().try_clone().unwrap();
    writer.write_all(b"go\n").unwrap();
    let sent = bytes.clone();
    let sender = std::thread::spawn(move || writer.write_all(&sent).unwrap());
    let mut back = vec![0; bytes.len()];
    port.read_exact(&mut back).unwrap();
    sender.join().unwrap();
    assert!(back == bytes, "the echo differs");
    vm.kill();
    assert_eq!(vm.wait().unwrap().reason, ExitReason::Killed);
}

#[test]
fn a_frozen_guest_stands_still_and_goes_on() {
    let (mut vm, port) = ready("echo done >&3");
    let guard = vm.freeze(DEADLINE).unwrap();
    let first = guard.registers().unwrap();
    let second = guard.registers().unwrap();
    assert_eq!(first, second, "registers move while frozen");
    assert!(first[0].rip != 0 && first[0].cr3 != 0, "{first:?}");
    guard.resume().unwrap();
    let mut port = port;
    port.get_mut().write_all(b"go\n").unwrap();
    let mut line = String::new();
    port.read_line(&mut line).unwrap();
    assert_eq!(line, "done\n");
    assert_eq!(vm.wait().unwrap().reason, ExitReason::PowerOff);
    assert!(
        vm.freeze(DEADLINE).is_err(),
        "a VM that has ended cannot be frozen"
    );
}

#[test]
fn guest_memory_is_the_hosts_to_read() {
    let (mut vm, _port) = ready("");
    let memory = vm.memory();
    let ranges = memory.ranges();
    assert_eq!((ranges.len(), ranges[0].len), (1, 192 << 20));
    let mut found = false;
    let mut page = vec![0; 1 << 20];
    for gpa in (0..ranges[0].len).step_by(page.len()) {
        memory.read(gpa, &mut page).unwrap();
        found |= page.windows(13).any(|window| window == b"Linux version");
    }
    assert!(found, "the kernel's banner is not in its memory");
    vm.kill();
    vm.wait().unwrap();
}

#[test]
fn a_breakpoint_fires_and_the_guest_runs_on() {
    // nokaslr: the address in kallsyms is where the function runs.
    let script = "sym=$($bb grep ' T proc_sys_call_handler$\\| t proc_sys_call_handler$' /proc/kallsyms)\n\
        echo ${sym%% *} >&3; read line <&3; echo 1 > /proc/sys/kernel/sysrq; echo 1 > /proc/sys/kernel/sysrq; echo done >&3";
    let (mut vm, mut port) = ready(script);
    port.get_mut().write_all(b"go\n").unwrap();
    let mut line = String::new();
    port.read_line(&mut line).unwrap();
    let gva =
        u64::from_str_radix(line.trim(), 16).unwrap_or_else(|_| panic!("no address: {line:?}"));
    let id = vm.watch(Watch::exec(gva)).unwrap();
    port.get_mut().write_all(b"go\n").unwrap();
    for _ in 0..2 {
        let hit = vm
            .next_watch_hit(DEADLINE)
            .expect("the function is called twice");
        assert_eq!((hit.id, hit.rip), (id, gva));
    }
    let mut line = String::new();
    port.read_line(&mut line).unwrap();
    assert_eq!(line, "done\n");
    vm.unwatch(id).unwrap();
    let wrong = vm.watch(Watch::write(3, 4)).unwrap_err().to_string();
    assert!(wrong.contains("aligned"), "{wrong}");
    assert_eq!(vm.wait().unwrap().reason, ExitReason::PowerOff);
}

#[test]
fn a_watchpoint_fires_once_per_write() {
    let script = "sym=$($bb grep ' panic_on_oops$' /proc/kallsyms)\n\
        echo ${sym%% *} >&3; read line <&3; for i in 1 0 1; do echo $i > /proc/sys/kernel/panic_on_oops; done; echo done >&3; read line <&3";
    let (mut vm, mut port) = ready(script);
    port.get_mut().write_all(b"go\n").unwrap();
    let mut line = String::new();
    port.read_line(&mut line).unwrap();
    let gva =
        u64::from_str_radix(line.trim(), 16).unwrap_or_else(|_| panic!("no address: {line:?}"));
    let id = vm.watch(Watch::write(gva, 4)).unwrap();
    port.get_mut().write_all(b"go\n").unwrap();
    let mut line = String::new();
    port.read_line(&mut line).unwrap();
    assert_eq!(line, "done\n");
    for write in 0..3 {
        let hit = vm
            .next_watch_hit(DEADLINE)
            .unwrap_or_else(|| panic!("write {write} was not seen"));
        assert_eq!(hit.id, id);
        assert!(hit.rip > 0xffff_8000_0000_0000, "{:#x}", hit.rip);
    }
    // The guest waits for a line: whatever it wrote is known by now.
    assert_eq!(vm.next_watch_hit(Duration::from_millis(50)), None);
    port.get_mut().write_all(b"end\n").unwrap();
    assert_eq!(vm.wait().unwrap().reason, ExitReason::PowerOff);
}

#[test]
fn a_held_hit_shows_memory_before_the_write_is_followed_by_another() {
    let script = "sym=$($bb grep ' panic_on_oops$' /proc/kallsyms); base=$($bb grep ' _text$' /proc/kallsyms)\n\
        echo ${sym%% *} >&3; read line <&3; for i in 1 0 1; do echo $i > /proc/sys/kernel/panic_on_oops; done; echo done >&3; read line <&3";
    let (mut vm, mut port) = ready(script);
    port.get_mut().write_all(b"go\n").unwrap();
    let mut line = String::new();
    port.read_line(&mut line).unwrap();
    let gva =
        u64::from_str_radix(line.trim(), 16).unwrap_or_else(|_| panic!("no address: {line:?}"));
    assert!(vm.release_hit(DEADLINE).is_err(), "nothing is held");
    vm.watch_and_hold(Watch::write(gva, 4)).unwrap();
    port.get_mut().write_all(b"go\n").unwrap();
    // nokaslr: the kernel lies where it was linked to, at 16 MiB and __START_KERNEL_map.
    let gpa = gva - 0xffff_ffff_8000_0000;
    for expected in [1u32, 0, 1] {
        let hit = vm.next_watch_hit(DEADLINE).expect("a hit per write");
        assert!(hit.held);
        // Freezes nest inside of a held hit, and their end does not let the guest go.
        for _ in 0..3 {
            let guard = vm.freeze(DEADLINE).unwrap();
            assert_eq!(guard.registers().unwrap().len(), 1);
            let mut word = [0; 4];
            vm.memory().read(gpa, &mut word).unwrap();
            assert_eq!(u32::from_le_bytes(word), expected);
        }
        assert_eq!(vm.next_watch_hit(Duration::from_millis(20)), None);
        vm.release_hit(DEADLINE).unwrap();
    }
    let mut line = String::new();
    port.read_line(&mut line).unwrap();
    assert_eq!(line, "done\n");
    port.get_mut().write_all(b"end\n").unwrap();
    assert_eq!(vm.wait().unwrap().reason, ExitReason::PowerOff);
}

#[test]
fn a_drop_ends_the_guest() {
    let (vm, mut port) = ready("");
    let started = Instant::now();
    drop(vm);
    let mut rest = Vec::new();
    port.read_to_end(&mut rest).unwrap();
    assert!(started.elapsed() < DEADLINE);
}

#[test]
fn the_deadline_waits_for_a_frozen_guest() {
    let (deadline, frozen) = (Duration::from_secs(3), Duration::from_secs(4));
    let began = Instant::now();
    let vm = guest("$bb sleep 1000").deadline(deadline);
    let mut vm = vm.build().unwrap().start().unwrap();
    let guard = vm.freeze(DEADLINE).unwrap();
    let until = Instant::now() + frozen;
    while Instant::now() < until {
        std::thread::park_timeout(until.saturating_duration_since(Instant::now()));
    }
    guard.resume().unwrap();
    assert_eq!(vm.wait().unwrap().reason, ExitReason::Deadline);
    assert!(
        began.elapsed() >= deadline + frozen,
        "{:?}",
        began.elapsed()
    );
}
