//! Which watches work on this host, found out with a guest of a few bytes.

use std::sync::OnceLock;

use kvm_bindings::{
    KVM_GUESTDBG_ENABLE, KVM_GUESTDBG_USE_HW_BP, KVM_MEM_READONLY, kvm_guest_debug,
};
use kvm_ioctls::VcpuExit;

use super::step::arm_step;
use crate::probe::{TINY_CODE, Tiny};
use crate::watch::{WatchMechanism, WatchSupport};

/// A word of the tiny guest, in a page without code or tables.
const WORD: u64 = 0x4000;

/// Whether KVM stops after a single instruction; measured once per process.
pub(super) fn can_step() -> bool {
    static CAN: OnceLock<bool> = OnceLock::new();
    *CAN.get_or_init(|| steps() == Ok(true))
}

/// Measured once per process.
pub(crate) fn mechanism() -> WatchSupport {
    static FOUND: OnceLock<WatchSupport> = OnceLock::new();
    FOUND
        .get_or_init(|| {
            judge(Found {
                register: fires_in_registers(),
                page: leaves_on_write(),
            })
        })
        .clone()
}

/// What a tiny guest met.
#[derive(Debug)]
struct Found {
    /// A debug register stopped it at its write.
    register: Result<bool, String>,
    /// It left at its write to a read-only page.
    page: Result<bool, String>,
}

fn judge(found: Found) -> WatchSupport {
    use WatchMechanism::{DebugRegisters, GuestMemory, Unavailable};
    let Found { register, page } = found;
    if register == Ok(true) {
        return WatchSupport {
            write: DebugRegisters,
            exec: DebugRegisters,
            why: String::from("a debug register stopped a tiny guest at its write"),
        };
    }
    let made_of = |found: &Result<bool, String>| match found {
        Ok(true) => GuestMemory,
        _ => Unavailable,
    };
    let words = |found: &Result<bool, String>| match found {
        Ok(true) => String::from("did"),
        Ok(false) => String::from("did not"),
        Err(error) => format!("could not ({error})"),
    };
    WatchSupport {
        write: made_of(&page),
        // The instruction that leaves the guest is port I/O, which any KVM hands out.
        exec: GuestMemory,
        why: format!(
            "a debug register {} stop a tiny guest, a read-only page {}",
            words(&register),
            words(&page)
        ),
    }
}

/// `mov [WORD], eax; hlt`.
fn tiny(flags: u32) -> Result<Tiny, String> {
    let mut code = vec![0x89, 0x04, 0x25];
    code.extend(u32::try_from(WORD).unwrap_or(0).to_le_bytes());
    code.push(0xf4);
    Tiny::new(&code, flags)
}

fn fires_in_registers() -> Result<bool, String> {
    let mut guest = tiny(0)?;
    let mut debug = kvm_guest_debug {
        control: KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP,
        ..Default::default()
    };
    debug.arch.debugreg[0] = WORD;
    // Slot 0: enabled, a write, four bytes (Intel SDM 3, "Debug Control Register").
    debug.arch.debugreg[7] = 0x700 | 0b11 | 0b1101 << 16;
    guest
        .vcpu
        .set_guest_debug(&debug)
        .map_err(|error| error.to_string())?;
    guest.run(TINY_CODE, |exit| matches!(exit, VcpuExit::Debug(_)))
}

fn leaves_on_write() -> Result<bool, String> {
    let mut guest = tiny(KVM_MEM_READONLY)?;
    guest.run(
        TINY_CODE,
        |exit| matches!(exit, VcpuExit::MmioWrite(gpa, _) if *gpa == WORD),
    )
}

fn steps() -> Result<bool, String> {
    const NOP_AND_HLT: [u8; 2] = [0x90, 0xf4];
    let mut guest = Tiny::new(&NOP_AND_HLT, 0)?;
    arm_step(&guest.vcpu).map_err(|error| error.to_string())?;
    guest.run(TINY_CODE, |exit| matches!(exit, VcpuExit::Debug(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(found: [Result<bool, &str>; 2], write: WatchMechanism, exec: WatchMechanism) {
        let [register, page] = found.map(|found| found.map_err(Into::into));
        let support = judge(Found { register, page });
        assert_eq!((support.write, support.exec), (write, exec));
        assert!(!support.why.is_empty() && !support.why.contains('\n'));
    }

    #[test]
    fn the_best_that_fires_is_taken() {
        use WatchMechanism::{DebugRegisters, GuestMemory, Unavailable};
        check([Ok(true), Ok(true)], DebugRegisters, DebugRegisters);
        check([Ok(true), Err("no slots")], DebugRegisters, DebugRegisters);
        check([Ok(false), Ok(true)], GuestMemory, GuestMemory);
        check([Err("EINVAL"), Ok(false)], Unavailable, GuestMemory);
        check([Ok(false), Err("no slots")], Unavailable, GuestMemory);
    }

    #[test]
    fn this_host_is_judged() {
        println!("{:?}", mechanism());
    }
}
