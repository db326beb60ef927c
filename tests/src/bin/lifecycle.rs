//! Schedulers' lives as their authors declare them, and what becomes of a test when they go otherwise.
//!
//! Every case is ignored by default; `tests/lifecycle.rs` runs them one by one.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use ktstr::prelude::*;

declare_scheduler!(BROKEN_SWITCH, { name: "broken", kernel_builtin_enable: ["echo nobody is home; exit 3"], kernel_builtin_disable: [] });
declare_scheduler!(SWITCH, {
    name: "switch",
    // The workload's place is there before it, with the controllers.
    kernel_builtin_enable: ["grep -q cpuset /sys/fs/cgroup/ktstr/cgroup.subtree_control", "echo 7 > /proc/sys/kernel/panic"],
    kernel_builtin_disable: ["echo 0 > /proc/sys/kernel/panic"],
});
declare_scheduler!(JAMMED, {
    name: "jammed", kernel_builtin_enable: ["true"], kernel_builtin_disable: ["echo cannot let go >&2; exit 4"],
});
declare_scheduler!(DECLARED, {
    name: "declared",
    binary: "scx-fixture",
    sched_args: ["--slow-pct", "1"],
    config_file: "src/bin/lifecycle.conf",
    cgroup_parent: "/cells/mine",
    env: [("RUST_LOG", "declared=trace"), ("OWN", "1")],
    kernels: ["5.0..99.0"],
});
declare_scheduler!(LACKING, {
    name: "lacking",
    binary: "scx-fixture",
    sysctls: [Sysctl::new("kernel.no_such_setting", "1")],
    kargs: ["maxcpus=1", "no_such_parameter=5"],
});
declare_scheduler!(ELSEWHERE, { name: "elsewhere", binary: "scx-fixture", kernels: ["2.6..3.2"] });
declare_scheduler!(FIXTURE, { name: "fixture", binary: "scx-fixture" });
declare_scheduler!(REFUSING, { name: "refusing", binary: "scx-fixture", sched_args: ["--no-such-flag"] });
declare_scheduler!(RESTARTING, {
    name: "restarting", binary: "scx-fixture", sched_args: ["--restart-after-ms", "1500"],
    config_file_def: ("--config {file}", "/etc/restarting.conf"),
});
declare_scheduler!(UNTIDY, {
    name: "untidy", binary: "scx-fixture", sched_args: ["--stop-status", "5", "--leave-child"],
});

declare_scheduler!(ABORTING, { name: "aborting", binary: "scx-fixture", sched_args: ["--at-stop", "abort"] });
declare_scheduler!(STAYING, { name: "staying", binary: "scx-fixture", sched_args: ["--at-stop", "hang"] });
declare_scheduler!(CONFIGURED, {
    name: "configured", binary: "scx-fixture", config_file_def: ("--config {file}", "/etc/configured.conf"),
});

macro_rules! ten {
    ($text:expr) => {
        concat!(
            $text, $text, $text, $text, $text, $text, $text, $text, $text, $text
        )
    };
}

/// More lines than a message shows; the scheduler says all of them.
const MANY_LINES: &str = concat!(
    "the first of many\n",
    ten!(ten!("one\ntwo\nthree\n")),
    "the last"
);

fn one_worker(ctx: &Ctx) -> Result<AssertResult> {
    execute_defs(ctx, vec![CgroupDef::named("only").workers(1)])
}

#[ktstr_test(scheduler = BROKEN_SWITCH, topology = "1n1l1c1t", duration_s = 1, ignore)]
fn switch_fails(ctx: &Ctx) -> Result<AssertResult> {
    one_worker(ctx)
}

#[ktstr_test(scheduler = JAMMED, topology = "1n1l1c1t", duration_s = 1, ignore)]
fn switch_does_not_let_go(ctx: &Ctx) -> Result<AssertResult> {
    one_worker(ctx)
}

fn setting() -> Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/panic")?
        .trim()
        .to_owned())
}

/// On before the test, off after a detach, on again after an attach.
#[ktstr_test(scheduler = SWITCH, topology = "1n1l1c1t", duration_s = 1, ignore)]
fn switch_works(ctx: &Ctx) -> Result<AssertResult> {
    ensure!(
        setting()? == "7",
        "the commands did not run: {}",
        setting()?
    );
    let hold = HoldSpec::fixed(Duration::from_millis(100));
    let off = execute_steps(ctx, vec![Step::new(vec![Op::DetachScheduler], hold)])?;
    ensure!(setting()? == "0", "not turned off: {}", setting()?);
    let now = ctx.current_scheduler();
    ensure!(now.is_none(), "stopped, and still {now:?}");
    let on = execute_steps(
        ctx,
        vec![Step::new(vec![Op::attach_scheduler(&SWITCH)], hold)],
    )?;
    ensure!(setting()? == "7", "not turned on again: {}", setting()?);
    let now = ctx.current_scheduler().map(|scheduler| scheduler.name);
    ensure!(now == Some(SWITCH.name), "started again, and now {now:?}");
    Ok(off.merged(on).merged(one_worker(ctx)?))
}

/// Each key of the declaration is seen in the guest; latency checks concern the sleepers alone.
#[ktstr_test(
    scheduler = DECLARED, topology = "1n1l2c1t", duration_s = 2,
    max_p99_wake_latency_ns = 5_000_000_000, max_wake_latency_cv = 1000.0, ignore
)]
fn declaration_takes_effect(ctx: &Ctx) -> Result<AssertResult> {
    let pid = ctx.scheduler_pid().context("no scheduler process")?;
    let split = |file: &str| -> Result<Vec<String>> {
        let text = fs::read_to_string(format!("/proc/{pid}/{file}"))?;
        Ok(text.split('\0').map(str::to_owned).collect())
    };
    let args = split("cmdline")?;
    let wanted = [
        "--config",
        "/include-files/lifecycle.conf",
        "--slow-pct",
        "1",
    ];
    ensure!(
        args.get(1..5) == Some(&wanted.map(str::to_owned)[..]),
        "{args:?}"
    );
    let env = split("environ")?;
    for variable in ["RUST_LOG=declared=trace", "OWN=1"] {
        ensure!(
            env.iter().any(|one| one == variable),
            "{variable} is not in {env:?}"
        );
    }
    let parent = Path::new("/sys/fs/cgroup/cells/mine");
    let on = fs::read_to_string(parent.join("cgroup.subtree_control"))?;
    ensure!(
        on.contains("cpuset") && on.contains("cpu"),
        "controllers: {on}"
    );
    ensure!(ctx.workload_root() == parent, "{:?}", ctx.workload_root());
    execute_defs(
        ctx,
        vec![
            CgroupDef::named("spinners").workers(1),
            CgroupDef::named("sleepers")
                .workers(2)
                .work_type(WorkType::bursty(
                    Duration::from_millis(5),
                    Duration::from_millis(5),
                )),
        ],
    )
}

#[ktstr_test(scheduler = LACKING, topology = "1n1l2c1t", duration_s = 1, ignore)]
fn guest_lacks_what_was_declared(ctx: &Ctx) -> Result<AssertResult> {
    one_worker(ctx)
}

#[ktstr_test(scheduler = ELSEWHERE, topology = "1n1l1c1t", duration_s = 1, ignore)]
fn declared_for_another_kernel(ctx: &Ctx) -> Result<AssertResult> {
    one_worker(ctx)
}

/// Its own scheduler runs on any kernel; the one that may take its place does not.
#[ktstr_test(scheduler = FIXTURE, staged_schedulers = [ELSEWHERE], topology = "1n1l1c1t", duration_s = 1, ignore)]
fn staged_for_another_kernel(ctx: &Ctx) -> Result<AssertResult> {
    one_worker(ctx)
}

/// The second step would run under the kernel's own scheduler.
#[ktstr_test(
    scheduler = FIXTURE, staged_schedulers = [REFUSING], topology = "1n1l1c1t", duration_s = 2, auto_repro = false, ignore
)]
fn replacement_never_attaches(ctx: &Ctx) -> Result<AssertResult> {
    first_this(ctx, Op::replace_scheduler(&REFUSING))
}

/// A step with this operation, and one with a worker.
fn first_this(ctx: &Ctx, op: Op) -> Result<AssertResult> {
    execute_steps(
        ctx,
        vec![
            Step::new(vec![op], HoldSpec::frac(0.5)),
            Step::with_defs(
                vec![CgroupDef::named("later").workers(1)],
                HoldSpec::frac(0.5),
            ),
        ],
    )
}

/// A second scenario is not watched by the process that the first has replaced.
#[ktstr_test(scheduler = FIXTURE, topology = "1n1l1c1t", duration_s = 2, ignore)]
fn second_scenario_after_a_restart(ctx: &Ctx) -> Result<AssertResult> {
    let hold = HoldSpec::fixed(Duration::from_millis(300));
    let first = execute_steps(ctx, vec![Step::new(vec![Op::RestartScheduler], hold)])?;
    Ok(first.merged(one_worker(ctx)?))
}

/// It reads the configuration that its test says, and would not start without.
#[ktstr_test(scheduler = RESTARTING, config = "layers = 4", topology = "1n1l1c1t", duration_s = 8, ignore)]
fn scheduler_restarts_itself(ctx: &Ctx) -> Result<AssertResult> {
    let text = fs::read_to_string("/etc/restarting.conf")?;
    ensure!(text == "layers = 4", "{text}");
    let pid = ctx.scheduler_pid().context("no scheduler process")?;
    let args = fs::read_to_string(format!("/proc/{pid}/cmdline"))?;
    ensure!(args.contains("\0--config\0/etc/restarting.conf"), "{args}");
    one_worker(ctx)
}

#[ktstr_test(scheduler = UNTIDY, topology = "1n1l1c1t", duration_s = 1, ignore)]
fn untidy_end(ctx: &Ctx) -> Result<AssertResult> {
    one_worker(ctx)
}

#[ktstr_test(scheduler = ABORTING, topology = "1n1l1c1t", duration_s = 1, ignore)]
fn aborts_at_its_stop(ctx: &Ctx) -> Result<AssertResult> {
    one_worker(ctx)
}

#[ktstr_test(scheduler = STAYING, topology = "1n1l1c1t", duration_s = 1, ignore)]
fn stays_at_its_stop(ctx: &Ctx) -> Result<AssertResult> {
    one_worker(ctx)
}

/// It cannot start again without its configuration.
#[ktstr_test(
    scheduler = CONFIGURED, config = "layers = 4", topology = "1n1l1c1t", duration_s = 2, auto_repro = false, ignore
)]
fn restart_never_attaches(ctx: &Ctx) -> Result<AssertResult> {
    fs::remove_file("/etc/configured.conf")?;
    first_this(ctx, Op::RestartScheduler)
}

/// The kernel sends away a scheduler that has no callback for a CPU that goes.
#[ktstr_test(scheduler = FIXTURE, topology = "1n1l2c1t", duration_s = 3, auto_repro = false, ignore)]
fn a_cpu_goes_off_under_the_scheduler(ctx: &Ctx) -> Result<AssertResult> {
    fs::write(CPU_1, "0")?;
    one_worker(ctx)
}

#[ktstr_test(scheduler = CONFIGURED, config = MANY_LINES, topology = "1n1l1c1t", duration_s = 1, auto_repro = false, ignore)]
fn talkative_scheduler(ctx: &Ctx) -> Result<AssertResult> {
    one_worker(ctx)?;
    anyhow::bail!("by choice")
}

/// The workload's cgroups.
const CGROUPS: &str = "/sys/fs/cgroup/ktstr";
const CPU_1: &str = "/sys/devices/system/cpu/cpu1/online";

/// Waits until a file of cgroup `a` says `wanted`.
fn wait_until(file: &str, wanted: &str) -> Result<()> {
    let path = Path::new(CGROUPS).join("a").join(file);
    let until = Instant::now() + Duration::from_secs(30);
    loop {
        let found = fs::read_to_string(&path).unwrap_or_default();
        if found.trim() == wanted {
            return Ok(());
        }
        ensure!(
            Instant::now() < until,
            "{file} never was {wanted}, and is {found:?}"
        );
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// Runs `work` while another thread acts.
fn while_acting(
    act: fn() -> Result<()>,
    work: impl FnOnce() -> Result<AssertResult>,
) -> Result<AssertResult> {
    let actor = std::thread::spawn(act);
    let result = work()?;
    match actor.join() {
        Ok(done) => done?,
        Err(_) => anyhow::bail!("the thread that acts panicked"),
    }
    Ok(result)
}

/// Once `a` has its second cpuset, its workers are taken to a cgroup on the first one.
fn take_away() -> Result<()> {
    wait_until("cpuset.cpus", "1")?;
    let root = Path::new(CGROUPS);
    let strays = root.join("strays");
    fs::create_dir(&strays)?;
    fs::write(strays.join("cpuset.cpus"), "0")?;
    for pid in fs::read_to_string(root.join("a/cgroup.procs"))?.lines() {
        fs::write(strays.join("cgroup.procs"), pid)?;
    }
    Ok(())
}

/// The workers run where they may until they are taken away; the old set was allowed to the end once.
#[ktstr_test(topology = "1n1l2c1t", duration_s = 3, isolation, ignore)]
fn workers_stray_after_their_cpuset_moved(ctx: &Ctx) -> Result<AssertResult> {
    let move_it = Op::set_cpuset("a", CpusetSpec::exact([1]));
    let backdrop = Backdrop::from_cgroups(vec![
        CgroupDef::named("a")
            .workers(1)
            .cpuset(CpusetSpec::exact([0])),
    ]);
    let steps = vec![
        Step::new(Vec::new(), HoldSpec::frac(0.2)),
        Step::new(vec![move_it], HoldSpec::frac(0.8)),
    ];
    while_acting(take_away, || execute_scenario(ctx, backdrop, steps))
}

/// The same move without the straying is no finding.
#[ktstr_test(topology = "1n1l2c1t", duration_s = 3, isolation, ignore)]
fn workers_follow_their_cpuset(ctx: &Ctx) -> Result<AssertResult> {
    let cpus = |cpu| CpusetSpec::exact([cpu]);
    let backdrop = Backdrop::from_cgroups(vec![
        CgroupDef::named("a").workers(2).cpuset(cpus(0)),
        CgroupDef::named("b").workers(2).cpuset(cpus(1)),
    ]);
    let swap = || Op::swap_cpusets("a", "b");
    execute_scenario(
        ctx,
        backdrop,
        vec![
            Step::new(vec![swap()], HoldSpec::frac(0.5)),
            Step::new(vec![swap()], HoldSpec::frac(0.5)),
        ],
    )
}

/// It restarts itself, and the test fails for a reason of its own after that.
#[ktstr_test(scheduler = RESTARTING, config = "layers = 4", topology = "1n1l1c1t", duration_s = 8, auto_repro = false, ignore)]
fn fails_after_its_schedulers_restart(ctx: &Ctx) -> Result<AssertResult> {
    one_worker(ctx)?;
    anyhow::bail!("a reason of its own")
}

/// Switches CPU 1 off once `a` is confined to it.
fn switch_off() -> Result<()> {
    wait_until("cpuset.cpus.effective", "1")?;
    fs::write(CPU_1, "0")?;
    wait_until("cpuset.cpus.effective", "0")
}

fn switch_off_and_on() -> Result<()> {
    switch_off()?;
    // The CPU is away for a time.
    let until = Instant::now() + Duration::from_secs(1);
    while Instant::now() < until {
        std::thread::park_timeout(Duration::from_millis(50));
    }
    fs::write(CPU_1, "1").context("the CPU does not come back")
}

fn one_worker_on_cpu_1(ctx: &Ctx) -> Result<AssertResult> {
    let on_one = CgroupDef::named("a")
        .workers(1)
        .cpuset(CpusetSpec::exact([1]));
    execute_defs(ctx, vec![on_one])
}

/// The only CPU of a cpuset goes, and the kernel lets its workers run on another: they stray nowhere.
#[ktstr_test(topology = "1n1l2c1t", duration_s = 3, isolation, ignore)]
fn cpuset_loses_its_cpu(ctx: &Ctx) -> Result<AssertResult> {
    while_acting(switch_off, || one_worker_on_cpu_1(ctx))
}

/// The same, and the CPU comes back a second later: the cpuset is as it was when the workers stop.
#[ktstr_test(topology = "1n1l2c1t", duration_s = 4, isolation, ignore)]
fn cpuset_has_its_cpu_back(ctx: &Ctx) -> Result<AssertResult> {
    let result = while_acting(switch_off_and_on, || one_worker_on_cpu_1(ctx))?;
    let now = fs::read_to_string("/sys/devices/system/cpu/online")?;
    ensure!(now.trim() == "0-1", "online are {now}");
    Ok(result)
}

/// A real-time spinner on CPU 0, and on CPU 1 a cgroup that its own limit holds back.
#[ktstr_test(topology = "1n1l2c1t", duration_s = 4, max_gap_ms = 300, ignore)]
fn held_back(ctx: &Ctx) -> Result<AssertResult> {
    let on = |cpu| CpusetSpec::exact([cpu]);
    execute_defs(
        ctx,
        vec![
            CgroupDef::named("hog")
                .workers(1)
                .cpuset(on(0))
                .sched_policy(SchedPolicy::Fifo(50))
                .comm("hog"),
            CgroupDef::named("victim").workers(1).cpuset(on(0)),
            CgroupDef::named("limited")
                .workers(1)
                .cpuset(on(1))
                .cpu_quota(Duration::from_millis(150), Duration::from_secs(1)),
        ],
    )
}

ktstr::test_main!();
