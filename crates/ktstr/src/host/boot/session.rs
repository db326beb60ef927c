//! One boot of a test's VM: prepare, start, follow, collect.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use ktstr_init::FRAME_PORT;
use ktstr_initramfs::Builder;
use ktstr_kernel::Kernel;
use ktstr_monitor::invariants::{Stop, TABLE};
use ktstr_vmm::{
    Clock, Engine, ExitReason, Initrd, Part, RunningVm, VirtualTime, Vm, VmBuilder, VmExit,
};
use ktstr_wire::Message;

use crate::host::boot::archive::{self, GuestFiles};
use crate::host::boot::template::{self, Template};
use crate::host::plan::admission::admission_dir;
use crate::host::plan::config::{HostConfig, RulesChoice, Variable};
use crate::host::plan::deadlines::Deadlines;
use crate::host::plan::kernel::{default_cache, templates};
use crate::host::plan::programs::Programs;
use crate::host::plan::time::Time;
use crate::host::watch::coordinator::{self, GuestView, Orders, Outcome, Preparation};
use crate::host::watch::drain::Drained;
use crate::host::watch::lost_time::{LostTime, Watch};
use crate::model::ctx::TestPlan;
use crate::model::entry::KtstrTestEntry;
use crate::model::invariants::Invariants;
use crate::model::result::{BulkDrainResult, KvmStatsTotals, TimelineMark, VmResult};
use crate::model::stats_client::StatsClient;

/// What a session measured beside the VM itself.
#[derive(Debug, Default, Clone)]
pub(in crate::host) struct SessionTimes {
    pub(in crate::host) initramfs: Option<Duration>,
    pub(in crate::host) initramfs_bytes: Option<u64>,
    pub(in crate::host) kernel_release: Option<String>,
    pub(in crate::host) standstill: Option<Duration>,
    /// What starting the VM took: after it a copy executes instructions.
    pub(in crate::host) start: Option<Duration>,
    pub(in crate::host) given_task: Option<Duration>,
}

/// What a boot is made of.
#[derive(Debug, Clone, Copy)]
pub(in crate::host) struct Ingredients<'a> {
    pub(in crate::host) entry: &'a KtstrTestEntry,
    pub(in crate::host) config: &'a HostConfig,
    pub(in crate::host) kernel: &'a Kernel,
    pub(in crate::host) programs: &'a Programs,
    pub(in crate::host) time: &'a Time,
    /// Where a failing guest's memory goes; without a path it is not kept.
    pub(in crate::host) vmcore: Option<&'a Path>,
}

/// A VM that is ready to start.
#[derive(Debug)]
pub(in crate::host) struct Session {
    vm: Vm,
    run: Run,
}

/// What is known of a run before its VM starts, and is needed until it has ended.
#[derive(Debug)]
struct Run {
    deadlines: Deadlines,
    orders: Orders,
    view: GuestView,
    times: SessionTimes,
    has_scheduler: bool,
    time: Time,
    /// The task that the guest gets.
    plan: Vec<u8>,
    /// What the guest is a copy of, kept until it has ended; without one it boots.
    template: Option<Template>,
    fork_why: String,
}

/// Time for the capture of a guest that has used up its own.
const LAST_LOOK: Duration = Duration::from_secs(30);

/// Head-room for the boot of a kernel that others built.
const OF_OTHERS: Duration = Duration::from_secs(60);

/// Time for boot and power-off, which grows with the vCPUs and with the engine's slowness (measured on tcg: 1.8 s for one vCPU, 7 s for eight, on an idle host; on KVM within an emulator:
/// 11 to 40 s).
///
/// A kernel that is not of our build brings drivers that look for their devices: Debian's took 26 s for one vCPU on a busy host.
fn headroom(entry: &KtstrTestEntry, engine: Engine, is_ours: bool) -> Duration {
    let vcpus = entry.topology.total_cpus();
    let more = if is_ours { Duration::ZERO } else { OF_OTHERS };
    more + match engine {
        Engine::Kvm if ktstr_vmm::is_slow_kvm() => {
            Duration::from_secs(90) + Duration::from_secs(10) * vcpus
        }
        Engine::Kvm => Duration::from_secs(10) + Duration::from_millis(150) * vcpus,
        // tcg, and whatever else emulates.
        _ => Duration::from_secs(20) + Duration::from_secs(4) * vcpus,
    }
}

/// The same in virtual time, where a boot takes as many seconds as it has instructions for.
fn virtual_headroom(entry: &KtstrTestEntry) -> Duration {
    Duration::from_secs(60) + Duration::from_secs(4) * entry.topology.total_cpus()
}

/// The VM's deadline: what the test may take, and `headroom`.
fn deadlines_of(entry: &KtstrTestEntry, headroom: Duration) -> Deadlines {
    let watchdog = Duration::from_secs(entry.watchdog_timeout_s.into());
    let duration = Duration::from_secs(entry.duration_s.into());
    let settle = Duration::from_millis(entry.settle_ms.into());
    let work = settle + watchdog.max(duration).max(Duration::from_secs(1));
    Deadlines {
        vm: work + headroom,
        watchdog,
        duration,
    }
}

/// The way to the host: ports that are open at all times, or a gate at which the guest stands still.
fn with_clock(builder: VmBuilder, entry: &KtstrTestEntry, time: &Time) -> VmBuilder {
    match time.clock {
        Clock::Virtual => {
            let speeds = entry.speeds.iter().copied();
            let mut clock = VirtualTime::seed(time.seed).gate().speeds(speeds);
            if let Some(factor) = entry.smt_factor {
                clock = clock.smt_factor(factor);
            }
            builder.virtual_time(clock)
        }
        Clock::Host => builder.port(FRAME_PORT).port(ktstr_init::STATS_PORT),
    }
}

/// What is put into a guest is known here and not to a test's author.
fn memory_for(entry: &KtstrTestEntry, files: &GuestFiles) -> u32 {
    let floor = entry.guest_memory_mib();
    match archive::check_size(&files.initramfs, floor) {
        Ok(()) => floor,
        Err(too_big) => too_big.need_mib_u32(),
    }
}

/// Why a guest is a copy.
const FORKED: &str = "a template has this machine and these files";

/// The machine that a test wants, but for its clock, its memory and what boots from that.
fn machine(
    entry: &KtstrTestEntry,
    config: &HostConfig,
    kernel: &Kernel,
) -> anyhow::Result<VmBuilder> {
    let mut builder = Vm::builder()
        .kernel(&kernel.image)
        .cmdline(archive::command_line(entry))
        .topology(archive::topology(entry)?)
        .memory_mib(entry.guest_memory_mib())
        .engine(config.engine)
        .performance_mode(entry.performance_mode)
        .lock_dir(admission_dir());
    if let Some(cpus) = entry.cpu_budget {
        builder = builder.cpu_budget(cpus);
    }
    builder = archive::with_devices(builder, entry);
    if let Some(qemu) = &config.qemu {
        builder = builder.qemu(qemu);
    }
    Ok(builder)
}

fn with_files(builder: VmBuilder, entry: &KtstrTestEntry, files: &GuestFiles) -> VmBuilder {
    builder
        .memory_mib(memory_for(entry, files))
        .initrd(Initrd::Opened(files.initramfs.file()))
}

/// What the guest can be a copy of, or why it boots.
fn template_for(
    entry: &KtstrTestEntry,
    machine: VmBuilder,
    builder: &VmBuilder,
    files: &Builder,
    config: &HostConfig,
    time: &Time,
) -> Result<Template, String> {
    if !time.is_virtual() {
        return Err(String::from("in host time each guest boots"));
    }
    if !config.fork {
        return Err(format!("{}=off", Variable::Fork.name()));
    }
    // Each copy has its own seed; what it is a copy of has always the same.
    let first = Time {
        seed: 0,
        ..time.clone()
    };
    let found = || -> anyhow::Result<Template> {
        let bare = builder.clone().build()?;
        let key = template::key(&bare.saved_machine(), &files.describe()?);
        template::find_or_make(&templates(), &key, |dir| {
            let files = archive::build(files)?;
            let vm = with_clock(machine.clone(), entry, &first);
            template::boot(with_files(vm, entry, &files).build()?, dir)
        })
    };
    found().map_err(|error| format!("no template: {error:#}"))
}

impl Session {
    /// Gathers the guest's files and builds the VM.
    ///
    /// # Errors
    /// When a file is missing, the files do not fit into guest memory, or the VM cannot be built.
    fn prepare(ingredients: &Ingredients<'_>) -> anyhow::Result<Self> {
        let Ingredients {
            entry,
            config,
            kernel,
            programs,
            time,
            vmcore,
        } = *ingredients;
        let exe = std::env::current_exe().context("failed to find this test binary")?;
        let task = archive::task(entry, programs, &test_plan(entry), config);
        let plan = [&task.plan[..], &task.test_plan].concat();
        let mut files = archive::guest_files(entry, &exe, programs, kernel)?;
        // In virtual time the guest asks for its task, so that one boot serves many tests.
        archive::add_task(&mut files, (!time.is_virtual()).then_some(&task))?;
        let headroom = match time.clock {
            Clock::Virtual => virtual_headroom(entry),
            Clock::Host => {
                let engine = config.engine.resolve().engine;
                headroom(entry, engine, kernel.vmlinux.is_some())
            }
        };
        let deadlines = deadlines_of(entry, headroom);
        let machine = machine(entry, config, kernel)?
            // The coordinator ends the guest after a last look; this is for a coordinator that cannot.
            .deadline(deadlines.vm + coordinator::MAX_PAUSE + LAST_LOOK);
        let builder = with_clock(machine.clone(), entry, time);
        let mut times = SessionTimes::default();
        let (builder, template, fork_why) =
            match template_for(entry, machine, &builder, &files, config, time) {
                Ok(template) => {
                    let builder = builder.memory_mib(template.saved.memory_mib());
                    (builder, Some(template), FORKED.to_owned())
                }
                Err(why) => {
                    let files = archive::build(&files)?;
                    times.initramfs = Some(files.build_time);
                    times.initramfs_bytes = Some(files.initramfs.len());
                    (with_files(builder, entry, &files), None, why)
                }
            };
        let vm = builder.build().context("failed to build the VM")?;
        // The start sets its own times.
        let now = Instant::now();
        let orders = Orders {
            started: now,
            deadline: now + deadlines.vm,
            snapshots: entry.num_snapshots,
            duration: deadlines.duration,
            look_at: config.look_at.filter(|_| time.is_virtual()),
            look_gdb: config.look_gdb,
        };
        let preparation = Preparation {
            writes: entry.bpf_map_write,
            watches: entry.watch_bpf_maps,
            watchdog: holds_watchdog(entry)
                .then(|| Duration::from_secs(entry.watchdog_timeout_s.into())),
        };
        let view = GuestView {
            preparation,
            vmlinux: kernel.vmlinux.clone(),
            btf_cache: Some(default_cache().root().with_file_name("btf")),
            vmcore: vmcore.map(Path::to_owned),
            events: config.events.clone().filter(|_| time.is_virtual()),
            task: Some(task),
            invariants: rules_of(entry, config),
            stats: None,
            scx_stats: entry.scx_stats,
        };
        let run = Run {
            deadlines,
            orders,
            view,
            times,
            has_scheduler: entry.scheduler.is_some(),
            time: time.clone(),
            plan,
            template,
            fork_why,
        };
        Ok(Self { vm, run })
    }

    /// Prepares and starts the VM. Where a copy does not start, the guest boots, and the record says why.
    ///
    /// # Errors
    /// As [`Session::prepare`], and when the VM cannot be started.
    pub(in crate::host) fn started(ingredients: Ingredients<'_>) -> anyhow::Result<Booted> {
        let session = Self::prepare(&ingredients)?;
        let is_copy = session.run.template.is_some();
        let error = match session.start() {
            Err(error) if is_copy => error,
            done => return done,
        };
        tracing::warn!("the guest boots, since a copy did not start: {error:#}");
        let cold = HostConfig {
            fork: false,
            ..ingredients.config.clone()
        };
        let mut session = Self::prepare(&Ingredients {
            config: &cold,
            ..ingredients
        })?;
        session.run.fork_why = format!("a copy did not start: {error:#}");
        session.start()
    }

    /// Starts the VM.
    ///
    /// # Errors
    /// When it cannot be started.
    fn start(self) -> anyhow::Result<Booted> {
        let Self { vm, mut run } = self;
        run.orders.started = Instant::now();
        run.orders.deadline = run.orders.started + run.deadlines.vm;
        let engine_why = vm.engine_why().to_owned();
        let running = match &run.template {
            Some(template) => vm.start_saved(&template.saved),
            None => vm.start(),
        };
        run.times.start = Some(run.orders.started.elapsed());
        Ok(Booted {
            running: running.context("failed to start the VM")?,
            engine_why,
            run,
        })
    }
}

/// A VM that runs.
#[derive(Debug)]
pub(in crate::host) struct Booted {
    running: RunningVm,
    engine_why: String,
    run: Run,
}

impl Booted {
    /// Follows the VM to its end, which its deadline bounds.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub(in crate::host) fn watch(self) -> anyhow::Result<Ran> {
        let Self {
            mut running,
            engine_why,
            run,
        } = self;
        let Run {
            orders,
            mut view,
            mut times,
            ..
        } = run;
        let started = orders.started;
        if run.has_scheduler {
            view.stats = running
                .take_port(ktstr_init::STATS_PORT)
                .map(StatsClient::new);
        }
        // In virtual time there is no port: the client has its answers after the guest's end.
        let ended = (run.has_scheduler && run.time.is_virtual()).then(StatsClient::of_ended);
        let stats_client = view.stats.clone().or(ended);
        let (watch, followed) = if run.time.is_virtual() {
            (None, coordinator::follow_at_gate(&running, view, orders)?)
        } else {
            let port = running.take_port(FRAME_PORT);
            let port = port.context("the VM has no frame port")?;
            let watch = Watch::start(
                running.engine_pid(),
                running.vcpus(),
                running.vcpu_clocks(),
                started,
            );
            let followed = coordinator::follow(&running, port, view, started, orders)?;
            (watch, followed)
        };
        let exit = running.wait().context("failed to wait for the VM's end");
        let ended = Instant::now();
        let memory = running.memory();
        // Closing the VM closes its ports, which ends the frame thread.
        drop(running);
        times.given_task = followed.given_task;
        let (drained, outcome) = followed.frames()?;
        // Giving a guest's pages back takes as long as some of the evaluation.
        thread::spawn(move || drop(memory));
        times.kernel_release = drained
            .sys_ready
            .as_ref()
            .map(|(_, ready)| ready.kernel_release.clone());
        times.standstill = outcome.longest_standstill;
        let exit = exit?;
        // From the last vCPU's end on, as the engine saw it: its own taking down of devices and processes counts.
        let cleanup = exit.cleanup_duration;
        let mut vm = assemble(exit, drained);
        vm.engine_why = engine_why;
        vm.clock_why = run.time.why;
        let of_engine = vm.virtual_run.as_mut();
        if let Some(identity) = of_engine.and_then(|run| run.identity.as_mut()) {
            identity.set(Part::Plan, &run.plan);
        }
        vm.forked = run.template.is_some();
        vm.fork_why = run.fork_why;
        if outcome.timed_out {
            vm.timed_out = true;
            vm.exit_reason = ExitReason::Deadline;
        }
        vm.periodic_target = outcome.periodic.target;
        vm.periodic_fired = outcome.periodic.fired;
        vm.periodic_real = u32::try_from(outcome.bridge.periodic_real_count()).unwrap_or(u32::MAX);
        vm.snapshot_bridge = outcome.bridge.clone();
        keep_cgroup_procs(&vm);
        vm.stats_client = stats_client;
        vm.monitor.clone_from(&outcome.monitor);
        vm.verifier_stats.clone_from(&outcome.verifier_stats);
        vm.kern_kaslr_offset = outcome.kaslr_offset;
        vm.watchdog = outcome.watchdog;
        vm.cleanup_duration = Some(cleanup + ended.elapsed());
        let lost = watch.map(Watch::end).unwrap_or_default();
        Ok(Ran {
            vm,
            deadlines: run.deadlines,
            times,
            outcome,
            lost,
        })
    }
}

/// What one boot left.
#[derive(Debug)]
pub(in crate::host) struct Ran {
    pub(in crate::host) vm: VmResult,
    /// What it was allowed.
    pub(in crate::host) deadlines: Deadlines,
    pub(in crate::host) times: SessionTimes,
    pub(in crate::host) outcome: Outcome,
    pub(in crate::host) lost: LostTime,
}

fn assemble(exit: VmExit, drained: Drained) -> VmResult {
    let mut output = Vec::new();
    let mut exit_code = None;
    let kvm_stats = exit.kvm_stats.map(|per_vcpu| KvmStatsTotals { per_vcpu });
    for (_, message) in drained.frames.messages() {
        match message {
            Message::Stdout(bytes) | Message::Stderr(bytes) => output.extend_from_slice(&bytes),
            Message::Exit(code) => exit_code = Some(code),
            _ => {}
        }
    }
    VmResult {
        success: false,
        exit_code: exit_code.unwrap_or(-1),
        duration: exit
            .virtual_run
            .as_ref()
            .map_or(exit.duration, |run| run.time),
        timed_out: matches!(exit.reason, ExitReason::Deadline),
        output: String::from_utf8_lossy(&output).into_owned(),
        stderr: String::from_utf8_lossy(&exit.com1).into_owned(),
        engine: exit.engine,
        clock: exit.clock,
        virtual_run: exit.virtual_run,
        kvm_stats,
        virtio_blk_counters: exit.blk_counters.first().copied(),
        virtio_net_counters: exit.net_counters,
        exit_reason: exit.reason,
        crash_message: crash_message(&String::from_utf8_lossy(&exit.com2)),
        boot_duration: drained.sys_ready.as_ref().map(|(at, _)| *at),
        guest_messages: drained.any_bytes.then_some(drained.frames),
        ..VmResult::test_fixture()
    }
}

/// What the guest told of its cgroups, by the names that the test gave.
fn keep_cgroup_procs(vm: &VmResult) {
    let frames = vm.guest_messages.iter();
    for (_, message) in frames.flat_map(BulkDrainResult::messages) {
        if let Message::CgroupProcs(procs) = message {
            vm.snapshot_bridge
                .record_cgroup_procs(&procs.tag, procs.pids);
        }
    }
}

/// The text from the last line on that begins with `PANIC:`, without the mark. A panic's own words may have it, too.
fn crash_message(com2: &str) -> Option<String> {
    const MARK: &str = "PANIC:";
    let text = com2.replace('\r', "");
    let begins_line = |at: usize| at == 0 || text.as_bytes().get(at - 1) == Some(&b'\n');
    let marks = text.match_indices(MARK).map(|(at, _)| at);
    let begin = marks.filter(|at| begins_line(*at)).last()?;
    Some(text.get(begin + MARK.len()..)?.trim().to_owned())
}

/// The environment wins over the test.
fn rules_of(entry: &KtstrTestEntry, config: &HostConfig) -> Option<Stop> {
    let only = match (&config.invariants, entry.invariants) {
        (Some(RulesChoice::Off), _) | (None, Invariants::Off) => return None,
        (Some(RulesChoice::On), _) | (None, Invariants::On) => {
            let rules = TABLE.iter().filter(|rule| rule.by_default);
            Some(rules.map(|rule| rule.name.to_owned()).collect())
        }
        (Some(RulesChoice::Only(names)), _) => Some(names.clone()),
        (None, Invariants::Only(names)) => {
            Some(names.iter().map(|name| (*name).to_owned()).collect())
        }
    };
    Some(Stop { only })
}

fn holds_watchdog(entry: &KtstrTestEntry) -> bool {
    entry.override_watchdog && entry.scheduler.is_some()
}

/// Something is to be done to the scheduler between its attach and the scenario.
fn wants_preparation(entry: &KtstrTestEntry) -> bool {
    holds_watchdog(entry) || !entry.bpf_map_write.is_empty() || !entry.watch_bpf_maps.is_empty()
}

pub(in crate::host) fn test_plan(entry: &KtstrTestEntry) -> TestPlan {
    let duration = Duration::from_secs(entry.duration_s.into());
    let mut plan = TestPlan::new(entry.registered_name(), entry.topology.into(), duration);
    plan.assert = entry.merged_assert();
    plan.has_scheduler = entry.scheduler.is_some();
    plan.settle_ms = entry.settle_ms.into();
    plan.waits_for_host = wants_preparation(entry);
    // A test on the host has no coordinator.
    plan.answers_requests = !entry.host_only;
    if let Some(root) = entry.workload_root() {
        plan.workload_root = Path::new("/sys/fs/cgroup").join(root.trim_start_matches('/'));
    }
    plan
}

/// The scenario's own time, as its end frame tells it.
pub(in crate::host) fn scenario_ms(vm: &VmResult) -> Option<u64> {
    vm.stimulus_timeline()
        .into_iter()
        .find_map(|mark| match mark {
            TimelineMark::Terminal { elapsed_ms, .. } => Some(elapsed_ms),
            _ => None,
        })
}

/// One line per boundary, for the failure message.
pub(in crate::host) fn timeline_lines(vm: &VmResult) -> Vec<String> {
    let marks = vm.stimulus_timeline();
    let mut lines = Vec::new();
    for mark in &marks {
        lines.push(match mark {
            TimelineMark::StepStart(step) => format!(
                "{:>7} ms  step {} starts: {} ops, {} cgroups, {} workers",
                step.elapsed_ms,
                step.step_index,
                step.op_count,
                step.cgroup_count,
                step.worker_count
            ),
            TimelineMark::StepEnd(step) => format!(
                "{:>7} ms  step {} ends: {} iterations so far",
                step.elapsed_ms, step.step_index, step.total_iterations
            ),
            TimelineMark::Terminal {
                elapsed_ms,
                total_iterations,
            } => {
                format!("{elapsed_ms:>7} ms  scenario ends: {total_iterations} iterations")
            }
        });
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_wins_over_the_test() {
        let entry = |invariants| KtstrTestEntry {
            invariants,
            ..KtstrTestEntry::DEFAULT
        };
        let of = |choice: Option<RulesChoice>, invariants| {
            let mut config = HostConfig::from_lookup(|_| None).unwrap();
            config.invariants = choice;
            rules_of(&entry(invariants), &config).map(|stop| stop.only)
        };
        let one = Invariants::Only(&["cfs-load"]);
        let named = |name: &str| Some(Some(vec![name.to_owned()]));
        let by_default = of(None, Invariants::On).unwrap().unwrap();
        assert!(by_default.iter().any(|name| name == "rq-nr-running"));
        assert!(!by_default.iter().any(|name| name == "ext-lost"));
        assert_eq!(of(None, Invariants::Off), None);
        assert_eq!(of(None, one), named("cfs-load"));
        assert_eq!(of(Some(RulesChoice::Off), one), None);
        let on = of(Some(RulesChoice::On), Invariants::Off);
        assert_eq!(on, Some(Some(by_default)));
        let other = RulesChoice::Only(vec![String::from("rt-queued")]);
        assert_eq!(of(Some(other), one), named("rt-queued"));
    }

    #[test]
    fn the_last_panic_on_com2_counts() {
        assert_eq!(crash_message(""), None);
        assert_eq!(
            crash_message("noise\r\nPANIC: at a.rs:1: boom\r\n  0: f\r\n").as_deref(),
            Some("at a.rs:1: boom\n  0: f")
        );
        assert_eq!(
            crash_message("PANIC: at a.rs:1: no \"PANIC:\" here\r\n").as_deref(),
            Some("at a.rs:1: no \"PANIC:\" here")
        );
    }
}
