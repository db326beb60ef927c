//! The topology as Linux shows it in sysfs equals the one declared.

use std::collections::BTreeMap;

use ktstr_vmm::{NumaNode, PRESETS, Topology};

use crate::linux::{check, linux};

const SHOW: &str = "cd /sys/devices/system/cpu; for c in cpu[0-9]*; do\n\
    t=$c/topology; read p <$t/physical_package_id; read k <$t/core_id; s=$($bb cat $t/thread_siblings_list)\n\
    read l <$c/cache/index3/shared_cpu_list; n=$(echo $c/node*); echo \"@ $c $p $k $s $l ${n##*node}\"; done\n\
    cd /sys/devices/system/node; for n in node[0-9]*; do read d <$n/distance; c=$($bb cat $n/cpulist); echo \"# $n [$c] $d\"; done";

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

#[track_caller]
fn check_shape(name: &str, topology: &Topology) {
    let Some(vm) = linux(SHOW, "1n1l1c1t") else {
        return;
    };
    let exit = check(vm.topology(topology.clone()).memory_mib(512), &[]);
    let console = String::from_utf8_lossy(&exit.com1).into_owned();
    let mut seen = 0;
    for line in console
        .lines()
        .filter_map(|line| line.strip_prefix("@ cpu"))
    {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let cpu: u32 = fields[0].parse().unwrap();
        let place = topology.place(cpu).unwrap();
        let same = |matches: &dyn Fn(u32) -> bool| -> Vec<u32> {
            (0..topology.total_cpus())
                .filter(|cpu| matches(*cpu))
                .collect()
        };
        let of = |cpu: u32| topology.place(cpu).unwrap();
        let threads = same(&|cpu| (of(cpu).llc, of(cpu).core) == (place.llc, place.core));
        let llc = same(&|cpu| of(cpu).llc == place.llc);
        assert_eq!(
            fields[1].parse::<u32>().unwrap(),
            place.llc,
            "{name}: package, {line}"
        );
        assert_eq!(
            fields[2].parse::<u32>().unwrap(),
            place.core,
            "{name}: core, {line}"
        );
        assert_eq!(list(fields[3]), threads, "{name}: siblings, {line}");
        assert_eq!(list(fields[4]), llc, "{name}: L3, {line}");
        assert_eq!(
            fields[5].parse::<u32>().unwrap(),
            place.node,
            "{name}: node, {line}"
        );
        seen += 1;
    }
    assert_eq!(seen, topology.total_cpus(), "{name}:\n{console}");
    check_nodes(name, topology, &console);
}

fn check_nodes(name: &str, topology: &Topology, console: &str) {
    let mut nodes = BTreeMap::new();
    for line in console
        .lines()
        .filter_map(|line| line.strip_prefix("# node"))
    {
        let (number, rest) = line.split_once(" [").unwrap();
        let (cpus, distances) = rest.split_once(']').unwrap();
        let distances: Vec<u8> = distances
            .split_whitespace()
            .map(|d| d.parse().unwrap())
            .collect();
        nodes.insert(number.parse::<usize>().unwrap(), (list(cpus), distances));
    }
    assert_eq!(nodes.len(), topology.nodes().len(), "{name}:\n{console}");
    for (node, (cpus, distances)) in nodes {
        let expected: Vec<u32> = (0..topology.total_cpus())
            .filter(|cpu| topology.place(*cpu).unwrap().node as usize == node)
            .collect();
        assert_eq!(cpus, expected, "{name}: CPUs of node {node}");
        for (to, distance) in distances.iter().enumerate() {
            assert_eq!(
                Some(*distance),
                topology.distance().between(node, to),
                "{name}"
            );
        }
    }
}

/// The presets that a lab of few CPUs boots in reasonable time.
#[test]
fn presets_show_in_sysfs() {
    for preset in PRESETS {
        let topology = preset.topology().unwrap();
        if topology.total_cpus() <= 9 {
            check_shape(preset.name, &topology);
        }
    }
}

#[test]
fn nodes_show_in_sysfs() {
    check_shape("two nodes", &"2n4l1c2t".parse().unwrap());
    check_shape("four nodes", &"4n4l1c1t".parse().unwrap());
    let node = |llcs| NumaNode {
        llcs,
        ..NumaNode::default()
    };
    let cpu_less = Topology::with_nodes(2, 1, &[node(1), node(0)]).unwrap();
    check_shape("a node without CPUs", &cpu_less);
}

#[test]
fn larger_presets_show_in_sysfs() {
    for name in [
        "12cpu-3llc-smt",
        "14cpu-7llc-nosmt",
        "15cpu-5llc-nosmt",
        "2numa-16cpu-4llc-nosmt",
    ] {
        let preset = PRESETS.iter().find(|preset| preset.name == name).unwrap();
        check_shape(name, &preset.topology().unwrap());
    }
}
