//! The ACPI tables of a guest.
//!
//! ```text
//!   RSDP -> XSDT -> FADT -> FACS, DSDT      power off, reset, UARTs, virtio-mmio devices
//!                -> MADT                    vCPUs as (x2)APIC ids, IOAPIC
//!                -> SRAT, SLIT, HMAT        nodes: CPUs, memory, distance, speed
//!                -> PPTT                    packages, cores, threads, caches
//! ```
//!
//! Pure: from a [`Machine`] to bytes at an address. ACPI 6.5 is the source of every number here.

mod affinity;
mod chain;
mod fixed;
mod hmat;
mod madt;
mod pptt;
mod tables;
#[cfg(test)]
mod tests;

pub(crate) use chain::build;
pub(crate) use tables::{Machine, VirtioPlace};
