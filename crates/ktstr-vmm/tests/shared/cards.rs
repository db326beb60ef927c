//! Disks and network cards, driven by Linux's own drivers: the same on either engine.

use std::time::Duration;

use ktstr_vmm::{Disk, DiskSource, ExitReason, Net, Throttle, VmBuilder, VmExit};

/// A guest with one CPU that runs a script and powers off; `None`, said, where it cannot run.
pub(crate) type Guest = fn(&str) -> Option<VmBuilder>;

/// Runs it to its end; the exit must be a power off, and the console hold `expected`.
#[track_caller]
pub(crate) fn check(vm: VmBuilder, expected: &[&str]) -> VmExit {
    let exit = vm.build().unwrap().run().unwrap();
    let console = String::from_utf8_lossy(&exit.com1).into_owned();
    assert_eq!(exit.reason, ExitReason::PowerOff, "{console}");
    for line in expected {
        assert!(console.contains(line), "no '{line}' in:\n{console}");
    }
    println!("{:?}, cleanup {:?}", exit.duration, exit.cleanup_duration);
    exit
}

/// Patterns written, read back and compared; 2 MiB each way.
const WRITE_AND_READ: &str = "$bb dd if=/dev/urandom of=/tmp/a bs=64k count=32 2>/dev/null\n\
    $bb dd if=/tmp/a of=/dev/vda bs=64k conv=fsync 2>/dev/null\n\
    echo 3 >/proc/sys/vm/drop_caches\n\
    $bb dd if=/dev/vda of=/tmp/b bs=64k count=32 2>/dev/null\n\
    $bb cmp /tmp/a /tmp/b && echo same bytes";

pub(crate) fn a_disk_keeps_what_was_written(guest: Guest) {
    let Some(vm) = guest(WRITE_AND_READ) else {
        return;
    };
    let exit = check(
        vm.disk(Disk::new(DiskSource::Memory(8 << 20))),
        &["same bytes"],
    );
    let counters = exit.blk_counters[0];
    assert_eq!(counters.bytes_written, 2 << 20, "{counters:?}");
    assert!(counters.bytes_read >= 2 << 20, "{counters:?}");
    assert!(counters.flushes_completed >= 1, "{counters:?}");
    assert_eq!(counters.io_errors + counters.invalid_avail_idx_count, 0);
}

pub(crate) fn a_throttled_disk_is_slow_and_faultless(guest: Guest) {
    let Some(vm) = guest(WRITE_AND_READ) else {
        return;
    };
    let throttle = Throttle::NONE.bytes_per_second(1 << 20);
    let disk = Disk::new(DiskSource::Memory(8 << 20)).throttle(throttle);
    let exit = check(vm.disk(disk), &["same bytes"]);
    let counters = exit.blk_counters[0];
    // 4 MiB at 1 MiB per second, of which the first is there at once, and the last may be owed.
    assert!(
        exit.duration >= Duration::from_secs(2),
        "{:?}",
        exit.duration
    );
    assert!(counters.throttled_count > 0, "{counters:?}");
    assert_eq!(
        (counters.io_errors, counters.currently_throttled_gauge),
        (0, 0)
    );
}

pub(crate) fn a_read_only_disk_refuses_writes(guest: Guest) {
    let script = "$bb cat /sys/block/vda/ro /sys/block/vdb/ro; $bb dd if=/dev/zero of=/dev/vda bs=512 count=1 2>&1 || echo refused";
    let Some(vm) = guest(script) else {
        return;
    };
    let read_only = Disk::new(DiskSource::Memory(1 << 20)).read_only(true);
    let vm = vm
        .disk(read_only)
        .disk(Disk::new(DiskSource::Memory(1 << 20)));
    let exit = check(vm, &["1\r\n0", "refused"]);
    assert_eq!(exit.blk_counters[0].writes_completed, 0);
}

pub(crate) fn frames_come_back(guest: Guest) {
    let script = "$bb cat /sys/class/net/eth0/address\n\
        $bb ip link set eth0 up; $bb ip addr add 10.9.8.1/24 dev eth0\n\
        $bb arping -c 5 -I eth0 10.9.8.2 >/dev/null\n\
        echo tx $($bb cat /sys/class/net/eth0/statistics/tx_packets) rx $($bb cat /sys/class/net/eth0/statistics/rx_packets) done\n\
        $bb ip link set eth0 down";
    let Some(vm) = guest(script) else {
        return;
    };
    let exit = check(
        vm.net(Net::new().mac([2, 0, 0, 0, 0, 7])),
        &["02:00:00:00:00:07"],
    );
    let counters = exit.net_counters[0];
    assert!(counters.tx_packets >= 5, "{counters:?}");
    assert_eq!(counters.tx_packets, counters.rx_packets, "{counters:?}");
    assert_eq!(counters.tx_bytes, counters.rx_bytes, "{counters:?}");
    let console = String::from_utf8_lossy(&exit.com1);
    let line = console
        .lines()
        .find(|line| line.starts_with("tx "))
        .unwrap();
    let numbers: Vec<u64> = line
        .split(' ')
        .filter_map(|word| word.parse().ok())
        .collect();
    assert_eq!(numbers[0], numbers[1], "{line}");
    assert!(numbers[0] <= counters.tx_packets, "{line}, {counters:?}");
}
