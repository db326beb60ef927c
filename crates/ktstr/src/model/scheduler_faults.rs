//! What can be wrong with a scheduler's declaration, in words.

use super::entry::{CONFIG_FILE_MARK, Scheduler, SchedulerSpec, is_bad_cgroup};
use super::kernel_filter::KernelFilter;

impl Scheduler {
    /// What is wrong with the declaration.
    pub(super) fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let name = self.name;
        for (key, path) in [
            ("cgroup_parent", self.cgroup_parent),
            ("--cell-parent-cgroup", self.cell_parent()),
        ] {
            if path.is_some_and(is_bad_cgroup) {
                faults.push(format!(
                    "scheduler '{name}': {key} must be an absolute path below the root, without '..'"
                ));
            }
        }
        if let Some((args, path)) = self.config_file_def {
            if !args.contains(CONFIG_FILE_MARK) {
                faults.push(format!(
                    "scheduler '{name}': config_file_def: no {CONFIG_FILE_MARK} in '{args}', so the program is not told its path; write for example \"--config {CONFIG_FILE_MARK}\""
                ));
            }
            // The guest mounts something else over these.
            let over = ["/proc/", "/sys/", "/dev/", "/tmp/", "/run/"];
            if let Some(dir) = over.into_iter().find(|dir| path.starts_with(dir)) {
                faults.push(format!(
                    "scheduler '{name}': config_file_def: the guest mounts a file system of its own over {dir}, so '{path}' would not be seen; write for example '/etc/{name}.conf'"
                ));
            }
            if is_bad_cgroup(path) || path.ends_with('/') {
                faults.push(format!(
                    "scheduler '{name}': config_file_def: '{path}' must be a file's absolute path in the guest, without '..'"
                ));
            }
        }
        for karg in self.kargs {
            if karg.is_empty() || karg.contains(char::is_whitespace) {
                faults.push(format!(
                    "scheduler '{name}': '{karg}' in kargs would be split by the kernel; write one parameter in each text"
                ));
            }
        }
        for filter in self.kernels {
            if let Err(error) = KernelFilter::parse(filter) {
                faults.push(format!("scheduler '{name}': kernels: {error}"));
            }
        }
        for preset in self.verifier_exclude_topologies {
            let known: Vec<&str> = ktstr_vmm::PRESETS.iter().map(|known| known.name).collect();
            if !known.contains(preset) {
                let presets = known.join(", ");
                faults.push(format!(
                    "scheduler '{name}': '{preset}' in verifier_exclude_topologies is not a preset; there are: {presets}"
                ));
            }
        }
        for (variable, _) in self.env {
            if variable.is_empty() || variable.contains(['=', '\0']) {
                faults.push(format!(
                    "scheduler '{name}': '{variable}' in env cannot be a variable's name"
                ));
            }
        }
        faults.extend(self.program_fault());
        faults
    }

    /// What is declared for its program, where there is none.
    fn program_fault(&self) -> Option<String> {
        let (why, next) = match self.spec {
            SchedulerSpec::Discover(_) | SchedulerSpec::Path(_) => return None,
            SchedulerSpec::Eevdf => (
                "starts no program",
                "name it with `binary_discover` or `binary`, or leave them out",
            ),
            SchedulerSpec::KernelBuiltin { .. } => (
                "is turned on by commands",
                "put them into `kernel_builtin_enable`",
            ),
        };
        let given: Vec<&str> = [
            ("sched_args", !self.sched_args.is_empty()),
            ("env", !self.env.is_empty()),
            ("config_file", self.config_file.is_some()),
            ("config_file_def", self.config_file_def.is_some()),
            ("stats_socket", self.stats_socket.is_some()),
        ]
        .into_iter()
        .filter_map(|(key, is_given)| is_given.then_some(key))
        .collect();
        (!given.is_empty()).then(|| {
            format!(
                "scheduler '{}' {why}, so what is given has no process to go to ({}); {next}",
                self.name,
                given.join(", ")
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::entry::KtstrTestEntry;

    const GOOD: KtstrTestEntry = KtstrTestEntry {
        name: "t",
        ..KtstrTestEntry::DEFAULT
    };

    #[track_caller]
    fn check(entry: &KtstrTestEntry, needles: &[&str]) {
        let error = entry.validate().unwrap_err().to_string();
        for needle in needles {
            assert!(error.contains(needle), "{needle:?} is not in {error}");
        }
    }

    #[test]
    fn a_configuration_of_the_tests_own_has_a_path_and_an_argument() {
        static NAMELESS: Scheduler = Scheduler::named("s")
            .binary_discover("scx_s")
            .config_file_def("--config", "../c");
        static HIDDEN: Scheduler = NAMELESS.config_file_def("{file}", "/tmp/c");
        static FINE: Scheduler = NAMELESS.config_file_def("--config {file}", "/etc/c");
        let with = |scheduler| KtstrTestEntry {
            scheduler: Some(scheduler),
            config: Some("a = 1"),
            ..GOOD
        };
        assert_eq!(with(&FINE).validate(), Ok(()));
        check(
            &with(&NAMELESS),
            &["no {file} in '--config'", "'../c' must be"],
        );
        check(
            &with(&HIDDEN),
            &["over /tmp/, so '/tmp/c' would not be seen"],
        );
        let staged = KtstrTestEntry {
            staged_schedulers: const { &[&FINE] },
            ..GOOD
        };
        check(&staged, &["staged scheduler 's' has config_file_def"]);
    }

    #[test]
    fn a_schedulers_own_faults_are_named() {
        static WRONG: Scheduler = Scheduler {
            name: "wrong",
            spec: SchedulerSpec::KernelBuiltin {
                enable: &["true"],
                disable: &[],
            },
            kargs: &["a b"],
            kernels: &["new"],
            cgroup_parent: Some("cells"),
            config_file: Some("c.toml"),
            env: &[("A=B", "1")],
            sched_args: &["--cell-parent-cgroup=/a/../b"],
            ..Scheduler::DEFAULT
        };
        check(
            &KtstrTestEntry {
                scheduler: Some(&WRONG),
                ..GOOD
            },
            &[
                "'a b' in kargs",
                "'new'",
                "cgroup_parent must",
                "--cell-parent-cgroup must",
                "'A=B' in env",
                "put them into `kernel_builtin_enable`",
            ],
        );
    }

    #[test]
    fn a_scheduler_without_a_program_is_given_nothing() {
        static NO_PROGRAM: Scheduler = Scheduler::named("x")
            .sched_args(&["-v"])
            .stats_socket("/run/s");
        static BUILTIN: Scheduler = Scheduler::named("b")
            .binary(SchedulerSpec::KernelBuiltin {
                enable: &["true"],
                disable: &[],
            })
            .stats_socket("/run/s");
        let with = |scheduler| KtstrTestEntry {
            scheduler: Some(scheduler),
            ..GOOD
        };
        check(
            &with(&NO_PROGRAM),
            &[
                "'x' starts no program",
                "(sched_args, stats_socket)",
                "`binary_discover`",
            ],
        );
        check(
            &with(&BUILTIN),
            &["turned on by commands", "(stats_socket)"],
        );
        assert_eq!(with(&Scheduler::EEVDF).validate(), Ok(()));
        let staged = KtstrTestEntry {
            staged_schedulers: const { &[&NO_PROGRAM] },
            ..GOOD
        };
        check(&staged, &["'x' starts no program"]);
    }
}
