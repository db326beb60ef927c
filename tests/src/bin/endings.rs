//! How a run ends after its verdict, and what its callbacks may do: cases for `tests/endings.rs`.

#![allow(
    clippy::print_stdout,
    reason = "the cases print for the message to show"
)]

use std::fs;
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};
use ktstr::prelude::*;

/// Ends with a pass and leaves a shell that does something once the test's process is gone: its input ends then.
fn leave_behind(what: &str) -> Result<AssertResult> {
    let mut shell = Command::new("busybox");
    let script = format!("read line; {what}");
    let child = shell
        .args(["sh", "-c", &script])
        .stdin(Stdio::piped())
        .spawn()?;
    // Its input is closed by the end of this process alone.
    std::mem::forget(child);
    Ok(AssertResult::pass())
}

#[ktstr_test(topology = "1n1l1c1t", duration_s = 1, extra_include_files = ["busybox"], ignore)]
fn panics_after_its_verdict(_ctx: &Ctx) -> Result<AssertResult> {
    leave_behind("echo c > /proc/sysrq-trigger")
}

#[ktstr_test(topology = "1n1l1c1t", duration_s = 1, extra_include_files = ["busybox"], ignore)]
fn resets_after_its_verdict(_ctx: &Ctx) -> Result<AssertResult> {
    leave_behind("echo b > /proc/sysrq-trigger")
}

#[ktstr_test(topology = "1n1l1c1t", duration_s = 1, extra_include_files = ["busybox"], ignore)]
fn reboots_after_its_verdict(_ctx: &Ctx) -> Result<AssertResult> {
    leave_behind("busybox reboot -f")
}

declare_scheduler!(PANICKING, { name: "panicking", binary: "scx-fixture", sched_args: ["--at-stop", "panic"] });

/// The scheduler takes the kernel down when it is asked to stop.
#[ktstr_test(scheduler = PANICKING, topology = "1n1l1c1t", duration_s = 1, ignore)]
fn scheduler_panics_the_kernel_at_its_stop(ctx: &Ctx) -> Result<AssertResult> {
    execute_defs(ctx, vec![CgroupDef::named("only").workers(1)])
}

/// A wild pointer in the kernel's table of sysrq keys, which a child then follows: the child dies of it, the guest lives on.
fn oops(ctx: &Ctx) -> Result<AssertResult> {
    let write = Op::write_kernel_cold(
        KernelTarget::symbol("sysrq_key_table"),
        KernelValue::u64(0x10),
    );
    let step = Step::new(vec![write], HoldSpec::frac(0.1));
    let result = execute_steps(ctx, vec![step])?;
    ensure!(result.is_pass(), "{result:#?}");
    let mut shell = Command::new("busybox");
    shell.args(["sh", "-c", "echo 0 > /proc/sysrq-trigger"]);
    let status = shell.status()?;
    ensure!(!status.success(), "the shell survived: {status}");
    Ok(AssertResult::pass())
}

#[ktstr_test(topology = "1n1l1c1t", duration_s = 1, extra_include_files = ["busybox"], ignore)]
fn kernel_oops(ctx: &Ctx) -> Result<AssertResult> {
    oops(ctx)
}

#[ktstr_test(
    topology = "1n1l1c1t", duration_s = 1, extra_include_files = ["busybox"],
    allow_kernel_warning = "NULL pointer dereference|Oops", ignore
)]
fn kernel_oops_that_is_allowed(ctx: &Ctx) -> Result<AssertResult> {
    oops(ctx)
}

/// What a callback sees of a good run; then it fails as an assertion does.
fn panics(vm: &VmResult) -> Result<()> {
    ensure!(vm.success, "success is false after a pass");
    ensure!(
        vm.guest_kmsg().contains("Linux version"),
        "the kernel's log is missing"
    );
    assert_eq!(vm.periodic_real, 3, "captures");
    Ok(())
}

#[ktstr_test(topology = "1n1l1c1t", duration_s = 1, post_vm = panics, ignore)]
fn callback_panics(_ctx: &Ctx) -> Result<AssertResult> {
    Ok(AssertResult::pass())
}

fn cannot_judge(vm: &VmResult) -> Result<Verdict> {
    ensure!(vm.success, "success is false after a pass");
    Err(post_vm_skip("no capture came"))
}

#[ktstr_test(topology = "1n1l1c1t", duration_s = 1, post_vm = cannot_judge, ignore)]
fn callback_skips(_ctx: &Ctx) -> Result<AssertResult> {
    Ok(AssertResult::pass())
}

/// The evidence of a failure is there when the callback looks for it.
fn looks_at_the_dump(vm: &VmResult) -> Result<Verdict> {
    ensure!(!vm.success, "success is true after a failure");
    let path = vm.failure_dump_path()?;
    let dump = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let mut verdict = Verdict::new();
    claim!(verdict, dump.len()).at_most(1);
    Ok(verdict)
}

/// Prints more than a message shows, and fails with a line without end.
#[ktstr_test(topology = "1n1l1c1t", duration_s = 1, post_vm_unconditional = looks_at_the_dump, ignore)]
fn says_too_much(_ctx: &Ctx) -> Result<AssertResult> {
    for number in 0..100 {
        println!("\u{1b}[32mline {number}\u{1b}[0m");
    }
    let endless = "\u{1b}[31mred\u{1b}[0m ".repeat(100_000);
    Ok(AssertResult::fail(DetailKind::Other, endless))
}

#[ktstr_test(host_only, ignore)]
fn passes_on_the_host(_ctx: &Ctx) -> Result<AssertResult> {
    Ok(AssertResult::pass())
}

#[ktstr_test(host_only, ignore)]
fn inconclusive_on_the_host(_ctx: &Ctx) -> Result<AssertResult> {
    Ok(AssertResult::inconclusive(DetailKind::Other, "no clock"))
}

#[ktstr_test(topology = "1n1l1c1t", duration_s = 1, ignore)]
fn inconclusive_needs_a_place(_ctx: &Ctx) -> Result<AssertResult> {
    Ok(AssertResult::pass())
}

ktstr::test_main!();
