//! Programs in guests of kvm see the declared shape, as those of tcg do (`tests/it/shape.rs`).
//!
//! The guests bring their CPUs up one by one, which holds in the lab (`sysfs.rs`), and leave them up: what lscpu, lstopo and
//! scx_utils tell is of online CPUs.
//!
//! Absent: nodes. A kernel that boots with `maxcpus=1` links each node's memory to the CPUs that are online then, node 0's
//! (`hmat_register_target_initiators`), and hwloc adds those to the node's own. `sysfs.rs` has nodes and distances.

use std::time::Duration;

use ktstr_initramfs::Builder;
use ktstr_vmm::PRESETS;

use crate::cards::check as power_off;
use crate::linux::{CMDLINE, linux_with};
use crate::shared_shape::{SCRIPT, check, programs};

const ALL_UP: &str = "for c in /sys/devices/system/cpu/cpu*/online; do echo 1 >$c; done";

#[track_caller]
fn check_preset(name: &str) {
    let preset = PRESETS.iter().find(|preset| preset.name == name).unwrap();
    let topology = preset.topology().unwrap();
    let mut builder = Builder::new();
    programs(&mut builder);
    let script = format!("{ALL_UP}\n{SCRIPT}");
    let Some(vm) = linux_with(builder, &script, preset.shape) else {
        return;
    };
    let vm = vm
        .cmdline(format!("{CMDLINE} maxcpus=1"))
        .memory_mib(512)
        .deadline(Duration::from_secs(400));
    let exit = power_off(vm, &[]);
    check(name, &topology, &String::from_utf8_lossy(&exit.com1));
}

#[test]
fn programs_see_the_declared_shape_of_one_llc() {
    check_preset("4cpu-1llc-nosmt");
}

#[test]
fn programs_see_the_declared_shape_of_two_llcs() {
    check_preset("4cpu-2llc-nosmt");
}

#[test]
fn programs_see_the_declared_shape_of_smt_cores() {
    check_preset("8cpu-2llc-smt");
}
