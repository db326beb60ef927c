//! HMAT: latency, bandwidth and memory-side caches of nodes (§5.2.28).

use super::tables::Body;
use crate::topology::{LOCAL_DISTANCE, NumaNode, REMOTE_DISTANCE, Topology};

/// What a node has that does not say otherwise: usual local DRAM.
const DEFAULT_LATENCY_NS: u32 = 100;
const DEFAULT_BANDWIDTH_MBS: u32 = 20_000;
/// Entries are 16 bits; 0xffff means unreachable.
const MAX_ENTRY: u64 = 0xfffe;
const ACCESS_LATENCY: u8 = 0;
const ACCESS_BANDWIDTH: u8 = 3;

/// The table's body; nothing to tell for a single node without attributes.
pub(super) fn body(topology: &Topology) -> Option<Vec<u8>> {
    let nodes = topology.nodes();
    let told = |node: &NumaNode| {
        node.latency_ns.is_some()
            || node.bandwidth_mbs.is_some()
            || node.mem_side_cache_mib.is_some()
    };
    if nodes.len() < 2 && !nodes.iter().any(told) {
        return None;
    }
    let mut body = Body::default();
    body.u32(0);
    for (number, node) in (0u32..).zip(nodes) {
        // Memory proximity domain attributes: a node with CPUs is its own initiator.
        let has_cpus = node.llcs > 0;
        let initiator = if has_cpus { number } else { 0 };
        body.u16(0).u16(0).u32(40).u16(u16::from(has_cpus)).u16(0);
        body.u32(initiator).u32(number).zeros(20);
    }
    let far = |from: usize, to: usize| {
        u64::from(
            topology
                .distance()
                .between(from, to)
                .unwrap_or(REMOTE_DISTANCE),
        )
    };
    let near = u64::from(LOCAL_DISTANCE);
    matrix(&mut body, nodes, ACCESS_LATENCY, &|from, to, node| {
        u64::from(node.latency_ns.unwrap_or(DEFAULT_LATENCY_NS)) * far(from, to) / near
    });
    matrix(&mut body, nodes, ACCESS_BANDWIDTH, &|from, to, node| {
        u64::from(node.bandwidth_mbs.unwrap_or(DEFAULT_BANDWIDTH_MBS)) * near / far(from, to).max(1)
    });
    for (number, node) in (0u32..).zip(nodes) {
        if let Some(mib) = node.mem_side_cache_mib {
            // Memory side cache: one level, direct mapped, write back, 64-byte lines.
            body.u16(2).u16(0).u32(32).u32(number).u32(0);
            body.u64(u64::from(mib) << 20)
                .u32(0x0040_1111 | 1 << 12)
                .u16(0)
                .u16(0);
        }
    }
    Some(body.0)
}

/// One system locality structure: rows are nodes with CPUs, columns all nodes.
fn matrix(
    body: &mut Body,
    nodes: &[NumaNode],
    data_type: u8,
    value: &dyn Fn(usize, usize, &NumaNode) -> u64,
) {
    let initiators: Vec<usize> = nodes
        .iter()
        .enumerate()
        .filter(|(_, node)| node.llcs > 0)
        .map(|(number, _)| number)
        .collect();
    let values: Vec<u64> = initiators
        .iter()
        .flat_map(|from| {
            let row = nodes.iter().enumerate();
            row.map(|(to, node)| value(*from, to, node))
        })
        .collect();
    let scale = values
        .iter()
        .max()
        .map_or(1, |max| max.div_ceil(MAX_ENTRY))
        .max(1);
    // Latencies are in picoseconds (revision 2), bandwidths in MB/s.
    let unit = if data_type == ACCESS_LATENCY { 1000 } else { 1 };
    let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    let len = 32 + 4 * (initiators.len() + nodes.len()) + 2 * values.len();
    body.u16(1)
        .u16(0)
        .u32(count(len))
        .u8(0)
        .u8(data_type)
        .u8(0)
        .u8(0);
    body.u32(count(initiators.len()))
        .u32(count(nodes.len()))
        .u32(0);
    body.u64(unit * scale);
    for number in initiators.iter().copied().chain(0..nodes.len()) {
        body.u32(count(number));
    }
    for value in values {
        // 0 means "not told", so the smallest told value is 1.
        body.u16(u16::try_from((value / scale).max(1)).unwrap_or(u16::MAX - 1));
    }
}
