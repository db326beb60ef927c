//! Device models: register accesses in, bytes and interrupts out. They know no vCPU and no KVM.

pub(crate) mod gate;
pub(crate) mod power;
pub(crate) mod serial;
pub(crate) mod virtio;
