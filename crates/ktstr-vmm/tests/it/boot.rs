//! How guests begin and end.

use std::time::Duration;

use ktstr_vmm::{Error, ExitReason, NumaNode, Topology, Vm, VmExit};

use crate::guest::{guest, kernel};
use crate::program::write_program;

#[track_caller]
fn ends(exit: &VmExit, reason: &ExitReason) {
    assert_eq!(
        &exit.reason,
        reason,
        "{}",
        String::from_utf8_lossy(&exit.com1)
    );
}

fn console(exit: &VmExit) -> String {
    String::from_utf8_lossy(&exit.com1).replace('\r', "")
}

#[test]
fn power_off_and_both_uarts() {
    let exit = guest("echo on-com1; echo on-com2 > /dev/ttyS1")
        .build()
        .unwrap()
        .run()
        .unwrap();
    ends(&exit, &ExitReason::PowerOff);
    assert!(console(&exit).contains("on-com1\n"), "{}", console(&exit));
    assert_eq!(String::from_utf8_lossy(&exit.com2).trim(), "on-com2");
}

#[test]
fn reboot_and_panic_are_told_apart() {
    let exit = guest("$bb reboot -f").build().unwrap().run().unwrap();
    ends(&exit, &ExitReason::Reboot);
    let exit = guest("echo c > /proc/sysrq-trigger")
        .build()
        .unwrap()
        .run()
        .unwrap();
    ends(&exit, &ExitReason::Panic);
    let exit = guest("exit 3").build().unwrap().run().unwrap();
    ends(&exit, &ExitReason::Panic);
}

#[test]
fn a_hang_ends_at_the_deadline() {
    let vm = guest("while :; do :; done")
        .deadline(Duration::from_secs(6))
        .build()
        .unwrap();
    ends(&vm.run().unwrap(), &ExitReason::Deadline);
}

#[test]
fn the_guest_sees_the_declared_topology() {
    let node = |llcs, memory_mib| NumaNode::new(llcs).memory_mib(memory_mib);
    let topology = Topology::with_nodes(1, 2, &[node(2, 128), node(1, 96), node(0, 64)]).unwrap();
    let script = "for c in 0 2 4; do echo L3 $($bb cat /sys/devices/system/cpu/cpu$c/cache/index3/shared_cpu_list); done\n\
        for n in 0 1 2; do echo N$n cpus=$($bb cat /sys/devices/system/node/node$n/cpulist) \
        dist=$($bb cat /sys/devices/system/node/node$n/distance); done\n\
        echo SMT $($bb cat /sys/devices/system/cpu/cpu5/topology/thread_siblings_list)";
    let exit = guest(script)
        .topology(topology)
        .memory_mib(288)
        .build()
        .unwrap()
        .run()
        .unwrap();
    let text = console(&exit);
    for line in [
        "L3 0-1",
        "L3 2-3",
        "L3 4-5",
        "N0 cpus=0-3 dist=10 20 20",
        "N1 cpus=4-5 dist=20 10 20",
        "N2 cpus= dist=20 20 10",
        "SMT 4-5",
    ] {
        assert!(text.contains(line), "{line:?} is not in {text}");
    }
}

#[test]
fn every_fault_of_a_configuration_is_told() {
    let error = Vm::builder()
        .kernel("/etc/hostname")
        .memory_mib(8)
        .port("a")
        .port("a")
        .performance_mode(true)
        .qemu("/no/such/qemu")
        .build()
        .unwrap_err()
        .to_string();
    for needle in [
        "not a bzImage",
        "8 MiB of memory",
        "port 'a'",
        "performance mode",
        "/no/such/qemu",
        "qemu-system-x86",
        // Why this engine: QEMU may be an unexpected need.
        "the engine's reason: ",
    ] {
        assert!(error.contains(needle), "{needle:?} is not in {error}");
    }
}

#[test]
fn an_emulator_that_dies_is_reported_with_its_words() {
    let dir = tempfile::tempdir().unwrap();
    let fake = dir.path().join("qemu");
    write_program(&fake, "#!/bin/sh\necho out of cheese >&2\nexit 7\n");
    match Vm::builder()
        .kernel(kernel())
        .qemu(&fake)
        .build()
        .unwrap()
        .start()
    {
        Err(Error::EarlyDeath { status, stderr }) => {
            assert_eq!(
                (status.as_str(), stderr.as_str()),
                ("exit status 7", "out of cheese")
            );
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_emulator_that_is_too_old_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let fake = dir.path().join("qemu");
    let script = "#!/bin/sh\n[ \"$1\" = --version ] && exec echo 'QEMU emulator version 4.2.1 (Debian 1:4.2-3ubuntu6.30)'\n\
                  echo no such property >&2\nexit 1\n";
    write_program(&fake, script);
    let vm = Vm::builder().kernel(kernel()).qemu(&fake).build().unwrap();
    let error = vm.start().map(drop).unwrap_err().to_string();
    for part in [
        "QEMU 4.2.1 ('",
        "take 5.0 or later",
        "KTSTR_QEMU",
        "no such property",
    ] {
        assert!(error.contains(part), "{part:?} is not in {error}");
    }
}
