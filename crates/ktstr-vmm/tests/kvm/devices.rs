//! Disks and network cards on the kvm engine.

use ktstr_vmm::VmBuilder;

use crate::cards;
use crate::linux::linux;

fn guest(script: &str) -> Option<VmBuilder> {
    linux(script, "1n1l1c1t")
}

#[test]
fn a_disk_keeps_what_was_written() {
    cards::a_disk_keeps_what_was_written(guest);
}

#[test]
fn a_throttled_disk_is_slow_and_faultless() {
    cards::a_throttled_disk_is_slow_and_faultless(guest);
}

#[test]
fn a_read_only_disk_refuses_writes() {
    cards::a_read_only_disk_refuses_writes(guest);
}

#[test]
fn frames_come_back() {
    cards::frames_come_back(guest);
}
