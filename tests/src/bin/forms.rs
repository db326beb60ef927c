//! The test binary that `tests/forms.rs` runs: what the words of a scenario do, seen from inside by workers that say where
//! and how they run.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use ktstr::prelude::*;

declare_scheduler!(FIXTURE, { name: "fixture", binary: "scx-fixture" });

/// Where workers leave what they found, one file each.
const FACTS: &str = "/run/facts";
const LIMITS: [&str; 7] = [
    "cpu.max",
    "cpu.weight",
    "memory.max",
    "memory.high",
    "memory.low",
    "pids.max",
    "cpuset.mems",
];

fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// Fields 3 and on of `/proc/PID/stat`.
fn stat_field(stat: &str, number: usize) -> String {
    let tail = stat.rsplit_once(") ").map_or("", |(_, tail)| tail);
    let field = tail.split_ascii_whitespace().nth(number - 3);
    field.unwrap_or("?").to_owned()
}

/// The memory policy of the process that asks, as `/proc/self/numa_maps` has it for its stack.
fn memory_policy() -> String {
    let maps = fs::read_to_string("/proc/self/numa_maps").unwrap_or_default();
    let stack = maps.lines().find(|line| line.contains(" stack"));
    let policy = stack.and_then(|line| line.split(' ').nth(1));
    policy.unwrap_or("?").to_owned()
}

/// Notes how it runs, then waits to be stopped. Its number is the first of its configuration.
fn facts(ctx: &WorkerCtx) -> WorkerReport {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let stat = read("/proc/thread-self/stat");
    let status = read("/proc/thread-self/status");
    let line = |key: &str| {
        let found = status.lines().find_map(|line| line.strip_prefix(key));
        found
            .unwrap_or("?")
            .split_whitespace()
            .next()
            .unwrap_or("?")
            .to_owned()
    };
    let mut text = format!(
        "policy {}\nrt {}\nnice {}\ncomm {}\nuid {}\ngid {}\ncpus {}\ncgroup {}",
        stat_field(&stat, 41),
        stat_field(&stat, 40),
        stat_field(&stat, 19),
        read("/proc/thread-self/comm").trim(),
        line("Uid:"),
        line("Gid:"),
        line("Cpus_allowed_list:"),
        read("/proc/self/cgroup"),
    );
    text.push_str(&format!("siblings {}\n", ctx.sibling_pids().len()));
    text.push_str(&format!("mempolicy {}\n", memory_policy()));
    text.push_str(&format!(
        "uptime {}\n",
        read("/proc/uptime").split(' ').next().unwrap_or("?")
    ));
    for file in LIMITS {
        let limit = ctx.cgroup_dir().map(|dir| dir.join(file));
        let value = limit.map(|path| fs::read_to_string(path).unwrap_or_default());
        text.push_str(&format!("{file} {}\n", value.unwrap_or_default().trim()));
    }
    let beside = ctx.open_sibling_cgroup_procs("beside").is_ok();
    text.push_str(&format!("beside {beside}\n"));
    let _ = fs::write(
        format!("{FACTS}/{}.{}", ctx.cfg().u64s[0], ctx.index()),
        text,
    );
    while !ctx.stop().load(Ordering::Relaxed) {
        ctx.sleep(ms(10));
        ctx.tick(1);
    }
    WorkerReport::default()
}

fn noting(number: u64) -> WorkType {
    WorkType::custom_with("facts", facts, CustomCfg::default().u64_slot(0, number))
}

fn note(number: u64) -> WorkSpec {
    WorkSpec::default().work_type(noting(number))
}

fn begin() -> Result<()> {
    let _ = fs::remove_dir_all(FACTS);
    fs::create_dir_all(FACTS)?;
    // Workers of other users write there, too.
    fs::set_permissions(FACTS, fs::Permissions::from_mode(0o777))?;
    Ok(())
}

/// What worker 0 of this number noted under a key.
fn found(number: u64, key: &str) -> Result<String> {
    let path = format!("{FACTS}/{number}.0");
    let text =
        fs::read_to_string(&path).with_context(|| format!("worker {number} noted nothing"))?;
    let head = format!("{key} ");
    let line = text.lines().find_map(|line| line.strip_prefix(&head));
    Ok(line
        .with_context(|| format!("no {key} in {text}"))?
        .to_owned())
}

#[track_caller]
fn check(number: u64, expected: &[(&str, &str)]) -> Result<()> {
    for (key, value) in expected {
        let found = found(number, key)?;
        ensure!(
            found == *value,
            "worker {number}: {key} is {found}, not {value}"
        );
    }
    Ok(())
}

/// Each policy, nice value, name, user, set of CPUs and memory policy is the worker's own.
#[ktstr_test(topology = "1n2l2c1t", duration_s = 3, ignore)]
fn how_workers_run(ctx: &Ctx) -> Result<AssertResult> {
    begin()?;
    let with = |number, policy| note(number).sched_policy(policy);
    let bound = |number, affinity| note(number).affinity(affinity);
    let def = CgroupDef::named("all")
        .cpuset(CpusetSpec::exact(1..4))
        .nice(7)
        .comm("of-all")
        .work_type(noting(0))
        .sched_policy(SchedPolicy::Idle)
        .affinity(AffinityIntent::SingleCpu)
        .work(note(1).nice(19).comm("own").uid(1000).gid(1001))
        .work(with(2, SchedPolicy::Batch))
        .work(with(3, SchedPolicy::fifo(3)))
        .work(with(4, SchedPolicy::round_robin(4)))
        .work(with(5, SchedPolicy::Ext))
        .work(bound(6, AffinityIntent::exact([0, 2, 3])))
        .work(bound(7, AffinityIntent::LlcAligned))
        .work(bound(8, AffinityIntent::SmtSiblingPair))
        .work(bound(9, AffinityIntent::random_subset([0, 1, 2, 3], 2)))
        .work(bound(10, AffinityIntent::CrossCgroup))
        .work(note(11).workers_pct(0.5).threads())
        .work(
            note(13)
                .mem_policy(MemPolicy::preferred(0))
                .mpol_flags(MpolFlags::RELATIVE_NODES),
        )
        .work(note(14).numa_node(0));
    let other = CgroupDef::named("beside")
        .uid(7)
        .gid(8)
        .work(note(12))
        .mem_policy(MemPolicy::bind([0]))
        .mpol_flags(MpolFlags::STATIC_NODES);
    let result = execute_defs(ctx, vec![def, other])?;
    check(
        0,
        &[
            ("policy", "5"),
            ("nice", "7"),
            ("comm", "of-all"),
            ("cpus", "1"),
        ],
    )?;
    check(0, &[("uid", "0"), ("beside", "true"), ("siblings", "0")])?;
    check(
        1,
        &[
            ("policy", "0"),
            ("nice", "19"),
            ("comm", "own"),
            ("uid", "1000"),
            ("gid", "1001"),
        ],
    )?;
    check(1, &[("cpus", "1-3")])?;
    check(2, &[("policy", "3")])?;
    check(3, &[("policy", "1"), ("rt", "3")])?;
    check(4, &[("policy", "2"), ("rt", "4")])?;
    check(5, &[("policy", "7")])?;
    check(6, &[("cpus", "2-3")])?;
    check(7, &[("cpus", "2-3")])?;
    check(8, &[("cpus", "1")])?;
    ensure!(
        found(9, "cpus")?.split([',', '-']).count() == 2,
        "{}",
        found(9, "cpus")?
    );
    // Asked for all CPUs, kept inside the cpuset by the kernel.
    check(10, &[("cpus", "1-3")])?;
    check(11, &[("siblings", "1")])?;
    check(
        12,
        &[("uid", "7"), ("gid", "8"), ("nice", "0"), ("cpus", "0-3")],
    )?;
    // Flags are names behind the policy's own (mm/mempolicy.c: mpol_to_str).
    check(0, &[("mempolicy", "default")])?;
    check(12, &[("mempolicy", "bind=static:0")])?;
    check(13, &[("mempolicy", "prefer=relative:0")])?;
    check(14, &[("cpus", "1-3"), ("mempolicy", "bind:0")])?;
    Ok(result)
}

/// A deadline task may run on all CPUs, or the kernel refuses it.
#[ktstr_test(topology = "1n1l2c1t", duration_s = 2, ignore)]
fn deadline_worker(ctx: &Ctx) -> Result<AssertResult> {
    begin()?;
    let policy = SchedPolicy::deadline(ms(2), ms(10), ms(20));
    let result = execute_defs(
        ctx,
        vec![CgroupDef::named("a").work(note(0).sched_policy(policy))],
    )?;
    check(0, &[("policy", "6")])?;
    Ok(result)
}

/// Each limit is in the cgroup's own file, and the quota holds.
#[ktstr_test(topology = "1n1l2c1t", duration_s = 4, ignore)]
fn limits(ctx: &Ctx) -> Result<AssertResult> {
    begin()?;
    let full = CgroupDef::named("full")
        .cpu_weight(50)
        .cpu_quota(ms(20), ms(50))
        .memory_max(64 << 20)
        .memory_high(32 << 20)
        .memory_low(16 << 20)
        .pids_max(20)
        .cpuset_mems([0].into())
        .work(note(0));
    let mut lifted = full
        .clone()
        .cpu_unlimited()
        .memory_unlimited()
        .pids_unlimited();
    lifted.name = "lifted".to_owned();
    lifted.works = vec![note(1)];
    let spinning = CgroupDef::named("five").workers(2).cpu_quota_pct(5);
    let result = execute_defs(ctx, vec![full, lifted, spinning])?;
    check(
        0,
        &[
            ("cpu.max", "20000 50000"),
            ("cpu.weight", "50"),
            ("pids.max", "20"),
        ],
    )?;
    check(
        0,
        &[
            ("memory.max", "67108864"),
            ("memory.high", "33554432"),
            ("memory.low", "16777216"),
            ("cpuset.mems", "0"),
        ],
    )?;
    check(
        1,
        &[
            ("cpu.max", "max 50000"),
            ("cpu.weight", "50"),
            ("pids.max", "max"),
        ],
    )?;
    check(1, &[("memory.max", "max")])?;
    let five = result
        .stats
        .cgroups
        .iter()
        .find(|cgroup| cgroup.name == "five");
    let five = five.context("no figures of the limited cgroup")?;
    let share = five.cpu_time_ms / five.wall_time_ms;
    ensure!(
        share < 0.15 && five.cpu_time_ms > 0.0,
        "5 % of a CPU became {share:.3}: {five:?}"
    );
    Ok(result)
}

/// Operations come first; each worker is in the cgroup that it was started for, and is gone with its step.
#[ktstr_test(topology = "1n1l2c1t", duration_s = 4, ignore)]
fn where_workers_go(ctx: &Ctx) -> Result<AssertResult> {
    begin()?;
    let backdrop = Backdrop::new().push_cgroup(CgroupDef::named("stays"));
    let steps = vec![
        Step::with_defs(
            vec![CgroupDef::named("late").work(note(2))],
            HoldSpec::frac(0.4),
        )
        .set_ops(vec![
            Op::spawn_host(note(0)),
            Op::spawn_workers("stays", note(1)),
            Op::spawn_in_cgroup("stays", noting(3)),
            Op::spawn(SpawnPlacement::runner_cgroup(), note(4)),
        ]),
        Step::hold(HoldSpec::frac(0.2)),
    ];
    let result = execute_scenario(ctx, backdrop, steps)?;
    let own = fs::read_to_string("/proc/self/cgroup")?;
    let own = own.trim();
    ensure!(own == "0::/", "the test's process is in {own}");
    check(0, &[("cgroup", own)])?;
    check(4, &[("cgroup", own)])?;
    let inside = |name: &str| format!("0::/ktstr/{name}");
    check(1, &[("cgroup", &inside("stays"))])?;
    check(3, &[("cgroup", &inside("stays"))])?;
    check(2, &[("cgroup", &inside("late"))])?;
    let began = |number| -> Result<f64> { Ok(found(number, "uptime")?.parse()?) };
    ensure!(
        began(0)? <= began(2)? && began(1)? <= began(2)?,
        "the step's cgroup came first"
    );
    let [first, second] = &result.stats.phases[..] else {
        anyhow::bail!("two phases: {:?}", result.stats.phases)
    };
    let there = |phase: &PhaseBucket, name: &str| phase.cgroups.contains_key(name);
    ensure!(
        there(first, "") && there(first, "late") && there(first, "stays"),
        "{first:?}"
    );
    ensure!(
        !there(second, "") && !there(second, "late") && there(second, "stays"),
        "{second:?}"
    );
    Ok(result)
}

/// A second whole step lasts no time; a loop makes its cgroups before its operations, which are repeated; a factory is asked
/// in the guest.
#[ktstr_test(topology = "1n1l2c1t", duration_s = 2, ignore)]
fn how_long_steps_last(ctx: &Ctx) -> Result<AssertResult> {
    let defs = || vec![CgroupDef::named("a")];
    let twice = vec![
        Step::with_defs(defs(), HoldSpec::FULL),
        Step::with_defs(defs(), HoldSpec::FULL),
    ];
    let result = execute_steps(ctx, twice)?;
    let lengths: Vec<u64> = result
        .stats
        .phases
        .iter()
        .map(|phase| phase.duration_ms())
        .collect();
    ensure!(lengths[0] > 1_000 && lengths[1] < 200, "{lengths:?}");
    let told = "held 0 of 2000 ms";
    ensure!(
        result.info_notes.iter().any(|note| note.contains(told)),
        "{:?}",
        result.info_notes
    );
    let again = Op::spawn_workers("a", WorkSpec::default());
    let repeated = Step::with_defs(defs(), HoldSpec::loop_at(ms(300))).set_ops(vec![again]);
    let looped = execute_steps(ctx, vec![repeated])?;
    ensure!(looped.is_pass(), "{:#?}", looped.details);
    let workers = looped.stats.total_workers();
    ensure!(
        (4..=8).contains(&workers),
        "one at first, one in each round: {workers}"
    );
    let by_cpus = Step {
        setup: Setup::with_factory(|ctx| {
            let cpus = CpusetSpec::range(0.0, 1.0).resolve(ctx);
            vec![CgroupDef::named("made").workers(cpus.len())]
        }),
        ops: Vec::new(),
        hold: HoldSpec::fixed(ms(100)),
    };
    let made = execute_steps(ctx, vec![by_cpus])?;
    ensure!(made.stats.total_workers() == 2, "{:?}", made.stats);
    let refused = execute_steps(ctx, vec![Step::hold(HoldSpec::frac(0.0))]);
    let refused = refused.err().context("a hold of nothing was taken")?;
    ensure!(format!("{refused:#}").contains("above 0"), "{refused:#}");
    Ok(made)
}

/// Figures of each cgroup in each step, as the host has them: three workers on a CPU of their own share it, one does not.
fn compare(result: &VmResult) -> Result<()> {
    let of = |step: u16, cgroup: &str| {
        let stats = result.phase_cgroup(Phase::step(step), cgroup);
        stats.with_context(|| format!("no figures of {cgroup} in step {step}"))
    };
    let mut verdict = Verdict::new();
    for step in [0, 1] {
        let (crowd, alone) = (of(step, "a")?, of(step, "b")?);
        claim!(verdict, crowd.num_workers).eq(3);
        claim!(verdict, crowd.total_iterations).at_least(100);
        claim!(verdict, alone.total_iterations).at_least(100);
        let waits = crowd.run_delay_summary();
        let (mean_us, worst_us) = waits.context("no run delay was measured")?;
        // Of 2.4 s, each of three gets a third of the CPU, and waits for two.
        claim!(verdict, mean_us).between(500_000.0, 2_400_000.0);
        claim!(verdict, worst_us).at_least(mean_us);
        let alone_us = alone.run_delay_summary().map(|(mean, _)| mean);
        claim!(verdict, alone_us).at_most(mean_us);
        claim!(verdict, crowd.off_cpu_summary().map(|(mean, ..)| mean)).at_least(40.0);
    }
    claim!(
        verdict,
        result.throughput_ratio(Phase::step(0), Phase::step(1))
    )
    .between(0.1, 10.0);
    ensure!(
        result.phase_cgroup(Phase::step(2), "a").is_none(),
        "there was no third step"
    );
    ensure!(
        result.phase_cgroup(Phase::step(0), "c").is_none(),
        "there was no such cgroup"
    );
    verdict.into_anyhow_or_log()
}

/// What could not be measured fails nothing, and passes nothing.
fn not_measured(_: &VmResult) -> Result<()> {
    let mut verdict = Verdict::new();
    claim!(verdict, None::<f64>).at_least(1.0);
    verdict.into_anyhow_or_log()
}

#[ktstr_test(topology = "1n1l1c1t", duration_s = 1, post_vm = not_measured, ignore)]
fn nothing_measured(ctx: &Ctx) -> Result<AssertResult> {
    scenarios::steady(ctx)
}

/// Under a scheduler, and then without: what the host is told of each cgroup in each step.
#[ktstr_test(scheduler = FIXTURE, topology = "1n1l2c1t", duration_s = 6, post_vm = compare, ignore)]
fn two_tenants(ctx: &Ctx) -> Result<AssertResult> {
    let backdrop = Backdrop::new()
        .push_cgroup(
            CgroupDef::named("a")
                .workers(3)
                .cpuset(CpusetSpec::exact([0])),
        )
        .push_cgroup(
            CgroupDef::named("b")
                .workers(1)
                .cpuset(CpusetSpec::exact([1])),
        );
    let steps = vec![
        Step::hold(HoldSpec::frac(0.4)),
        Step::with_op(Op::detach_scheduler(), HoldSpec::frac(0.4)),
    ];
    let state = || fs::read_to_string("/sys/kernel/sched_ext/state").context("no sched_ext");
    let before = state()?;
    ensure!(before.trim() == "enabled", "before the detach: {before}");
    let result = execute_scenario(ctx, backdrop, steps)?;
    let after = state()?;
    ensure!(after.trim() == "disabled", "after the detach: {after}");
    ensure!(ctx.scheduler_pid().is_none(), "its process runs");
    Ok(result)
}

ktstr::test_main!();
