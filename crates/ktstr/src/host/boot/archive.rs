//! What goes into a test's VM: initramfs, kernel command line, deadline.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ktstr_init::{INIT_PATH, PLAN_PATH, Plan, SchedulerPlan};
use ktstr_initramfs::{Builder, Initramfs};
use ktstr_kernel::Kernel;
use ktstr_vmm::{Topology, VmBuilder};
use ktstr_wire::Task;

use crate::host::plan::busybox;
use crate::host::plan::config::HostConfig;
use crate::host::plan::includes::GUEST_INCLUDE_DIR;
use crate::host::plan::programs::Programs;

use crate::model::ctx::{DEFAULT_WORKLOAD_ROOT, TEST_PLAN_PATH, TestPlan};
use crate::model::entry::{CONFIG_FILE_MARK, KtstrTestEntry, Scheduler, SchedulerSpec};
use crate::model::role::GUEST_TEST_ARG;

/// The variable by which programs in Rust choose what they log.
const RUST_LOG: &str = "RUST_LOG";
/// In a scheduler's arguments: the place of its configuration file.
const CONFIG_MARK: &str = "{config}";
/// Where the scheduler's binary lies in the guest.
const GUEST_BIN_DIR: &str = "/ktstr/bin";
/// Share of guest memory that an unpacked initramfs may take: the kernel keeps both the archive and the files until
/// it has unpacked, and a test needs room of its own.
const INITRAMFS_SHARE: u64 = 3;

/// An initramfs does not fit.
#[derive(Debug, thiserror::Error)]
#[error(
    "the initramfs has {have_mib} MiB, too much for a guest with {memory_mib} MiB of memory; \
     declare memory_mib = {need_mib} or more, or make the included files smaller (largest: {largest})"
)]
pub(in crate::host) struct TooBig {
    /// Size of the archive.
    pub have_mib: u64,
    /// The declared memory.
    pub memory_mib: u32,
    /// What would do.
    pub need_mib: u64,
    /// The largest file and its size.
    pub largest: String,
}

impl TooBig {
    /// What would do, as a VM takes it.
    pub(in crate::host) fn need_mib_u32(&self) -> u32 {
        u32::try_from(self.need_mib).unwrap_or(u32::MAX)
    }
}

/// The guest's files, and how long it took to gather them.
#[derive(Debug)]
pub(in crate::host) struct GuestFiles {
    pub(in crate::host) initramfs: Initramfs,
    pub(in crate::host) build_time: Duration,
}

/// What a guest is to do: it lies in the archive, or comes from the host when the guest asks.
pub(in crate::host) fn task(
    entry: &KtstrTestEntry,
    programs: &Programs,
    test_plan: &TestPlan,
    config: &HostConfig,
) -> Task {
    let mut plan = init_plan(entry, programs);
    if let Some(filter) = config.rust_log.as_deref().and_then(scheduler_log_filter) {
        set_rust_log(&mut plan, &filter);
    }
    Task {
        plan: to_json(&plan),
        test_plan: to_json(test_plan),
        test_plan_path: TEST_PLAN_PATH.to_owned(),
    }
}

/// Puts the task into the archive; without one the guest asks for it.
///
/// # Errors
/// When another file has its place.
pub(in crate::host) fn add_task(builder: &mut Builder, task: Option<&Task>) -> anyhow::Result<()> {
    let Some(task) = task else {
        let none = Plan {
            at_gate: true,
            ..Plan::default()
        };
        builder.bytes(PLAN_PATH, to_json(&none), 0o644)?;
        return Ok(());
    };
    builder.bytes(PLAN_PATH, task.plan.clone(), 0o644)?;
    builder.bytes(TEST_PLAN_PATH, task.test_plan.clone(), 0o644)?;
    Ok(())
}

/// Builds the initramfs.
///
/// # Errors
/// When a file cannot be read.
pub(in crate::host) fn build(builder: &Builder) -> anyhow::Result<GuestFiles> {
    let started = Instant::now();
    Ok(GuestFiles {
        initramfs: builder.build()?,
        build_time: started.elapsed(),
    })
}

/// The guest's files but for its task: this binary as `/init`, its libraries, the schedulers, included files.
///
/// # Errors
/// When a file or library is missing; the error names it and what needs it.
pub(in crate::host) fn guest_files(
    entry: &KtstrTestEntry,
    exe: &Path,
    programs: &Programs,
    kernel: &Kernel,
) -> anyhow::Result<Builder> {
    let mut builder = Builder::new();
    builder.binary(INIT_PATH, exe)?;
    for host in programs
        .scheduler
        .iter()
        .chain(programs.staged.iter().flatten())
    {
        builder.binary(&guest_binary_path(host), host)?;
    }
    if needs_shell(entry) {
        busybox::add_to(&mut builder)?;
    }
    for include in &programs.includes {
        include.add_to(&mut builder)?;
    }
    if let Some((path, text)) = own_config(entry) {
        builder.bytes(path, text.into(), 0o644)?;
    }
    if let Some(release) = kernel.release()
        && let Some(text) = configuration_beside(&kernel.image, &release)
    {
        builder.bytes(&format!("/boot/config-{release}"), text, 0o644)?;
    }
    Ok(builder)
}

/// The configuration of a kernel that has it beside its image and not in itself (`/proc/config.gz`): libbpf looks into both places
/// for what BPF programs declare as `__kconfig`, CONFIG_HZ for one, and loads none that it cannot tell.
fn configuration_beside(image: &Path, release: &str) -> Option<Vec<u8>> {
    let names = [String::from("config"), format!("config-{release}")];
    let text = names
        .iter()
        .find_map(|name| std::fs::read_to_string(image.with_file_name(name)).ok())?;
    let has_its_own = text.lines().any(|line| line == "CONFIG_IKCONFIG_PROC=y");
    (!has_its_own).then(|| text.into_bytes())
}

/// Commands turn on one of its schedulers.
fn needs_shell(entry: &KtstrTestEntry) -> bool {
    entry
        .schedulers()
        .any(|scheduler| matches!(scheduler.spec, SchedulerSpec::KernelBuiltin { .. }))
}

/// What of the host's `RUST_LOG` is meant for others than the host itself; a filter for ktstr alone would silence a scheduler.
fn scheduler_log_filter(filter: &str) -> Option<String> {
    let others: Vec<&str> = filter
        .split(',')
        .map(str::trim)
        .filter(|directive| !directive.is_empty() && !directive.starts_with("ktstr"))
        .collect();
    (!others.is_empty()).then(|| others.join(","))
}

/// For every scheduler that has no `RUST_LOG` of its own.
fn set_rust_log(plan: &mut Plan, filter: &str) {
    for scheduler in plan.scheduler.iter_mut().chain(&mut plan.staged) {
        if let SchedulerPlan::Binary { env, .. } = scheduler
            && !env.iter().any(|(name, _)| name == RUST_LOG)
        {
            env.push((RUST_LOG.to_owned(), filter.to_owned()));
        }
    }
}

pub(in crate::host) fn to_json(value: &impl serde::Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("plans are plain data with string keys")
}

pub(in crate::host) fn guest_binary_path(host: &Path) -> String {
    let name = host
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    format!("{GUEST_BIN_DIR}/{name}")
}

/// Refuses an initramfs that the guest could not unpack.
///
/// # Errors
/// [`TooBig`] when archive and unpacked files together would leave the guest too little memory.
pub(in crate::host) fn check_size(initramfs: &Initramfs, memory_mib: u32) -> Result<(), TooBig> {
    let bytes = initramfs.len();
    let have_mib = bytes.div_ceil(1 << 20);
    let need_mib = have_mib
        .saturating_mul(INITRAMFS_SHARE)
        .saturating_add(KERNEL_MIB);
    if need_mib <= u64::from(memory_mib) {
        return Ok(());
    }
    let largest = initramfs.largest().map_or_else(
        || String::from("none"),
        |(path, len)| format!("{path}, {} MiB", len.div_ceil(1 << 20)),
    );
    Err(TooBig {
        have_mib,
        memory_mib,
        need_mib,
        largest,
    })
}

/// The kernel's own share of a small guest: its image, page structs, per-CPU areas.
const KERNEL_MIB: u64 = 64;

/// The test's own additions to the kernel command line.
pub(in crate::host) fn command_line(entry: &KtstrTestEntry) -> String {
    let mut args: Vec<String> = vec![
        "console=ttyS0".into(),
        "rdinit=/init".into(),
        "panic=-1".into(),
        "loglevel=4".into(),
        "random.trust_cpu=on".into(),
        "mitigations=off".into(),
        "tsc=reliable".into(),
    ];
    if !entry.kaslr {
        args.push("nokaslr".into());
    }
    args.extend(entry.kargs().into_iter().map(str::to_owned));
    args.join(" ")
}

/// The declared topology as the VM takes it.
///
/// # Errors
/// When the shape is impossible; validation has said so before.
pub(in crate::host) fn topology(
    entry: &KtstrTestEntry,
) -> Result<Topology, ktstr_vmm::TopologyError> {
    let spec = entry.topology;
    Topology::new(spec.numa_nodes, spec.llcs, spec.cores, spec.threads)
}

/// The test's own disk and network cards.
pub(in crate::host) fn with_devices(builder: VmBuilder, entry: &KtstrTestEntry) -> VmBuilder {
    let builder = entry
        .disk
        .iter()
        .fold(builder, |builder, disk| builder.disk(disk.disk()));
    let nets = entry.networks.iter();
    nets.fold(builder, |builder, net| builder.net(net.net()))
}

pub(in crate::host) fn init_plan(entry: &KtstrTestEntry, programs: &Programs) -> Plan {
    // A staged scheduler is another program, which may not know what the test's own is told.
    // Nor does it have the test's configuration: validation refuses one that wants it.
    let plan_of = |scheduler: &Scheduler, host: Option<&PathBuf>, extra: &[&str]| {
        let guest = host.map(|host| guest_binary_path(host));
        scheduler_plan(scheduler, guest.as_deref(), extra)
    };
    Plan {
        scheduler: entry.scheduler.and_then(|scheduler| {
            plan_of(
                scheduler,
                programs.scheduler.as_ref(),
                entry.extra_sched_args,
            )
        }),
        staged: entry
            .staged_schedulers
            .iter()
            .zip(&programs.staged)
            .filter_map(|(scheduler, host)| plan_of(scheduler, host.as_ref(), &[]))
            .collect(),
        // The name that is in the guest's registry; that of a cell of the gauntlet, `name@preset`, is not.
        test: vec![
            INIT_PATH.into(),
            GUEST_TEST_ARG.into(),
            entry.registered_name().into(),
        ],
        env: vec![
            ("RUST_BACKTRACE".into(), "1".into()),
            (
                "PATH".into(),
                format!("{GUEST_INCLUDE_DIR}:{GUEST_BIN_DIR}:/bin:/sbin:/usr/bin:/usr/sbin"),
            ),
        ],
        sysctls: entry
            .sysctls()
            .into_iter()
            .map(|one| (one.key.to_owned(), one.value.to_owned()))
            .collect(),
        cpus: Some(entry.topology.total_cpus()),
        kargs: entry.kargs().into_iter().map(str::to_owned).collect(),
        cgroups: cgroups_of(entry),
        probes: programs.probes.clone(),
        await_watch: true,
        look_for_requests: entry.scx_stats,
        at_gate: false,
    }
}

/// What is there before the scheduler starts: the cgroups that it manages, and the workload's.
fn cgroups_of(entry: &KtstrTestEntry) -> Vec<String> {
    let default = DEFAULT_WORKLOAD_ROOT.strip_prefix("/sys/fs/cgroup");
    let usual = entry.scheduler.and(default);
    let root = entry.workload_root().or(usual);
    let mut all: Vec<String> = root.into_iter().map(str::to_owned).collect();
    for scheduler in entry.schedulers() {
        let paths = [scheduler.cgroup_parent, scheduler.cell_parent()];
        for path in paths.into_iter().flatten() {
            if !all.iter().any(|one| one == path) {
                all.push(path.to_owned());
            }
        }
    }
    all
}

/// Where a scheduler's configuration file lies in the guest.
fn guest_config(host: &str) -> String {
    let name = Path::new(host).file_name().unwrap_or_default();
    format!("{GUEST_INCLUDE_DIR}/{}", name.to_string_lossy())
}

/// A scheduler's arguments with its configuration's place put in.
fn with_config(args: &[&str], config: Option<&str>) -> Vec<String> {
    let Some(guest) = config.map(guest_config) else {
        return args.iter().map(|arg| (*arg).to_owned()).collect();
    };
    let placed = args.iter().map(|arg| arg.replace(CONFIG_MARK, &guest));
    if args.iter().any(|arg| arg.contains(CONFIG_MARK)) {
        placed.collect()
    } else {
        [String::from("--config"), guest.clone()]
            .into_iter()
            .chain(placed)
            .collect()
    }
}

/// The last arguments, which tell it where the test's own configuration is.
fn own_config_args(scheduler: &Scheduler) -> Vec<String> {
    let Some((args, path)) = scheduler.config_file_def else {
        return Vec::new();
    };
    let args = args.split_whitespace();
    args.map(|arg| arg.replace(CONFIG_FILE_MARK, path))
        .collect()
}

/// The test's own configuration: its path in the guest and its text.
fn own_config(entry: &KtstrTestEntry) -> Option<(&'static str, &'static str)> {
    let (_, path) = entry.scheduler?.config_file_def?;
    Some((path, entry.config?))
}

fn own_pair((name, value): &(&str, &str)) -> (String, String) {
    ((*name).to_owned(), (*value).to_owned())
}

/// How long a scheduler may take to load and attach; its verifier runs on an emulated CPU.
const ATTACH_TIMEOUT: Duration = Duration::from_secs(30);

fn scheduler_plan(
    scheduler: &Scheduler,
    guest_scheduler: Option<&str>,
    extra_args: &[&str],
) -> Option<SchedulerPlan> {
    let own =
        |texts: &[&str]| -> Vec<String> { texts.iter().map(|text| (*text).to_owned()).collect() };
    match scheduler.spec {
        SchedulerSpec::KernelBuiltin { enable, disable } => Some(SchedulerPlan::Builtin {
            name: scheduler.name.to_owned(),
            enable: own(enable),
            disable: own(disable),
        }),
        _ => Some(SchedulerPlan::Binary {
            name: scheduler.name.to_owned(),
            path: guest_scheduler?.to_owned(),
            args: with_config(
                &[scheduler.sched_args, extra_args].concat(),
                scheduler.config_file,
            )
            .into_iter()
            .chain(own_config_args(scheduler))
            .collect(),
            env: scheduler.env.iter().map(own_pair).collect(),
            attach_timeout_ms: u64::try_from(ATTACH_TIMEOUT.as_millis()).unwrap_or(u64::MAX),
            stats_socket: scheduler.stats_socket.map(str::to_owned),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::entry::Sysctl;

    static OWN: Scheduler = Scheduler {
        name: "own",
        spec: SchedulerSpec::Path("/bin/own"),
        sched_args: &["-v"],
        config_file: Some("conf/cells.json"),
        cgroup_parent: Some("/cells"),
        env: &[("RUST_LOG", "own=trace")],
        kargs: &["quiet"],
        ..Scheduler::DEFAULT
    };
    static STAGED: Scheduler = Scheduler {
        name: "staged",
        spec: SchedulerSpec::Path("/bin/staged"),
        sched_args: &["--cell-parent-cgroup", "/other", "--conf={config}"],
        config_file: Some("staged.json"),
        kargs: &["quiet", "preempt=full"],
        sysctls: &[Sysctl::new("kernel.sched_x", "1")],
        ..Scheduler::DEFAULT
    };
    const ENTRY: KtstrTestEntry = KtstrTestEntry {
        name: "t",
        scheduler: Some(&OWN),
        staged_schedulers: &[&STAGED],
        extra_sched_args: &["--extra"],
        ..KtstrTestEntry::DEFAULT
    };

    fn plan() -> Plan {
        let programs = Programs {
            scheduler: Some("/h/own".into()),
            staged: vec![Some("/h/staged".into())],
            ..Programs::default()
        };
        init_plan(&ENTRY, &programs)
    }

    fn args_and_env(plan: &SchedulerPlan) -> (Vec<String>, Vec<(String, String)>) {
        match plan {
            SchedulerPlan::Binary { args, env, .. } => (args.clone(), env.clone()),
            SchedulerPlan::Builtin { .. } => panic!("{plan:?}"),
        }
    }

    #[test]
    fn the_workloads_place_is_there_before_its_scheduler() {
        static SCHEDULER: Scheduler = Scheduler {
            sched_args: &["--cell-parent-cgroup=/cells"],
            ..Scheduler::DEFAULT
        };
        static OTHER: Scheduler = Scheduler {
            cgroup_parent: Some("/managed"),
            ..Scheduler::DEFAULT
        };
        static STAGED: [&Scheduler; 1] = [&OTHER];
        let of = |scheduler, own| {
            cgroups_of(&KtstrTestEntry {
                scheduler,
                staged_schedulers: &STAGED,
                workload_root_cgroup: own,
                ..KtstrTestEntry::DEFAULT
            })
        };
        assert_eq!(of(None, None), ["/managed"]);
        assert_eq!(of(Some(&Scheduler::DEFAULT), None), ["/ktstr", "/managed"]);
        assert_eq!(of(Some(&SCHEDULER), None), ["/cells", "/managed"]);
        assert_eq!(of(Some(&OTHER), Some("/own")), ["/own", "/managed"]);
    }

    #[test]
    fn a_kernel_that_does_not_tell_its_configuration_has_it_in_the_guest() {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("bzImage");
        let beside = || configuration_beside(&image, "7.2.13+deb14");
        assert_eq!(beside(), None);
        let text = "CONFIG_HZ=250\n# CONFIG_IKCONFIG is not set\n";
        std::fs::write(dir.path().join("config-7.2.13+deb14"), text).unwrap();
        assert_eq!(beside(), Some(text.as_bytes().to_vec()));
        std::fs::write(dir.path().join("config"), "CONFIG_IKCONFIG_PROC=y\n").unwrap();
        assert_eq!(beside(), None, "the kernel says it itself");
    }

    #[test]
    fn a_configuration_and_the_tests_own_arguments_reach_the_right_scheduler() {
        let plan = plan();
        let (own, _) = args_and_env(plan.scheduler.as_ref().unwrap());
        assert_eq!(
            own,
            ["--config", "/include-files/cells.json", "-v", "--extra"]
        );
        let (staged, _) = args_and_env(&plan.staged[0]);
        assert_eq!(
            staged,
            [
                "--cell-parent-cgroup",
                "/other",
                "--conf=/include-files/staged.json"
            ]
        );
    }

    #[test]
    fn a_tests_own_configuration_is_a_file_that_the_last_arguments_name() {
        static CONFIGURED: Scheduler = Scheduler {
            sched_args: &["-v"],
            config_file_def: Some(("--config {file} --strict", "/etc/own.conf")),
            config_file: None,
            ..OWN
        };
        let entry = KtstrTestEntry {
            scheduler: Some(&CONFIGURED),
            config: Some("layers = 3"),
            ..ENTRY
        };
        assert_eq!(own_config(&entry), Some(("/etc/own.conf", "layers = 3")));
        assert_eq!(own_config(&ENTRY), None);
        let programs = Programs {
            scheduler: Some("/h/own".into()),
            ..Programs::default()
        };
        let plan = init_plan(&entry, &programs);
        let (args, _) = args_and_env(plan.scheduler.as_ref().unwrap());
        let expected = ["-v", "--extra", "--config", "/etc/own.conf", "--strict"];
        assert_eq!(args, expected);
    }

    #[test]
    fn every_cgroup_that_a_scheduler_manages_is_made_and_cpus_and_kargs_are_checked() {
        let plan = plan();
        assert_eq!(plan.cgroups, ["/cells", "/other"]);
        assert_eq!(plan.cpus, Some(ENTRY.topology.total_cpus()));
        assert_eq!(plan.kargs, ["quiet", "preempt=full"]);
        assert_eq!(
            plan.sysctls,
            [(String::from("kernel.sched_x"), String::from("1"))]
        );
        let line = command_line(&ENTRY);
        assert!(line.ends_with(" quiet preempt=full"), "{line}");
    }

    #[test]
    fn the_hosts_log_filter_reaches_schedulers_that_have_none() {
        assert_eq!(scheduler_log_filter("ktstr=debug,ktstr_vmm=info"), None);
        assert_eq!(
            scheduler_log_filter("ktstr=debug, warn,scx=trace").as_deref(),
            Some("warn,scx=trace")
        );
        let mut plan = plan();
        set_rust_log(&mut plan, "debug");
        let pair = |value: &str| vec![("RUST_LOG".to_owned(), value.to_owned())];
        assert_eq!(
            args_and_env(plan.scheduler.as_ref().unwrap()).1,
            pair("own=trace")
        );
        assert_eq!(args_and_env(&plan.staged[0]).1, pair("debug"));
    }
}
