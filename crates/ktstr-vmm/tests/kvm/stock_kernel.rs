//! A stock kernel reads our tables. A host that only emulates supervisor code gets that far, and no further.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use ktstr_vmm::{EngineChoice, Topology, Vm};

use crate::guest::{has_kvm, skip};

/// Emulation needs about a minute for what takes a CPU milliseconds.
const DEADLINE: Duration = Duration::from_secs(240);
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What a kernel says of a guest with two nodes of two LLCs each.
const EXPECTED: [&str; 10] = [
    "Linux version ",
    "BIOS-e820: [mem 0x0000000000100000-0x000000001fffffff] usable",
    "Hypervisor detected: KVM",
    "ACPI: SLIT 0x",
    "SRAT: Node 0 PXM 0 [mem 0x00000000-0x0fffffff]",
    "SRAT: Node 1 PXM 1 [mem 0x10000000-0x1fffffff]",
    "IOAPIC[0]: apic_id 0, version 17, address 0xfec00000, GSI 0-23",
    "CPU topo: Max. logical packages:   4",
    "CPU topo: Num. threads per package:   4",
    "CPU topo: Allowing 16 present CPUs plus 0 hotplug CPUs",
];

/// `KTSTR_TEST_KERNEL`, or the image of the newest cached kernel.
pub(crate) fn kernel() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("KTSTR_TEST_KERNEL") {
        return Some(named.into());
    }
    let cache = PathBuf::from(std::env::var_os("HOME")?).join(".cache/ktstr/kernels");
    Some(ktstr_kernel::Cache::at(cache).newest().ok()??.image)
}

#[test]
fn the_kernel_prints_our_memory_map_and_topology() {
    if !has_kvm() {
        return;
    }
    let Some(kernel) = kernel() else {
        return skip("no kernel; run `cargo xtask kernel`, or set KTSTR_TEST_KERNEL");
    };
    let mut vm = Vm::builder()
        .kernel(kernel)
        .engine(EngineChoice::Kvm)
        .cmdline("console=ttyS0 earlyprintk=ttyS0 panic=-1")
        .topology("2n4l2c2t".parse::<Topology>().unwrap())
        .memory_mib(512)
        .deadline(DEADLINE)
        .build()
        .unwrap()
        .start()
        .unwrap();
    let console = loop {
        let ended = vm
            .wait_until(Instant::now() + LOOK_EVERY)
            .unwrap()
            .is_some();
        let console = String::from_utf8_lossy(&vm.com1().snapshot()).into_owned();
        if ended || EXPECTED.iter().all(|line| console.contains(line)) {
            break console;
        }
    };
    for line in EXPECTED {
        assert!(console.contains(line), "no '{line}' in:\n{console}");
    }
}
