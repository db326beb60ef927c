//! Tables of random shapes, read back by a parser of our own.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::cpuid::ApicLayout;
use crate::layout::{ACPI, ACPI_MAX, deal, ranges};
use crate::topology::{NumaNode, PRESETS, Topology};

/// Guest memory that holds nothing but the tables.
struct Reader(Vec<u8>);

impl Reader {
    fn number(&self, at: u64, bytes: usize) -> u64 {
        let at = usize::try_from(at - ACPI).unwrap();
        let mut word = [0; 8];
        word[..bytes].copy_from_slice(&self.0[at..at + bytes]);
        u64::from_le_bytes(word)
    }

    /// A table's bytes, its checksum checked.
    fn table(&self, at: u64) -> Vec<u8> {
        let start = usize::try_from(at - ACPI).unwrap();
        let len = usize::try_from(self.number(at + 4, 4)).unwrap();
        let bytes = self.0[start..start + len].to_vec();
        assert_eq!(
            sum(&bytes),
            0,
            "checksum of {:?}",
            String::from_utf8_lossy(&bytes[..4])
        );
        bytes
    }

    /// RSDP -> XSDT -> every table, and the DSDT by the FADT.
    fn follow(&self) -> BTreeMap<String, Vec<u8>> {
        assert_eq!(&self.0[..8], b"RSD PTR ");
        assert_eq!(sum(&self.0[..20]), 0);
        assert_eq!(sum(&self.0[..36]), 0);
        let xsdt = self.table(self.number(ACPI + 24, 8));
        let mut tables = BTreeMap::new();
        for pointer in xsdt[36..].chunks(8) {
            let table = self.table(u64::from_le_bytes(pointer.try_into().unwrap()));
            tables.insert(String::from_utf8(table[..4].to_vec()).unwrap(), table);
        }
        let fadt = &tables["FACP"];
        assert_eq!(fadt.len(), 276);
        let dsdt = u64::from_le_bytes(fadt[140..148].try_into().unwrap());
        let facs = u64::from_le_bytes(fadt[132..140].try_into().unwrap());
        assert_eq!(facs % 64, 0);
        assert_eq!(
            self.number(facs, 4),
            u64::from(u32::from_le_bytes(*b"FACS"))
        );
        tables.insert("DSDT".into(), self.table(dsdt));
        tables
    }
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

fn word(bytes: &[u8], at: usize, len: usize) -> u64 {
    let mut word = [0; 8];
    word[..len].copy_from_slice(&bytes[at..at + len]);
    u64::from_le_bytes(word)
}

fn word32(bytes: &[u8], at: usize) -> u32 {
    u32::try_from(word(bytes, at, 4)).unwrap()
}

/// (type, bytes) of each structure from `at` on; lengths are bytes at offset 1.
fn structures(table: &[u8], mut at: usize) -> Vec<(u8, Vec<u8>)> {
    let mut found = Vec::new();
    while at < table.len() {
        let len = usize::from(table[at + 1]);
        assert!(len > 0 && at + len <= table.len());
        found.push((table[at], table[at..at + len].to_vec()));
        at += len;
    }
    found
}

/// ACPI UID to APIC id, as the MADT tells it.
fn cpus(madt: &[u8]) -> Vec<(u32, u32)> {
    structures(madt, 44)
        .iter()
        .filter_map(|(kind, bytes)| match kind {
            0 => {
                assert_ne!(bytes[3], 255, "255 is the broadcast id");
                Some((u32::from(bytes[2]), u32::from(bytes[3])))
            }
            9 => Some((word32(bytes, 12), word32(bytes, 4))),
            _ => None,
        })
        .collect()
}

/// (node, address, length) of each piece of memory.
type Memory = Vec<(u32, u64, u64)>;

/// APIC id to node, and node to memory, as the SRAT tells it.
fn affinity(srat: &[u8]) -> (BTreeMap<u32, u32>, Memory) {
    let (mut cpus, mut memory) = (BTreeMap::new(), Vec::new());
    for (kind, bytes) in structures(srat, 48) {
        match kind {
            0 => {
                let high = [bytes[2], bytes[9], bytes[10], bytes[11]];
                cpus.insert(u32::from(bytes[3]), u32::from_le_bytes(high));
            }
            1 => memory.push((word32(&bytes, 2), word(&bytes, 8, 8), word(&bytes, 16, 8))),
            2 => {
                cpus.insert(word32(&bytes, 8), word32(&bytes, 4));
            }
            other => panic!("SRAT structure {other}"),
        }
    }
    (cpus, memory)
}

/// vCPU to (package uid, core offset), as the PPTT tells it.
fn hierarchy(pptt: &[u8]) -> BTreeMap<u32, (u32, u32)> {
    let mut nodes = BTreeMap::new();
    let mut at = 36;
    for (kind, bytes) in structures(pptt, 36) {
        if kind == 0 {
            nodes.insert(
                at,
                (word32(&bytes, 4), word32(&bytes, 8), word32(&bytes, 12)),
            );
        }
        at += u32::try_from(bytes.len()).unwrap();
    }
    let mut cpus = BTreeMap::new();
    for (offset, (flags, parent, uid)) in &nodes {
        if flags & 1 << 3 == 0 {
            continue;
        }
        let core = if flags & 1 << 2 == 0 { offset } else { parent };
        let package = nodes[core].1;
        assert_eq!(nodes[&package].0 & 1, 1, "a core's parent is a package");
        assert!(cpus.insert(*uid, (nodes[&package].2, *core)).is_none());
    }
    cpus
}

#[track_caller]
fn check(topology: &Topology, memory_mib: &[u64]) {
    let bytes: Vec<u64> = memory_mib.iter().map(|mib| mib << 20).collect();
    let node_memory = deal(&ranges(bytes.iter().sum()), &bytes);
    let virtio = [VirtioPlace {
        base: 0xc000_0000,
        len: 0x1000,
        gsi: 5,
    }];
    let machine = Machine {
        topology,
        node_memory: &node_memory,
        virtio: &virtio,
    };
    let tables = build(&machine, ACPI);
    assert_eq!(tables.rsdp, ACPI);
    assert!(
        tables.bytes.len() as u64 <= ACPI_MAX,
        "{} bytes",
        tables.bytes.len()
    );
    let tables = Reader(tables.bytes).follow();

    let layout = ApicLayout::new(topology);
    let total = topology.total_cpus();
    let expected: Vec<(u32, u32)> = (0..total).map(|vcpu| (vcpu, layout.id(vcpu))).collect();
    assert_eq!(cpus(&tables["APIC"]), expected);

    let (cpu_nodes, memory) = affinity(&tables["SRAT"]);
    for vcpu in 0..total {
        let place = topology.place(vcpu).unwrap();
        assert_eq!(cpu_nodes[&layout.id(vcpu)], place.node);
    }
    let expected: Vec<(u32, u64, u64)> = (0..)
        .zip(&node_memory)
        .flat_map(|(node, ranges)| ranges.iter().map(move |range| (node, range.gpa, range.len)))
        .collect();
    assert_eq!(memory, expected);

    let nodes = topology.nodes().len();
    let slit = &tables["SLIT"];
    assert_eq!(word(slit, 36, 8), nodes as u64);
    for from in 0..nodes {
        for to in 0..nodes {
            let expected = topology.distance().between(from, to).unwrap();
            assert_eq!(slit[44 + from * nodes + to], expected);
        }
    }

    let places = hierarchy(&tables["PPTT"]);
    assert_eq!(places.len(), usize::try_from(total).unwrap());
    for a in 0..total {
        let place = topology.place(a).unwrap();
        assert_eq!(places[&a].0, place.llc);
        if let Some(next) = topology.place(a + 1) {
            let same = (place.llc, place.core) == (next.llc, next.core);
            assert_eq!(places[&a].1 == places[&(a + 1)].1, same);
        }
    }
    assert_eq!(tables.contains_key("HMAT"), nodes > 1 || told(topology));
    if let Some(hmat) = tables.get("HMAT") {
        check_hmat(topology, hmat);
    }
    assert!(
        tables["DSDT"]
            .windows(8)
            .any(|window| window == b"LNRO0005")
    );
}

fn told(topology: &Topology) -> bool {
    let node = &topology.nodes()[0];
    node.latency_ns.is_some() || node.bandwidth_mbs.is_some() || node.mem_side_cache_mib.is_some()
}

fn check_hmat(topology: &Topology, hmat: &[u8]) {
    let nodes = topology.nodes();
    let initiators = nodes.iter().filter(|node| node.llcs > 0).count();
    let (mut at, mut kinds) = (40, Vec::new());
    while at < hmat.len() {
        let kind = word(hmat, at, 2);
        kinds.push(kind);
        if kind == 1 {
            assert_eq!(word(hmat, at + 12, 4), initiators as u64);
            assert_eq!(word(hmat, at + 16, 4), nodes.len() as u64);
            let data = at + 32 + 4 * (initiators + nodes.len());
            let first = nodes.iter().position(|node| node.llcs > 0).unwrap();
            let unit = word(hmat, at + 24, 8);
            let local = word(hmat, data + 2 * first, 2) * unit;
            if let (0, Some(ns)) = (hmat[at + 9], nodes[first].latency_ns) {
                let error = local.abs_diff(u64::from(ns) * 1000);
                assert!(error <= unit, "{local} ps for {ns} ns");
            }
        }
        at += usize::try_from(word(hmat, at + 4, 4)).unwrap();
    }
    let caches = nodes
        .iter()
        .filter(|node| node.mem_side_cache_mib.is_some())
        .count();
    let count = |wanted| kinds.iter().filter(|kind| **kind == wanted).count();
    assert_eq!((count(0), count(1), count(2)), (nodes.len(), 2, caches));
}

#[test]
fn every_preset_reads_back() {
    for preset in PRESETS {
        let topology = preset.topology().unwrap();
        check(&topology, &vec![1024; topology.nodes().len()]);
    }
}

#[test]
fn ids_past_254_get_x2apic_entries() {
    let topology: Topology = "1n14l9c2t".parse().unwrap();
    assert!(topology.max_apic_id() > 254);
    check(&topology, &[2048]);
}

#[test]
fn the_largest_guest_fits() {
    check(&"8n256l1c2t".parse().unwrap(), &[512; 8]);
}

prop_compose! {
    fn node()(
        llcs in 0u32..5,
        latency_ns in proptest::option::of(1u32..100_000),
        bandwidth_mbs in proptest::option::of(1u32..1_000_000),
        mem_side_cache_mib in proptest::option::of(1u32..4096),
    ) -> NumaNode {
        NumaNode { llcs, memory_mib: None, latency_ns, bandwidth_mbs, mem_side_cache_mib }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn random_shapes_read_back(
        nodes in proptest::collection::vec(node(), 1..9),
        cores in 1u32..17,
        threads in 1u32..3,
        memory in proptest::collection::vec(1u64..2048, 8),
    ) {
        prop_assume!(nodes.iter().map(|node| node.llcs).sum::<u32>() * cores * threads <= 512);
        let Ok(topology) = Topology::with_nodes(cores, threads, &nodes) else { return Ok(()) };
        check(&topology, &memory[..nodes.len()]);
    }
}
