//! One test as a file that runs it on bare metal: a shell script and the programs that go behind it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use ktstr_initramfs::elf::closure;
use ktstr_vmm::Clock;
use serde::{Deserialize, Serialize};

use crate::host::boot::session;
use crate::host::plan::config::HostConfig;
use crate::host::plan::includes::{self, Include};
use crate::host::plan::scheduler::resolve_scheduler;
use crate::model::entry::{KtstrTestEntry, Scheduler, SchedulerSpec, Sysctl};
use crate::model::payload::OutputFormat;

/// Names the file to write an [`Export`] to: a test binary that has it describes the test that its filter names.
pub const EXPORT_ENV: &str = "KTSTR_EXPORT";
const SCRIPT: &str = include_str!("export.sh");
/// Parts of the C library: the machine's own belong to its loader and kernel.
const OF_LIBC: [&str; 7] = [
    "ld-linux",
    "libc.so",
    "libm.so",
    "libpthread.so",
    "libdl.so",
    "librt.so",
    "libgcc_s.so",
];

/// What goes into the file; `cargo ktstr export` packs it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Export {
    /// What the file begins with. An xz-compressed tar archive of the rest follows it.
    pub script: String,
    /// Names in the archive and the files of this host that go there.
    pub files: BTreeMap<String, PathBuf>,
    /// Content of the archive's `plan.json`.
    pub plan: String,
}

/// Writes what the exported test consists of, as JSON.
///
/// # Errors
/// When it cannot run outside of a VM, a program is missing, or the file cannot be written.
pub fn run(entry: &KtstrTestEntry, manifest_dir: &Path, path: &Path) -> Result<()> {
    entry.validate()?;
    let carried = Carried::of(entry)?;
    let spec = entry.scheduler_spec();
    let (scheduler, _) = resolve_scheduler(spec, &HostConfig::from_env()?, manifest_dir)?;
    let includes = includes::of_entry(entry, manifest_dir)?;
    let export = Export {
        script: script(entry, &carried, scheduler.is_some()),
        files: files(scheduler.as_deref(), &includes)?,
        plan: plan(entry)?,
    };
    let json = serde_json::to_vec(&export).context("failed to serialise the export")?;
    fs::write(path, json)
        .with_context(|| format!("the export cannot be written to {}", path.display()))
}

/// What of a test goes along, besides its programs, its plan and its shape.
#[derive(Debug, Default)]
struct Carried {
    sched_args: Vec<&'static str>,
    sysctls: &'static [Sysctl],
    kargs: &'static [&'static str],
    allow_inconclusive: bool,
    /// The test is meant to fail, which only the host can judge.
    expects_failure: bool,
    /// Parts of the judgement that the host makes: with any, the script's verdict is never a pass.
    unjudged: Vec<String>,
    /// What the host would have done beside, without a say in the verdict.
    left_out: Vec<String>,
}

impl Carried {
    /// Every field of the entry is carried, refused by its name, unjudged, left out with a word, or of no use outside of a VM.
    fn of(entry: &KtstrTestEntry) -> Result<Self> {
        // A field that is added must be put into one of these groups.
        let KtstrTestEntry {
            name,
            // Carried: by name, within the plan, as files, or as a check of the machine.
            func: _,
            scheduler,
            topology: _,
            duration_s: _,
            settle_ms: _,
            assert: _,
            workload_root_cgroup: _,
            payload: _,
            workloads: _,
            extra_include_files: _,
            // See `refused`.
            config: _,
            // Operations on schedulers are init's, which is not there.
            survives_storm: _,
            extra_sched_args,
            allow_inconclusive,
            // The kernel's own complaints are judged of a VM's kernel alone.
            allow_kernel_warning: _,
            invariants: _,
            allow_invariant: _,
            // Of a VM's placement and of presets; or of which tests are run.
            constraints: _,
            memory_mib: _,
            performance_mode: _,
            no_perf_mode: _,
            cpu_budget: _,
            scx_stats: _,
            kaslr: _,
            ignore: _,
            auto_repro: _,
            // See `refused`.
            host_only: _,
            staged_schedulers: _,
            bpf_map_write: _,
            disk: _,
            networks: _,
            // See `unjudged`.
            post_vm: _,
            post_vm_unconditional: _,
            expect_err,
            expect_auto_repro,
            expect_scx_bpf_error_contains: _,
            expect_scx_bpf_error_matches: _,
            cleanup_budget_ms: _,
            // See `left_out`.
            time: _,
            speeds: _,
            smt_factor: _,
            seeds: _,
            num_snapshots: _,
            watch_bpf_maps: _,
            watchdog_timeout_s: _,
            override_watchdog: _,
            place: _,
            manifest_dir: _,
            package: _,
        } = *entry;
        let mut refused = refused(entry);
        let mut carried = Self {
            allow_inconclusive,
            expects_failure: expect_err || expect_auto_repro,
            unjudged: unjudged(entry),
            left_out: left_out(entry),
            ..Self::default()
        };
        if let Some(scheduler) = scheduler {
            refused.extend(carried.add_scheduler(scheduler));
        }
        carried.sched_args.extend(extra_sched_args);
        if refused.is_empty() {
            return Ok(carried);
        }
        bail!("'{name}' cannot be exported: {}", refused.join("; "))
    }

    /// Returns what cannot be carried.
    fn add_scheduler(&mut self, scheduler: &'static Scheduler) -> Vec<&'static str> {
        let Scheduler {
            name: _,
            spec,
            sched_args,
            // Of tests that declare none; the entry has it.
            topology: _,
            // Merged into the plan.
            assert: _,
            sysctls,
            kargs,
            kernels,
            cgroup_parent,
            config_file: config,
            // The entry's is refused.
            config_file_def: _,
            // The machine is as it is.
            constraints: _,
            env,
            // For the host's questions.
            stats_socket: _,
            // Of the verifier.
            verifier_exclude_topologies: _,
            place: _,
            manifest_dir: _,
        } = *scheduler;
        self.sched_args.extend(sched_args);
        self.sysctls = sysctls;
        self.kargs = kargs;
        if !kernels.is_empty() {
            let kernels = kernels.join(", ");
            self.left_out
                .push(format!("the scheduler's kernels, {kernels} (not checked)"));
        }
        let builtin = matches!(spec, SchedulerSpec::KernelBuiltin { .. });
        [
            (
                builtin,
                "a scheduler built into its kernel: another machine's kernel does not have it",
            ),
            (cgroup_parent.is_some(), "the scheduler's cgroup_parent"),
            (config.is_some(), "the scheduler's config"),
            (!env.is_empty(), "the scheduler's env"),
        ]
        .into_iter()
        .filter_map(|(given, why)| given.then_some(why))
        .collect()
    }
}

/// What the test cannot do without a VM.
fn refused(entry: &KtstrTestEntry) -> Vec<&'static str> {
    [
        (
            entry.host_only,
            "host_only: it runs on the host already; run the test binary itself",
        ),
        (
            !entry.staged_schedulers.is_empty(),
            "staged_schedulers: init of a VM starts them",
        ),
        (
            !entry.bpf_map_write.is_empty(),
            "bpf_map_write: the host of a VM writes into the scheduler's maps",
        ),
        (
            entry.config.is_some(),
            "config: a VM has its file at the scheduler's path",
        ),
        (entry.disk.is_some(), "disk: a VM has it"),
        (!entry.networks.is_empty(), "networks: a VM has them"),
    ]
    .into_iter()
    .filter_map(|(given, why)| given.then_some(why))
    .collect()
}

/// The parts of its judgement that the host makes.
fn unjudged(entry: &KtstrTestEntry) -> Vec<String> {
    let enforced = entry.merged_assert().enforce_monitor_thresholds == Some(true);
    let plain = [
        (entry.post_vm.is_some(), "post_vm"),
        (
            entry.post_vm_unconditional.is_some(),
            "post_vm_unconditional",
        ),
        (entry.expect_err, "expect_err"),
        (entry.expect_auto_repro, "expect_auto_repro"),
        (
            entry.expect_scx_bpf_error_contains.is_some(),
            "expect_scx_bpf_error_contains",
        ),
        (
            entry.expect_scx_bpf_error_matches.is_some(),
            "expect_scx_bpf_error_matches",
        ),
        (enforced, "enforce_monitor_thresholds"),
        (entry.cleanup_budget_ms.is_some(), "cleanup_budget_ms"),
    ];
    let plain = plain.into_iter();
    let mut unjudged: Vec<String> = plain
        .filter_map(|(given, what)| given.then_some(what.to_owned()))
        .collect();
    for payload in entry.payloads() {
        if matches!(payload.output, OutputFormat::Extract(_)) {
            let name = payload.name();
            unjudged.push(format!("what the extractor of payload {name} reads"));
        }
    }
    unjudged
}

/// What the host would have done beside, without a say in the verdict.
fn left_out(entry: &KtstrTestEntry) -> Vec<String> {
    let mut left_out = Vec::new();
    if entry.num_snapshots > 0 {
        left_out.push(format!("num_snapshots = {}", entry.num_snapshots));
    }
    if entry.time == Some(Clock::Virtual) {
        left_out.push(String::from(
            "time = virtual (the machine's own time passes)",
        ));
    }
    if entry.seeds > 0 {
        left_out.push(format!("seeds = {}", entry.seeds));
    }
    if !entry.speeds.is_empty() {
        left_out.push(format!(
            "speeds = {:?} (the CPUs are as fast as they are)",
            entry.speeds
        ));
    }
    if let Some(factor) = entry.smt_factor {
        left_out.push(format!("smt_factor = {factor}"));
    }
    if !entry.watch_bpf_maps.is_empty() {
        left_out.push(String::from("watch_bpf_maps"));
    }
    if entry.scheduler.is_some() && entry.override_watchdog {
        left_out.push(format!(
            "watchdog_timeout_s = {} (the scheduler keeps its own)",
            entry.watchdog_timeout_s
        ));
    }
    left_out
}

fn script(entry: &KtstrTestEntry, carried: &Carried, has_scheduler: bool) -> String {
    let topology = entry.topology;
    let scheduler = entry
        .scheduler_name()
        .filter(|_| has_scheduler)
        .unwrap_or_default();
    // Last, because the line count is that of the finished script.
    let lines = SCRIPT.lines().count() + 1;
    let title = if scheduler.is_empty() {
        entry.name.to_owned()
    } else {
        format!("{} under {scheduler}", entry.name)
    };
    let words = |words: &[&str]| -> String {
        let words: Vec<String> = words.iter().map(|word| quote(word)).collect();
        words.join(" ")
    };
    let sysctls: Vec<String> = carried
        .sysctls
        .iter()
        .flat_map(|one| [quote(&one.key.replace('.', "/")), quote(one.value)])
        .collect();
    let flag = |on: bool| String::from(if on { "1" } else { "" });
    let root = session::test_plan(entry).workload_root;
    [
        ("@TITLE@", one_line(&title)),
        ("@NAME@", quote(entry.registered_name())),
        ("@SCHEDULER@", quote(scheduler)),
        ("@CPUS@", topology.total_cpus().to_string()),
        ("@LLCS@", topology.llcs.to_string()),
        ("@NODES@", topology.numa_nodes.to_string()),
        ("@THREADS@", topology.threads.to_string()),
        ("@ARGS@", words(&carried.sched_args)),
        ("@SYSCTLS@", sysctls.join(" ")),
        ("@KARGS@", words(carried.kargs)),
        ("@ROOT@", quote(&root.display().to_string())),
        ("@UNJUDGED@", quote(&carried.unjudged.join(", "))),
        ("@LEFT_OUT@", quote(&carried.left_out.join(", "))),
        ("@EXPECTS_FAILURE@", flag(carried.expects_failure)),
        ("@ALLOW_INCONCLUSIVE@", flag(carried.allow_inconclusive)),
        ("@PAYLOAD@", lines.to_string()),
    ]
    .iter()
    .fold(SCRIPT.to_owned(), |text, (mark, value)| {
        text.replace(mark, &one_line(value))
    })
}

/// The script's number of lines is fixed.
fn one_line(text: &str) -> String {
    text.replace('\n', " ")
}

fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

fn plan(entry: &KtstrTestEntry) -> Result<String> {
    let mut plan = session::test_plan(entry);
    // No host looks in.
    plan.answers_requests = false;
    plan.waits_for_host = false;
    serde_json::to_string(&plan).context("failed to serialise the plan")
}

/// The test binary, the scheduler and all that they need but the C library.
fn files(scheduler: Option<&Path>, includes: &[Include]) -> Result<BTreeMap<String, PathBuf>> {
    let exe = std::env::current_exe().context("failed to find this test binary")?;
    let mut files: BTreeMap<String, PathBuf> = BTreeMap::new();
    let mut programs: Vec<(String, &Path)> = vec![(String::from("bin/test"), &exe)];
    programs.extend(scheduler.map(|path| (String::from("bin/scheduler"), path)));
    for include in includes {
        let (below, path) = include.place();
        let name = format!("include/{below}");
        if include.is_elf() {
            programs.push((name, path));
        } else {
            files.insert(name, path.to_owned());
        }
    }
    for (name, program) in programs {
        files.insert(name, program.to_owned());
        for library in closure(program)?.into_values() {
            let name = library
                .file_name()
                .map(|name| name.to_string_lossy().into_owned())
                .unwrap_or_default();
            if !OF_LIBC.iter().any(|part| name.starts_with(part)) {
                files.insert(format!("lib/{name}"), library);
            }
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::bpf_map::BpfMapWrite;
    use crate::model::checks::Assert;
    use crate::model::device::DiskConfig;
    use crate::model::payload::Payload;
    use std::process::Command;

    static SCHEDULER: Scheduler = Scheduler {
        name: "s",
        spec: SchedulerSpec::Discover("scx_s"),
        sched_args: &["--slice", "it's 5"],
        sysctls: &[Sysctl::new("kernel.sched_x", "1 2")],
        kargs: &["nohz_full=1"],
        ..Scheduler::DEFAULT
    };

    fn entry() -> KtstrTestEntry {
        KtstrTestEntry {
            name: "t@4cpu-1llc-nosmt",
            scheduler: Some(&SCHEDULER),
            extra_sched_args: &["--more"],
            workload_root_cgroup: Some("/mine/below"),
            ..KtstrTestEntry::DEFAULT
        }
    }

    fn text_of(entry: &KtstrTestEntry) -> String {
        script(entry, &Carried::of(entry).unwrap(), true)
    }

    #[test]
    fn the_script_is_a_script_and_knows_where_it_ends() {
        let text = text_of(&entry());
        assert!(!text.contains("@UN") && !text.contains("@P"), "{text}");
        for part in [
            r"'--slice' 'it'\''s 5' '--more'",
            "NAME='t' SCHEDULER='s' CPUS=2 LLCS=1",
            "'kernel/sched_x' '1 2'",
            "'nohz_full=1'",
            "ROOT='/sys/fs/cgroup/mine/below'",
            "UNJUDGED='' ",
            "watchdog_timeout_s = 5 (the scheduler keeps its own)",
        ] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
        let payload = format!("PAYLOAD={}", text.lines().count() + 1);
        assert!(text.contains(&payload), "{payload} is not in {text}");
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.sh");
        fs::write(&path, &text).unwrap();
        let checked = Command::new("sh").arg("-n").arg(&path).output().unwrap();
        assert!(
            checked.status.success(),
            "{}",
            String::from_utf8_lossy(&checked.stderr)
        );
    }

    #[test]
    fn what_the_host_judges_is_named_in_the_script() {
        static EXTRACTED: Payload = Payload {
            output: OutputFormat::Extract(&["x"]),
            ..Payload::binary("bench", "bench")
        };
        let judged = KtstrTestEntry {
            post_vm: Some(|_| Ok(crate::model::verdict::AssertResult::pass())),
            expect_err: true,
            expect_scx_bpf_error_contains: Some("gone"),
            assert: Assert::NO_OVERRIDES.enforce_monitor_thresholds(true),
            cleanup_budget_ms: Some(5),
            payload: Some(&EXTRACTED),
            num_snapshots: 3,
            ..entry()
        };
        let text = text_of(&judged);
        let unjudged = "UNJUDGED='post_vm, expect_err, expect_scx_bpf_error_contains, enforce_monitor_thresholds, \
                        cleanup_budget_ms, what the extractor of payload bench reads'";
        assert!(text.contains(unjudged), "{text}");
        assert!(
            text.contains("EXPECTS_FAILURE=1") && text.contains("num_snapshots = 3"),
            "{text}"
        );
    }

    #[test]
    fn what_only_virtual_time_has_is_told_as_left_out() {
        let entry = KtstrTestEntry {
            time: Some(Clock::Virtual),
            seeds: 3,
            speeds: &[1.0, 0.5],
            smt_factor: Some(2.5),
            ..entry()
        };
        let text = text_of(&entry);
        let told = "LEFT_OUT='time = virtual (the machine'\\''s own time passes), seeds = 3, \
                    speeds = [1.0, 0.5] (the CPUs are as fast as they are), smt_factor = 2.5, watchdog_timeout_s";
        assert!(text.contains(told), "{text}");
        let on_the_host = KtstrTestEntry {
            time: Some(Clock::Host),
            speeds: &[],
            smt_factor: None,
            seeds: 0,
            ..entry
        };
        let text = text_of(&on_the_host);
        assert!(text.contains("LEFT_OUT='watchdog_timeout_s"), "{text}");
    }

    #[test]
    fn a_tests_own_configuration_is_refused() {
        let with = KtstrTestEntry {
            config: Some("a = 1"),
            ..entry()
        };
        let is_refused = |entry| refused(entry).iter().any(|why| why.starts_with("config:"));
        assert!(is_refused(&with) && !is_refused(&entry()));
    }

    #[test]
    fn what_needs_a_vm_is_refused_by_its_name() {
        static BUILTIN: Scheduler = Scheduler {
            name: "b",
            spec: SchedulerSpec::KernelBuiltin {
                enable: &[],
                disable: &[],
            },
            ..Scheduler::DEFAULT
        };
        let entry = KtstrTestEntry {
            scheduler: Some(&BUILTIN),
            extra_sched_args: &[],
            disk: Some(DiskConfig::DEFAULT),
            staged_schedulers: const { &[&SCHEDULER] },
            bpf_map_write: const { &[&BpfMapWrite::new("m", "f", 1)] },
            ..entry()
        };
        let error = run(&entry, Path::new("."), Path::new("/nowhere"))
            .unwrap_err()
            .to_string();
        for named in [
            "its kernel",
            "disk:",
            "staged_schedulers:",
            "bpf_map_write:",
        ] {
            assert!(error.contains(named), "{named} is not in {error}");
        }
    }
}
