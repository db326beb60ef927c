//! Guests of tcg see the declared shape.

use std::time::Duration;

use ktstr_initramfs::Builder;
use ktstr_vmm::{ExitReason, NumaDistance, NumaNode, PRESETS, Topology, VirtualTime, VmBuilder};

use crate::guest::guest_with;
use crate::shared_shape::{SCRIPT, check, programs};

fn shown(topology: &Topology) -> VmBuilder {
    let mut builder = Builder::new();
    programs(&mut builder);
    let nodes = u32::try_from(topology.nodes().len()).unwrap();
    guest_with(builder, SCRIPT)
        .topology(topology.clone())
        .memory_mib(256 + 64 * nodes)
        .deadline(Duration::from_secs(1500))
}

#[track_caller]
fn check_shape(name: &str, topology: &Topology) {
    run(name, topology, shown(topology));
}

#[track_caller]
fn run(name: &str, topology: &Topology, vm: VmBuilder) {
    let exit = vm.build().unwrap().run().unwrap();
    let console = String::from_utf8_lossy(&exit.com1).into_owned();
    assert_eq!(exit.reason, ExitReason::PowerOff, "{name}: {console}");
    check(name, topology, &console);
    println!("{name}: {:?}", exit.duration);
}

#[track_caller]
fn check_presets(names: &[&str]) {
    for name in names {
        let preset = PRESETS.iter().find(|preset| preset.name == *name).unwrap();
        check_shape(name, &preset.topology().unwrap());
    }
}

#[test]
fn programs_see_the_declared_shape_of_presets_without_smt() {
    check_presets(&[
        "4cpu-1llc-nosmt",
        "4cpu-2llc-nosmt",
        "9cpu-3llc-nosmt",
        "14cpu-7llc-nosmt",
        "15cpu-5llc-nosmt",
        "2numa-16cpu-4llc-nosmt",
    ]);
}

#[test]
fn programs_see_the_declared_shape_of_presets_with_smt() {
    check_presets(&["8cpu-2llc-smt", "12cpu-3llc-smt"]);
}

/// A node without CPUs, and distances of one's own.
#[test]
fn programs_see_the_declared_nodes() {
    let node = |llcs| NumaNode {
        llcs,
        ..NumaNode::default()
    };
    let rows = vec![vec![10, 17, 28], vec![17, 10, 21], vec![28, 21, 10]];
    let topology = Topology::with_nodes(1, 2, &[node(2), node(1), node(0)])
        .and_then(|shape| shape.with_distance(NumaDistance::new(rows)?))
        .unwrap();
    check_shape("a node without CPUs", &topology);
}

/// In host time, 32 emulated CPUs that spin for each other take minutes to come up; in virtual time they take turns. The CPUs
/// are told the same: only the source of time differs.
#[track_caller]
fn check_presets_in_virtual_time(names: &[&str]) {
    for name in names {
        let preset = PRESETS.iter().find(|preset| preset.name == *name).unwrap();
        let topology = preset.topology().unwrap();
        let time = VirtualTime::seed(1).wall_limit(Duration::from_secs(3600));
        run(name, &topology, shown(&topology).virtual_time(time));
    }
}

#[test]
fn programs_see_the_declared_shape_of_presets_of_32_cpus() {
    check_presets_in_virtual_time(&["32cpu-4llc-smt", "32cpu-4llc-nosmt", "2numa-32cpu-2llc-smt"]);
}

/// What takes minutes each even so is compared by hand: `--ignored`.
#[test]
#[ignore = "minutes of emulation"]
fn programs_see_the_declared_shape_of_large_presets() {
    check_presets_in_virtual_time(&[
        "4numa-32cpu-8llc-nosmt",
        "64cpu-8llc-smt",
        "128cpu-4llc-smt",
    ]);
}
