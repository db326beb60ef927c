//! What CPUID tells a guest: the host's features, our topology.

mod apic;
mod host;
mod leaves;
#[cfg(test)]
mod tests;

pub(crate) use apic::ApicLayout;
pub(crate) use host::HostFeatures;
pub(crate) use leaves::{Hints, for_vcpu};
