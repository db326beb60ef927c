//! What a test declares: the registry entry that `#[ktstr_test]` emits, and its scheduler.

use ktstr_vmm::Clock;
use serde::Serialize;

use super::bpf_map::{self, BpfMapWrite, WatchBpfMap};
use super::checks::Assert;
use super::ctx::Ctx;
use super::device::{DiskConfig, NetConfig};
use super::invariants::{self, Invariants};
use super::names;
use super::payload::{self, Payload};
use super::result::VmResult;
use super::snapshot::MAX_REPORTS;
pub use super::topology::{TopologyConstraints, TopologySpec};
use super::verdict::AssertResult;

/// Where a test's scheduler comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub enum SchedulerSpec {
    /// The kernel's default scheduler; nothing is started.
    Eevdf,
    /// A binary built from the workspace, or found on `PATH`.
    Discover(&'static str),
    /// A prebuilt binary at this host path.
    Path(&'static str),
    /// A scheduler built into the kernel, switched by guest shell commands.
    KernelBuiltin {
        /// Commands that turn it on.
        enable: &'static [&'static str],
        /// Commands that turn it off.
        disable: &'static [&'static str],
    },
}

/// A kernel setting that a scheduler needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sysctl {
    /// Its name with dots: `kernel.sched_schedstats`.
    pub key: &'static str,
    /// What is written there.
    pub value: &'static str,
}

impl Sysctl {
    /// `Sysctl::new("kernel.sched_schedstats", "1")`
    #[must_use]
    pub const fn new(key: &'static str, value: &'static str) -> Self {
        Self { key, value }
    }
}

/// A scheduler as `declare_scheduler!` declares it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scheduler {
    /// Its name in messages.
    pub name: &'static str,
    /// Where its program comes from.
    pub spec: SchedulerSpec,
    /// Arguments of its program.
    pub sched_args: &'static [&'static str],
    /// Topology of tests that declare none.
    pub topology: Option<TopologySpec>,
    /// Checks of all its tests; a test's own win.
    pub assert: Assert,
    /// Kernel settings that it needs, names with dots; one that the kernel refuses fails the test before it begins. A staged
    /// scheduler has them, too, and its `kargs` and `kernels`; one setting with two values is refused.
    pub sysctls: &'static [Sysctl],
    /// Kernel command line arguments that it needs, one in each text; one that the kernel does not know fails the test before it
    /// begins.
    pub kargs: &'static [&'static str],
    /// Kernels that it runs on, each a version (`6.12.30`), a series (`6.12`) or a range of them (`6.12..6.14`, both ends
    /// included); empty for all. On another kernel its tests are skipped.
    pub kernels: &'static [&'static str],
    /// Cgroup that it manages, as a path below the cgroup root: there before it starts, with the cpuset and cpu controllers on.
    /// The workload's cgroups are made in it, unless the test names another `workload_root_cgroup` or the arguments say
    /// `--cell-parent-cgroup`.
    pub cgroup_parent: Option<&'static str>,
    /// Its configuration file on the host: a path, from the package if it is relative. It is copied into the guest. An argument
    /// that holds `{config}` gets the guest's path there; without one, `--config PATH` comes before all other arguments.
    pub config_file: Option<&'static str>,
    /// Where the configuration that each test says in `config` lies in the guest, and how the program is told: the arguments with
    /// `{file}` for the path, split at blanks, which come last; and the path. Each of its tests needs a `config` then.
    pub config_file_def: Option<(&'static str, &'static str)>,
    /// Which topologies its tests may be run on, unless they say so themselves.
    pub constraints: TopologyConstraints,
    /// Variables of its environment. `RUST_LOG` of the host's own environment reaches it as well; this wins.
    pub env: &'static [(&'static str, &'static str)],
    /// The unix socket in the guest on which it answers stats requests; `None` for the one of `scx_stats`.
    pub stats_socket: Option<&'static str>,
    /// Presets on which the verifier's sweep leaves it out, by their names: `128cpu-8llc-smt`. Tests are not concerned.
    pub verifier_exclude_topologies: &'static [&'static str],
    /// `file:line` of the declaration, for messages; empty for one that was made by hand.
    pub place: &'static str,
    /// Directory of the package that declares it; empty for one that was made by hand.
    pub manifest_dir: &'static str,
}

impl Scheduler {
    /// Nothing declared; for `..Scheduler::DEFAULT`.
    pub const DEFAULT: Self = Self {
        name: "",
        spec: SchedulerSpec::Eevdf,
        sched_args: &[],
        topology: None,
        assert: Assert::NO_OVERRIDES,
        sysctls: &[],
        kargs: &[],
        kernels: &[],
        cgroup_parent: None,
        config_file: None,
        config_file_def: None,
        constraints: TopologyConstraints::DEFAULT,
        env: &[],
        stats_socket: None,
        verifier_exclude_topologies: &[],
        place: "",
        manifest_dir: "",
    };
}

impl Scheduler {
    /// Where the workload's cgroups go, as a path below the cgroup root: where its arguments say that its cells are, else in the
    /// cgroup that it manages.
    #[must_use]
    pub fn workload_root(&self) -> Option<&'static str> {
        self.cell_parent().or(self.cgroup_parent)
    }

    /// The value of `--cell-parent-cgroup` among its arguments.
    #[must_use]
    pub fn cell_parent(&self) -> Option<&'static str> {
        cell_parent_of(self.sched_args)
    }
}

/// In the arguments of a `config_file_def`: the path.
pub(crate) const CONFIG_FILE_MARK: &str = "{file}";

/// A cgroup's path that the guest cannot make below its root.
pub(super) fn is_bad_cgroup(path: &str) -> bool {
    !path.starts_with('/') || path == "/" || path.split('/').any(|part| part == "..")
}

/// The body of a test.
pub type TestFn = fn(&Ctx) -> anyhow::Result<AssertResult>;
/// A callback after the VM's end.
/// [`post_vm!`](crate::post_vm) makes one of any function that returns `Result<impl IntoPostVm>`.
pub type PostVm = fn(&VmResult) -> anyhow::Result<AssertResult>;

/// One test, as registered. Build by hand with `..KtstrTestEntry::DEFAULT`.
#[derive(Debug, Clone, Copy)]
pub struct KtstrTestEntry {
    /// The function's name.
    pub name: &'static str,
    /// The body, run in the guest.
    pub func: TestFn,
    /// The scheduler under test; `None` for the kernel's own.
    pub scheduler: Option<&'static Scheduler>,
    /// Schedulers that the test may put in its place.
    pub staged_schedulers: &'static [&'static Scheduler],
    /// The guest's CPUs.
    pub topology: TopologySpec,
    /// Which other topologies it may be run on.
    pub constraints: TopologyConstraints,
    /// Guest memory, at least: see [`guest_memory_mib`](Self::guest_memory_mib).
    pub memory_mib: u32,
    /// Length of the scenario.
    pub duration_s: u32,
    /// How long a runnable task may wait before the kernel's watchdog ejects the scheduler.
    pub watchdog_timeout_s: u32,
    /// The test's own checks.
    pub assert: Assert,
    /// On a failure, run again with probes.
    pub auto_repro: bool,
    /// The failure is wanted, and its repro artifact proves it.
    pub expect_auto_repro: bool,
    /// The test is meant to fail.
    pub expect_err: bool,
    /// One of the test's schedulers must be in charge at its end, too: a test that has taken it away and attached none again fails.
    pub survives_storm: bool,
    /// An inconclusive outcome is good enough.
    pub allow_inconclusive: bool,
    /// Text that the scheduler's error must contain.
    pub expect_scx_bpf_error_contains: Option<&'static str>,
    /// Regular expression that a line of the scheduler's error must match.
    pub expect_scx_bpf_error_matches: Option<&'static str>,
    /// Regular expression for a warning of the guest's kernel that does not fail the test.
    pub allow_kernel_warning: Option<&'static str>,
    /// Rules of the kernel's own books that it is held to.
    pub invariants: Invariants,
    /// One of them that may be broken without failing the test.
    pub allow_invariant: Option<&'static str>,
    /// Needs CPUs of its own.
    pub performance_mode: bool,
    /// Must not run in performance mode.
    pub no_perf_mode: bool,
    /// Host CPUs for the vCPUs; `None` for as many as vCPUs.
    pub cpu_budget: Option<u32>,
    /// The guest's kernel places itself at random.
    pub kaslr: bool,
    /// Run on the host, without a VM. Beside it stand `ignore`, `duration_s`, `settle_ms`, `expect_err`, `allow_inconclusive`,
    /// checks of workers, and payloads without files of their own and without an extractor; everything else is about a VM and is refused.
    pub host_only: bool,
    /// Listed, and run only when asked for.
    pub ignore: bool,
    /// Periodic captures; 0 for none.
    pub num_snapshots: u32,
    /// Whose time passes in the guest, where the test needs one clock of the two.
    pub time: Option<Clock>,
    /// Run in virtual time under this many seeds, from 0 on, until one fails; 0 for one run in the clock that is asked for.
    pub seeds: u32,
    /// The speed of each CPU, above 0 and up to 1.0, which is full speed; CPUs beyond the list have full speed. In virtual time
    /// only, which the test has then.
    pub speeds: &'static [f64],
    /// How many times longer an instruction takes while the other thread of its core is busy; `None` for 1.6. In virtual time
    /// only, which the test has then.
    pub smt_factor: Option<f64>,
    /// Captures ask the scheduler's stats server in virtual time, too. Each such request is an event of the run: it happens again
    /// under the same seed, and a run without it is another run.
    pub scx_stats: bool,
    /// Time given to the scheduler between its attach and each scenario, milliseconds.
    pub settle_ms: u32,
    /// Numbers written into the scheduler's maps once it is attached and before the scenario.
    pub bpf_map_write: &'static [&'static BpfMapWrite],
    /// Numbers in the scheduler's maps that every sample of the monitor holds.
    pub watch_bpf_maps: &'static [&'static WatchBpfMap],
    /// Give the scheduler `watchdog_timeout_s` instead of the time-out that it chose itself. On; a kernel that cannot be looked
    /// into leaves the scheduler's own, and `VmResult::watchdog_observation` says so.
    pub override_watchdog: bool,
    /// Called after the run unless the guest reported a failure.
    pub post_vm: Option<PostVm>,
    /// Called after every run.
    pub post_vm_unconditional: Option<PostVm>,
    /// Longest allowed time from the last vCPU's end to the result.
    pub cleanup_budget_ms: Option<u64>,
    /// Cgroup under which the workload's cgroups are made.
    pub workload_root_cgroup: Option<&'static str>,
    /// The program that the test is about, put into the guest; operations run it by its name.
    pub payload: Option<&'static Payload>,
    /// Further programs that operations may run by name.
    pub workloads: &'static [&'static Payload],
    /// Host files for the guest's `/include-files`, which is on its `PATH`: a path, or a bare name that is looked for in the
    /// package and then on the host's `PATH`; a directory with all that is in it.
    pub extra_include_files: &'static [&'static str],
    /// The text of the scheduler's configuration, where its `config_file_def` wants one.
    pub config: Option<&'static str>,
    /// More arguments for the scheduler, which is a program.
    pub extra_sched_args: &'static [&'static str],
    /// The guest's disk.
    pub disk: Option<DiskConfig>,
    /// The guest's network cards.
    pub networks: &'static [NetConfig],
    /// `file:line` of the test, for messages; empty for an entry that was made by hand.
    pub place: &'static str,
    /// Directory of the package that the test belongs to: its scheduler is built in that workspace. Empty for an entry that was
    /// made by hand, which takes the one that it runs in.
    pub manifest_dir: &'static str,
    /// Name of that package.
    pub package: &'static str,
}

fn no_body(_: &Ctx) -> anyhow::Result<AssertResult> {
    anyhow::bail!("this entry has no function")
}

/// One thing that is wrong with an entry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("test '{test}': {}", faults.join("; "))]
pub struct EntryError {
    /// The test.
    pub test: &'static str,
    /// Everything that is wrong with it.
    pub faults: Vec<String>,
}

impl KtstrTestEntry {
    /// The documented defaults, without name and function.
    pub const DEFAULT: Self = Self {
        name: "",
        func: no_body,
        scheduler: None,
        staged_schedulers: &[],
        topology: TopologySpec::DEFAULT,
        constraints: TopologyConstraints::DEFAULT,
        memory_mib: 256,
        duration_s: 12,
        watchdog_timeout_s: 5,
        assert: Assert::NO_OVERRIDES,
        auto_repro: true,
        expect_auto_repro: false,
        expect_err: false,
        survives_storm: false,
        allow_inconclusive: false,
        expect_scx_bpf_error_contains: None,
        expect_scx_bpf_error_matches: None,
        allow_kernel_warning: None,
        invariants: Invariants::On,
        allow_invariant: None,
        performance_mode: false,
        no_perf_mode: false,
        cpu_budget: None,
        kaslr: true,
        host_only: false,
        ignore: false,
        num_snapshots: 0,
        time: None,
        seeds: 0,
        speeds: &[],
        smt_factor: None,
        scx_stats: false,
        settle_ms: 0,
        bpf_map_write: &[],
        watch_bpf_maps: &[],
        override_watchdog: true,
        post_vm: None,
        post_vm_unconditional: None,
        cleanup_budget_ms: None,
        workload_root_cgroup: None,
        payload: None,
        workloads: &[],
        extra_include_files: &[],
        config: None,
        extra_sched_args: &[],
        disk: None,
        networks: &[],
        place: "",
        manifest_dir: "",
        package: "",
    };

    /// Where its cgroups go, as a path below the cgroup root; `None` for the usual place. The attribute wins over what its scheduler
    /// is told, a test's own arguments over those of the declaration.
    #[must_use]
    pub fn workload_root(&self) -> Option<&'static str> {
        self.workload_root_cgroup
            .or_else(|| cell_parent_of(self.extra_sched_args))
            .or_else(|| self.scheduler?.workload_root())
    }

    /// Checks what the compiler checked of a `#[ktstr_test]`, once more for entries built by hand, and what it cannot check.
    ///
    /// # Errors
    /// With everything that is wrong.
    pub fn validate(&self) -> Result<(), EntryError> {
        let mut faults = Vec::new();
        let mut check = |wrong: bool, text: &str| {
            if wrong {
                faults.push(text.to_owned());
            }
        };
        check(
            self.num_snapshots as usize > MAX_REPORTS,
            &format!(
                "num_snapshots is {}, at most {MAX_REPORTS} are kept",
                self.num_snapshots
            ),
        );
        check(
            self.workload_root_cgroup.is_some_and(is_bad_cgroup),
            "workload_root_cgroup must be an absolute path below the root, without '..'",
        );
        faults.extend(names::name_fault(self.name));
        faults.extend(self.contradictions());
        let TopologySpec {
            numa_nodes,
            llcs,
            cores,
            threads,
        } = self.topology;
        if let Err(error) = ktstr_vmm::Topology::new(numa_nodes, llcs, cores, threads) {
            faults.push(format!("topology {}: {error}", self.topology));
        }
        faults.extend(self.disk.and_then(|disk| disk.fault()).map(str::to_owned));
        let nets = self.networks.iter().filter_map(NetConfig::fault);
        faults.extend(nets.map(str::to_owned));
        faults.extend(self.matcher_faults());
        faults.extend(self.invariant_faults());
        faults.extend(self.schedulers().flat_map(Scheduler::faults));
        let mut staged = self.staged_schedulers.iter();
        if let Some(staged) = staged.find(|staged| staged.config_file_def.is_some()) {
            faults.push(format!(
                "the staged scheduler '{}' has config_file_def, and `config` is of the test's own scheduler; use config_file",
                staged.name
            ));
        }
        faults.extend(self.setting_faults());
        faults.extend(payload::faults_of(self.payload, self.workloads));
        faults.extend(bpf_map::faults_of(self.watch_bpf_maps));
        if faults.is_empty() {
            Ok(())
        } else {
            Err(EntryError {
                test: self.name,
                faults,
            })
        }
    }

    /// What is wrong with `expect_scx_bpf_error_*` and `allow_kernel_warning`.
    fn matcher_faults(&self) -> Vec<String> {
        let (text, pattern) = (
            self.expect_scx_bpf_error_contains,
            self.expect_scx_bpf_error_matches,
        );
        let mut faults = Vec::new();
        for (name, value) in [
            ("expect_scx_bpf_error_contains", text),
            ("expect_scx_bpf_error_matches", pattern),
        ] {
            if value == Some("") {
                faults.push(format!("{name} is empty and would match anything"));
            }
        }
        if self.allow_kernel_warning == Some("") {
            faults.push(String::from(
                "allow_kernel_warning is empty and would match anything",
            ));
        }
        for (name, pattern) in [
            ("expect_scx_bpf_error_matches", pattern),
            ("allow_kernel_warning", self.allow_kernel_warning),
        ] {
            if let Some(Err(error)) = pattern.map(regex::Regex::new) {
                faults.push(format!("{name}: {error}"));
            }
        }
        faults
    }

    /// What is wrong with `invariants` and `allow_invariant`.
    fn invariant_faults(&self) -> Option<String> {
        let only = match self.invariants {
            Invariants::Only(names) => names,
            Invariants::On | Invariants::Off => &[],
        };
        invariants::unknown(only.iter().copied().chain(self.allow_invariant))
    }

    /// The name that it is registered by, which the guest finds its function by; [`Self::name`] of a test on a preset has
    /// the preset's behind an `@`.
    #[must_use]
    pub fn registered_name(&self) -> &'static str {
        self.name
            .split_once('@')
            .map_or(self.name, |(name, _)| name)
    }

    /// Whether a topology of this shape is within the test's constraints.
    #[must_use]
    pub fn allows(&self, shape: &TopologySpec) -> bool {
        let TopologyConstraints {
            min_llcs,
            max_llcs,
            min_numa_nodes,
            max_numa_nodes,
            min_cpus,
            max_cpus,
            requires_smt,
        } = self.constraints;
        let within = |least: u32, most: Option<u32>, count: u32| {
            count >= least && most.is_none_or(|most| count <= most)
        };
        within(min_llcs, max_llcs, shape.llcs)
            && within(min_numa_nodes, max_numa_nodes, shape.numa_nodes)
            && within(min_cpus, max_cpus, shape.total_cpus())
            && (!requires_smt || shape.threads > 1)
    }

    /// Memory that its guest gets: what is declared, but not less than 256 MiB, nor than 64 MiB for each CPU. A guest that has
    /// more put into it than that leaves room for gets more.
    #[must_use]
    pub fn guest_memory_mib(&self) -> u32 {
        let by_cpus = self.topology.total_cpus().saturating_mul(64);
        self.memory_mib.max(by_cpus).max(256)
    }

    /// Whether its CPUs are unequal, or slow each other otherwise than usual.
    #[must_use]
    pub fn has_speeds(&self) -> bool {
        !self.speeds.is_empty() || self.smt_factor.is_some()
    }

    /// The programs that operations may run by name.
    #[must_use]
    pub fn payloads(&self) -> Vec<&'static Payload> {
        let further = self.workloads.iter().copied();
        self.payload.into_iter().chain(further).collect()
    }

    /// Where the scheduler's program comes from.
    #[must_use]
    pub fn scheduler_spec(&self) -> SchedulerSpec {
        self.scheduler
            .map_or(SchedulerSpec::Eevdf, |scheduler| scheduler.spec)
    }

    /// The scheduler's declared name; `None` for the kernel's own.
    #[must_use]
    pub fn scheduler_name(&self) -> Option<&'static str> {
        self.scheduler.map(|scheduler| scheduler.name)
    }

    /// The checks that hold: defaults, then the scheduler's, then the test's; the last `Some` wins.
    #[must_use]
    pub fn merged_assert(&self) -> Assert {
        Assert::default_checks().merge(self.asked_assert())
    }

    /// The same without the defaults: what the scheduler's author and the test's ask for.
    #[must_use]
    pub fn asked_assert(&self) -> Assert {
        self.scheduler
            .map_or(Assert::NO_OVERRIDES, |scheduler| scheduler.assert)
            .merge(self.assert)
    }
}

/// The value of `--cell-parent-cgroup` among a scheduler's arguments.
fn cell_parent_of(args: &'static [&'static str]) -> Option<&'static str> {
    const FLAG: &str = "--cell-parent-cgroup";
    let at = args.iter().position(|arg| {
        let rest = arg.strip_prefix(FLAG);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
    })?;
    match args.get(at)?.split_once('=') {
        Some((_, value)) => Some(value),
        None => args.get(at + 1).copied(),
    }
}

/// Every test of this binary.
#[linkme::distributed_slice]
pub static KTSTR_TESTS: [&'static KtstrTestEntry];

/// Those of them that Rust's own test harness runs; empty where it is not linked.
#[linkme::distributed_slice]
pub static LIBTEST_TESTS: [&'static KtstrTestEntry];

/// Where `test_main!` is the main, the directory of its package; empty elsewhere.
#[linkme::distributed_slice]
pub static TEST_MAINS: [&'static str];

/// Every scheduler that this binary declares.
#[linkme::distributed_slice]
pub static KTSTR_SCHEDULERS: [&'static Scheduler];

/// The test of that name.
#[must_use]
pub fn find_test(name: &str) -> Option<&'static KtstrTestEntry> {
    KTSTR_TESTS.iter().copied().find(|entry| entry.name == name)
}

/// The scheduler of that name.
#[must_use]
pub fn find_scheduler(name: &str) -> Option<&'static Scheduler> {
    KTSTR_SCHEDULERS
        .iter()
        .copied()
        .find(|scheduler| scheduler.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: KtstrTestEntry = KtstrTestEntry {
        name: "t",
        ..KtstrTestEntry::DEFAULT
    };
    static SCHEDULER: Scheduler = Scheduler {
        name: "s",
        assert: Assert::NO_OVERRIDES.max_gap_ms(7),
        ..Scheduler::DEFAULT
    };

    #[track_caller]
    fn check(entry: &KtstrTestEntry, needles: &[&str]) {
        let error = entry.validate().unwrap_err().to_string();
        for needle in needles {
            assert!(error.contains(needle), "{needle:?} is not in {error}");
        }
    }

    #[test]
    fn every_fault_is_named_at_once() {
        assert_eq!(GOOD.validate(), Ok(()));
        check(
            &KtstrTestEntry {
                duration_s: 0,
                performance_mode: true,
                no_perf_mode: true,
                ..GOOD
            },
            &["duration_s is 0", "exclude each other"],
        );
        check(
            &KtstrTestEntry {
                expect_scx_bpf_error_contains: Some(""),
                ..GOOD
            },
            &["needs expect_err", "match anything"],
        );
        check(
            &KtstrTestEntry {
                allow_kernel_warning: Some("(open"),
                ..GOOD
            },
            &["allow_kernel_warning: regex parse error"],
        );
        check(
            &KtstrTestEntry {
                expect_scx_bpf_error_matches: Some("(open"),
                ..GOOD
            },
            &["expect_scx_bpf_error_matches needs", "unclosed group"],
        );
        check(
            &KtstrTestEntry {
                host_only: true,
                scheduler: Some(&SCHEDULER),
                ..GOOD
            },
            &["host_only and scheduler"],
        );
        check(
            &KtstrTestEntry {
                workload_root_cgroup: Some("/a/../.."),
                ..GOOD
            },
            &["without '..'"],
        );
        check(
            &KtstrTestEntry {
                disk: Some(DiskConfig::DEFAULT.iops(0)),
                networks: const { &[NetConfig::DEFAULT.mac([1, 0, 0, 0, 0, 1])] },
                ..GOOD
            },
            &["would let nothing through", "even first byte"],
        );
        let topology = TopologySpec {
            numa_nodes: 2,
            llcs: 3,
            ..TopologySpec::DEFAULT
        };
        check(
            &KtstrTestEntry { topology, ..GOOD },
            &["2n3l2c1t", "dealt evenly"],
        );
    }

    #[test]
    fn the_workload_is_where_the_scheduler_has_its_cells() {
        let root = |args: &'static [&'static str], parent| {
            Scheduler {
                sched_args: args,
                cgroup_parent: parent,
                ..Scheduler::DEFAULT
            }
            .workload_root()
        };
        assert_eq!(root(&[], None), None);
        assert_eq!(root(&["-v"], Some("/p")), Some("/p"));
        assert_eq!(
            root(&["--cell-parent-cgroup", "/c"], Some("/p")),
            Some("/c")
        );
        assert_eq!(root(&["--cell-parent-cgroup=/c"], None), Some("/c"));
        assert_eq!(root(&["--cell-parent-cgroups=/c"], None), None);
    }

    #[test]
    fn a_tests_own_place_wins_over_its_schedulers() {
        static PLACED: Scheduler = Scheduler {
            sched_args: &["--cell-parent-cgroup", "/declared"],
            ..Scheduler::DEFAULT
        };
        let root = |extra: &'static [&'static str], own| {
            KtstrTestEntry {
                scheduler: Some(&PLACED),
                extra_sched_args: extra,
                workload_root_cgroup: own,
                ..KtstrTestEntry::DEFAULT
            }
            .workload_root()
        };
        assert_eq!(root(&["-v"], None), Some("/declared"));
        let extra: &[&str] = &["--cell-parent-cgroup=/extra"];
        assert_eq!(root(extra, None), Some("/extra"));
        assert_eq!(root(extra, Some("/own")), Some("/own"));
        assert_eq!(KtstrTestEntry::DEFAULT.workload_root(), None);
    }

    #[test]
    fn constraints_choose_shapes() {
        let shape = |numa_nodes, llcs, cores, threads| TopologySpec {
            numa_nodes,
            llcs,
            cores,
            threads,
        };
        assert!(GOOD.allows(&shape(1, 4, 4, 2)));
        assert!(!GOOD.allows(&shape(2, 4, 4, 2)), "one node by default");
        assert!(!GOOD.allows(&shape(1, 15, 8, 2)), "at most 12 LLCs");
        let constraints = TopologyConstraints {
            requires_smt: true,
            min_llcs: 2,
            ..TopologyConstraints::DEFAULT
        };
        let picky = KtstrTestEntry {
            constraints,
            ..GOOD
        };
        assert!(!picky.allows(&shape(1, 2, 2, 1)));
        assert!(!picky.allows(&shape(1, 1, 2, 2)));
        assert!(picky.allows(&shape(1, 2, 2, 2)));
    }

    #[test]
    fn a_presets_name_stays_out_of_the_functions() {
        let at = KtstrTestEntry {
            name: "t@4cpu-1llc-nosmt",
            ..GOOD
        };
        assert_eq!((at.registered_name(), at.validate()), ("t", Ok(())));
    }

    #[test]
    fn declared_memory_is_a_floor_among_floors() {
        let with = |memory_mib, llcs| KtstrTestEntry {
            memory_mib,
            topology: TopologySpec {
                llcs,
                ..TopologySpec::DEFAULT
            },
            ..GOOD
        };
        assert_eq!(with(96, 1).guest_memory_mib(), 256);
        assert_eq!(
            with(96, 4).guest_memory_mib(),
            512,
            "64 MiB for each of 8 CPUs"
        );
        assert_eq!(with(700, 4).guest_memory_mib(), 700);
    }

    #[test]
    fn a_tests_own_check_wins_over_its_schedulers() {
        let entry = KtstrTestEntry {
            scheduler: Some(&SCHEDULER),
            ..GOOD
        };
        assert_eq!(entry.merged_assert().max_gap_ms, Some(7));
        let own = KtstrTestEntry {
            assert: Assert::NO_OVERRIDES.max_gap_ms(9),
            ..entry
        };
        assert_eq!(own.merged_assert().max_gap_ms, Some(9));
    }

    #[test]
    fn more_periodic_captures_than_are_kept_are_refused() {
        let with = |num_snapshots| KtstrTestEntry {
            name: "t",
            num_snapshots,
            ..KtstrTestEntry::DEFAULT
        };
        with(64).validate().unwrap();
        let refused = with(65).validate().unwrap_err().to_string();
        assert!(
            refused.contains("num_snapshots is 65, at most 64 are kept"),
            "{refused}"
        );
    }
}
