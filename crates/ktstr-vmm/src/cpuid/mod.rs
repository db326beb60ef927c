//! What CPUID tells a guest: the host's features, our topology.
#![allow(
    dead_code,
    unused_imports,
    reason = "the parts come before the engine that joins them"
)]

mod apic;
mod leaves;

pub(crate) use apic::ApicLayout;
pub(crate) use leaves::{Hints, for_vcpu};
