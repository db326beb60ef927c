//! One boot of a test's VM: prepare, start, follow, collect.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use ktstr_init::FRAME_PORT;
use ktstr_kernel::Kernel;
use ktstr_vmm::{Engine, ExitReason, Initrd, Vm, VmExit};
use ktstr_wire::Message;

use crate::host::boot::archive::{self, GuestFiles, Programs};
use crate::host::judge::left::Deadlines;
use crate::host::plan::admission::admission_dir;
use crate::host::plan::config::HostConfig;
use crate::host::plan::kernel::default_cache;
use crate::host::watch::coordinator::{self, GuestView, Orders, Outcome, Preparation};
use crate::host::watch::drain::Drained;
use crate::host::watch::lost_time::{LostTime, Watch};
use crate::model::ctx::TestPlan;
use crate::model::entry::KtstrTestEntry;
use crate::model::result::{BulkDrainResult, KvmStatsTotals, TimelineMark, VmResult};
use crate::model::stats_client::StatsClient;

/// What a session measured beside the VM itself.
#[derive(Debug, Default, Clone)]
pub(in crate::host) struct SessionTimes {
    pub(in crate::host) initramfs: Option<Duration>,
    pub(in crate::host) initramfs_bytes: Option<u64>,
    pub(in crate::host) kernel_release: Option<String>,
    pub(in crate::host) standstill: Option<Duration>,
}

/// A VM that is ready to start.
#[derive(Debug)]
pub(in crate::host) struct Session {
    vm: Vm,
    deadlines: Deadlines,
    orders: Orders,
    view: GuestView,
    times: SessionTimes,
    has_scheduler: bool,
}

/// Time for the capture of a guest that has used up its own.
const LAST_LOOK: Duration = Duration::from_secs(30);

/// Head-room for the boot of a kernel that others built.
const OF_OTHERS: Duration = Duration::from_secs(60);

/// The VM's deadline: what the test may take, and head-room for boot and power-off that grows with the vCPUs and
/// with the engine's slowness (measured on tcg: 1.8 s for one vCPU, 7 s for eight, on an idle host; on KVM within an emulator:
/// 11 to 40 s).
///
/// A kernel that is not of our build brings drivers that look for their devices: Debian's took 26 s for one vCPU on a busy host.
fn deadlines_of(entry: &KtstrTestEntry, engine: Engine, is_ours: bool) -> Deadlines {
    let vcpus = entry.topology.total_cpus();
    let more = if is_ours { Duration::ZERO } else { OF_OTHERS };
    let headroom = more
        + match engine {
            Engine::Tcg => Duration::from_secs(20) + Duration::from_secs(4) * vcpus,
            Engine::Kvm if ktstr_vmm::is_slow_kvm() => {
                Duration::from_secs(90) + Duration::from_secs(10) * vcpus
            }
            Engine::Kvm => Duration::from_secs(10) + Duration::from_millis(150) * vcpus,
        };
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

impl Session {
    /// Gathers the guest's files and builds the VM.
    ///
    /// # Errors
    /// When a file is missing, the files do not fit into guest memory, or the VM cannot be built.
    pub(in crate::host) fn prepare(
        entry: &KtstrTestEntry,
        config: &HostConfig,
        kernel: &Kernel,
        programs: &Programs,
        dir: &Path,
    ) -> anyhow::Result<Self> {
        let exe = std::env::current_exe().context("failed to find this test binary")?;
        let plan = test_plan(entry);
        let files = archive::build_guest_files(entry, &exe, programs, &plan, config)?;
        let floor = entry.guest_memory_mib();
        let memory_mib = match archive::check_size(&files.initramfs, floor) {
            Ok(()) => floor,
            // What is put into a guest is known here and not to a test's author.
            Err(too_big) => too_big.need_mib_u32(),
        };
        let GuestFiles {
            initramfs,
            build_time,
        } = files;
        let times = SessionTimes {
            initramfs: Some(build_time),
            initramfs_bytes: Some(initramfs.len()),
            kernel_release: None,
            standstill: None,
        };
        let mut builder = Vm::builder()
            .kernel(&kernel.image)
            .initrd(Initrd::Opened(initramfs.file()))
            .cmdline(archive::command_line(entry))
            .topology(archive::topology(entry)?)
            .memory_mib(memory_mib)
            .port(FRAME_PORT)
            .port(ktstr_init::STATS_PORT)
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
        let deadlines = deadlines_of(
            entry,
            config.engine.resolve().engine,
            kernel.vmlinux.is_some(),
        );
        let vm = builder
            // The coordinator ends the guest after a last look; this is for a coordinator that cannot.
            .deadline(deadlines.vm + coordinator::MAX_PAUSE + LAST_LOOK)
            .build()
            .context("failed to build the VM")?;
        // The start sets its own times.
        let now = Instant::now();
        let orders = Orders {
            started: now,
            deadline: now + deadlines.vm,
            snapshots: entry.num_snapshots,
            duration: deadlines.duration,
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
            vmcore: config
                .vmcore
                .then(|| crate::host::evidence::leave::vmcore_of(entry, dir)),
            stats: None,
        };
        Ok(Self {
            vm,
            deadlines,
            orders,
            view,
            times,
            has_scheduler: entry.scheduler.is_some(),
        })
    }

    pub(in crate::host) fn deadlines(&self) -> Deadlines {
        self.deadlines
    }

    /// Boots the VM and follows it to its end, which the VM's deadline bounds.
    ///
    /// # Errors
    /// When the VM cannot be started or waited for.
    pub(in crate::host) fn run(self) -> anyhow::Result<Ran> {
        let started = Instant::now();
        let engine_why = self.vm.engine_why().to_owned();
        let mut running = self.vm.start().context("failed to start the VM")?;
        let port = running
            .take_port(FRAME_PORT)
            .context("the VM has no frame port")?;
        let orders = Orders {
            started,
            deadline: started + self.deadlines.vm,
            ..self.orders
        };
        let mut view = self.view;
        if self.has_scheduler {
            view.stats = running
                .take_port(ktstr_init::STATS_PORT)
                .map(StatsClient::new);
        }
        let stats_client = view.stats.clone();
        let watch = Watch::start(running.engine_pid(), started);
        let followed = coordinator::follow(&running, port, view, started, orders)?;
        let exit = running.wait().context("failed to wait for the VM's end");
        let ended = Instant::now();
        let memory = running.memory();
        // Closing the VM closes its ports, which ends the frame thread.
        drop(running);
        let (drained, outcome) = followed.frames()?;
        // Giving a guest's pages back takes as long as some of the evaluation.
        thread::spawn(move || drop(memory));
        let mut times = self.times;
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
        duration: exit.duration,
        timed_out: matches!(exit.reason, ExitReason::Deadline),
        output: String::from_utf8_lossy(&output).into_owned(),
        stderr: String::from_utf8_lossy(&exit.com1).into_owned(),
        engine: exit.engine,
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
    let of_scheduler = entry
        .scheduler
        .and_then(|scheduler| scheduler.workload_root());
    if let Some(root) = entry.workload_root_cgroup.or(of_scheduler) {
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
