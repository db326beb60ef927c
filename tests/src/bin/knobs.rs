//! What a user can turn, turned: `tests/knobs.rs` runs these and sees the difference. One boot shows many knobs at once.
//!
//! All but one are ignored by default, because some fail on purpose.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use ktstr::prelude::*;

declare_scheduler!(PLAIN, { name: "plain", binary: "scx-fixture", topology: (1, 2, 1, 1) });
declare_scheduler!(TURNED, {
    name: "turned", binary: "scx-fixture",
    sched_args: ["--starve-pct", "1"],
    kargs: ["rcupdate.rcu_expedited=1"],
    sysctls: [Sysctl::new("kernel.randomize_va_space", "1")],
});
declare_scheduler!(ELSEWHERE, { name: "elsewhere", binary_path: "/no/such/place/scx_mine" });

/// What a guest's machine and surroundings should look like.
struct Expected {
    shape: [usize; 4],
    memory_mib: u64,
    duration: Duration,
    root: &'static str,
    kaslr: bool,
    busybox: bool,
    expedited: &'static str,
    randomize: &'static str,
    scheduler_args: &'static [&'static str],
    /// `RUST_LOG` in the scheduler's environment.
    log: Option<&'static str>,
}

/// Compares all of it; every difference is named.
fn check_machine(ctx: &Ctx, expected: &Expected) -> Result<AssertResult> {
    let [nodes, llcs, cores, threads] = expected.shape;
    ktstr_tests::check_sysfs_topology(nodes, llcs, cores, threads)?;
    let read = |path: &str| -> Result<String> {
        let text = fs::read_to_string(path).with_context(|| path.to_owned())?;
        Ok(text.trim().to_owned())
    };
    let total = read("/proc/meminfo")?;
    let total = total.split_whitespace().nth(1).context("no MemTotal")?;
    let mib = total.parse::<u64>()? / 1024;
    // The kernel keeps some for itself.
    let memory = expected.memory_mib * 2 / 3..=expected.memory_mib;
    ensure!(
        memory.contains(&mib),
        "{mib} MiB of {}",
        expected.memory_mib
    );
    ensure!(ctx.duration() == expected.duration, "{:?}", ctx.duration());
    ensure!(ctx.workload_root() == Path::new(expected.root));
    let cmdline = read("/proc/cmdline")?;
    let kaslr = !cmdline.split(' ').any(|arg| arg == "nokaslr");
    ensure!(kaslr == expected.kaslr, "{cmdline}");
    let busybox = Command::new("busybox").arg("true").status().is_ok();
    ensure!(busybox == expected.busybox, "busybox: {busybox}");
    let expedited = read("/sys/kernel/rcu_expedited")?;
    ensure!(
        expedited == expected.expedited,
        "rcu_expedited: {expedited}"
    );
    let randomize = read("/proc/sys/kernel/randomize_va_space")?;
    ensure!(randomize == expected.randomize, "{randomize}");
    // Schedulers of scx_rustland_core install a filter of system calls.
    let status = read("/proc/self/status")?;
    ensure!(status.contains("Seccomp:"), "this kernel has no SECCOMP");
    let pid = ctx.scheduler_pid().context("no scheduler runs")?;
    let args = fs::read_to_string(format!("/proc/{pid}/cmdline"))?;
    let args: Vec<&str> = args.trim_end_matches('\0').split('\0').skip(1).collect();
    ensure!(args == expected.scheduler_args, "{args:?}");
    let env = fs::read_to_string(format!("/proc/{pid}/environ"))?;
    let log = env
        .split('\0')
        .find_map(|one| one.strip_prefix("RUST_LOG="));
    ensure!(log == expected.log, "RUST_LOG: {log:?}");
    Ok(AssertResult::pass())
}

/// Nothing turned: the defaults of attributes and keys.
#[ktstr_test(scheduler = PLAIN, ignore)]
fn machine_of_defaults(ctx: &Ctx) -> Result<AssertResult> {
    let expected = Expected {
        shape: [1, 2, 1, 1],
        memory_mib: 256,
        duration: Duration::from_secs(12),
        root: "/sys/fs/cgroup/ktstr",
        kaslr: true,
        busybox: false,
        expedited: "0",
        randomize: "2",
        scheduler_args: &[],
        log: None,
    };
    check_machine(ctx, &expected)
}

const WHERE: &str = "/run/whereabouts";

/// Notes its own cgroup.
fn whereabouts(worker: &WorkerCtx) -> WorkerReport {
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let _ = fs::write(WHERE, own);
    while !worker.stop().load(Ordering::Relaxed) {
        worker.sleep(Duration::from_millis(10));
        worker.tick(1);
    }
    WorkerReport::default()
}

/// The kernel lies where it was linked to.
fn stayed_put(vm: &VmResult) -> Result<()> {
    eprintln!("post_vm was called");
    ensure!(!vm.kaslr_enabled() && vm.kern_kaslr_offset == 0);
    Ok(())
}

/// The same, each turned.
#[ktstr_test(
    scheduler = TURNED, extra_sched_args = ["--slow-pct", "1"],
    numa_nodes = 2, llcs = 2, cores = 1, threads = 2, memory_mib = 448, duration_s = 1, kaslr = false,
    workload_root_cgroup = "/mine/below", extra_include_files = ["busybox"], post_vm = stayed_put, ignore
)]
fn machine_turned(ctx: &Ctx) -> Result<AssertResult> {
    let expected = Expected {
        shape: [2, 2, 1, 2],
        memory_mib: 448,
        duration: Duration::from_secs(1),
        root: "/sys/fs/cgroup/mine/below",
        kaslr: false,
        busybox: true,
        expedited: "1",
        randomize: "1",
        scheduler_args: &["--starve-pct", "1", "--slow-pct", "1"],
        log: Some("scx_mine=debug"),
    };
    check_machine(ctx, &expected)?;
    let started = Instant::now();
    let work = WorkType::custom("Whereabouts", whereabouts);
    let result = execute_defs(ctx, vec![CgroupDef::named("cell").work_type(work)])?;
    let took = started.elapsed();
    ensure!(
        (1..=5).contains(&took.as_secs()),
        "a scenario of one second took {took:?}"
    );
    let own = fs::read_to_string(WHERE)?;
    ensure!(own.trim().ends_with("/mine/below/cell"), "{own}");
    let iterations = result.stats.total_iterations();
    ensure!(iterations > 0, "the author's own loop was not run");
    Ok(result)
}

fn must_not_run(_vm: &VmResult) -> Result<()> {
    eprintln!("the ordinary callback was called");
    Ok(())
}

fn runs_always(_vm: &VmResult) -> Result<()> {
    eprintln!("the unconditional callback was called");
    Ok(())
}

/// The guest fails: of the callbacks one alone is called.
#[ktstr_test(
    topology = "1n1l1c1t", duration_s = 1, post_vm = must_not_run, post_vm_unconditional = runs_always, ignore
)]
fn fails_in_the_guest(_ctx: &Ctx) -> Result<AssertResult> {
    bail!("by choice")
}

/// Waits until the test that runs it has looked at the emulator.
#[ktstr_test(
    topology = "1n1l2c1t",
    duration_s = 2,
    no_perf_mode,
    cpu_budget = 1,
    ignore
)]
fn on_one_host_cpu(ctx: &Ctx) -> Result<AssertResult> {
    execute_defs(ctx, vec![CgroupDef::named("all").workers(2)])
}

/// A program at a path is looked for there alone.
#[ktstr_test(scheduler = ELSEWHERE, topology = "1n1l1c1t", duration_s = 1, ignore)]
fn scheduler_at_a_path(ctx: &Ctx) -> Result<AssertResult> {
    execute_defs(ctx, vec![CgroupDef::named("all").workers(1)])
}

#[ktstr_test(host_only, allow_inconclusive, ignore)]
fn inconclusive_is_allowed(_ctx: &Ctx) -> Result<AssertResult> {
    Ok(AssertResult::inconclusive(
        DetailKind::Other,
        "nothing was measured",
    ))
}

#[ktstr_test(host_only, ignore)]
fn inconclusive_is_not_allowed(_ctx: &Ctx) -> Result<AssertResult> {
    Ok(AssertResult::inconclusive(
        DetailKind::Other,
        "nothing was measured",
    ))
}

/// The only one that runs without being asked for, and without a VM.
#[ktstr_test(host_only)]
fn runs_by_itself(_ctx: &Ctx) -> Result<AssertResult> {
    Ok(AssertResult::pass())
}

/// Tells where its cgroups would be.
#[ktstr_test(host_only, ignore)]
fn place_on_the_host(ctx: &Ctx) -> Result<AssertResult> {
    eprintln!("cgroups below {}", ctx.workload_root().display());
    Ok(AssertResult::pass())
}

/// Never run: which presets they may have is looked at in the list.
fn never(_ctx: &Ctx) -> Result<AssertResult> {
    bail!("this is only listed")
}

#[ktstr_test(min_llcs = 3, max_llcs = 7, ignore)]
fn limited_in_llcs(ctx: &Ctx) -> Result<AssertResult> {
    never(ctx)
}

#[ktstr_test(min_numa_nodes = 2, max_numa_nodes = 2, ignore)]
fn limited_in_nodes(ctx: &Ctx) -> Result<AssertResult> {
    never(ctx)
}

#[ktstr_test(min_cpus = 9, max_cpus = 15, ignore)]
fn limited_in_cpus(ctx: &Ctx) -> Result<AssertResult> {
    never(ctx)
}

#[ktstr_test(requires_smt, ignore)]
fn limited_to_smt(ctx: &Ctx) -> Result<AssertResult> {
    never(ctx)
}

/// What the file system shows of one cgroup.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    cpus: String,
    frozen: bool,
    tasks: usize,
    /// What the first task may run on.
    allowed: String,
    /// The first task's policy, a number (`include/uapi/linux/sched.h`).
    policy: String,
}

/// Looks at every cgroup of the workload again and again, and notes each change.
struct Observer {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<BTreeMap<String, Vec<Option<Seen>>>>,
}

impl Observer {
    fn of(root: PathBuf) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut seen = BTreeMap::new();
            while !until.load(Ordering::Relaxed) {
                note(&root, &mut seen);
                thread::park_timeout(Duration::from_millis(10));
            }
            seen
        });
        Self { stop, thread }
    }

    /// Every state of each cgroup in order; `None` where it was gone again.
    fn changes(self) -> Result<BTreeMap<String, Vec<Option<Seen>>>> {
        self.stop.store(true, Ordering::Relaxed);
        let changes = self.thread.join();
        changes.map_err(|_| anyhow::anyhow!("the observer panicked"))
    }
}

fn note(root: &Path, seen: &mut BTreeMap<String, Vec<Option<Seen>>>) {
    let entries = fs::read_dir(root).into_iter().flatten().flatten();
    let present: BTreeMap<String, Seen> = entries
        .filter(|entry| entry.path().is_dir())
        .filter_map(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            Some((name, look_at(&entry.path())?))
        })
        .collect();
    for (name, states) in seen.iter_mut() {
        if !present.contains_key(name) && states.last() != Some(&None) {
            states.push(None);
        }
    }
    for (name, state) in present {
        let states = seen.entry(name).or_default();
        if states.last() != Some(&Some(state.clone())) {
            states.push(Some(state));
        }
    }
}

/// `None` when it goes away meanwhile.
fn look_at(cgroup: &Path) -> Option<Seen> {
    let read = |name: &str| fs::read_to_string(cgroup.join(name)).ok();
    let tasks = read("cgroup.procs")?;
    let first = tasks.lines().next().unwrap_or_default();
    let status = fs::read_to_string(format!("/proc/{first}/status")).unwrap_or_default();
    let allowed = status
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    let stat = fs::read_to_string(format!("/proc/{first}/stat")).unwrap_or_default();
    // proc_pid_stat(5): the 41st field; what follows the name begins with the third.
    let policy = stat
        .rsplit_once(") ")
        .and_then(|(_, fields)| fields.split(' ').nth(38));
    Some(Seen {
        cpus: read("cpuset.cpus")?.trim().to_owned(),
        frozen: read("cgroup.events")?.contains("frozen 1"),
        tasks: tasks.lines().count(),
        allowed: allowed.unwrap_or_default().trim().to_owned(),
        policy: policy.unwrap_or_default().to_owned(),
    })
}

/// Whether a process of this name is there.
fn runs(name: &str) -> bool {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    processes
        .filter_map(|entry| fs::read_to_string(entry.path().join("comm")).ok())
        .any(|comm| comm.trim() == name)
}

const HOLD: HoldSpec = HoldSpec::fixed(Duration::from_millis(400));

/// The states that each cgroup must have had, in this order; others may lie between.
fn check_changes(changes: &BTreeMap<String, Vec<Option<Seen>>>) -> Result<()> {
    type State = fn(&Seen) -> bool;
    let wanted: [(&str, &[(&str, State)]); 4] = [
        (
            "a",
            &[
                ("Backdrop: 0-1", |s| s.cpus == "0-1" && s.tasks == 2),
                ("SetCpuset: 2-3", |s| s.cpus == "2-3"),
                ("SwapCpusets: 0", |s| s.cpus == "0"),
                ("ClearCpuset", |s| s.cpus != "0" && s.allowed == "0-3"),
                ("SetAffinity: one CPU", |s| s.allowed == "0"),
                ("SetPolicy: batch", |s| s.policy == "3"),
                ("MoveAllTasks: away", |s| s.tasks == 0),
                ("MoveAllTasks: back", |s| s.tasks == 2 && !s.frozen),
                ("FreezeCgroup", |s| s.frozen),
                ("UnfreezeCgroup", |s| !s.frozen && s.tasks == 2),
                ("StopCgroup", |s| s.tasks == 0),
            ],
        ),
        (
            "b",
            &[
                ("Backdrop: 0", |s| s.cpus == "0" && s.tasks == 1),
                ("SwapCpusets: 2-3", |s| s.cpus == "2-3"),
                ("Spawn", |s| s.tasks == 3),
            ],
        ),
        ("fresh", &[("AddCgroup", |s| s.tasks == 0)]),
        ("full", &[("AddCgroupDef", |s| s.tasks == 1)]),
    ];
    for (name, states) in wanted {
        let found = changes
            .get(name)
            .with_context(|| format!("no cgroup {name}"))?;
        let mut rest = found.iter().flatten();
        for (what, is_it) in states {
            ensure!(
                rest.any(is_it),
                "{name} never had the state of {what}: {found:#?}"
            );
        }
    }
    let b = changes.get("b").context("no cgroup b")?;
    let removed = b.iter().position(Option::is_none).context("b stayed")?;
    ensure!(removed + 1 == b.len(), "RemoveCgroup: {b:#?}");
    Ok(())
}

fn cgroup_steps() -> Vec<Step> {
    let name = |name: &str| name.to_owned();
    let (a, b) = (|| name("a"), || name("b"));
    let set = |cgroup, cpus| Op::set_cpuset(cgroup, cpus);
    let bind = |affinity| Op::set_affinity(name("a"), affinity);
    let spin = WorkSpec::default().workers(2);
    let move_all = |from: &str, to: &str| Op::move_all_tasks(from, to);
    let ops = [
        Op::add_cgroup(name("fresh")),
        Op::add_cgroup_def(CgroupDef::named("full").workers(1)),
        set(a(), CpusetSpec::llc(1)),
        Op::swap_cpusets(a(), b()),
        Op::clear_cpuset(a()),
        bind(AffinityIntent::OneCpuEach),
        bind(AffinityIntent::Inherit),
        Op::set_policy(a(), SchedPolicy::Batch),
        Op::set_policy(a(), SchedPolicy::Normal),
        Op::spawn_workers(b(), spin),
        move_all("a", "empty"),
        move_all("empty", "a"),
        Op::freeze_cgroup(a()),
        Op::unfreeze_cgroup(a()),
        Op::stop_cgroup(a()),
        Op::remove_cgroup(b()),
    ];
    ops.into_iter()
        .map(|op| Step::new(vec![op], HOLD))
        .collect()
}

/// Each operation on cgroups, seen in the file system.
#[ktstr_test(topology = "1n2l2c1t", duration_s = 20, extra_include_files = ["busybox"], ignore)]
fn operations(ctx: &Ctx) -> Result<AssertResult> {
    let observer = Observer::of(ctx.workload_root().to_owned());
    let backdrop = Backdrop::from_cgroups(vec![
        CgroupDef::named("a").workers(2).cpuset(CpusetSpec::llc(0)),
        CgroupDef::named("b")
            .workers(1)
            .cpuset(CpusetSpec::exact([0])),
        CgroupDef::named("empty").without_workers(),
    ]);
    let result = execute_scenario(ctx, backdrop, cgroup_steps());
    let changes = observer.changes()?;
    let result = result?;
    ensure!(result.is_pass(), "{result:#?}");
    check_changes(&changes)?;
    programs(ctx)?;
    interrupts(ctx)?;
    Ok(result)
}

static BUSYBOX: Payload = Payload::binary("busybox", "busybox");

/// A program lives as long as its step, unless it is killed before.
fn programs(ctx: &Ctx) -> Result<()> {
    let start = || Op::run_payload(&BUSYBOX, ["sleep", "1000"]);
    let kill = Op::kill_payload("busybox");
    let stop = Arc::new(AtomicBool::new(false));
    let until = Arc::clone(&stop);
    let started = Instant::now();
    let watcher = thread::spawn(move || {
        let mut seen = Vec::new();
        while !until.load(Ordering::Relaxed) {
            let there = runs("busybox");
            if seen.last().map(|(there, _)| *there) != Some(there) {
                seen.push((there, started.elapsed()));
            }
            thread::park_timeout(Duration::from_millis(20));
        }
        seen
    });
    let long = HoldSpec::fixed(Duration::from_millis(1500));
    let steps = vec![
        Step::new(vec![start()], HOLD),
        Step::new(vec![start(), kill], long),
    ];
    let result = execute_steps(ctx, steps);
    let over = started.elapsed();
    stop.store(true, Ordering::Relaxed);
    let seen = watcher.join().map_err(|_| anyhow::anyhow!("panicked"))?;
    let result = result?;
    ensure!(result.is_pass(), "{result:#?}");
    let came = seen.iter().find(|(there, _)| *there);
    let (_, came) = came.context("RunPayload started nothing")?;
    ensure!(
        seen.iter().any(|(there, at)| !there && at > came),
        "it outlived its step: {seen:?}"
    );
    // Without the kill it would have gone with the second step's end, a second and a half later.
    let gone = seen.last().filter(|(there, _)| !there);
    let (_, gone) = gone.context("KillPayload killed nothing")?;
    ensure!(
        *gone + Duration::from_millis(500) < over,
        "gone after {gone:?} of {over:?}: the step's end did it"
    );
    Ok(())
}

/// Of the guest's interrupts, one that can be steered goes where it is sent.
fn interrupts(ctx: &Ctx) -> Result<()> {
    let mut tried = Vec::new();
    for entry in fs::read_dir("/proc/irq")?.flatten() {
        let Ok(irq) = entry.file_name().to_string_lossy().parse::<u32>() else {
            continue;
        };
        let file = entry.path().join("smp_affinity_list");
        let steer = Op::steer_irq(irq, CpusetSpec::exact([1]));
        let result = execute_steps(
            ctx,
            vec![Step::new(vec![steer], HoldSpec::fixed(Duration::ZERO))],
        )?;
        let cpus = fs::read_to_string(&file).unwrap_or_default();
        if result.is_pass() {
            ensure!(cpus.trim() == "1", "SteerIrq: irq {irq} is on {cpus}");
            return Ok(());
        }
        tried.push(irq);
    }
    bail!("none of the interrupts {tried:?} could be steered")
}

ktstr::test_main!();
