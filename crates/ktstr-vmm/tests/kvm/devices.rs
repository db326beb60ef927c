//! Disks and network cards on the kvm engine.

use crate::cards::{self, Place};
use crate::linux::{check, linux};

const KVM: Place = Place {
    guest: |script| linux(script, "1n1l1c1t"),
    check,
};

#[test]
fn a_disk_keeps_what_was_written() {
    cards::a_disk_keeps_what_was_written(&KVM);
}

#[test]
fn a_throttled_disk_is_slow_and_faultless() {
    cards::a_throttled_disk_is_slow_and_faultless(&KVM);
}

#[test]
fn a_read_only_disk_refuses_writes() {
    cards::a_read_only_disk_refuses_writes(&KVM);
}

#[test]
fn frames_come_back() {
    cards::frames_come_back(&KVM);
}
