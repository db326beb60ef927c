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
/// Turns of the loop per long round; two instructions each. A host that emulates takes milliseconds for a round, and it ends
/// by itself.
const TURNS: u32 = 1000;
/// Rounds of each length that are always run, and those that a host which looks slow is given beyond: an engine is not ruled
/// out because the host was busy for a moment.
const ROUNDS: std::ops::Range<u32> = 3..24;

/// `mov ecx, turns; 1: dec ecx; jnz 1b; hlt` (Intel SDM, volume 2).
fn code(turns: u32) -> Vec<u8> {
    let mut code = vec![0xb9];
    code.extend(turns.to_le_bytes());
    code.extend([0xff, 0xc9, 0x75, 0xfc, 0xf4]);
    code
}

/// Time per guest instruction, without entry and exit of the guest. More rounds are run while it looks longer than `enough`.
///
/// # Errors
/// What /dev/kvm refused, in words.
pub(super) fn per_instruction(enough: Duration) -> Result<Duration, String> {
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
    fastest(enough, |turns| {
        memory
            .write_slice(&code(turns), GuestAddress(CODE))
            .map_err(|error| format!("no memory for the probe's guest: {error}"))?;
        round(&mut vcpu)
    })
}

/// Runs rounds of one turn and of [`TURNS`]; what the fastest of the long ones took beyond the fastest of the short ones, by
/// instruction. What disturbs a round only ever makes it longer.
fn fastest(
    enough: Duration,
    mut round: impl FnMut(u32) -> Result<Duration, String>,
) -> Result<Duration, String> {
    let (mut short, mut long) = (Duration::MAX, Duration::MAX);
    let mut per_instruction = Duration::MAX;
    for done in 1..=ROUNDS.end {
        short = short.min(round(1)?);
        long = long.min(round(TURNS)?);
        per_instruction = long.saturating_sub(short) / ((TURNS - 1) * 2);
        if done >= ROUNDS.start && per_instruction <= enough {
            break;
        }
    }
    Ok(per_instruction)
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
        .write_slice(&code(TURNS), GuestAddress(CODE))
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
            code(1000),
            [0xb9, 0xe8, 0x03, 0, 0, 0xff, 0xc9, 0x75, 0xfc, 0xf4]
        );
    }

    /// A machine of `per_instruction_ns` that is held up for a while in all rounds but `quiet`.
    #[track_caller]
    fn check(per_instruction_ns: u64, quiet: u32, expected_ns: std::ops::RangeInclusive<u128>) {
        let mut rounds = 0;
        let found = fastest(Duration::from_nanos(200), |turns| {
            rounds += 1;
            let held_up = if rounds / 2 == quiet { 0 } else { 5_000_000 };
            let code = u64::from(turns) * 2 * per_instruction_ns;
            Ok(Duration::from_nanos(
                90_000 + code + held_up * u64::from(turns > 1),
            ))
        });
        let found = found.unwrap().as_nanos();
        assert!(expected_ns.contains(&found), "{found} ns");
    }

    #[test]
    fn a_busy_host_is_not_taken_for_an_emulating_one() {
        check(20, 17, 20..=20);
        check(20, 2, 20..=20);
        check(1900, 3, 1900..=1900);
    }

    /// On any machine: a time, or words that name what is missing.
    #[test]
    fn the_probe_ends_with_a_time_or_a_reason() {
        match per_instruction(Duration::from_nanos(200)) {
            Ok(time) => assert!(time < Duration::from_millis(1), "{time:?}"),
            Err(why) => assert!(why.contains("/dev/kvm"), "{why}"),
        }
    }
}
