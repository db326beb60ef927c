//! KVM's objects: the VM with its memory and interrupt chips, the vCPUs in their first state.

use std::sync::Arc;

use kvm_bindings::{
    CpuId, KVM_CAP_HALT_POLL, KVM_CAP_X2APIC_API, KVM_CAP_X86_DISABLE_EXITS, KVM_MAX_CPUID_ENTRIES,
    KVM_PIT_SPEAKER_DUMMY, KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK, KVM_X2APIC_API_USE_32BIT_IDS,
    KVM_X86_DISABLE_EXITS_HLT, KVM_X86_DISABLE_EXITS_PAUSE, Msrs, kvm_cpuid_entry2, kvm_enable_cap,
    kvm_msr_entry, kvm_pit_config,
};
use kvm_ioctls::{Cap, Kvm, VcpuFd, VmFd};
use vmm_sys_util::eventfd::EventFd;

use super::boot::{Entry, initial_registers};
use super::ioctl::failed;
use super::slots::Slots;
use super::tsc;
use crate::cpuid::{ApicLayout, Hints, for_vcpu};
use crate::error::{Error, Result};
use crate::layout::{COM1_IRQ, COM2_IRQ, KVM_IDENTITY_MAP, KVM_TSS};
use crate::memory::GuestMemory;
use crate::probe::create_vm;
use crate::topology::Topology;

/// What the engine cannot do without.
const REQUIRED: [(Cap, &str); 12] = [
    (Cap::Irqchip, "KVM_CAP_IRQCHIP"),
    (Cap::Ioeventfd, "KVM_CAP_IOEVENTFD"),
    (Cap::Irqfd, "KVM_CAP_IRQFD"),
    (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
    (Cap::SetTssAddr, "KVM_CAP_SET_TSS_ADDR"),
    (Cap::Pit2, "KVM_CAP_PIT2"),
    (Cap::AdjustClock, "KVM_CAP_ADJUST_CLOCK"),
    (Cap::MpState, "KVM_CAP_MP_STATE"),
    (Cap::VcpuEvents, "KVM_CAP_VCPU_EVENTS"),
    (Cap::ExtCpuid, "KVM_CAP_EXT_CPUID"),
    (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
    (Cap::SetGuestDebug, "KVM_CAP_SET_GUEST_DEBUG"),
];

/// What of it this host's KVM lacks.
pub(super) fn missing(kvm: &Kvm) -> Vec<&'static str> {
    REQUIRED
        .into_iter()
        .filter(|(cap, _)| !kvm.check_extension(*cap))
        .map(|(_, name)| name)
        .collect()
}

/// Refuses a KVM that lacks what the engine needs.
fn check(kvm: &Kvm) -> Result<()> {
    let missing = missing(kvm);
    if missing.is_empty() {
        return Ok(());
    }
    Err(Error::Refused {
        what: String::from("serve a VM"),
        reason: format!("/dev/kvm lacks {}; use the tcg engine", missing.join(", ")),
    })
}

/// 255 addresses all local APICs in their older mode.
pub(super) const LAST_XAPIC_ID: u32 = 254;
/// Intel SDM 3A §11.12.1: the local APIC is in x2APIC mode.
const APIC_BASE_X2APIC: u64 = 1 << 10;
/// Intel SDM 4: memory types; enabled, write-back unless said otherwise.
const MTRR_DEF_TYPE: (u32, u64) = (0x2ff, 1 << 11 | 6);
/// Fast strings.
const MISC_ENABLE: (u32, u64) = (0x1a0, 1);

/// What the vCPUs of a VM shall be, beside their topology.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Wanted {
    /// Never preempted.
    pub(super) realtime: bool,
    /// With a TSC that Linux takes for its clock.
    pub(super) invariant_tsc: bool,
}

/// A VM that KVM knows, without devices.
#[derive(Debug)]
pub(super) struct Machine {
    kvm: Kvm,
    pub(super) vm: Arc<VmFd>,
    pub(super) slots: Arc<Slots>,
}

impl Machine {
    /// Opens /dev/kvm and makes a VM with `memory` and the interrupt chips of a PC.
    pub(super) fn new(memory: &GuestMemory) -> Result<Self> {
        let kvm = Kvm::new().map_err(failed("open /dev/kvm"))?;
        check(&kvm)?;
        let vm = Arc::new(create_vm(&kvm).map_err(failed("create a VM"))?);
        let slots = Arc::new(Slots::new(Arc::clone(&vm), memory)?);
        let machine = Self { kvm, vm, slots };
        let vm = &machine.vm;
        vm.set_identity_map_address(KVM_IDENTITY_MAP)
            .map_err(failed("place KVM's identity map"))?;
        vm.set_tss_address(KVM_TSS)
            .map_err(failed("place KVM's task state"))?;
        vm.create_irq_chip()
            .map_err(failed("create the interrupt chips"))?;
        let pit = kvm_pit_config {
            flags: KVM_PIT_SPEAKER_DUMMY,
            ..Default::default()
        };
        vm.create_pit2(pit).map_err(failed("create the timer"))?;
        Ok(machine)
    }

    /// Performance mode's way with idle vCPUs: halted and spinning ones keep their host CPU. Where KVM takes halts all the same,
    /// it polls for the next event a while before it lets the CPU sleep. What KVM cannot do is left: the guest is slower then,
    /// not wrong.
    pub(super) fn keep_idle_in_guest(&self) {
        const WANTED: u32 = KVM_X86_DISABLE_EXITS_HLT | KVM_X86_DISABLE_EXITS_PAUSE;
        /// As the guest's own haltpoll driver polls (`drivers/cpuidle/governors/haltpoll.c`).
        const POLL_NS: u64 = 200_000;
        let can = self
            .vm
            .check_extension_raw(KVM_CAP_X86_DISABLE_EXITS.into());
        let exits = u32::try_from(can).unwrap_or(0) & WANTED;
        let kept = exits != 0 && self.enable(KVM_CAP_X86_DISABLE_EXITS, exits.into());
        if !(kept && exits & KVM_X86_DISABLE_EXITS_HLT != 0) {
            self.enable(KVM_CAP_HALT_POLL, POLL_NS);
        }
    }

    /// Turns a capability on; one that KVM refuses is told and tolerated.
    fn enable(&self, cap: u32, value: u64) -> bool {
        let mut request = kvm_enable_cap {
            cap,
            ..Default::default()
        };
        request.args[0] = value;
        let enabled = self.vm.enable_cap(&request);
        if let Err(error) = &enabled {
            tracing::debug!(%error, cap, "KVM refuses a capability");
        }
        enabled.is_ok()
    }

    /// An eventfd that raises `gsi`, an edge at a time.
    pub(super) fn interrupt(&self, gsi: u32) -> Result<EventFd> {
        let line = EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)
            .map_err(Error::system("create an eventfd"))?;
        self.vm
            .register_irqfd(&line, gsi)
            .map_err(failed("connect an interrupt"))?;
        Ok(line)
    }

    /// Interrupts of COM1 and COM2.
    pub(super) fn serial_lines(&self) -> Result<[EventFd; 2]> {
        Ok([self.interrupt(COM1_IRQ)?, self.interrupt(COM2_IRQ)?])
    }

    /// All vCPUs; the first one starts at `entry`, the others wait to be started by it.
    pub(super) fn vcpus(
        &self,
        topology: &Topology,
        entry: Entry,
        wanted: Wanted,
    ) -> Result<Vec<VcpuFd>> {
        let layout = ApicLayout::new(topology);
        let total = topology.total_cpus();
        self.check_limits(topology)?;
        let supported = self
            .kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(failed("ask for the supported CPUID"))?;
        let needs_x2apic = topology.max_apic_id() > LAST_XAPIC_ID;
        let hints = Hints {
            realtime: wanted.realtime,
            tsc_deadline: self.kvm.check_extension(Cap::TscDeadlineTimer),
            invariant_tsc: wanted.invariant_tsc,
            large_ids: needs_x2apic,
        };
        if needs_x2apic {
            let api = KVM_X2APIC_API_USE_32BIT_IDS | KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK;
            self.enable(KVM_CAP_X2APIC_API, api.into());
        }
        let mut vcpus = Vec::new();
        for vcpu in 0..total {
            // KVM takes the id as the APIC id.
            let fd = self
                .vm
                .create_vcpu(u64::from(layout.id(vcpu)))
                .map_err(failed("create a vCPU"))?;
            if wanted.invariant_tsc && tsc::is_unstable() {
                return Err(Error::Refused {
                    what: String::from("show an invariant TSC"),
                    reason: String::from(
                        "the host's kernel found its own TSC unstable (it is not among the clock sources), and KVM moves a guest's then",
                    ),
                });
            }
            if wanted.invariant_tsc && !tsc::can_set(&fd) {
                return Err(Error::Refused {
                    what: String::from("show an invariant TSC"),
                    reason: String::from(
                        "a freeze could not be kept from the guest: this host's KVM cannot set a TSC (Linux 5.16 and later can)",
                    ),
                });
            }
            let entries = for_vcpu(supported.as_slice(), layout, vcpu, hints);
            set_cpuid(&fd, &entries)?;
            set_msrs(&fd)?;
            if vcpu == 0 {
                let sregs = fd.get_sregs().map_err(failed("read the first registers"))?;
                let (regs, mut sregs) = initial_registers(entry, sregs);
                if needs_x2apic {
                    // As firmware leaves it: Linux takes larger ids from the MADT only in this mode
                    // (arch/x86/kernel/acpi/boot.c: acpi_parse_x2apic).
                    sregs.apic_base |= APIC_BASE_X2APIC;
                }
                fd.set_sregs(&sregs)
                    .map_err(failed("set the first system registers"))?;
                fd.set_regs(&regs)
                    .map_err(failed("set the first registers"))?;
            }
            set_local_interrupts(&fd)?;
            vcpus.push(fd);
        }
        Ok(vcpus)
    }

    fn check_limits(&self, topology: &Topology) -> Result<()> {
        let (most, highest) = (self.kvm.get_max_vcpus(), self.kvm.get_max_vcpu_id());
        let count = usize::try_from(topology.total_cpus()).unwrap_or(usize::MAX);
        let id = usize::try_from(topology.max_apic_id()).unwrap_or(usize::MAX);
        if count > most || id >= highest {
            return Err(Error::Refused {
                what: format!("show topology {topology}"),
                reason: format!(
                    "it needs {count} vCPUs with APIC ids up to {id}; this host's KVM has {most} with ids below {highest}"
                ),
            });
        }
        Ok(())
    }
}

fn set_cpuid(vcpu: &VcpuFd, entries: &[kvm_cpuid_entry2]) -> Result<()> {
    let cpuid = CpuId::from_entries(entries).map_err(|_| Error::Refused {
        what: String::from("describe the CPU"),
        reason: format!(
            "{} CPUID leaves, at most {KVM_MAX_CPUID_ENTRIES} can be passed",
            entries.len()
        ),
    })?;
    vcpu.set_cpuid2(&cpuid).map_err(failed("set CPUID"))
}

/// Those that firmware sets. KVM may refuse the later ones; guests boot without.
fn set_msrs(vcpu: &VcpuFd) -> Result<()> {
    for (index, data) in [MTRR_DEF_TYPE, MISC_ENABLE] {
        let entry = kvm_msr_entry {
            index,
            data,
            ..Default::default()
        };
        let msrs = Msrs::from_entries(&[entry]).map_err(|_| Error::Refused {
            what: String::from("set an MSR"),
            reason: String::from("the list of one was too long"),
        })?;
        let set = vcpu.set_msrs(&msrs).map_err(failed("set an MSR"))?;
        if set != 1 {
            tracing::debug!(index, "KVM refused an MSR");
        }
    }
    Ok(())
}

/// LINT0 takes the 8259's interrupts, LINT1 is NMI, as a PC's firmware leaves them (Intel SDM 3A §11.5.1).
fn set_local_interrupts(vcpu: &VcpuFd) -> Result<()> {
    const LVT_LINT0: usize = 0x350;
    const LVT_LINT1: usize = 0x360;
    const EXT_INT: u8 = 7;
    const NMI: u8 = 4;
    let mut lapic = vcpu.get_lapic().map_err(failed("read a local APIC"))?;
    for (register, mode) in [(LVT_LINT0, EXT_INT), (LVT_LINT1, NMI)] {
        // Byte 1 of the register: delivery mode in its low three bits; unmasked by byte 2.
        let word = [0, mode, 0, 0];
        for (slot, byte) in lapic.regs.iter_mut().skip(register).zip(word) {
            *slot = std::ffi::c_char::from_ne_bytes([byte]);
        }
    }
    vcpu.set_lapic(&lapic).map_err(failed("set a local APIC"))
}
