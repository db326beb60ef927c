//! What this host's KVM says of itself.

use kvm_bindings::KVM_MAX_CPUID_ENTRIES;
use kvm_ioctls::Kvm;

use super::ioctl::failed;
use super::machine;
use super::tsc;
use crate::cpuid::HostFeatures;
use crate::error::Result;
use crate::probe::create_vm;

/// What guests would get.
#[derive(Debug)]
pub(crate) struct HostKvm {
    /// Capabilities that the engine needs and that are not there.
    pub(crate) missing: Vec<&'static str>,
    /// A vCPU's TSC can be set.
    pub(crate) can_set_tsc: bool,
    pub(crate) features: HostFeatures,
}

impl HostKvm {
    /// Opens /dev/kvm and makes a VM of one vCPU, which never runs.
    pub(crate) fn ask() -> Result<Self> {
        let kvm = Kvm::new().map_err(failed("open /dev/kvm"))?;
        let supported = kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(failed("ask for the supported CPUID"))?;
        let can_set = || -> std::result::Result<bool, kvm_ioctls::Error> {
            let vm = create_vm(&kvm)?;
            Ok(tsc::can_set(&vm.create_vcpu(0)?))
        };
        let can_set_tsc = can_set().map_err(failed("create a vCPU"))?;
        Ok(Self {
            missing: machine::missing(&kvm),
            can_set_tsc,
            features: HostFeatures::of(supported.as_slice()),
        })
    }
}
