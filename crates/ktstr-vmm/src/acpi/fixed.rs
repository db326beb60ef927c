//! FADT, FACS and DSDT: what never depends on the topology.

use acpi_tables::Aml;
use acpi_tables::aml::{
    Device, EISAName, IO, Interrupt, Memory32Fixed, Name, Package, Path, ResourceTemplate, Scope,
};

use super::tables::{Body, VirtioPlace};
use crate::layout::{
    COM1_IRQ, COM1_PORT, COM2_IRQ, COM2_PORT, PM1_CONTROL_PORT, PM1_EVENT_PORT, RESET_PORT,
    RESET_VALUE, S5_SLEEP_TYPE, SCI_IRQ,
};

/// FADT (§5.2.9) without its header.
pub(super) fn fadt(facs: u64, dsdt: u64) -> Vec<u8> {
    let low = |address: u64| u32::try_from(address).unwrap_or(0);
    // §5.2.9.3: serial ports are there; no VGA, no RTC, no keyboard controller to probe.
    const BOOT_ARCH: u16 = 1 | 1 << 2 | 1 << 5;
    // WBINVD, C1 everywhere, no fixed power button, sleep button or RTC wake, reset register.
    const FLAGS: u32 = 1 | 1 << 2 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 10;
    let mut body = Body::default();
    body.u32(low(facs)).u32(low(dsdt)).u8(0);
    // Profile "enterprise server", SCI, no SMI command port: ACPI is always on.
    body.u8(4).u16(u16::from(SCI_IRQ)).u32(0).zeros(4);
    body.u32(u32::from(PM1_EVENT_PORT)).u32(0);
    body.u32(u32::from(PM1_CONTROL_PORT)).u32(0).zeros(16);
    // Lengths of the PM1 blocks; C2 and C3 latencies that say "not supported".
    body.u8(4).u8(2).zeros(6).u16(101).u16(1001).zeros(9);
    body.u16(BOOT_ARCH).u8(0).u32(FLAGS);
    io(&mut body, RESET_PORT, 1);
    body.u8(RESET_VALUE).u16(0).u8(5);
    body.u64(facs).u64(dsdt);
    io(&mut body, PM1_EVENT_PORT, 4);
    body.zeros(12);
    io(&mut body, PM1_CONTROL_PORT, 2);
    // Other blocks, sleep registers and hypervisor vendor: none.
    body.zeros(12 * 7 + 8);
    body.0
}

/// A generic address in I/O space (§5.2.3.2).
fn io(body: &mut Body, port: u16, bytes: u8) {
    body.u8(1)
        .u8(bytes * 8)
        .u8(0)
        .u8(bytes.min(3))
        .u64(u64::from(port));
}

/// FACS (§5.2.10); it has no checksum.
pub(super) fn facs() -> Vec<u8> {
    let mut body = Body(b"FACS".to_vec());
    body.u32(64).zeros(24).u8(2).zeros(31);
    body.0
}

/// DSDT without its header.
pub(super) fn dsdt(virtio: &[VirtioPlace]) -> Vec<u8> {
    let mut aml = Vec::new();
    let s5 = Package::new(vec![&S5_SLEEP_TYPE, &S5_SLEEP_TYPE, &0u8, &0u8]);
    Name::new(Path::new("_S5_"), &s5).to_aml_bytes(&mut aml);
    for (uid, name, port, irq) in [
        (1, "COM1", COM1_PORT, COM1_IRQ),
        (2, "COM2", COM2_PORT, COM2_IRQ),
    ] {
        let ports = IO::new(port, port, 1, 8);
        let interrupt = Interrupt::new(true, true, false, false, irq);
        let resources: [&dyn Aml; 2] = [&ports, &interrupt];
        device(&mut aml, name, &EISAName::new("PNP0501"), uid, &resources);
    }
    for (uid, place) in (0u8..).zip(virtio) {
        let registers = Memory32Fixed::new(true, place.base, place.len);
        let interrupt = Interrupt::new(true, true, false, false, place.gsi);
        let resources: [&dyn Aml; 2] = [&registers, &interrupt];
        // Linux drivers/virtio/virtio_mmio.c: virtio_mmio_acpi_match.
        device(
            &mut aml,
            &format!("VR{uid:02X}"),
            &"LNRO0005",
            uid,
            &resources,
        );
    }
    aml
}

fn device(aml: &mut Vec<u8>, name: &str, hid: &dyn Aml, uid: u8, resources: &[&dyn Aml]) {
    let resources = ResourceTemplate::new(resources.to_vec());
    let hid = Name::new(Path::new("_HID"), hid);
    let uid = Name::new(Path::new("_UID"), &uid);
    let crs = Name::new(Path::new("_CRS"), &resources);
    let device = Device::new(Path::new(name), vec![&hid, &uid, &crs]);
    Scope::new(Path::new("_SB_"), vec![&device]).to_aml_bytes(aml);
}
