//! MADT: interrupt controllers (§5.2.12).

use super::tables::Body;
use crate::cpuid::ApicLayout;
use crate::layout::{IOAPIC_BASE, LOCAL_APIC_BASE, SCI_IRQ};
use crate::topology::Topology;

const ENABLED: u32 = 1;
/// 8259s are there as well.
const PCAT_COMPAT: u32 = 1;
/// Ids that a local APIC entry can name; 255 is the broadcast id.
pub(super) const FIRST_X2APIC_ID: u32 = 255;

pub(super) fn body(topology: &Topology) -> Vec<u8> {
    let layout = ApicLayout::new(topology);
    let mut body = Body::default();
    body.u32(LOCAL_APIC_BASE).u32(PCAT_COMPAT);
    let mut x2apic = false;
    for vcpu in 0..topology.total_cpus() {
        let apic_id = layout.id(vcpu);
        let narrow = u8::try_from(vcpu).ok().zip(u8::try_from(apic_id).ok());
        match narrow.filter(|_| apic_id < FIRST_X2APIC_ID && vcpu < FIRST_X2APIC_ID) {
            // Processor local APIC.
            Some((uid, id)) => body.u8(0).u8(8).u8(uid).u8(id).u32(ENABLED),
            // Processor local x2APIC.
            None => {
                x2apic = true;
                body.u8(9).u8(16).u16(0).u32(apic_id).u32(ENABLED).u32(vcpu)
            }
        };
    }
    // IOAPIC 0 with GSI 0.
    body.u8(1).u8(12).u8(0).u8(0).u32(IOAPIC_BASE).u32(0);
    // Source override: the SCI is active high and level triggered, unlike other ISA interrupts.
    body.u8(2)
        .u8(10)
        .u8(0)
        .u8(SCI_IRQ)
        .u32(u32::from(SCI_IRQ))
        .u16(0xd);
    // LINT1 of every local APIC is NMI.
    body.u8(4).u8(6).u8(0xff).u16(0).u8(1);
    if x2apic {
        body.u8(0xa).u8(12).u16(0).u32(u32::MAX).u8(1).zeros(3);
    }
    body.0
}
