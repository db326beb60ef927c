//! The topology as Linux shows it in sysfs equals the one declared.
//!
//! The guests boot with `maxcpus=1` and bring their CPUs up one by one, down again after each CPU's turn: that holds in the lab,
//! whose emulator loses events when many nested vCPUs run at once. Every CPU runs once, and tells what CPUID told it.

use std::collections::BTreeMap;

use ktstr_vmm::{NumaNode, PRESETS, Topology};

use crate::cards::check;
use crate::linux::{CMDLINE, linux};

/// Up: all that a CPU tells by number. A mask names online CPUs alone.
const ONE_BY_ONE: &str = "cd /sys/devices/system/cpu; echo \"% $($bb cat possible) $($bb cat present)\"\n\
    for c in cpu[0-9]*; do up=1; [ -f $c/online ] && read up <$c/online; [ $up = 1 ] || echo 1 >$c/online\n\
    t=$c/topology; read p <$t/physical_package_id; read k <$t/core_id; read l <$c/cache/index3/id\n\
    n=$(echo $c/node*); echo \"@ $c $p $k $l ${n##*node}\"\n\
    [ $up = 1 ] || echo 0 >$c/online; done";
/// All CPUs up, and then the masks.
const MASKS: &str = "cd /sys/devices/system/cpu; for c in cpu[0-9]*; do [ -f $c/online ] && echo 1 >$c/online; done\n\
    for c in cpu[0-9]*; do s=$($bb cat $c/topology/thread_siblings_list); read l <$c/cache/index3/shared_cpu_list\n\
    echo \"= $c $s $l\"; done\n\
    cd ../node; for n in node[0-9]*; do c=$($bb cat $n/cpulist); echo \"+ $n [$c]\"; done";
const DISTANCES: &str = "cd /sys/devices/system/node; for n in node[0-9]*; do read d <$n/distance; echo \"# $n $d\"; done";

/// `0-3,8` as numbers.
fn list(text: &str) -> Vec<u32> {
    text.split(',')
        .filter(|part| !part.is_empty())
        .flat_map(|part| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            first.parse::<u32>().unwrap()..=last.parse::<u32>().unwrap()
        })
        .collect()
}

/// Console lines that begin with `mark`, their other words.
fn words<'c>(console: &'c str, mark: &'c str) -> impl Iterator<Item = Vec<&'c str>> + 'c {
    console
        .lines()
        .filter_map(move |line| line.strip_prefix(mark))
        .map(|line| line.split_whitespace().collect())
}

/// Runs `script` in a guest of that shape; `None` where that cannot be, which is said.
#[track_caller]
fn show(topology: &Topology, script: &str) -> Option<String> {
    let vm = linux(script, "1n1l1c1t")?
        .topology(topology.clone())
        .cmdline(format!("{CMDLINE} maxcpus=1"))
        .memory_mib(512)
        .deadline(std::time::Duration::from_secs(400));
    let exit = check(vm, &[]);
    Some(String::from_utf8_lossy(&exit.com1).into_owned())
}

/// All CPUs for which `matches` holds.
fn cpus(topology: &Topology, matches: impl Fn(u32) -> bool) -> Vec<u32> {
    (0..topology.total_cpus())
        .filter(|cpu| matches(*cpu))
        .collect()
}

#[track_caller]
fn check_shape(name: &str, topology: &Topology) {
    let Some(console) = show(topology, &format!("{ONE_BY_ONE}\n{DISTANCES}")) else {
        return;
    };
    let all = cpus(topology, |_| true);
    let range = words(&console, "% ").next().unwrap();
    assert_eq!(
        (list(range[0]), list(range[1])),
        (all.clone(), all),
        "{name}:\n{console}"
    );
    // Linux numbers an L3 by what is left of the APIC id, so only that it tells LLCs apart is told.
    let mut llcs = BTreeMap::new();
    let mut seen = 0;
    for fields in words(&console, "@ cpu") {
        let numbers: Vec<u32> = fields.iter().map(|word| word.parse().unwrap()).collect();
        let place = topology.place(numbers[0]).unwrap();
        let expected = [place.llc, place.core];
        assert_eq!(
            numbers[1..3],
            expected,
            "{name}: package and core, {fields:?}"
        );
        let llc = *llcs.entry(numbers[3]).or_insert(place.llc);
        assert_eq!(llc, place.llc, "{name}: L3, {fields:?}");
        assert_eq!(numbers[4], place.node, "{name}: node, {fields:?}");
        seen += 1;
    }
    assert_eq!(seen, topology.total_cpus(), "{name}:\n{console}");
    assert_eq!(llcs.len(), topology.llcs() as usize, "{name}:\n{console}");
    let mut nodes = 0;
    for fields in words(&console, "# node") {
        let node: usize = fields[0].parse().unwrap();
        let found: Vec<u8> = fields[1..]
            .iter()
            .map(|word| word.parse().unwrap())
            .collect();
        let expected: Vec<u8> = (0..topology.nodes().len())
            .filter_map(|to| topology.distance().between(node, to))
            .collect();
        assert_eq!(found, expected, "{name}: distances of node {node}");
        nodes += 1;
    }
    assert_eq!(nodes, topology.nodes().len(), "{name}:\n{console}");
}

#[track_caller]
fn check_masks(name: &str, topology: &Topology) {
    let Some(console) = show(topology, MASKS) else {
        return;
    };
    let of = |cpu: u32| topology.place(cpu).unwrap();
    let mut seen = 0;
    for fields in words(&console, "= cpu") {
        let place = of(fields[0].parse().unwrap());
        let threads = cpus(topology, |cpu| {
            (of(cpu).llc, of(cpu).core) == (place.llc, place.core)
        });
        assert_eq!(list(fields[1]), threads, "{name}: siblings, {fields:?}");
        let llc = cpus(topology, |cpu| of(cpu).llc == place.llc);
        assert_eq!(list(fields[2]), llc, "{name}: L3, {fields:?}");
        seen += 1;
    }
    assert_eq!(seen, topology.total_cpus(), "{name}:\n{console}");
    for fields in words(&console, "+ node") {
        let node: u32 = fields[0].parse().unwrap();
        let found = list(fields[1].trim_matches(['[', ']']));
        assert_eq!(
            found,
            cpus(topology, |cpu| of(cpu).node == node),
            "{name}: CPUs of node {node}"
        );
    }
}

#[track_caller]
fn check_presets(names: &[&str]) {
    for name in names {
        let preset = PRESETS.iter().find(|preset| preset.name == *name).unwrap();
        check_shape(name, &preset.topology().unwrap());
    }
}

#[test]
fn presets_show_in_sysfs() {
    check_presets(&[
        "4cpu-1llc-nosmt",
        "4cpu-2llc-nosmt",
        "8cpu-2llc-smt",
        "9cpu-3llc-nosmt",
        "12cpu-3llc-smt",
        "14cpu-7llc-nosmt",
        "15cpu-5llc-nosmt",
        "2numa-16cpu-4llc-nosmt",
        "2numa-32cpu-2llc-smt",
        "4numa-32cpu-8llc-nosmt",
    ]);
}

#[test]
fn larger_presets_show_in_sysfs() {
    check_presets(&[
        "32cpu-4llc-smt",
        "64cpu-8llc-smt",
        "128cpu-4llc-smt",
        "2numa-128cpu-8llc-smt",
        "4numa-192cpu-12llc-smt",
        "252cpu-14llc-smt",
    ]);
}

#[test]
fn a_node_without_cpus_shows_in_sysfs() {
    let node = NumaNode::new;
    let cpu_less = Topology::with_nodes(2, 1, &[node(1), node(0)]).unwrap();
    check_shape("a node without CPUs", &cpu_less);
}

#[test]
fn masks_name_siblings_and_sharers_of_a_cache() {
    check_masks("SMT on two nodes", &"2n4l1c2t".parse().unwrap());
}
