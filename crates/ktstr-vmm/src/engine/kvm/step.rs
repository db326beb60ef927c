//! Getting a vCPU over a breakpoint.

use kvm_bindings::{
    KVM_GUESTDBG_BLOCKIRQ, KVM_GUESTDBG_ENABLE, KVM_GUESTDBG_SINGLESTEP, kvm_guest_debug,
};
use kvm_ioctls::VcpuFd;

use super::control::{Control, End};
use super::debug::InMemory;

/// I/O port that nothing of ours or of a PC's listens to.
pub(super) const BREAKPOINT_PORT: u16 = 0xe8;
/// `out BREAKPOINT_PORT, al`: leaves the guest under every KVM, which `int3` does not (QEMU 7.2's SVM intercepts no #BP).
pub(super) const BREAKPOINT: [u8; 2] = [0xe6, 0xe8];
/// What functions begin with that does nothing: `endbr64`, and the places of `call __fentry__`.
const NOTHINGS: [&[u8]; 4] = [
    &[0xf3, 0x0f, 0x1e, 0xfa],
    &[0x0f, 0x1f, 0x44, 0x00, 0x00],
    &[0x0f, 0x1f, 0x40, 0xd6],
    &[0x66, 0x90],
];
/// Makes the next entry run one instruction, without an interrupt before it.
pub(super) fn arm_step(vcpu: &VcpuFd) -> Result<(), kvm_ioctls::Error> {
    let step = |blocked| kvm_guest_debug {
        control: KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP | blocked,
        ..Default::default()
    };
    // Kernels before 5.15 cannot block interrupts: there a step may end in a handler, and a breakpoint is hit twice.
    vcpu.set_guest_debug(&step(KVM_GUESTDBG_BLOCKIRQ))
        .or_else(|_| vcpu.set_guest_debug(&step(0)))
}

/// Length of the instruction at `gpa`, which begins with `original`, when it does nothing.
pub(super) fn nothing_at(control: &Control, gpa: u64, original: [u8; 2]) -> Option<u64> {
    let mut code = [0; 5];
    control.memory.read(gpa, &mut code).ok()?;
    for (byte, original) in code.iter_mut().zip(original) {
        *byte = original;
    }
    let found = NOTHINGS.iter().find(|nothing| code.starts_with(nothing))?;
    u64::try_from(found.len()).ok()
}

/// Puts the instruction pointer behind a breakpoint whose instruction does nothing; whether it does.
pub(super) fn over_nothing(control: &Control, vcpu: &VcpuFd, breakpoint: &InMemory) -> bool {
    nothing_at(control, breakpoint.gpa, breakpoint.original)
        .is_some_and(|len| set_rip(vcpu, breakpoint.watch.gva + len).is_ok())
}

/// Sets the instruction pointer.
pub(super) fn set_rip(vcpu: &VcpuFd, rip: u64) -> Result<(), kvm_ioctls::Error> {
    let mut regs = vcpu.get_regs()?;
    regs.rip = rip;
    vcpu.set_regs(&regs)
}

/// Lets the instruction under a breakpoint run, and the next when that is under it as well; `run` enters the guest once. Nobody
/// else may be in the guest.
pub(super) fn over_breakpoint<T>(
    control: &Control,
    vcpu: &mut VcpuFd,
    breakpoint: &InMemory,
    mut run: impl FnMut(&mut VcpuFd) -> T,
) -> Result<T, End> {
    let failed = |error: &dyn std::fmt::Display| {
        End::Broken(format!("a breakpoint cannot be stepped over: {error}"))
    };
    let InMemory { gpa, original, .. } = breakpoint;
    let memory = &control.memory;
    memory
        .write(*gpa, original)
        .map_err(|error| failed(&error))?;
    arm_step(vcpu).map_err(|error| failed(&error))?;
    let mut next = run(vcpu);
    if vcpu
        .get_regs()
        .is_ok_and(|regs| regs.rip == breakpoint.watch.gva + 1)
    {
        next = run(vcpu);
    }
    memory
        .write(*gpa, &BREAKPOINT)
        .map_err(|error| failed(&error))?;
    Ok(next)
}
