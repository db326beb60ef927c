//! SRAT and SLIT: which CPU and memory belongs to which node, and how far nodes are (§5.2.16, §5.2.17).

use super::madt::FIRST_X2APIC_ID;
use super::tables::{Body, Machine};
use crate::cpuid::ApicLayout;
use crate::topology::{REMOTE_DISTANCE, Topology};

const ENABLED: u32 = 1;

pub(super) fn srat(machine: &Machine<'_>) -> Vec<u8> {
    let topology = machine.topology;
    let layout = ApicLayout::new(topology);
    let mut body = Body::default();
    // "Must be 1", then reserved.
    body.u32(1).u64(0);
    for vcpu in 0..topology.total_cpus() {
        let node = topology.place(vcpu).map_or(0, |place| place.node);
        let apic_id = layout.id(vcpu);
        match u8::try_from(apic_id) {
            Ok(id) if apic_id < FIRST_X2APIC_ID => {
                let [low, high @ ..] = node.to_le_bytes();
                body.u8(0).u8(16).u8(low).u8(id).u32(ENABLED).u8(0);
                for byte in high {
                    body.u8(byte);
                }
                body.u32(0);
            }
            _ => {
                body.u8(2).u8(24).u16(0).u32(node).u32(apic_id);
                body.u32(ENABLED).u32(0).u32(0);
            }
        }
    }
    for (node, ranges) in (0..).zip(machine.node_memory) {
        for range in ranges {
            body.u8(1).u8(40).u32(node).u16(0);
            body.u64(range.gpa)
                .u64(range.len)
                .u32(0)
                .u32(ENABLED)
                .u64(0);
        }
    }
    body.0
}

pub(super) fn slit(topology: &Topology) -> Vec<u8> {
    let distance = topology.distance();
    let nodes = topology.nodes().len();
    let mut body = Body::default();
    body.u64(nodes as u64);
    for from in 0..nodes {
        for to in 0..nodes {
            body.u8(distance.between(from, to).unwrap_or(REMOTE_DISTANCE));
        }
    }
    body.0
}
