//! Times supervisor code under /dev/kvm: a counted loop in 64-bit mode at privilege level 0.
//!
//! ```text
//! guest memory: 0x0000 PML4   0x1000 PDPT   0x2000 PD (one 2 MiB page at 0)   0x3000 code
//! ```

use std::time::{Duration, Instant};

use kvm_bindings::{
    KVM_MAX_CPUID_ENTRIES, kvm_regs, kvm_segment, kvm_sregs, kvm_userspace_memory_region,
};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use vm_memory::{Bytes as _, GuestAddress, GuestMemoryBackend as _, GuestMemoryMmap};

const MEMORY: usize = 0x4000;
const PDPT: u64 = 0x1000;
const PD: u64 = 0x2000;
const CODE: u64 = 0x3000;
/// Turns of the loop per round; two instructions each. A host that emulates takes milliseconds for a round, and it ends by itself.
const TURNS: u32 = 1000;
/// Rounds; the fastest counts, so that a busy host is not taken for a slow one.
const ROUNDS: usize = 3;

/// `mov ecx, TURNS; 1: dec ecx; jnz 1b; hlt` (Intel SDM, volume 2).
fn code() -> Vec<u8> {
    let mut code = vec![0xb9];
    code.extend(TURNS.to_le_bytes());
    code.extend([0xff, 0xc9, 0x75, 0xfc, 0xf4]);
    code
}

/// Time per guest instruction in the fastest round, entry and exit of the guest included.
///
/// # Errors
/// What /dev/kvm refused, in words.
pub(super) fn per_instruction() -> Result<Duration, String> {
    let kvm = Kvm::new().map_err(|error| format!("/dev/kvm does not open: {error}"))?;
    let refused = |what: &'static str| {
        move |error: kvm_ioctls::Error| format!("/dev/kvm refuses to {what}: {error}")
    };
    let vm = kvm.create_vm().map_err(refused("create a VM"))?;
    let memory = memory()?;
    map(&vm, &memory)?;
    let mut vcpu = vm.create_vcpu(0).map_err(refused("create a vCPU"))?;
    let cpuid = kvm
        .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
        .map_err(refused("tell its CPUID"))?;
    vcpu.set_cpuid2(&cpuid).map_err(refused("set a CPUID"))?;
    let mut fastest = Duration::MAX;
    for _ in 0..ROUNDS {
        fastest = fastest.min(round(&mut vcpu)?);
    }
    Ok(fastest / (TURNS * 2))
}

fn memory() -> Result<GuestMemoryMmap, String> {
    let failed =
        |error: &dyn std::fmt::Display| format!("no memory for the probe's guest: {error}");
    let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), MEMORY)])
        .map_err(|error| failed(&error))?;
    // Present and writable; bit 7 makes the last one a page. SDM volume 3, 4.5.
    let entries = [(0, PDPT | 0b11), (PDPT, PD | 0b11), (PD, 0b11 | 1 << 7)];
    for (gpa, entry) in entries {
        memory
            .write_obj(entry, GuestAddress(gpa))
            .map_err(|error| failed(&error))?;
    }
    memory
        .write_slice(&code(), GuestAddress(CODE))
        .map_err(|error| failed(&error))?;
    Ok(memory)
}

fn map(vm: &VmFd, memory: &GuestMemoryMmap) -> Result<(), String> {
    let hva = memory
        .get_host_address(GuestAddress(0))
        .map_err(|error| error.to_string())?;
    let region = kvm_userspace_memory_region {
        slot: 0,
        flags: 0,
        guest_phys_addr: 0,
        memory_size: MEMORY as u64,
        userspace_addr: hva as u64,
    };
    // SAFETY: the region is the whole of `memory`, one mapping of MEMORY bytes, which the caller keeps until after the
    // vCPU's last run.
    unsafe { vm.set_user_memory_region(region) }
        .map_err(|error| format!("/dev/kvm refuses guest memory: {error}"))
}

/// One run of the loop from its start.
fn round(vcpu: &mut VcpuFd) -> Result<Duration, String> {
    let refused =
        |error: kvm_ioctls::Error| format!("/dev/kvm refuses the vCPU's registers: {error}");
    let mut sregs = vcpu.get_sregs().map_err(refused)?;
    long_mode(&mut sregs);
    vcpu.set_sregs(&sregs).map_err(refused)?;
    let regs = kvm_regs {
        rip: CODE,
        rflags: 2,
        ..kvm_regs::default()
    };
    vcpu.set_regs(&regs).map_err(refused)?;
    let started = Instant::now();
    match vcpu.run() {
        Ok(VcpuExit::Hlt) => Ok(started.elapsed()),
        Ok(other) => Err(format!(
            "/dev/kvm does not run a ten-byte guest: it left with {other:?}"
        )),
        Err(error) => Err(format!("/dev/kvm does not run a ten-byte guest: {error}")),
    }
}

fn long_mode(sregs: &mut kvm_sregs) {
    let flat = kvm_segment {
        limit: u32::MAX,
        selector: 8,
        type_: 0xb,
        present: 1,
        s: 1,
        l: 1,
        g: 1,
        ..kvm_segment::default()
    };
    sregs.cs = flat;
    let data = kvm_segment {
        selector: 16,
        type_: 3,
        l: 0,
        db: 1,
        ..flat
    };
    (sregs.ds, sregs.es, sregs.ss) = (data, data, data);
    sregs.cr3 = 0;
    sregs.cr4 |= 1 << 5; // PAE
    sregs.cr0 |= 1 << 31 | 1; // PG, PE
    sregs.efer |= 1 << 10 | 1 << 8; // LMA, LME
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loop_is_what_the_manual_says() {
        assert_eq!(
            code(),
            [0xb9, 0xe8, 0x03, 0, 0, 0xff, 0xc9, 0x75, 0xfc, 0xf4]
        );
    }

    /// On any machine: a time, or words that name what is missing.
    #[test]
    fn the_probe_ends_with_a_time_or_a_reason() {
        match per_instruction() {
            Ok(time) => assert!(time < Duration::from_millis(1), "{time:?}"),
            Err(why) => assert!(why.contains("/dev/kvm"), "{why}"),
        }
    }
}
