//! The test binary that the whole-system tests run: what a user's own tests look like, right and wrong ones.
//!
//! Every case is ignored by default, because many fail on purpose; `tests/verdicts.rs` runs them one by one and looks at
//! the exit code, the message and the artifacts. A failure is run again with probes (`auto_repro`) only where that is looked at:
//! here for one CPU, else in `captures.rs`.

use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use ktstr::prelude::*;
use ktstr_tests::ask_around;

declare_scheduler!(FIXTURE, { name: "fixture", binary: "scx-fixture" });
declare_scheduler!(MISSING, { name: "missing", binary: "scx-no-such-scheduler" });
declare_scheduler!(CRASHING, { name: "crashing", binary: "scx-fixture", sched_args: ["--no-such-flag"] });
declare_scheduler!(UNVERIFIABLE, { name: "unverifiable", binary: "scx-fixture", sched_args: ["--fail-verify"] });
declare_scheduler!(STARVING, { name: "starving", binary: "scx-fixture", sched_args: ["--starve-pct", "50"] });
declare_scheduler!(STALLING, { name: "stalling", binary: "scx-fixture", sched_args: ["--stall", "--fault-after-ms", "2000"] });
declare_scheduler!(ERRORING, { name: "erroring", binary: "scx-fixture", sched_args: ["--error", "queue seven is gone", "--fault-after-ms", "2000"] });
declare_scheduler!(LEAVING, { name: "leaving", binary: "scx-fixture", sched_args: ["--exit-after-s", "2"] });

// Only tasks of SCHED_EXT are theirs; the second one loses a task.
declare_scheduler!(PARTIAL, { name: "partial", binary: "scx-fixture", sched_args: ["--partial"] });
declare_scheduler!(PARTIAL_LOSING, { name: "partial-losing", binary: "scx-fixture", sched_args: ["--partial", "--stall"] });

declare_scheduler!(STRAYING, { name: "straying", binary: "scx-fixture", sched_args: ["--ignore-cpusets"] });

fn two_groups(ctx: &Ctx) -> Result<AssertResult> {
    execute_defs(
        ctx,
        vec![
            CgroupDef::named("left")
                .workers(2)
                .cpuset(CpusetSpec::llc(0)),
            CgroupDef::named("right")
                .workers(2)
                .cpuset(CpusetSpec::llc(1)),
        ],
    )
}

/// The kernel's own scheduler, two groups on two LLCs.
#[ktstr_test(topology = "1n2l2c1t", duration_s = 3, not_stuck, isolation, ignore)]
fn eevdf_two_groups(ctx: &Ctx) -> Result<AssertResult> {
    two_groups(ctx)
}

/// The same under the fixture.
#[ktstr_test(scheduler = FIXTURE, topology = "1n2l2c1t", duration_s = 3, not_stuck, isolation, ignore)]
fn fixture_two_groups(ctx: &Ctx) -> Result<AssertResult> {
    two_groups(ctx)
}

/// A check of what some kernels do not count.
#[ktstr_test(
    scheduler = FIXTURE, topology = "1n1l2c1t", duration_s = 2, enforce_monitor_thresholds, max_fallback_rate = 0.5, ignore
)]
fn fallbacks_that_may_not_be_counted(ctx: &Ctx) -> Result<AssertResult> {
    execute_defs(ctx, vec![CgroupDef::named("only").workers(2)])
}

/// Every work type of this stage, side by side.
#[ktstr_test(scheduler = FIXTURE, topology = "1n1l2c1t", duration_s = 3, ignore)]
fn fixture_mixed_work(ctx: &Ctx) -> Result<AssertResult> {
    execute_defs(
        ctx,
        vec![
            CgroupDef::named("spin")
                .workers(1)
                .work_type(WorkType::SpinWait),
            CgroupDef::named("yield")
                .workers(1)
                .work_type(WorkType::YieldHeavy),
            CgroupDef::named("futex")
                .workers(2)
                .work_type(WorkType::FutexPingPong { spin_iters: 64 }),
            CgroupDef::named("burst")
                .workers(1)
                .work_type(WorkType::Bursty {
                    burst_duration: Duration::from_millis(20),
                    sleep_duration: Duration::from_millis(20),
                }),
        ],
    )
}

/// The smallest whole test: what a run costs beside its scenario.
#[ktstr_test(topology = "1n1l1c1t", duration_s = 1, ignore)]
fn smallest(ctx: &Ctx) -> Result<AssertResult> {
    execute_defs(ctx, vec![CgroupDef::named("only").workers(1)])
}

/// What a copy of a booted guest costs, beside a boot: `cargo xtask bench`.
#[ktstr_test(topology = "1n1l1c1t", time = "virtual", duration_s = 1, ignore)]
fn fork_of_1(_: &Ctx) -> Result<AssertResult> {
    Ok(AssertResult::pass())
}

#[ktstr_test(topology = "1n1l4c1t", time = "virtual", duration_s = 1, ignore)]
fn fork_of_4(_: &Ctx) -> Result<AssertResult> {
    Ok(AssertResult::pass())
}

#[ktstr_test(topology = "1n2l8c1t", time = "virtual", duration_s = 1, ignore)]
fn fork_of_16(_: &Ctx) -> Result<AssertResult> {
    Ok(AssertResult::pass())
}

#[ktstr_test(topology = "1n8l8c1t", time = "virtual", duration_s = 1, ignore)]
fn fork_of_64(_: &Ctx) -> Result<AssertResult> {
    Ok(AssertResult::pass())
}

/// The fixture on a single CPU: for the lab, too.
#[ktstr_test(scheduler = FIXTURE, topology = "1n1l1c1t", duration_s = 3, ignore)]
fn fixture_one_cpu(ctx: &Ctx) -> Result<AssertResult> {
    execute_defs(ctx, vec![CgroupDef::named("only").workers(1)])
}

/// Its fault on a single CPU.
#[ktstr_test(scheduler = ERRORING, topology = "1n1l1c1t", duration_s = 8, ignore)]
fn erroring_one_cpu(ctx: &Ctx) -> Result<AssertResult> {
    execute_defs(ctx, vec![CgroupDef::named("only").workers(1)])
}

/// What the guest's own drivers did is what the host's devices counted.
fn devices_were_used(result: &VmResult) -> Result<()> {
    let disk = result.virtio_blk_counters.context("no disk")?;
    ensure!(
        disk.writes_completed > 0 && disk.flushes_completed > 0,
        "{disk:?}"
    );
    ensure!(disk.throttled_count > 0, "200 requests a second: {disk:?}");
    ensure!(disk.io_errors == 0, "{disk:?}");
    let [net] = result.virtio_net_counters[..] else {
        bail!("{:?}", result.virtio_net_counters);
    };
    ensure!(
        net.tx_packets >= 3 && net.tx_packets == net.rx_packets,
        "{net:?}"
    );
    Ok(())
}

/// Workers write a slow disk, and frames come back.
#[ktstr_test(
    scheduler = FIXTURE, topology = "1n1l2c1t", duration_s = 3,
    disk = DiskConfig::DEFAULT.capacity_mib(16).iops(200),
    networks = &[NetConfig::DEFAULT.mac([2, 0, 0, 0, 0, 7])],
    extra_include_files = ["busybox"], post_vm = devices_were_used, ignore
)]
fn disk_and_network(ctx: &Ctx) -> Result<AssertResult> {
    let size = std::fs::read_to_string("/sys/block/vda/size")?;
    ensure!(size.trim() == "32768", "{size} sectors");
    let mac = std::fs::read_to_string("/sys/class/net/eth0/address")?;
    ensure!(mac.trim() == "02:00:00:00:00:07", "{mac}");
    ask_around("eth0", 3)?;
    execute_defs(
        ctx,
        vec![
            CgroupDef::named("io")
                .workers(2)
                .work_type(WorkType::IoSyncWrite),
        ],
    )
}

#[ktstr_test(scheduler = STARVING, topology = "1n1l2c1t", duration_s = 6, not_stuck, ignore)]
fn starving_fixture(ctx: &Ctx) -> Result<AssertResult> {
    execute_defs(ctx, vec![CgroupDef::named("all").workers(6)])
}

/// Eight tasks for one CPU, and one for the other: the monitor's ratio of the two runqueues is about 8.
fn lopsided(ctx: &Ctx) -> Result<AssertResult> {
    let on = |name, cpu| CgroupDef::named(name).cpuset(CpusetSpec::exact([cpu]));
    let defs = vec![on("crowd", 0).workers(8), on("alone", 1).workers(1)];
    execute_defs(ctx, defs)
}

#[ktstr_test(
    scheduler = FIXTURE, topology = "1n1l2c1t", duration_s = 4,
    enforce_monitor_thresholds, max_imbalance_ratio = 2.0, auto_repro = false, ignore
)]
fn lopsided_beyond_the_threshold(ctx: &Ctx) -> Result<AssertResult> {
    lopsided(ctx)
}

#[ktstr_test(
    scheduler = FIXTURE, topology = "1n1l2c1t", duration_s = 4,
    enforce_monitor_thresholds, max_imbalance_ratio = 50.0, auto_repro = false, ignore
)]
fn lopsided_within_the_threshold(ctx: &Ctx) -> Result<AssertResult> {
    lopsided(ctx)
}

/// Threads are sent to CPUs outside of their group's set.
#[ktstr_test(scheduler = STRAYING, topology = "1n2l2c1t", duration_s = 4, isolation, auto_repro = false, ignore)]
fn straying_fixture(ctx: &Ctx) -> Result<AssertResult> {
    two_groups(ctx)
}

#[ktstr_test(scheduler = STALLING, topology = "1n1l2c1t", duration_s = 15, not_stuck, auto_repro = false, ignore)]
fn stalling_fixture(ctx: &Ctx) -> Result<AssertResult> {
    execute_defs(ctx, vec![CgroupDef::named("all").workers(4)])
}

#[ktstr_test(scheduler = ERRORING, topology = "1n1l2c1t", duration_s = 8, auto_repro = false, ignore)]
fn erroring_fixture(ctx: &Ctx) -> Result<AssertResult> {
    execute_defs(ctx, vec![CgroupDef::named("all").workers(2)])
}

/// The same fault, declared as expected.
#[ktstr_test(
    scheduler = ERRORING, topology = "1n1l2c1t", duration_s = 8,
    expect_err, expect_scx_bpf_error_contains = "queue seven is gone", ignore
)]
fn expected_error(ctx: &Ctx) -> Result<AssertResult> {
    execute_defs(ctx, vec![CgroupDef::named("all").workers(2)])
}

/// An expectation that the fault does not meet.
#[ktstr_test(
    scheduler = ERRORING, topology = "1n1l2c1t", duration_s = 8,
    expect_err, expect_scx_bpf_error_contains = "some other text", ignore
)]
fn unmet_expectation(ctx: &Ctx) -> Result<AssertResult> {
    execute_defs(ctx, vec![CgroupDef::named("all").workers(2)])
}

#[ktstr_test(scheduler = LEAVING, topology = "1n1l2c1t", duration_s = 8, ignore)]
fn leaving_fixture(ctx: &Ctx) -> Result<AssertResult> {
    execute_defs(ctx, vec![CgroupDef::named("all").workers(2)])
}

#[ktstr_test(scheduler = UNVERIFIABLE, topology = "1n1l1c1t", duration_s = 2, ignore)]
fn unverifiable_fixture(ctx: &Ctx) -> Result<AssertResult> {
    execute_defs(ctx, vec![CgroupDef::named("all").workers(1)])
}

#[ktstr_test(scheduler = CRASHING, topology = "1n1l1c1t", duration_s = 2, ignore)]
fn scheduler_refuses_to_start(ctx: &Ctx) -> Result<AssertResult> {
    execute_defs(ctx, vec![CgroupDef::named("all").workers(1)])
}

#[ktstr_test(scheduler = MISSING, topology = "1n1l1c1t", duration_s = 2, ignore)]
fn scheduler_missing(ctx: &Ctx) -> Result<AssertResult> {
    execute_defs(ctx, vec![CgroupDef::named("all").workers(1)])
}

#[ktstr_test(topology = "1n1l1c1t", duration_s = 2, ignore)]
fn function_panics(_ctx: &Ctx) -> Result<AssertResult> {
    panic!("a bug in the test itself");
}

#[ktstr_test(topology = "1n1l1c1t", duration_s = 2, ignore)]
fn function_errs(_ctx: &Ctx) -> Result<AssertResult> {
    anyhow::bail!("the test could not be set up")
}

/// A fatal signal of the test's process, which is a copy of init and must not die as init does.
#[ktstr_test(topology = "1n1l1c1t", duration_s = 2, ignore)]
fn stack_overflows(_ctx: &Ctx) -> Result<AssertResult> {
    anyhow::bail!("the stack held {} frames", ktstr_tests::deeper(0))
}

#[ktstr_test(topology = "1n1l1c1t", duration_s = 2, ignore)]
fn guest_kernel_panics(_ctx: &Ctx) -> Result<AssertResult> {
    std::fs::write("/proc/sysrq-trigger", "c")?;
    anyhow::bail!("the kernel survived sysrq-c")
}

#[ktstr_test(topology = "1n1l1c1t", duration_s = 2, ignore)]
fn init_killed(_ctx: &Ctx) -> Result<AssertResult> {
    // PID 1 ignores signals it has no handler for, even SIGKILL; a fatal fault cannot be ignored.
    ktstr_tests::crash_pid1()?;
    ktstr_tests::wait_forever()
}

#[ktstr_test(topology = "1n1l1c1t", duration_s = 1, watchdog_timeout_s = 1, ignore)]
fn deadline_hit(_ctx: &Ctx) -> Result<AssertResult> {
    ktstr_tests::wait_forever()
}

/// The same expectation as a pattern.
#[ktstr_test(
    scheduler = ERRORING, topology = "1n1l2c1t", duration_s = 8,
    expect_err, expect_scx_bpf_error_matches = "queue (six|seven) is gone$", ignore
)]
fn expected_pattern(ctx: &Ctx) -> Result<AssertResult> {
    execute_defs(ctx, vec![CgroupDef::named("all").workers(2)])
}

/// Runs in the runner's own process.
#[ktstr_test(host_only, ignore)]
fn on_the_host(_ctx: &Ctx) -> Result<AssertResult> {
    anyhow::ensure!(std::process::id() != 1, "this is no host");
    Ok(AssertResult::pass())
}

#[ktstr_test(host_only, ignore)]
fn panics_on_the_host(_ctx: &Ctx) -> Result<AssertResult> {
    panic!("no VM was hurt");
}

/// Hangs until the test that runs it kills the emulator.
#[ktstr_test(topology = "1n1l1c1t", duration_s = 60, ignore)]
fn emulator_killed(_ctx: &Ctx) -> Result<AssertResult> {
    ktstr_tests::wait_forever()
}

/// Fields become claims.
#[derive(Claim)]
struct Load {
    cpus: usize,
    one_minute: f64,
}

#[ktstr_test(topology = "1n1l2c1t", duration_s = 1, ignore)]
fn derived_claims(ctx: &Ctx) -> Result<AssertResult> {
    let text = std::fs::read_to_string("/proc/loadavg")?;
    let one_minute = text.split(' ').next().unwrap_or_default().parse()?;
    let load = Load {
        cpus: std::thread::available_parallelism()?.get(),
        one_minute,
    };
    let mut verdict = Verdict::new();
    load.claim_cpus(&mut verdict).eq(2);
    load.claim_one_minute(&mut verdict).is_finite();
    claim!(verdict, ctx.duration().as_secs()).at_least(9);
    Ok(verdict.into_result())
}

/// What is declared is less than any guest of ours gets.
#[ktstr_test(topology = "1n1l1c1t", duration_s = 1, memory_mib = 32, ignore)]
fn declares_little_memory(ctx: &Ctx) -> Result<AssertResult> {
    let total = std::fs::read_to_string("/proc/meminfo")?;
    let kib = total.split_whitespace().nth(1).unwrap_or_default();
    let mib = kib.parse::<u64>()? / 1024;
    anyhow::ensure!((150..=256).contains(&mib), "{mib} MiB");
    execute_defs(ctx, vec![CgroupDef::named("only").workers(1)])
}

#[ktstr_test(topology = "1n1l1c1t", duration_s = 1, performance_mode, ignore)]
fn needs_performance_mode(ctx: &Ctx) -> Result<AssertResult> {
    execute_defs(ctx, vec![CgroupDef::named("only").workers(1)])
}

#[ktstr_test(topology = "1n1l1c1t", duration_s = 1, ignore)]
fn inconclusive(_ctx: &Ctx) -> Result<AssertResult> {
    Ok(AssertResult::inconclusive(
        DetailKind::Other,
        "the clock could not be read",
    ))
}

#[ktstr_test(topology = "1n1l1c1t", duration_s = 1, ignore)]
fn guest_skips(_ctx: &Ctx) -> Result<AssertResult> {
    Ok(AssertResult::skip("no such device in this guest"))
}

/// Two nodes with two LLCs each, as the guest's own sysfs tells.
#[ktstr_test(topology = "2n4l1c2t", duration_s = 1, memory_mib = 512, ignore)]
fn topology_is_real(_ctx: &Ctx) -> Result<AssertResult> {
    ktstr_tests::check_sysfs_topology(2, 4, 1, 2)
}

fn post_vm_refuses(_result: &VmResult) -> Result<()> {
    anyhow::bail!("the callback did not like it")
}

#[ktstr_test(topology = "1n1l1c1t", duration_s = 1, post_vm = post_vm_refuses, ignore)]
fn post_vm_fails(ctx: &Ctx) -> Result<AssertResult> {
    execute_defs(ctx, vec![CgroupDef::named("only").workers(1)])
}

ktstr::test_main!();
