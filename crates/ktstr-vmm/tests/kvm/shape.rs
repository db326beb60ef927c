//! Programs in guests of kvm see the declared shape, as those of tcg do (`tests/it/shape.rs`).
//!
//! The guests bring their CPUs up one by one, which holds in the lab (`sysfs.rs`), and leave them up: what lscpu, lstopo and
//! scx_utils tell is of online CPUs. Two CPUs may come up at once there, so of nodes there is one shape of two CPUs, all of
//! which must be as declared, and one of sixteen.

use std::time::Duration;

use ktstr_initramfs::Builder;
use ktstr_vmm::{PRESETS, Topology};

use crate::cards::check as power_off;
use crate::linux::{CMDLINE, linux_with};
use crate::shared_shape::{SCRIPT, check, check_with, programs};

const ALL_UP: &str = "for c in /sys/devices/system/cpu/cpu*/online; do echo 1 >$c; done";

/// What the shape's programs say in a guest with these kernel arguments, after `before`; `None` where that cannot be.
#[track_caller]
fn shown(shape: &str, before: &str, cmdline: &str) -> Option<String> {
    let mut builder = Builder::new();
    programs(&mut builder);
    let vm = linux_with(builder, &format!("{before}\n{SCRIPT}"), shape)?;
    let vm = vm
        .cmdline(cmdline)
        .memory_mib(512)
        .deadline(Duration::from_secs(400));
    let exit = power_off(vm, &[]);
    Some(String::from_utf8_lossy(&exit.com1).into_owned())
}

type Check = fn(&str, &Topology, &str);

#[track_caller]
fn check_preset(name: &str, check: Check) {
    let preset = PRESETS.iter().find(|preset| preset.name == name).unwrap();
    let cmdline = format!("{CMDLINE} maxcpus=1");
    if let Some(console) = shown(preset.shape, ALL_UP, &cmdline) {
        check(name, &preset.topology().unwrap(), &console);
    }
}

#[test]
fn programs_see_the_declared_shape_of_one_llc() {
    check_preset("4cpu-1llc-nosmt", check);
}

#[test]
fn programs_see_the_declared_shape_of_two_llcs() {
    check_preset("4cpu-2llc-nosmt", check);
}

#[test]
fn programs_see_the_declared_shape_of_smt_cores() {
    check_preset("8cpu-2llc-smt", check);
}

/// All CPUs come up while the kernel boots, so that each node's memory is linked to its own.
#[test]
fn programs_see_the_declared_nodes() {
    let shape = "2n2l1c1t";
    if let Some(console) = shown(shape, "", CMDLINE) {
        check(shape, &shape.parse().unwrap(), &console);
    }
}

/// The kernel links each node's memory to the nearest nodes with a CPU, once, while it boots (`hmat_register_target_initiators`):
/// with `maxcpus=1` to node 0, whatever the tables say. To hwloc, the CPUs of such a node (`node*/access0/initiators`) are the
/// memory's own, beside those of its node. All else is as declared.
#[test]
fn programs_see_the_declared_shape_of_larger_presets_whose_cpus_come_late() {
    check_preset("2numa-16cpu-4llc-nosmt", |name, topology, console| {
        check_with(name, topology, console, |own, first| own | first);
    });
}
