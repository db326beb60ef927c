//! Tables laid out in memory and chained.

use acpi_tables::Aml as _;
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;

use super::tables::{HEADER, Machine};
use super::{affinity, fixed, hmat, madt, pptt};

const OEM: [u8; 6] = *b"KTSTR ";
const OEM_TABLE: [u8; 8] = *b"KTSTRVMM";

/// Bytes to be placed in guest memory.
#[derive(Debug)]
pub(crate) struct Tables {
    /// Where the RSDP lies; the first byte of [`bytes`](Self::bytes).
    pub(crate) rsdp: u64,
    pub(crate) bytes: Vec<u8>,
}

/// A table with `body` behind its header.
pub(super) fn table(signature: [u8; 4], revision: u8, body: &[u8]) -> Vec<u8> {
    let mut sdt = Sdt::new(signature, HEADER, revision, OEM, OEM_TABLE, 1);
    sdt.append_slice(body);
    sdt.as_slice().to_vec()
}

/// All tables, to be placed at `base`, which is aligned to 64.
pub(crate) fn build(machine: &Machine<'_>, base: u64) -> Tables {
    let mut bytes = vec![0; Rsdp::len()];
    let mut place = |table: Vec<u8>| {
        // The FACS asks for 64 (§5.2.10), the others for nothing.
        bytes.resize(bytes.len().next_multiple_of(64), 0);
        let at = base + bytes.len() as u64;
        bytes.extend(table);
        at
    };
    let facs = place(fixed::facs());
    let dsdt = place(table(*b"DSDT", 2, &fixed::dsdt(machine.virtio)));
    let mut entries = vec![
        place(table(*b"FACP", 6, &fixed::fadt(facs, dsdt))),
        place(table(*b"APIC", 5, &madt::body(machine.topology))),
        place(table(*b"SRAT", 3, &affinity::srat(machine))),
        place(table(*b"SLIT", 1, &affinity::slit(machine.topology))),
        place(table(*b"PPTT", 3, &pptt::body(machine.topology))),
    ];
    if let Some(body) = hmat::body(machine.topology) {
        entries.push(place(table(*b"HMAT", 2, &body)));
    }
    let pointers: Vec<u8> = entries.iter().flat_map(|at| at.to_le_bytes()).collect();
    let xsdt = place(table(*b"XSDT", 1, &pointers));
    let mut rsdp: Vec<u8> = Vec::new();
    Rsdp::new(OEM, xsdt).to_aml_bytes(&mut rsdp);
    for (slot, byte) in bytes.iter_mut().zip(&rsdp) {
        *slot = *byte;
    }
    Tables { rsdp: base, bytes }
}
