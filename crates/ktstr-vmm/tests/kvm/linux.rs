//! Linux under our VMM: needs a genuine /dev/kvm, so elsewhere these run in `cargo xtask lab`.

use std::collections::BTreeSet;
use std::io::{BufRead as _, Read as _, Write as _};
use std::path::Path;
use std::time::{Duration, Instant};

use ktstr_initramfs::Builder;
use ktstr_vmm::{
    Engine, EngineChoice, ExitReason, Initrd, RunningVm, Topology, Vm, VmBuilder, Watch, probe,
};

use crate::cards::check;
use crate::guest::skip;
use crate::stock_kernel::kernel;

const PROLOGUE: &str = "#!/bin/busybox sh\nbb=/bin/busybox\n$bb mkdir -p /proc /sys /dev /tmp\n\
    $bb mount -t proc p /proc; $bb mount -t sysfs s /sys; $bb mount -t devtmpfs d /dev\n";

/// Kernel arguments of every guest.
pub(crate) const CMDLINE: &str = "console=ttyS0 rdinit=/init panic=-1 loglevel=4 nokaslr";

/// A guest that runs `script` and powers off; `None` where KVM cannot run a kernel, which is said.
pub(crate) fn linux(script: &str, topology: &str) -> Option<VmBuilder> {
    linux_with(Builder::new(), script, topology)
}

/// The same with what else `builder` holds.
pub(crate) fn linux_with(mut builder: Builder, script: &str, topology: &str) -> Option<VmBuilder> {
    let found = probe();
    // The lab's KVM is genuine, but on a busy host its timing may not show that.
    let is_lab = std::env::var_os("KTSTR_LAB").is_some();
    if found.engine != Engine::Kvm && !is_lab {
        skip(&found.why);
        return None;
    }
    let Some(kernel) = kernel() else {
        skip("no kernel; run `cargo xtask kernel`, or set KTSTR_TEST_KERNEL");
        return None;
    };
    builder
        .file("/bin/busybox", Path::new("/bin/busybox"), 0o755)
        .unwrap();
    let init = format!("{PROLOGUE}{script}\n$bb poweroff -f\n");
    builder.bytes("/init", init.into_bytes(), 0o755).unwrap();
    let initramfs = builder.build().unwrap();
    let vm = Vm::builder()
        .kernel(kernel)
        .initrd(Initrd::Opened(initramfs.file()))
        .cmdline(CMDLINE)
        .engine(EngineChoice::Kvm)
        .topology(topology.parse::<Topology>().unwrap())
        .memory_mib(256)
        .deadline(Duration::from_secs(120));
    Some(vm)
}

/// Waits until the console has `word`; the guest must not end before.
#[track_caller]
pub(crate) fn wait_for(vm: &mut RunningVm, word: &str) {
    let console = vm.com1();
    while !String::from_utf8_lossy(&console.snapshot()).contains(word) {
        let ended = vm
            .wait_until(Instant::now() + Duration::from_millis(50))
            .unwrap();
        assert!(ended.is_none(), "{ended:?}");
    }
}

#[test]
fn one_vcpu_boots_to_init_and_powers_off() {
    let Some(vm) = linux("echo cpus $($bb nproc)", "1n1l1c1t") else {
        return;
    };
    check(vm, &["cpus 1"]);
}

#[test]
fn two_vcpus_boot_to_init_and_power_off() {
    let Some(vm) = linux("echo cpus $($bb nproc)", "1n2l1c1t") else {
        return;
    };
    check(vm, &["cpus 2"]);
}

#[test]
fn eight_vcpus_boot_to_init_and_power_off() {
    // CPUs that come up one by one hold in the lab; all at once, 1 boot of 11 ended in a triple fault.
    let script =
        "for c in /sys/devices/system/cpu/cpu*/online; do echo 1 >$c; done; echo cpus $($bb nproc)";
    let Some(vm) = linux(script, "2n4l1c2t") else {
        return;
    };
    let vm = vm.cmdline(format!("{CMDLINE} maxcpus=1")).memory_mib(384);
    check(vm.deadline(Duration::from_secs(240)), &["cpus 8"]);
}

#[test]
fn a_busy_guest_freezes_a_hundred_times() {
    let script = "for i in 1 2 3 4; do (while :; do :; done) & done\necho busy; $bb sleep 1000";
    let Some(vm) = linux(script, "1n1l2c1t") else {
        return;
    };
    let mut vm = vm
        .deadline(Duration::from_secs(120))
        .build()
        .unwrap()
        .start()
        .unwrap();
    wait_for(&mut vm, "busy");
    let (mut took, mut rips) = (Vec::new(), BTreeSet::new());
    for _ in 0..100 {
        let began = Instant::now();
        let guard = vm.freeze(Duration::from_secs(20)).unwrap();
        let registers = guard.registers().unwrap();
        guard.resume().unwrap();
        took.push(began.elapsed());
        assert_eq!(registers.len(), 2);
        assert!(
            registers.iter().all(|regs| regs.cr3 != 0 && regs.rip != 0),
            "{registers:?}"
        );
        rips.extend(registers.iter().map(|regs| regs.rip));
    }
    took.sort_unstable();
    println!(
        "freeze, registers, resume: median {:?}, most {:?}",
        took[50], took[99]
    );
    assert!(rips.len() > 2, "the guest runs between freezes: {rips:x?}");
    vm.kill();
    assert_eq!(vm.wait().unwrap().reason, ExitReason::Killed);
}

#[test]
fn named_ports_carry_bytes_both_ways() {
    let script = "port() { for p in /sys/class/virtio-ports/*; do [ \"$($bb cat $p/name)\" = \"$1\" ] && echo /dev/${p##*/}; done; }\n\
        $bb head -c 100000 /dev/zero >$(port ktstr.frames)\n\
        exec 3<>$(port ktstr.stats); read line <&3; echo \"got $line\" >&3; exec 3>&-";
    let Some(vm) = linux(script, "1n1l1c1t") else {
        return;
    };
    let mut vm = vm
        .port("ktstr.frames")
        .port("ktstr.stats")
        .build()
        .unwrap()
        .start()
        .unwrap();
    let mut frames = vm.take_port("ktstr.frames").unwrap();
    let mut stats = vm.take_port("ktstr.stats").unwrap();
    stats.write_all(b"a line\n").unwrap();
    let reader = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        frames.read_to_end(&mut bytes).unwrap();
        bytes
    });
    let exit = vm.wait().unwrap();
    let console = String::from_utf8_lossy(&exit.com1).into_owned();
    assert_eq!(exit.reason, ExitReason::PowerOff, "{console}");
    assert_eq!(reader.join().unwrap().len(), 100_000, "{console}");
    let mut answer = String::new();
    stats.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "got a line\n", "{console}");
}

#[test]
fn a_panic_and_a_reboot_are_told_apart() {
    let ends = [
        ("$bb reboot -f", ExitReason::Reboot),
        ("echo c >/proc/sysrq-trigger", ExitReason::Panic),
    ];
    for (script, expected) in ends {
        let Some(vm) = linux(script, "1n1l1c1t") else {
            return;
        };
        let exit = vm.build().unwrap().run().unwrap();
        let console = String::from_utf8_lossy(&exit.com1);
        assert_eq!(exit.reason, expected, "{console}");
    }
}

/// `panic_on_oops` is written by the sysctl alone, on a page that the kernel writes for other reasons as well.
#[test]
fn a_watch_on_a_kernel_variable_fires_once_per_write() {
    let script = "port=; for p in /sys/class/virtio-ports/*; do port=/dev/${p##*/}; done; exec 3<>$port\n\
        sym=$($bb grep ' panic_on_oops$' /proc/kallsyms); echo ${sym%% *} >&3; read line <&3\n\
        for i in 1 0 1 0 1 0 1 0; do echo $i >/proc/sys/kernel/panic_on_oops; done; echo done >&3; read line <&3";
    let Some(vm) = linux(script, "1n1l1c1t") else {
        return;
    };
    let mut vm = vm.port("watch").build().unwrap().start().unwrap();
    println!("{:?}", vm.watch_support());
    let mut port = vm.take_port("watch").unwrap();
    port.set_read_timeout(Some(Duration::from_secs(110)))
        .unwrap();
    let mut lines = std::io::BufReader::new(port.try_clone().unwrap()).lines();
    let address = lines.next().unwrap().unwrap();
    let gva = u64::from_str_radix(address.trim(), 16).unwrap();
    let id = vm.watch(Watch::write(gva, 4)).unwrap();
    port.write_all(b"go\n").unwrap();
    assert_eq!(lines.next().unwrap().unwrap().trim(), "done");
    let mut hits = Vec::new();
    while let Some(hit) = vm.next_watch_hit(Duration::from_millis(50)) {
        assert_eq!((hit.id, hit.vcpu), (id, 0));
        hits.push(hit.rip);
    }
    assert_eq!(hits.len(), 8, "{hits:x?}");
    assert!(
        hits.iter().all(|rip| *rip > 0xffff_8000_0000_0000),
        "{hits:x?}"
    );
    vm.unwatch(id).unwrap();
    port.write_all(b"end\n").unwrap();
    let exit = vm.wait().unwrap();
    let console = String::from_utf8_lossy(&exit.com1);
    assert_eq!(exit.reason, ExitReason::PowerOff, "{console}");
}

/// Each call of the sysctl's handler holds the guest at its first instruction.
#[test]
fn a_breakpoint_in_the_kernel_holds_and_lets_go() {
    let script = "port=; for p in /sys/class/virtio-ports/*; do port=/dev/${p##*/}; done; exec 3<>$port\n\
        sym=$($bb grep ' proc_do_cad_pid$' /proc/kallsyms); echo ${sym%% *} >&3; read line <&3\n\
        for i in 1 2 3; do $bb cat /proc/sys/kernel/cad_pid; done; echo done >&3; read line <&3";
    let Some(vm) = linux(script, "1n1l1c1t") else {
        return;
    };
    let mut vm = vm.port("watch").build().unwrap().start().unwrap();
    let mut port = vm.take_port("watch").unwrap();
    port.set_read_timeout(Some(Duration::from_secs(110)))
        .unwrap();
    let mut lines = std::io::BufReader::new(port.try_clone().unwrap()).lines();
    let address = lines.next().unwrap().unwrap();
    let gva = u64::from_str_radix(address.trim(), 16).unwrap();
    vm.watch_and_hold(Watch::exec(gva)).unwrap();
    port.write_all(b"go\n").unwrap();
    // A read to its end is two calls, the second for the end of the file.
    for call in 0..3 {
        let deadline = Duration::from_secs(60);
        let hit = vm
            .next_watch_hit(deadline)
            .unwrap_or_else(|| panic!("no hit {call}"));
        assert_eq!((hit.rip, hit.held), (gva, true));
        let guard = vm.freeze(deadline).unwrap();
        assert_eq!(guard.registers().unwrap()[0].rip, gva);
        guard.resume().unwrap();
        vm.release_hit(deadline).unwrap();
    }
    vm.kill();
    vm.wait().unwrap();
}
