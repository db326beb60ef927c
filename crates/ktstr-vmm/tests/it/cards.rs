//! Disks and network cards on the tcg engine, where they are ours behind QEMU's vhost-user.

use std::time::{Duration, Instant};

use ktstr_vmm::{Disk, DiskSource, ExitReason, VmBuilder};

use crate::guest::guest;
use crate::shared_cards as cards;

fn tcg(script: &str) -> Option<VmBuilder> {
    Some(guest(script))
}

#[test]
fn a_disk_keeps_what_was_written() {
    cards::a_disk_keeps_what_was_written(tcg);
}

#[test]
fn a_throttled_disk_is_slow_and_faultless() {
    cards::a_throttled_disk_is_slow_and_faultless(tcg);
}

#[test]
fn a_read_only_disk_refuses_writes() {
    cards::a_read_only_disk_refuses_writes(tcg);
}

#[test]
fn frames_come_back() {
    cards::frames_come_back(tcg);
}

/// QEMU takes the rings back at each freeze, and starts them anew.
#[test]
fn a_disk_loses_nothing_over_freezes() {
    let script = "$bb dd if=/dev/urandom of=/tmp/a bs=64k count=16 2>/dev/null; echo begin\n\
        for i in 1 2 3 4 5 6 7 8 9 10; do $bb dd if=/tmp/a of=/dev/vda bs=4k seek=$((i * 256)) conv=fsync 2>/dev/null; done\n\
        echo 3 >/proc/sys/vm/drop_caches\n\
        for i in 1 2 3 4 5 6 7 8 9 10; do $bb dd if=/dev/vda bs=4k skip=$((i * 256)) count=256 2>/dev/null | $bb cmp - /tmp/a && echo same; done\n\
        echo end";
    let vm = guest(script).disk(Disk::new(DiskSource::Memory(16 << 20)));
    let mut vm = vm.build().unwrap().start().unwrap();
    let console = vm.com1();
    let says = |word: &str| String::from_utf8_lossy(&console.snapshot()).contains(word);
    let mut freezes = 0;
    let exit = loop {
        let exit = vm
            .wait_until(Instant::now() + Duration::from_millis(20))
            .unwrap();
        if let Some(exit) = exit {
            break exit;
        }
        // A guest that powers off may be gone before it is asked.
        if says("begin") && !says("end") && vm.freeze(Duration::from_secs(20)).is_ok() {
            freezes += 1;
        }
    };
    let text = String::from_utf8_lossy(&exit.com1).into_owned();
    assert_eq!(exit.reason, ExitReason::PowerOff, "{text}");
    assert_eq!(text.matches("same").count(), 10, "{text}");
    assert!(freezes >= 5, "{freezes} freezes");
    let counters = exit.blk_counters[0];
    assert_eq!(counters.bytes_written, 10 << 20, "{counters:?}");
    assert_eq!(counters.io_errors + counters.invalid_avail_idx_count, 0);
}
