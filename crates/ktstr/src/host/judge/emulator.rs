//! A guest's death that the emulator brought about, told from the guest's own words.

use ktstr_vmm::Engine;

use crate::host::judge::text::strip_ansi;
use crate::model::result::VmResult;
use crate::model::verdict::{AssertDetail, DetailKind};

/// The kernel's word for a breakpoint of its own text that is not registered (`arch/x86/kernel/traps.c: exc_int3`).
const OOPS: &str = "Oops: int3";
/// Lines after it in which the registers and the code stand.
const MAX_LINES: usize = 40;
/// The instruction `int3`.
const INT3: u8 = 0xcc;

/// What to say where the emulator ran a breakpoint that was not in the kernel's text any more.
///
/// While the kernel changes its text, each changed instruction begins with `int3` for a moment. QEMU before 8.1 may translate that
/// byte on one vCPU while another takes it out again, and keeps the translation (mended by its commit deba78709a,
/// "accel/tcg: Always lock pages before translation").
pub(in crate::host) fn stale_breakpoint(vm: &VmResult) -> Option<AssertDetail> {
    if vm.engine != Engine::Tcg {
        return None;
    }
    let found =
        byte_before_rip(&strip_ansi(&vm.stderr)).or_else(|| byte_before_rip(&vm.guest_kmsg()));
    let byte = found.filter(|byte| *byte != INT3)?;
    Some(AssertDetail::fail(
        DetailKind::EngineDied,
        format!(
            "the emulator broke the guest's kernel: it took a breakpoint (\"{OOPS}\") where the kernel's text has {byte:#04x} \
             and no int3; QEMU before 8.1 does that. Name a newer one in KTSTR_QEMU"
        ),
    ))
}

/// The byte before that at RIP, by the `Code:` line of a first [`OOPS`]: the one that the trap was taken for.
fn byte_before_rip(log: &str) -> Option<u8> {
    let oops = log.get(log.find(OOPS)?..)?;
    let code = oops
        .lines()
        .take(MAX_LINES)
        .find_map(|line| Some(line.split_once("Code: ")?.1))?;
    let (before, _) = code.split_once('<')?;
    u8::from_str_radix(before.split_whitespace().last()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ktstr_wire::Message;

    use crate::host::judge::made_up::with_messages;

    /// An oops as Linux 7.3 writes it, with this code around RIP.
    fn oops(code: &str) -> String {
        format!(
            "[    0.412345] Oops: int3: 0000 [#1] SMP\r\n[    0.412346] CPU: 1 UID: 0 PID: 0 Comm: swapper/1\r\n\
             [    0.412347] RIP: 0010:sched_clock_cpu+0x6/0x90\r\n[    0.412348] Code: {code}\r\n"
        )
    }

    #[track_caller]
    fn check(vm: &VmResult, expected: Option<&str>) {
        let found = stale_breakpoint(vm);
        let text = found.as_ref().map(|detail| detail.message.as_str());
        match (text, expected) {
            (Some(text), Some(part)) => assert!(text.contains(part), "{text}"),
            (found, expected) => assert_eq!(found, expected),
        }
    }

    fn on_console(text: &str) -> VmResult {
        VmResult {
            stderr: text.to_owned(),
            ..with_messages(&[])
        }
    }

    const STALE: &str = "90 90 f3 0f 1e fa 0f <1f> 44 00 00 55";

    #[test]
    fn a_breakpoint_that_is_not_there_is_the_emulators() {
        let words = "text has 0x0f and no int3; QEMU before 8.1";
        check(&on_console(&oops(STALE)), Some(words));
        let log = format!("4,1,412345,-;{}", oops(STALE));
        check(&with_messages(&[Message::Dmesg(log.into())]), Some(words));
    }

    #[test]
    fn one_that_is_there_is_the_kernels() {
        check(&on_console(&oops("f3 0f 1e fa cc <1f> 44 00 00 55")), None);
    }

    #[test]
    fn what_proves_nothing_says_nothing() {
        for text in [
            String::new(),
            oops("Unable to access opcode bytes at 0x7f."),
            oops("<1f> 44 00"),
            oops("zz <1f>"),
            oops(STALE).replace("int3", "general protection fault"),
        ] {
            check(&on_console(&text), None);
        }
        let on_kvm = VmResult {
            engine: Engine::Kvm,
            ..on_console(&oops(STALE))
        };
        check(&on_kvm, None);
    }
}
