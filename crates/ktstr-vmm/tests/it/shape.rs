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

fn preset(name: &str) -> Topology {
    let preset = PRESETS.iter().find(|preset| preset.name == name).unwrap();
    preset.topology().unwrap()
}

/// A test each: guests are of very different weight, and tests run side by side.
macro_rules! presets {
    ($($test:ident: $check:ident($name:literal)),* $(,)?) => {
        $(#[test] fn $test() { $check($name, &preset($name)); })*
    };
}

presets! {
    programs_see_four_cpus_of_one_llc: check_shape("4cpu-1llc-nosmt"),
    programs_see_four_cpus_of_two_llcs: check_shape("4cpu-2llc-nosmt"),
    programs_see_nine_cpus: check_in_virtual_time("9cpu-3llc-nosmt"),
    programs_see_fourteen_cpus: check_in_virtual_time("14cpu-7llc-nosmt"),
    programs_see_fifteen_cpus: check_in_virtual_time("15cpu-5llc-nosmt"),
    programs_see_sixteen_cpus_of_two_nodes: check_in_virtual_time("2numa-16cpu-4llc-nosmt"),
    programs_see_eight_smt_cpus: check_shape("8cpu-2llc-smt"),
    programs_see_twelve_smt_cpus: check_in_virtual_time("12cpu-3llc-smt"),
    programs_see_32_smt_cpus: check_in_virtual_time("32cpu-4llc-smt"),
    programs_see_32_cpus: check_in_virtual_time("32cpu-4llc-nosmt"),
    programs_see_32_smt_cpus_of_two_nodes: check_in_virtual_time("2numa-32cpu-2llc-smt"),
}

/// In host time, emulated CPUs spin for each other: fifteen take twice the work of virtual time, where they take turns, and 32
/// take minutes to come up. The CPUs are told the same: only the source of time differs, and the small shapes show host time.
#[track_caller]
fn check_in_virtual_time(name: &str, topology: &Topology) {
    let time = VirtualTime::seed(1).wall_limit(Duration::from_secs(3600));
    run(name, topology, shown(topology).virtual_time(time));
}

/// What takes minutes each even so is compared by hand: `--ignored`.
#[test]
#[ignore = "minutes of emulation"]
fn programs_see_the_declared_shape_of_large_presets() {
    for name in [
        "4numa-32cpu-8llc-nosmt",
        "64cpu-8llc-smt",
        "128cpu-4llc-smt",
    ] {
        check_in_virtual_time(name, &preset(name));
    }
}

/// A node without CPUs, and distances of one's own.
#[test]
fn programs_see_the_declared_nodes() {
    let node = NumaNode::new;
    let rows = vec![vec![10, 17, 28], vec![17, 10, 21], vec![28, 21, 10]];
    let topology = Topology::with_nodes(1, 2, &[node(2), node(1), node(0)])
        .and_then(|shape| shape.with_distance(NumaDistance::new(rows)?))
        .unwrap();
    check_shape("a node without CPUs", &topology);
}
