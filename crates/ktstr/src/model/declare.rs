//! Schedulers and constraints as chains of calls, in constants.

use super::checks::Assert;
use super::entry::{Scheduler, SchedulerSpec, Sysctl, TopologyConstraints, TopologySpec};

/// Each sets the field of its name.
impl Scheduler {
    /// The kernel's own scheduler: nothing is started.
    pub const EEVDF: Self = Self::named("eevdf");

    /// A scheduler of this name, with nothing else said. It is one that tests can name, and no more: the verifier knows those
    /// of `declare_scheduler!`.
    ///
    /// ```
    /// use ktstr::prelude::*;
    ///
    /// const MINE: Scheduler = Scheduler::named("mine").binary_discover("scx_mine").sched_args(&["--fast"]);
    /// assert!(MINE.has_bpf_scheduler());
    /// ```
    #[must_use]
    pub const fn named(name: &'static str) -> Self {
        Self {
            name,
            ..Self::DEFAULT
        }
    }

    /// A program that is built from the workspace, or found on `PATH`.
    #[must_use]
    pub const fn binary_discover(self, binary: &'static str) -> Self {
        self.binary(SchedulerSpec::Discover(binary))
    }

    /// Where its program comes from.
    #[must_use]
    pub const fn binary(self, spec: SchedulerSpec) -> Self {
        Self { spec, ..self }
    }

    /// NUMA nodes, LLCs in all, cores per LLC, threads per core.
    #[must_use]
    pub const fn topology(self, numa_nodes: u32, llcs: u32, cores: u32, threads: u32) -> Self {
        let topology = TopologySpec {
            numa_nodes,
            llcs,
            cores,
            threads,
        };
        Self {
            topology: Some(topology),
            ..self
        }
    }

    /// Its configuration is each test's own: `config_file_def("--config {file}", "/etc/x.conf")` puts the test's `config` to that path
    /// and says so in its last arguments.
    #[must_use]
    pub const fn config_file_def(self, args: &'static str, path: &'static str) -> Self {
        Self {
            config_file_def: Some((args, path)),
            ..self
        }
    }

    /// Whether anything is done to put it in place of the kernel's own.
    #[must_use]
    pub const fn has_active_scheduling(&self) -> bool {
        !matches!(self.spec, SchedulerSpec::Eevdf)
    }

    /// Whether it is a program that loads BPF.
    #[must_use]
    pub const fn has_bpf_scheduler(&self) -> bool {
        matches!(
            self.spec,
            SchedulerSpec::Discover(_) | SchedulerSpec::Path(_)
        )
    }
}

macro_rules! setters {
    ($type:ident: $( $(#[$doc:meta])* $name:ident($field:ident: $kind:ty) => $value:expr, )*) => {
        impl $type {
            $(
                $(#[$doc])*
                #[must_use]
                pub const fn $name(self, $field: $kind) -> Self {
                    Self { $field: $value, ..self }
                }
            )*
        }
    };
}

setters! { Scheduler:
    /// Arguments of its program.
    sched_args(sched_args: &'static [&'static str]) => sched_args,
    /// Kernel settings that it needs.
    sysctls(sysctls: &'static [Sysctl]) => sysctls,
    /// Kernel command line arguments that it needs.
    kargs(kargs: &'static [&'static str]) => kargs,
    /// Kernels that it runs on.
    kernels(kernels: &'static [&'static str]) => kernels,
    /// Checks of all its tests.
    assert(assert: Assert) => assert,
    /// Cgroup that it manages.
    cgroup_parent(cgroup_parent: &'static str) => Some(cgroup_parent),
    /// Its configuration file on the host.
    config_file(config_file: &'static str) => Some(config_file),
    /// Which topologies its tests may be run on.
    constraints(constraints: TopologyConstraints) => constraints,
    /// Variables of its environment.
    env(env: &'static [(&'static str, &'static str)]) => env,
    /// Where it answers stats requests.
    stats_socket(stats_socket: &'static str) => Some(stats_socket),
    /// Presets on which the verifier's sweep leaves it out.
    verifier_exclude_topologies(verifier_exclude_topologies: &'static [&'static str]) => verifier_exclude_topologies,
    /// The package in whose workspace it is built, for tests that have no package of their own.
    manifest_dir(manifest_dir: &'static str) => manifest_dir,
}

macro_rules! constrain {
    ($( $name:ident, $with:ident, $(#[$doc:meta])* $kind:ty => $value:expr; )*) => {
        impl Scheduler {
            $(
                $(#[$doc])*
                #[must_use]
                pub const fn $name(self, $name: $kind) -> Self {
                    Self { constraints: self.constraints.$with($name), ..self }
                }
            )*
        }

        impl TopologyConstraints {
            $(
                $(#[$doc])*
                #[must_use]
                pub const fn $with(self, $name: $kind) -> Self {
                    Self { $name: $value, ..self }
                }
            )*
        }
    };
}

constrain! {
    min_numa_nodes, with_min_numa_nodes, /// Fewest NUMA nodes.
        u32 => min_numa_nodes;
    max_numa_nodes, with_max_numa_nodes, /// Most NUMA nodes.
        u32 => Some(max_numa_nodes);
    min_llcs, with_min_llcs, /// Fewest LLCs.
        u32 => min_llcs;
    max_llcs, with_max_llcs, /// Most LLCs.
        u32 => Some(max_llcs);
    min_cpus, with_min_cpus, /// Fewest CPUs.
        u32 => min_cpus;
    max_cpus, with_max_cpus, /// Most CPUs.
        u32 => Some(max_cpus);
    requires_smt, with_requires_smt, /// Whether two threads per core are needed.
        bool => requires_smt;
}

impl TopologyConstraints {
    /// The documented defaults.
    #[must_use]
    pub const fn new() -> Self {
        Self::DEFAULT
    }

    /// Any number of NUMA nodes from the least on.
    #[must_use]
    pub const fn without_max_numa_nodes(self) -> Self {
        Self {
            max_numa_nodes: None,
            ..self
        }
    }

    /// Any number of LLCs from the least on.
    #[must_use]
    pub const fn without_max_llcs(self) -> Self {
        Self {
            max_llcs: None,
            ..self
        }
    }

    /// Any number of CPUs from the least on.
    #[must_use]
    pub const fn without_max_cpus(self) -> Self {
        Self {
            max_cpus: None,
            ..self
        }
    }
}

impl Default for TopologyConstraints {
    fn default() -> Self {
        Self::DEFAULT
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::entry::KtstrTestEntry;

    #[test]
    fn a_chain_says_what_a_literal_says() {
        const CHAIN: Scheduler = Scheduler::named("x")
            .binary_discover("scx_x")
            .sched_args(&["--a"])
            .sysctls(&[Sysctl::new("a.b", "v")])
            .kargs(&["nohz_full=1"])
            .kernels(&["6.12"])
            .assert(Assert::NO_OVERRIDES.max_gap_ms(50))
            .cgroup_parent("/p")
            .topology(1, 2, 4, 2)
            .config_file("c.toml")
            .config_file_def("-c {file}", "/c")
            .env(&[("A", "b")])
            .stats_socket("/run/s")
            .manifest_dir("/d")
            .min_llcs(2)
            .max_cpus(16)
            .requires_smt(true);
        let literal = Scheduler {
            name: "x",
            spec: SchedulerSpec::Discover("scx_x"),
            sched_args: &["--a"],
            sysctls: &[Sysctl {
                key: "a.b",
                value: "v",
            }],
            kargs: &["nohz_full=1"],
            kernels: &["6.12"],
            assert: Assert::NO_OVERRIDES.max_gap_ms(50),
            cgroup_parent: Some("/p"),
            topology: Some(TopologySpec {
                numa_nodes: 1,
                llcs: 2,
                cores: 4,
                threads: 2,
            }),
            config_file: Some("c.toml"),
            config_file_def: Some(("-c {file}", "/c")),
            env: &[("A", "b")],
            stats_socket: Some("/run/s"),
            manifest_dir: "/d",
            constraints: TopologyConstraints {
                min_llcs: 2,
                max_cpus: Some(16),
                requires_smt: true,
                ..TopologyConstraints::DEFAULT
            },
            ..Scheduler::DEFAULT
        };
        assert_eq!(CHAIN, literal);
        assert!(CHAIN.has_active_scheduling() && CHAIN.has_bpf_scheduler());
        assert!(!Scheduler::EEVDF.has_active_scheduling());
    }

    #[test]
    fn without_a_limit_every_size_is_allowed() {
        let huge = TopologySpec {
            numa_nodes: 8,
            llcs: 64,
            cores: 8,
            threads: 2,
        };
        let with = |constraints| KtstrTestEntry {
            constraints,
            ..KtstrTestEntry::DEFAULT
        };
        assert!(!with(TopologyConstraints::new()).allows(&huge));
        let open = TopologyConstraints::default()
            .without_max_numa_nodes()
            .without_max_llcs()
            .without_max_cpus();
        assert!(with(open).allows(&huge));
        assert!(!with(open.with_max_numa_nodes(4)).allows(&huge));
        assert!(!with(open.with_min_cpus(2_000)).allows(&huge));
    }
}
