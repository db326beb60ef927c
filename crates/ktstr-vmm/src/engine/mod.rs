//! What executes a guest.

pub(crate) mod kvm;
pub(crate) mod tcg;
