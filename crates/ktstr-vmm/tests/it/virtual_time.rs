//! Virtual time: runs are repeatable, vCPUs are processors of their own, deadlines are virtual.

use std::time::Duration;

use ktstr_vmm::{Clock, Disk, DiskSource, EngineChoice, ExitReason, VirtualTime, VmExit};

use crate::guest::guest;

/// Two pinned shells count rounds until three seconds later; each says how many.
const COUNTERS: &str = "count() { n=0; while read up rest </proc/uptime; [ ${up%.*}${up#*.} -lt $2 ]; do n=$((n+1)); done; \
    echo ROUNDS $1 $n; }\n\
    read up rest </proc/uptime; until=$((${up%.*}${up#*.} + 300))\n\
    for cpu in 0 1; do ( $bb taskset -p $((1 << cpu)) $($bb sh -c 'echo $PPID') >/dev/null; count $cpu $until >/tmp/$cpu ) & done\n\
    wait; $bb cat /tmp/0 /tmp/1\n";

fn run(script: &str, shape: &str, time: VirtualTime) -> VmExit {
    let vm = guest(script)
        .topology(shape.parse().unwrap())
        .engine(EngineChoice::Auto)
        .virtual_time(time)
        .build()
        .unwrap();
    vm.run().unwrap()
}

fn console(exit: &VmExit) -> String {
    String::from_utf8_lossy(&exit.com1).into_owned()
}

#[track_caller]
fn rounds(console: &str) -> [u64; 2] {
    ["ROUNDS 0 ", "ROUNDS 1 "].map(|label| {
        let line = console.lines().find_map(|line| line.strip_prefix(label));
        line.and_then(|line| line.trim().parse().ok())
            .unwrap_or_else(|| panic!("no {label}in {console}"))
    })
}

/// Sleepers that wake together: the clock jumps whenever none of them runs.
const SLEEPERS: &str = "for i in 1 2 3; do ( n=0; while [ $n -lt 40 ]; do n=$((n+1)); $bb usleep 7000; done ) & done; wait\n";

#[track_caller]
fn check_repeatable(script: &str) {
    let seeds = [7, 7, 8];
    let exits = seeds.map(|seed| run(script, "1n1l2c1t", VirtualTime::seed(seed)));
    for exit in &exits {
        assert_eq!(exit.reason, ExitReason::PowerOff, "{}", console(exit));
        assert_eq!(exit.clock, Clock::Virtual);
    }
    let [first, again, other] = exits
        .each_ref()
        .map(|exit| exit.virtual_run.clone().unwrap());
    assert_eq!(first, again);
    assert_eq!(console(&exits[0]), console(&exits[1]));
    assert_ne!(first.fingerprint, other.fingerprint);
    assert_eq!((first.seed, other.seed), (7, 8));
}

#[test]
fn a_seed_is_a_run() {
    check_repeatable(COUNTERS);
}

#[test]
fn a_seed_is_a_run_of_a_guest_that_idles() {
    check_repeatable(SLEEPERS);
}

/// Ticks cost a slow vCPU as many instructions as a fast one: of half the speed, somewhat less than half is left to the shells.
#[test]
fn vcpus_have_their_declared_speeds() {
    let exit = run(
        COUNTERS,
        "1n1l2c1t",
        VirtualTime::seed(1).speeds([1.0, 0.5]),
    );
    let [fast, slow] = rounds(&console(&exit));
    let percent = slow * 100 / fast;
    assert!((42..=51).contains(&percent), "{fast} and {slow} rounds");
}

/// Ticks take a larger share of a slower vCPU, so the measure is two vCPUs of half the speed, not half the rounds. Shells that
/// share a core are somewhat quicker: while one begins or ends, the other has the core alone.
#[test]
fn busy_siblings_slow_each_other_by_the_declared_factor() {
    let halves = VirtualTime::seed(1).smt_factor(1.0).speeds([0.5, 0.5]);
    let slow = rounds(&console(&run(COUNTERS, "1n1l1c2t", halves)));
    let siblings = VirtualTime::seed(1).smt_factor(2.0);
    let shared = rounds(&console(&run(COUNTERS, "1n1l1c2t", siblings)));
    for (slow, shared) in slow.iter().zip(&shared) {
        let percent = shared * 100 / slow;
        assert!((95..=112).contains(&percent), "{slow} and {shared} rounds");
    }
}

#[test]
fn a_guest_that_never_ends_meets_its_deadline_in_its_own_time() {
    let vm = guest("while :; do :; done")
        .deadline(Duration::from_secs(8))
        .virtual_time(VirtualTime::seed(1))
        .build()
        .unwrap();
    let exit = vm.run().unwrap();
    assert_eq!(exit.reason, ExitReason::Deadline);
    let time = exit.virtual_run.unwrap().time;
    let late = time.checked_sub(Duration::from_secs(8));
    assert!(
        late.is_some_and(|late| late < Duration::from_millis(10)),
        "{time:?}"
    );
}

/// An idle guest's time costs the host nothing, also the last of it.
#[test]
fn a_guest_that_sleeps_for_ever_meets_its_deadline() {
    let vm = guest("$bb sleep 1000000")
        .deadline(Duration::from_secs(600))
        .virtual_time(VirtualTime::seed(1).wall_limit(Duration::from_secs(300)))
        .build()
        .unwrap();
    let exit = vm.run().unwrap();
    assert_eq!(exit.reason, ExitReason::Deadline, "{}", console(&exit));
    let time = exit.virtual_run.unwrap().time;
    let late = time.checked_sub(Duration::from_secs(600));
    assert!(
        late.is_some_and(|late| late < Duration::from_millis(10)),
        "{time:?}"
    );
}

#[test]
fn the_hosts_limit_says_only_that_it_did_not_finish() {
    let time = VirtualTime::seed(1).wall_limit(Duration::from_millis(1));
    let exit = run("while :; do :; done", "1n1l1c1t", time);
    assert_eq!(exit.reason, ExitReason::NotFinished);
    assert_eq!(exit.virtual_run, None);
}

#[test]
fn what_the_host_would_answer_is_refused() {
    let refused = |vm: ktstr_vmm::VmBuilder| {
        let vm = vm.virtual_time(VirtualTime::seed(0)).build();
        vm.unwrap_err().to_string()
    };
    let port = refused(guest("").port("frames"));
    assert!(
        port.contains("does not support ports in virtual time"),
        "{port}"
    );
    let disk = refused(guest("").disk(Disk::new(DiskSource::Memory(512))));
    assert!(disk.contains("no disks and network cards"), "{disk}");
    let kvm = refused(guest("").engine(EngineChoice::Kvm));
    assert!(kvm.contains("kvm: has no virtual time"), "{kvm}");
    let qemu = refused(guest("").qemu("/bin/true"));
    assert!(qemu.contains("needs QEMU 7.2"), "{qemu}");
}

#[test]
fn a_running_guest_is_not_looked_into() {
    let vm = guest("")
        .virtual_time(VirtualTime::seed(0))
        .build()
        .unwrap();
    let mut vm = vm.start().unwrap();
    let error = vm.freeze(Duration::from_secs(5)).unwrap_err().to_string();
    assert!(error.contains("nothing enters a running guest"), "{error}");
    let exit = vm.wait().unwrap();
    assert_eq!(exit.reason, ExitReason::PowerOff, "{}", console(&exit));
}
