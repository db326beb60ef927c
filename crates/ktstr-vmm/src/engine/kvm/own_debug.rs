//! Debug exceptions that are the guest's own.
//!
//! With a debug register armed, KVM hands every #DB of the guest to us. One that comes of no watch, a single step or INT1, goes back
//! to the guest, as if no watch were set. A guest's own hardware breakpoints are another matter: KVM has the registers armed that
//! we gave it, and the guest's do nothing as long as a watch is set.

use kvm_bindings::KVM_GUESTDBG_INJECT_DB;
use kvm_ioctls::VcpuFd;

use super::debug::Watches;

/// DR6: debug registers were accessed, single step, task switch (Intel SDM 3, "Debug Status Register").
const OWN: u64 = 1 << 13 | 1 << 14 | 1 << 15;
/// DR6: conditions of DR0 to DR3.
const REGISTERS: u64 = 0xf;
/// The instruction, which raises #DB without a cause in DR6.
const INT1: u8 = 0xf1;

/// The causes that the guest is to see in DR6; `None` when the exception was ours alone. A register without a watch is one whose watch
/// has just ended.
pub(super) fn of_guest(dr6: u64) -> Option<u64> {
    match (dr6 & OWN, dr6 & REGISTERS) {
        (0, 0) => Some(0),
        (0, _) => None,
        (own, _) => Some(own),
    }
}

/// Gives the guest the exception with these causes; `armed` is the watches' epoch that is in the debug registers.
pub(super) fn give_back(
    vcpu: &VcpuFd,
    watches: &Watches,
    armed: &mut u32,
    causes: u64,
    code: &[u8],
) -> Result<(), kvm_ioctls::Error> {
    if causes == 0 && code.first() == Some(&INT1) {
        // Intel's CPUs leave before the instruction, and the handler would return to it.
        let mut regs = vcpu.get_regs()?;
        regs.rip = regs.rip.wrapping_add(1);
        vcpu.set_regs(&regs)?;
    }
    let mut registers = vcpu.get_debug_regs()?;
    registers.dr6 |= causes;
    vcpu.set_debug_regs(&registers)?;
    let mut debug = watches.all(armed);
    debug.control |= KVM_GUESTDBG_INJECT_DB;
    vcpu.set_guest_debug(&debug)
}

#[cfg(test)]
mod tests {
    use kvm_bindings::{KVM_GUESTDBG_ENABLE, KVM_GUESTDBG_USE_HW_BP};
    use kvm_ioctls::VcpuExit;

    use super::*;
    use crate::probe::{TINY_CODE, Tiny};
    use crate::watch::{Watch, WatchKind};

    #[test]
    fn steps_are_the_guests_and_watches_are_ours() {
        const STEP: u64 = 1 << 14;
        assert_eq!(of_guest(0xffff_0ff0 | STEP), Some(STEP));
        assert_eq!(of_guest(0xffff_0ff0 | STEP | 1), Some(STEP));
        assert_eq!(of_guest(0xffff_0ff1), None);
        assert_eq!(of_guest(0xffff_0ff0 & !OWN), Some(0), "INT1");
    }

    /// Where the guest's handler leaves DR6, and where its table is.
    const SEEN: u64 = 0x4f00;
    const IDT: u64 = 0x4000;
    const IDTR: u64 = 0x4f80;
    const HANDLER: u64 = TINY_CODE + 0x100;

    /// A guest that sets TF, and halts in its #DB handler, or behind the step when none comes.
    fn stepping_guest() -> Result<Tiny, String> {
        let mut code = vec![0xbc];
        code.extend(0x4ef0u32.to_le_bytes()); // mov esp, 0x4ef0
        code.extend([0x0f, 0x01, 0x1c, 0x25]); // lidt [IDTR]
        code.extend(u32::try_from(IDTR).unwrap().to_le_bytes());
        code.push(0x9c); // pushfq
        code.extend([0x80, 0x4c, 0x24, 0x01, 0x01]); // or byte ptr [rsp + 1], 1
        code.extend([0x9d, 0x90, 0x90, 0x90, 0xf4]); // popfq, nops, hlt
        code.resize(0x100, 0x90);
        code.extend([0x0f, 0x21, 0xf0]); // mov rax, dr6
        code.extend([0x48, 0x89, 0x04, 0x25]); // mov [SEEN], rax
        code.extend(u32::try_from(SEEN).unwrap().to_le_bytes());
        code.push(0xf4);
        let guest = Tiny::new(&code, 0)?;
        // A code segment for the gate: the descriptor table begins at 0, with the page tables, whose second entry nothing uses.
        guest.write(8, &0x0020_9b00_0000_0000u64.to_le_bytes())?;
        let gate = HANDLER & 0xffff | 8 << 16 | 0x8e00 << 32 | (HANDLER >> 16) << 48;
        guest.write(IDT + 16, &gate.to_le_bytes())?;
        guest.write(IDT + 24, &0u64.to_le_bytes())?;
        guest.write(IDTR, &0xfffu16.to_le_bytes())?;
        guest.write(IDTR + 2, &IDT.to_le_bytes())?;
        Ok(guest)
    }

    #[test]
    fn a_guest_that_steps_itself_gets_its_exceptions_while_a_watch_is_armed() {
        let mut guest = match stepping_guest() {
            Ok(guest) => guest,
            Err(why) => return println!("skipped: {why}"),
        };
        let watches = Watches::default();
        let watch = Watch {
            gva: 0x1000_0000,
            len: 8,
            kind: WatchKind::Write,
        };
        watches.add(watch, false).unwrap();
        let mut armed = 0;
        let debug = watches.to_arm(&mut armed).unwrap();
        assert_eq!(debug.control, KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP);
        guest.reset(TINY_CODE).unwrap();
        guest.vcpu.set_guest_debug(&debug).unwrap();
        let mut given = 0;
        loop {
            match guest.vcpu.run().unwrap() {
                VcpuExit::Debug(exit) => {
                    let causes = of_guest(exit.dr6).expect("no register matched");
                    give_back(&guest.vcpu, &watches, &mut armed, causes, &[]).unwrap();
                    given += 1;
                    assert!(given < 10, "the guest makes no progress");
                }
                VcpuExit::Hlt => break,
                other => panic!("{other:?}"),
            }
        }
        let seen = guest.read(SEEN).unwrap();
        println!("{given} exceptions went through here; DR6 was {seen:#x}");
        assert_eq!(seen >> 14 & 1, 1, "the handler ran, and saw a step");
    }
}
