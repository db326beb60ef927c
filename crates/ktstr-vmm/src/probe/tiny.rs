//! A guest of a few bytes in 64-bit mode at privilege level 0, which asks /dev/kvm questions.
//!
//! ```text
//! guest memory: 0x0000 PML4   0x1000 PDPT   0x2000 PD (one 2 MiB page at 0)   0x3000 code   0x4000 a page in a slot of its own
//! ```

use std::time::{Duration, Instant};

use kvm_bindings::{
    KVM_MAX_CPUID_ENTRIES, kvm_regs, kvm_segment, kvm_sregs, kvm_userspace_memory_region,
};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use vm_memory::{Bytes as _, GuestAddress, GuestMemoryBackend as _, GuestMemoryMmap};

const MEMORY: u64 = 0x5000;
const PDPT: u64 = 0x1000;
const PD: u64 = 0x2000;
/// Where its code begins.
pub(crate) const CODE: u64 = 0x3000;
/// The page of a slot of its own.
const APART: u64 = 0x4000;
/// What a signal interrupts is tried this often: a debugger, a shell's job control and a profiler send some.
const TRIES: u32 = 64;

/// A VM of one vCPU.
#[derive(Debug)]
pub(crate) struct Tiny {
    pub(crate) vcpu: VcpuFd,
    _vm: VmFd,
    /// Last, so that it outlives the VM.
    memory: GuestMemoryMmap,
}

impl Tiny {
    /// A guest with this code, whose last page has these flags of a KVM memory slot.
    ///
    /// # Errors
    /// What /dev/kvm refused, in words.
    pub(crate) fn new(code: &[u8], flags: u32) -> Result<Self, String> {
        let kvm = Kvm::new().map_err(|error| format!("/dev/kvm does not open: {error}"))?;
        let refused = |what: &'static str| {
            move |error: kvm_ioctls::Error| format!("/dev/kvm refuses to {what}: {error}")
        };
        let vm = create_vm(&kvm).map_err(refused("create a VM"))?;
        let memory = memory()?;
        map(&vm, &memory, 0, 0..APART, 0)?;
        map(&vm, &memory, 1, APART..MEMORY, flags)?;
        let vcpu = vm.create_vcpu(0).map_err(refused("create a vCPU"))?;
        let cpuid = kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(refused("tell its CPUID"))?;
        vcpu.set_cpuid2(&cpuid).map_err(refused("set a CPUID"))?;
        let guest = Self {
            vcpu,
            _vm: vm,
            memory,
        };
        guest.load(code)?;
        Ok(guest)
    }

    /// Puts other code in.
    pub(super) fn load(&self, code: &[u8]) -> Result<(), String> {
        self.memory
            .write_slice(code, GuestAddress(CODE))
            .map_err(|error| failed(&error))
    }

    /// Writes its memory.
    #[cfg(test)]
    pub(crate) fn write(&self, gpa: u64, bytes: &[u8]) -> Result<(), String> {
        self.memory
            .write_slice(bytes, GuestAddress(gpa))
            .map_err(|error| failed(&error))
    }

    /// Reads a word of its memory.
    #[cfg(test)]
    pub(crate) fn read(&self, gpa: u64) -> Result<u64, String> {
        self.memory
            .read_obj(GuestAddress(gpa))
            .map_err(|error| failed(&error))
    }

    /// Makes it ready to run at `rip`, in 64-bit mode.
    pub(crate) fn reset(&self, rip: u64) -> Result<(), String> {
        let refused =
            |error: kvm_ioctls::Error| format!("/dev/kvm refuses the vCPU's registers: {error}");
        let mut sregs = self.vcpu.get_sregs().map_err(refused)?;
        long_mode(&mut sregs);
        self.vcpu.set_sregs(&sregs).map_err(refused)?;
        let regs = kvm_regs {
            rip,
            rflags: 2,
            ..kvm_regs::default()
        };
        self.vcpu.set_regs(&regs).map_err(refused)
    }

    /// Runs from `rip` to the first exit, and tells whether that is `wanted`; a halt is the only other one.
    pub(crate) fn run(
        &mut self,
        rip: u64,
        wanted: impl FnOnce(&VcpuExit<'_>) -> bool,
    ) -> Result<bool, String> {
        self.leave(rip, |exit, _| match exit {
            exit if wanted(exit) => Some(true),
            VcpuExit::Hlt => Some(false),
            _ => None,
        })
    }

    /// Runs from `rip` to the first exit; what `judge` makes of it and of the time that it took, `None` for an exit that was
    /// not to come. A run that a signal ends begins again.
    pub(super) fn leave<T>(
        &mut self,
        rip: u64,
        judge: impl FnOnce(&VcpuExit<'_>, Duration) -> Option<T>,
    ) -> Result<T, String> {
        let mut tries = 1;
        loop {
            self.reset(rip)?;
            let started = Instant::now();
            let exit = self.vcpu.run();
            let took = started.elapsed();
            return match exit {
                Ok(exit) => judge(&exit, took).ok_or_else(|| {
                    format!("/dev/kvm does not run a guest of a few bytes: it left with {exit:?}")
                }),
                Err(error) if error.errno() == libc::EINTR && tries < TRIES => {
                    tries += 1;
                    continue;
                }
                Err(error) => Err(format!(
                    "/dev/kvm does not run a guest of a few bytes: {error}"
                )),
            };
        }
    }
}

/// Creates a VM; KVM_CREATE_VM ends with EINTR where a signal comes while it waits for other VMs' notifiers.
///
/// # Errors
/// KVM's.
pub(crate) fn create_vm(kvm: &Kvm) -> Result<VmFd, kvm_ioctls::Error> {
    let mut tries = 1;
    loop {
        match kvm.create_vm() {
            Err(error) if error.errno() == libc::EINTR && tries < TRIES => tries += 1,
            other => return other,
        }
    }
}

fn failed(error: &dyn std::fmt::Display) -> String {
    format!("no memory for the probe's guest: {error}")
}

fn memory() -> Result<GuestMemoryMmap, String> {
    let size = usize::try_from(MEMORY).map_err(|error| failed(&error))?;
    let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), size)])
        .map_err(|error| failed(&error))?;
    // Present and writable; bit 7 makes the last one a page. SDM volume 3, 4.5.
    let entries = [(0, PDPT | 0b11), (PDPT, PD | 0b11), (PD, 0b11 | 1 << 7)];
    for (gpa, entry) in entries {
        memory
            .write_obj(entry, GuestAddress(gpa))
            .map_err(|error| failed(&error))?;
    }
    Ok(memory)
}

fn map(
    vm: &VmFd,
    memory: &GuestMemoryMmap,
    slot: u32,
    range: std::ops::Range<u64>,
    flags: u32,
) -> Result<(), String> {
    let hva = memory
        .get_host_address(GuestAddress(range.start))
        .map_err(|error| error.to_string())?;
    let region = kvm_userspace_memory_region {
        slot,
        flags,
        guest_phys_addr: range.start,
        memory_size: range.end - range.start,
        userspace_addr: hva as u64,
    };
    // SAFETY: the range lies in `memory`, one mapping of MEMORY bytes, which `Tiny` keeps until after its VM.
    unsafe { vm.set_user_memory_region(region) }
        .map_err(|error| format!("/dev/kvm refuses guest memory: {error}"))
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
