//! What KVM says when it cannot go on with a guest, for a report from a host that we do not have.

use kvm_bindings::{
    KVM_INTERNAL_ERROR_DELIVERY_EV, KVM_INTERNAL_ERROR_EMULATION, KVM_INTERNAL_ERROR_SIMUL_EX,
    KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON,
};
use kvm_ioctls::VcpuFd;

use crate::memory::GuestMemory;

/// Bytes of code that are shown: as long as an instruction can be.
const CODE: usize = 15;

/// An internal error of KVM (Documentation/virt/kvm/api.rst: KVM_EXIT_INTERNAL_ERROR), after the vCPU left with one.
pub(super) fn internal_error(vcpu: &mut VcpuFd) -> String {
    // SAFETY: KVM has just left with KVM_EXIT_INTERNAL_ERROR, for which this member of the union is the valid one; all its fields
    // are plain numbers.
    let internal = unsafe { vcpu.get_kvm_run().__bindgen_anon_1.internal };
    let count = usize::try_from(internal.ndata).unwrap_or(usize::MAX);
    let data: Vec<u64> = internal.data.iter().copied().take(count).collect();
    words(internal.suberror, &data)
}

fn words(suberror: u32, data: &[u64]) -> String {
    let what = match suberror {
        KVM_INTERNAL_ERROR_EMULATION => "it could not emulate an instruction",
        KVM_INTERNAL_ERROR_SIMUL_EX => "an exception came while another was delivered",
        KVM_INTERNAL_ERROR_DELIVERY_EV => "the guest left while an event was delivered",
        KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON => {
            "the CPU left the guest for a reason that KVM does not know"
        }
        _ => "a suberror that is not known here",
    };
    let data: Vec<String> = data.iter().map(|word| format!("{word:#x}")).collect();
    format!(
        "KVM's internal error, suberror {suberror}: {what}; data [{}]",
        data.join(", ")
    )
}

/// The guest could not be entered.
pub(super) fn failed_entry(reason: u64, cpu: u32) -> String {
    format!("the CPU refused to enter the guest: reason {reason:#x}, host CPU {cpu}")
}

/// The code at the instruction pointer, as far as it can be read.
pub(super) fn code_at(vcpu: &VcpuFd, memory: &GuestMemory, rip: u64) -> Vec<u8> {
    let read = |gva: u64| {
        let found = vcpu
            .translate_gva(gva)
            .ok()
            .filter(|found| found.valid != 0)?;
        let mut byte = [0];
        memory.read(found.physical_address, &mut byte).ok()?;
        let [byte] = byte;
        Some(byte)
    };
    (rip..).take(CODE).map_while(read).collect()
}

/// Bytes as a disassembler takes them.
pub(super) fn hex(bytes: &[u8]) -> String {
    if bytes.is_empty() {
        return String::from("unreadable");
    }
    let words: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_internal_error_is_told_with_all_that_kvm_said() {
        let said = words(KVM_INTERNAL_ERROR_EMULATION, &[1, 0xdead]);
        assert!(said.contains("suberror 1: it could not emulate"), "{said}");
        assert!(said.ends_with("data [0x1, 0xdead]"), "{said}");
        assert!(words(99, &[]).contains("suberror 99"));
        assert!(failed_entry(0x8000_0021, 3).contains("0x80000021"));
        assert_eq!(hex(&[0x0f, 0xae]), "0f ae");
        assert_eq!(hex(&[]), "unreadable");
    }
}
