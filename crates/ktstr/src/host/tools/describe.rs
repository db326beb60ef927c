//! What a test binary says of its tests to tools, and the tests times the topology presets.

use std::path::PathBuf;
use std::str::FromStr as _;

use ktstr_vmm::{PRESETS, Topology};
use serde::{Deserialize, Serialize};

use crate::model::entry::{
    KTSTR_SCHEDULERS, KTSTR_TESTS, KtstrTestEntry, Scheduler, SchedulerSpec, TopologySpec,
};
use crate::model::registry::registry_faults;

/// With this variable set, `--list` prints a [`Description`] as JSON instead of names.
///
/// A variable, not a flag: binaries that know nothing of ktstr ignore it and print their usual list.
pub const DESCRIBE_ENV: &str = "KTSTR_DESCRIBE";
/// Names the layout of [`Description`]; a reader checks it first.
pub const DESCRIBE_SCHEMA: &str = "ktstr.describe/1";

/// Everything that one test binary registers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Description {
    /// [`DESCRIBE_SCHEMA`].
    pub schema: String,
    /// The package that the tests belong to.
    pub manifest_dir: PathBuf,
    /// Its tests, by name.
    pub tests: Vec<TestDescription>,
    /// The schedulers that it declares, by name.
    pub schedulers: Vec<SchedulerDescription>,
    /// Every preset, small ones first.
    #[serde(default)]
    pub presets: Vec<PresetDescription>,
    /// Why the binary refuses to run: names that mean two things.
    #[serde(default)]
    pub faults: Vec<String>,
}

/// One test.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TestDescription {
    /// The name to run it by.
    pub name: String,
    /// The declared topology in short form.
    pub topology: String,
    /// vCPUs in all.
    pub cpus: u32,
    /// Guest memory.
    pub memory_mib: u32,
    /// Length of the scenario.
    pub duration_s: u32,
    /// The scheduler watchdog that the test counts on.
    pub watchdog_timeout_s: u32,
    /// The declared scheduler.
    pub scheduler: Option<String>,
    /// Run only when asked for.
    pub ignore: bool,
    /// Runs without a VM.
    pub host_only: bool,
    /// Needs CPUs of its own.
    pub performance_mode: bool,
    /// The presets that its constraints allow; `name@preset` is a test, too.
    pub presets: Vec<PresetDescription>,
}

/// One preset that a test may be run on.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PresetDescription {
    /// Its name.
    pub name: String,
    /// Its shape in short form.
    pub shape: String,
    /// vCPUs in all.
    pub cpus: u32,
}

/// One declared scheduler.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SchedulerDescription {
    /// Its name.
    pub name: String,
    /// Where its program comes from.
    pub kind: BinaryKind,
    /// Arguments of its program.
    pub args: Vec<String>,
    /// Topology of its tests that declare none.
    pub topology: Option<String>,
    /// Kernels that it runs on; empty for all.
    pub kernels: Vec<String>,
}

/// Where a scheduler's program comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[non_exhaustive]
pub enum BinaryKind {
    /// The kernel's default scheduler.
    Eevdf,
    /// Built from the workspace or found on `PATH`.
    Discover {
        /// Its name.
        binary: String,
    },
    /// A prebuilt file.
    Path {
        /// The file.
        path: String,
    },
    /// Switched on and off by guest commands.
    KernelBuiltin {
        /// Commands that turn it on.
        enable: Vec<String>,
        /// Commands that turn it off.
        disable: Vec<String>,
    },
}

impl From<SchedulerSpec> for BinaryKind {
    fn from(spec: SchedulerSpec) -> Self {
        match spec {
            SchedulerSpec::Eevdf => Self::Eevdf,
            SchedulerSpec::Discover(binary) => Self::Discover {
                binary: binary.to_owned(),
            },
            SchedulerSpec::Path(path) => Self::Path {
                path: path.to_owned(),
            },
            SchedulerSpec::KernelBuiltin { enable, disable } => Self::KernelBuiltin {
                enable: owned(enable),
                disable: owned(disable),
            },
        }
    }
}

/// The presets within the test's constraints, small ones first; none for a test without a VM.
#[must_use]
pub fn presets_of(entry: &KtstrTestEntry) -> Vec<(&'static str, TopologySpec)> {
    if entry.host_only {
        return Vec::new();
    }
    all_presets()
        .filter(|(_, shape)| entry.allows(shape))
        .collect()
}

pub(in crate::host) fn all_presets() -> impl Iterator<Item = (&'static str, TopologySpec)> {
    PRESETS
        .iter()
        .filter_map(|preset| Some((preset.name, shape(preset.shape)?)))
}

fn preset((name, shape): (&str, TopologySpec)) -> PresetDescription {
    PresetDescription {
        name: name.to_owned(),
        shape: shape.to_string(),
        cpus: shape.total_cpus(),
    }
}

/// A topology in short form.
pub(in crate::host) fn shape(text: &str) -> Option<TopologySpec> {
    let topology = Topology::from_str(text).ok()?;
    Some(TopologySpec {
        numa_nodes: u32::try_from(topology.nodes().len()).ok()?,
        llcs: topology.llcs(),
        cores: topology.cores_per_llc(),
        threads: topology.threads_per_core(),
    })
}

/// The test once per allowed preset, named `test@preset` and ignored unless asked for. Made once per process and
/// kept to its end, as registered entries are.
pub(in crate::host) fn on_presets(entry: &'static KtstrTestEntry) -> Vec<&'static KtstrTestEntry> {
    let leak = |(preset, topology): (&str, TopologySpec)| -> &'static KtstrTestEntry {
        let name: &'static str = format!("{}@{preset}", entry.name).leak();
        Box::leak(Box::new(KtstrTestEntry {
            name,
            topology,
            ignore: true,
            ..*entry
        }))
    };
    presets_of(entry).into_iter().map(leak).collect()
}

/// Prints the description of this binary.
///
/// Returns the exit status.
pub(in crate::host) fn describe(manifest_dir: &str) -> u8 {
    match serde_json::to_writer(std::io::stdout(), &description(manifest_dir)) {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("ktstr: failed to print the description: {error}");
            1
        }
    }
}

fn description(manifest_dir: &str) -> Description {
    let mut tests: Vec<TestDescription> = KTSTR_TESTS.iter().map(|entry| test(entry)).collect();
    tests.sort_by(|a, b| a.name.cmp(&b.name));
    let mut schedulers: Vec<SchedulerDescription> =
        KTSTR_SCHEDULERS.iter().map(|one| scheduler(one)).collect();
    schedulers.sort_by(|a, b| a.name.cmp(&b.name));
    Description {
        schema: DESCRIBE_SCHEMA.to_owned(),
        manifest_dir: PathBuf::from(manifest_dir),
        tests,
        schedulers,
        presets: all_presets().map(preset).collect(),
        faults: registry_faults(&KTSTR_TESTS, &KTSTR_SCHEDULERS),
    }
}

fn test(entry: &KtstrTestEntry) -> TestDescription {
    TestDescription {
        name: entry.name.to_owned(),
        topology: entry.topology.to_string(),
        cpus: entry.topology.total_cpus(),
        memory_mib: entry.guest_memory_mib(),
        duration_s: entry.duration_s,
        watchdog_timeout_s: entry.watchdog_timeout_s,
        scheduler: entry.scheduler_name().map(str::to_owned),
        ignore: entry.ignore,
        host_only: entry.host_only,
        performance_mode: entry.performance_mode,
        presets: presets_of(entry).into_iter().map(preset).collect(),
    }
}

fn scheduler(scheduler: &Scheduler) -> SchedulerDescription {
    SchedulerDescription {
        name: scheduler.name.to_owned(),
        kind: scheduler.spec.into(),
        args: owned(scheduler.sched_args),
        topology: scheduler.topology.map(|topology| topology.to_string()),
        kernels: owned(scheduler.kernels),
    }
}

fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::entry::TopologyConstraints;

    static PLAIN: KtstrTestEntry = KtstrTestEntry {
        name: "t",
        ..KtstrTestEntry::DEFAULT
    };
    static SMT: KtstrTestEntry = KtstrTestEntry {
        name: "smt",
        constraints: TopologyConstraints {
            requires_smt: true,
            max_cpus: Some(12),
            ..TopologyConstraints::DEFAULT
        },
        ..KtstrTestEntry::DEFAULT
    };

    #[test]
    fn default_constraints_leave_fifteen_presets() {
        let names: Vec<_> = presets_of(&PLAIN)
            .into_iter()
            .map(|(name, _)| name)
            .collect();
        assert_eq!(names.len(), 15, "{names:?}");
        assert!(names.iter().all(|name| !name.contains("numa")));
    }

    #[test]
    fn a_test_on_a_preset_is_an_ignored_test_of_its_own() {
        let on: Vec<_> = on_presets(&SMT);
        let names: Vec<_> = on.iter().map(|entry| entry.name).collect();
        assert_eq!(names, ["smt@8cpu-2llc-smt", "smt@12cpu-3llc-smt"]);
        assert_eq!(on[0].topology.to_string(), "1n2l2c2t");
        assert!(on[0].ignore && on[0].validate().is_ok());
        assert_eq!(on[0].guest_memory_mib(), 8 * 64);
    }

    #[test]
    fn the_description_survives_json() {
        let json = serde_json::to_string(&description("/p")).unwrap();
        let back: Description = serde_json::from_str(&json).unwrap();
        assert_eq!(back.schema, DESCRIBE_SCHEMA);
    }
}
