//! The host's CPU as the guest's, through /dev/kvm.
#![allow(
    dead_code,
    unused_imports,
    reason = "the parts come before the engine that joins them"
)]

mod boot;
pub(crate) mod layout;
pub use boot::BootError;
