//! The TSC of a guest that takes it for its clock: after a freeze it goes on where it stood, as KVM's own clock does.
//!
//! ```text
//!   begin: the host's TSC is noted        end: what has passed is added to `stood`
//!   each vCPU, before it enters the guest: lowers its offset by what of `stood` it has not taken yet
//! ```

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use kvm_bindings::{KVM_VCPU_TSC_CTRL, KVM_VCPU_TSC_OFFSET, KVMIO, kvm_device_attr};
use kvm_ioctls::VcpuFd;
use vmm_sys_util::ioctl::ioctl_with_ref;
use vmm_sys_util::ioctl_iow_nr;

// Of a vCPU on x86-64, which kvm-ioctls has for other machines (Documentation/virt/kvm/devices/vcpu.rst, KVM_VCPU_TSC_CTRL).
ioctl_iow_nr!(KVM_SET_DEVICE_ATTR, KVMIO, 0xe1, kvm_device_attr);
ioctl_iow_nr!(KVM_GET_DEVICE_ATTR, KVMIO, 0xe2, kvm_device_attr);
ioctl_iow_nr!(KVM_HAS_DEVICE_ATTR, KVMIO, 0xe3, kvm_device_attr);

/// The clock sources of the host.
const CLOCKSOURCES: &str = "/sys/devices/system/clocksource/clocksource0/available_clocksource";

/// What the TSC of a VM has stood still.
#[derive(Debug, Default)]
pub(super) struct Tsc {
    /// The host's TSC at the begin of the freeze.
    since: Mutex<Option<u64>>,
    /// Ticks of all freezes. Release on store, acquire on load: a vCPU whose gate opens after the store sees it.
    stood: AtomicU64,
}

impl Tsc {
    /// All vCPUs have stopped.
    pub(super) fn begin(&self) {
        let mut since = self.since.lock().unwrap_or_else(PoisonError::into_inner);
        since.get_or_insert_with(now);
    }

    /// The vCPUs are about to go on.
    pub(super) fn end(&self) {
        let since = self
            .since
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(since) = since {
            let ticks = now().wrapping_sub(since);
            self.stood.fetch_add(ticks, Ordering::Release);
        }
    }

    /// Sets the TSC of `vcpu` back by what it has not `taken` yet.
    pub(super) fn catch_up(&self, vcpu: &VcpuFd, taken: &mut u64) -> std::io::Result<()> {
        let stood = self.stood.load(Ordering::Acquire);
        let ticks = stood.wrapping_sub(*taken);
        if ticks == 0 {
            return Ok(());
        }
        set_offset(vcpu, offset(vcpu)?.wrapping_sub(ticks))?;
        *taken = stood;
        Ok(())
    }
}

fn now() -> u64 {
    // SAFETY: every x86-64 CPU has the instruction; it reads a counter and writes two registers.
    unsafe { std::arch::x86_64::_rdtsc() }
}

fn attribute(value: &mut u64) -> kvm_device_attr {
    kvm_device_attr {
        group: KVM_VCPU_TSC_CTRL,
        attr: KVM_VCPU_TSC_OFFSET.into(),
        addr: std::ptr::from_mut(value) as u64,
        flags: 0,
    }
}

/// Whether the host's kernel found its TSC unstable: KVM then moves a guest's by itself (`arch/x86/kvm/x86.c:
/// kvm_arch_vcpu_load`).
pub(super) fn is_unstable() -> bool {
    std::fs::read_to_string(CLOCKSOURCES).is_ok_and(|text| lacks_tsc(&text))
}

/// An unstable TSC is not among the clock sources (`kernel/time/clocksource.c: available_clocksource_show`).
fn lacks_tsc(available: &str) -> bool {
    !available.split_whitespace().any(|name| name == "tsc")
}

/// Whether this host's KVM (5.16 and later) lets a vCPU's TSC be set.
pub(super) fn can_set(vcpu: &VcpuFd) -> bool {
    let mut value = 0;
    let attribute = attribute(&mut value);
    // SAFETY: the descriptor is a vCPU's, the structure lives through the call, and asking touches no memory of ours.
    unsafe { ioctl_with_ref(vcpu, KVM_HAS_DEVICE_ATTR(), &attribute) == 0 }
}

fn offset(vcpu: &VcpuFd) -> std::io::Result<u64> {
    let mut value = 0;
    let attribute = attribute(&mut value);
    // SAFETY: the descriptor is a vCPU's; KVM writes eight bytes at `addr`, which is `value`, exclusively borrowed here.
    let done = unsafe { ioctl_with_ref(vcpu, KVM_GET_DEVICE_ATTR(), &attribute) };
    if done != 0 {
        return Err(std::io::Error::last_os_error());
    }
    Ok(value)
}

fn set_offset(vcpu: &VcpuFd, mut value: u64) -> std::io::Result<()> {
    let attribute = attribute(&mut value);
    // SAFETY: the descriptor is a vCPU's; KVM reads eight bytes at `addr`, which is `value`.
    let done = unsafe { ioctl_with_ref(vcpu, KVM_SET_DEVICE_ATTR(), &attribute) };
    if done != 0 {
        return Err(std::io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unstable_tsc_is_no_clock_source() {
        assert!(!lacks_tsc("tsc hpet acpi_pm \n"));
        assert!(!lacks_tsc("kvm-clock tsc acpi_pm\n"));
        assert!(lacks_tsc("hpet acpi_pm \n"));
        assert!(lacks_tsc("tsc-early jiffies\n"));
    }
}
