//! The environment, read once at the rim and passed down as a value.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

pub use ktstr_vmm::EngineChoice;

pub use crate::host::plan::choice::TimeChoice;
use crate::model::invariants;

macro_rules! variables {
    ($( $(#[$doc:meta])* $variant:ident = $name:literal, )*) => {
        /// The variables of the environment that users set; the README's table explains them.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[non_exhaustive]
        pub enum Variable {
            $( $(#[$doc])* $variant, )*
        }

        impl Variable {
            /// All of them.
            pub const ALL: &'static [Self] = &[$( Self::$variant ),*];

            /// As it is written in the environment.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $( Self::$variant => $name, )*
                }
            }
        }
    };
}

variables! {
    /// auto, kvm or tcg.
    Engine = "KTSTR_ENGINE",
    /// A boot image, a built source tree or a cache key.
    Kernel = "KTSTR_KERNEL",
    /// The same; it wins over [`Self::Kernel`].
    TestKernel = "KTSTR_TEST_KERNEL",
    /// Base address of a kernel.org-style mirror.
    KernelMirror = "KTSTR_KERNEL_MIRROR",
    /// Base addresses of distributions' mirrors, as `debian=URL fedora=URL`.
    DistroMirror = "KTSTR_DISTRO_MIRROR",
    /// A binary to use for every scheduler that is declared by name.
    Scheduler = "KTSTR_SCHEDULER",
    /// Artifacts go exactly here.
    SidecarDir = "KTSTR_SIDECAR_DIR",
    /// Artifacts of several test binaries together.
    RunDir = "KTSTR_RUN_DIR",
    /// Name of this run's directory.
    RunId = "KTSTR_RUN_ID",
    /// Where caches go.
    CacheDir = "KTSTR_CACHE_DIR",
    /// Where VMs of one host see each other.
    LockDir = "KTSTR_LOCK_DIR",
    /// The emulator of the tcg engine.
    Qemu = "KTSTR_QEMU",
    /// auto, host or virtual: whose time passes in guests.
    Time = "KTSTR_TIME",
    /// Of runs in virtual time: decides the interleaving of vCPUs.
    Seed = "KTSTR_SEED",
    /// auto or off: whether guests may start as copies of a saved one.
    Fork = "KTSTR_FORK",
    /// Lists every test on every preset, too.
    Gauntlet = "KTSTR_GAUNTLET",
    /// on, off or names: rules of the kernel's own books that tests are held to.
    Invariants = "KTSTR_INVARIANTS",
    /// Keeps a failing guest's memory.
    Vmcore = "KTSTR_VMCORE",
    /// Set for an extractor: the payload whose output it reads.
    Payload = "KTSTR_PAYLOAD",
    /// Timings of passing tests, too.
    Verbose = "KTSTR_VERBOSE",
    /// Where host_only tests make their cgroups.
    HostCgroup = "KTSTR_HOST_CGROUP_PARENT",
    /// Log level of the host side, and of schedulers in guests.
    Log = "RUST_LOG",
}

impl Variable {
    /// Its value; an empty one counts as unset.
    #[must_use]
    pub fn value(self) -> Option<OsString> {
        std::env::var_os(self.name()).filter(|value| !value.is_empty())
    }

    /// Its value as a path; an empty one counts as unset.
    #[must_use]
    pub fn path(self) -> Option<PathBuf> {
        self.value().map(PathBuf::from)
    }
}

/// The root of all caches: `KTSTR_CACHE_DIR`, else `$XDG_CACHE_HOME/ktstr`, else `~/.cache/ktstr`.
#[must_use]
pub fn cache_dir() -> PathBuf {
    cache_dir_of(
        Variable::CacheDir.path(),
        set("XDG_CACHE_HOME").map(PathBuf::from),
        set("HOME").map(PathBuf::from),
    )
}

fn cache_dir_of(own: Option<PathBuf>, xdg: Option<PathBuf>, home: Option<PathBuf>) -> PathBuf {
    own.unwrap_or_else(|| {
        let base = xdg.or_else(|| Some(home?.join(".cache")));
        base.unwrap_or_else(std::env::temp_dir).join("ktstr")
    })
}

/// What the environment asks of the host side.
#[derive(Debug, Clone)]
pub struct HostConfig {
    /// `KTSTR_ENGINE`: auto, kvm or tcg.
    pub engine: EngineChoice,
    /// `KTSTR_TIME`: auto, host or virtual.
    pub time: TimeChoice,
    /// `KTSTR_SEED`: of runs in virtual time.
    pub seed: Option<u64>,
    /// `KTSTR_FORK`: not `off`; guests may start as copies of a saved one.
    pub fork: bool,
    /// `KTSTR_LOOK_AT`: in virtual time, end the run at this many nanoseconds since power-on and show the guest's state.
    pub look_at: Option<Duration>,
    /// `KTSTR_LOOK_GDB`: offer the guest to gdb there instead of ending the run.
    pub look_gdb: bool,
    /// `KTSTR_EVENTS`: in virtual time, write here what the scheduler does to tasks ([`crate::model::events`]).
    pub events: Option<PathBuf>,
    /// `KTSTR_SIDECAR_DIR`: put artifacts exactly here.
    pub sidecar_dir: Option<PathBuf>,
    /// `KTSTR_RUN_DIR`: this run's directory, shared by several test binaries.
    pub run_dir: Option<PathBuf>,
    /// Package and target of the test binary, such as `scx_mine.scheduling`: a folder of that name takes the artifacts of a test
    /// whose name another binary had first.
    pub binary: String,
    /// `KTSTR_COVERAGE_DIR`: counters of guests that were built for coverage go there.
    pub coverage_dir: Option<PathBuf>,
    /// `KTSTR_RUN_ID`: name of this run's directory.
    pub run_id: Option<String>,
    /// `KTSTR_SCHEDULER`: use this binary for every discovered scheduler.
    pub scheduler_override: Option<PathBuf>,
    /// `KTSTR_QEMU`: the emulator of the tcg engine.
    pub qemu: Option<PathBuf>,
    /// `KTSTR_VERBOSE`: timings of passing tests too, and the console in every failure's message.
    pub verbose: bool,
    /// `KTSTR_VMCORE`: keep a failing guest's whole memory as an ELF vmcore.
    pub vmcore: bool,
    /// `KTSTR_INVARIANTS`: on, off or names; instead of what tests say themselves.
    pub invariants: Option<RulesChoice>,
    /// Where cargo builds to.
    pub cargo_target_dir: Option<PathBuf>,
    /// `NEXTEST_ATTEMPT`: which try of a runner with retries this is, from 1. What an earlier one left is kept beside this one's.
    pub attempt: u32,
    /// `RUST_LOG`: what the host side logs, and, but for what is meant for ktstr itself, the schedulers in guests.
    pub rust_log: Option<String>,
}

/// A variable of the environment that holds something else than it should.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name} is '{found}', expected {expected}")]
pub struct ConfigError {
    /// The variable.
    pub name: &'static str,
    /// Its value.
    pub found: String,
    /// What it may be.
    pub expected: &'static str,
}

impl HostConfig {
    /// Reads the process's environment.
    ///
    /// # Errors
    /// When a variable holds something that it cannot mean.
    pub fn from_env() -> Result<Self, ConfigError> {
        Self::from_lookup(Variable::value)
    }

    pub(in crate::host) fn from_lookup(
        value: impl Fn(Variable) -> Option<OsString>,
    ) -> Result<Self, ConfigError> {
        let path = |variable| value(variable).map(PathBuf::from);
        let text = |variable| value(variable).map(|value| value.to_string_lossy().into_owned());
        let switch = |variable| value(variable).is_some_and(|value| value != "0");
        let engine = match text(Variable::Engine) {
            None => EngineChoice::Auto,
            Some(found) => found.parse().map_err(|_| ConfigError {
                name: Variable::Engine.name(),
                found,
                expected: "auto, kvm or tcg",
            })?,
        };
        let time = match text(Variable::Time) {
            None => TimeChoice::Auto,
            Some(found) => found.parse().map_err(|()| ConfigError {
                name: Variable::Time.name(),
                found,
                expected: "auto, host or virtual",
            })?,
        };
        let seed = text(Variable::Seed).map(|found| {
            found.parse().map_err(|_| ConfigError {
                name: Variable::Seed.name(),
                found,
                expected: "a number from 0 to 18446744073709551615",
            })
        });
        let fork = match text(Variable::Fork) {
            None => true,
            Some(found) if found == "auto" => true,
            Some(found) if found == "off" => false,
            Some(found) => {
                return Err(ConfigError {
                    name: Variable::Fork.name(),
                    found,
                    expected: "auto or off",
                });
            }
        };
        let run_id = text(Variable::RunId);
        if let Some(found) = run_id
            .as_ref()
            .filter(|id| id.contains('/') || id.starts_with('.'))
        {
            return Err(ConfigError {
                name: Variable::RunId.name(),
                found: found.clone(),
                expected: "a plain directory name",
            });
        }
        Ok(Self {
            engine,
            time,
            seed: seed.transpose()?,
            fork,
            look_at: look_at()?,
            look_gdb: set(LOOK_GDB_ENV).is_some(),
            events: set(EVENTS_ENV).map(PathBuf::from),
            sidecar_dir: path(Variable::SidecarDir),
            coverage_dir: set("KTSTR_COVERAGE_DIR").map(PathBuf::from),
            run_dir: path(Variable::RunDir),
            binary: binary_name(""),
            run_id,
            scheduler_override: path(Variable::Scheduler),
            qemu: path(Variable::Qemu),
            verbose: switch(Variable::Verbose),
            vmcore: switch(Variable::Vmcore),
            invariants: rules(text(Variable::Invariants))?,
            cargo_target_dir: set("CARGO_TARGET_DIR").map(PathBuf::from),
            // Another program's variable: nonsense in it is no reason not to run.
            attempt: set("NEXTEST_ATTEMPT")
                .and_then(|attempt| attempt.to_str()?.parse().ok())
                .unwrap_or(1),
            rust_log: text(Variable::Log),
        })
    }
}

/// Which rules of the kernel's own books tests are held to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RulesChoice {
    /// Those that hold by default.
    On,
    /// None.
    Off,
    /// Those of these names.
    Only(Vec<String>),
}

fn rules(found: Option<String>) -> Result<Option<RulesChoice>, ConfigError> {
    let Some(found) = found else {
        return Ok(None);
    };
    match found.as_str() {
        "on" => return Ok(Some(RulesChoice::On)),
        "off" => return Ok(Some(RulesChoice::Off)),
        _ => {}
    }
    let names: Vec<String> = found
        .split(',')
        .map(|name| name.trim().to_owned())
        .collect();
    if invariants::unknown(names.iter().map(String::as_str)).is_some() {
        return Err(ConfigError {
            name: Variable::Invariants.name(),
            found,
            expected: "on, off or names of invariants with commas between (`cargo ktstr check --list`)",
        });
    }
    Ok(Some(RulesChoice::Only(names)))
}

/// Set by `cargo ktstr look`.
pub const LOOK_AT_ENV: &str = "KTSTR_LOOK_AT";
/// The same.
pub const LOOK_GDB_ENV: &str = "KTSTR_LOOK_GDB";
/// The same.
pub const EVENTS_ENV: &str = "KTSTR_EVENTS";

fn look_at() -> Result<Option<Duration>, ConfigError> {
    let Some(found) = set(LOOK_AT_ENV) else {
        return Ok(None);
    };
    let found = found.to_string_lossy().into_owned();
    match found.parse() {
        Ok(ns) => Ok(Some(Duration::from_nanos(ns))),
        Err(_) => Err(ConfigError {
            name: LOOK_AT_ENV,
            found,
            expected: "a number of nanoseconds",
        }),
    }
}

/// A variable that is not a user's of ours; an empty one counts as unset.
fn set(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

/// `<package>.<target>` of the running test binary; cargo puts a hash behind the target's name.
#[must_use]
pub(in crate::host) fn binary_name(package: &str) -> String {
    let exe = std::env::current_exe().unwrap_or_default();
    let stem = exe.file_stem().unwrap_or_default().to_string_lossy();
    name_of(package, &stem)
}

fn name_of(package: &str, stem: &str) -> String {
    let is_hash =
        |tail: &str| tail.len() == 16 && tail.bytes().all(|byte| byte.is_ascii_hexdigit());
    let target = match stem.rsplit_once('-') {
        Some((target, hash)) if is_hash(hash) => target,
        _ => stem,
    };
    if package.is_empty() {
        target.to_owned()
    } else {
        format!("{package}.{target}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_binarys_name_has_no_hash() {
        assert_eq!(name_of("scx-mine", "it-0123456789abcdef"), "scx-mine.it");
        assert_eq!(name_of("scx-mine", "it-0123"), "scx-mine.it-0123");
        assert_eq!(name_of("", "two-parts"), "two-parts");
    }

    fn read(vars: &[(Variable, &str)]) -> Result<HostConfig, ConfigError> {
        HostConfig::from_lookup(|variable| {
            let found = vars.iter().find(|(candidate, _)| *candidate == variable);
            found.map(|(_, value)| OsString::from(value))
        })
    }

    #[test]
    fn caches_lie_where_the_environment_says() {
        let of = |own: Option<&str>, xdg: Option<&str>, home: Option<&str>| {
            cache_dir_of(
                own.map(PathBuf::from),
                xdg.map(PathBuf::from),
                home.map(PathBuf::from),
            )
        };
        let own = of(Some("/own"), Some("/xdg"), Some("/home"));
        assert_eq!(own, PathBuf::from("/own"));
        let xdg = of(None, Some("/xdg"), Some("/home"));
        assert_eq!(xdg, PathBuf::from("/xdg/ktstr"));
        let home = of(None, None, Some("/home"));
        assert_eq!(home, PathBuf::from("/home/.cache/ktstr"));
        assert_eq!(of(None, None, None), std::env::temp_dir().join("ktstr"));
    }

    #[test]
    fn empty_environment_means_auto() {
        let config = read(&[]).unwrap();
        assert_eq!(config.engine, EngineChoice::Auto);
        assert!(!config.verbose);
    }

    #[test]
    fn a_wrong_engine_says_what_is_right() {
        let err = read(&[(Variable::Engine, "qemu")]).unwrap_err();
        assert_eq!(
            err.to_string(),
            "KTSTR_ENGINE is 'qemu', expected auto, kvm or tcg"
        );
    }

    #[test]
    fn a_wrong_clock_or_seed_says_what_is_right() {
        let time = read(&[(Variable::Time, "fast")]).unwrap_err();
        assert_eq!(
            time.to_string(),
            "KTSTR_TIME is 'fast', expected auto, host or virtual"
        );
        let seed = read(&[(Variable::Seed, "-1")]).unwrap_err();
        assert!(seed.to_string().contains("'-1', expected a number"));
        assert_eq!(read(&[(Variable::Seed, "9")]).unwrap().seed, Some(9));
    }

    #[test]
    fn forks_are_on_unless_off() {
        assert!(read(&[]).unwrap().fork);
        assert!(read(&[(Variable::Fork, "auto")]).unwrap().fork);
        assert!(!read(&[(Variable::Fork, "off")]).unwrap().fork);
        let wrong = read(&[(Variable::Fork, "no")]).unwrap_err().to_string();
        assert_eq!(wrong, "KTSTR_FORK is 'no', expected auto or off");
    }

    #[test]
    fn invariants_are_on_off_or_names_that_exist() {
        let of = |text| read(&[(Variable::Invariants, text)]).map(|config| config.invariants);
        assert_eq!(of("off"), Ok(Some(RulesChoice::Off)));
        let names = ["rq-nr-running", "cfs-load"].map(String::from).to_vec();
        assert_eq!(
            of("rq-nr-running, cfs-load"),
            Ok(Some(RulesChoice::Only(names)))
        );
        let err = of("rq-nr-runing").unwrap_err().to_string();
        assert!(err.contains("'rq-nr-runing', expected on, off"), "{err}");
        assert_eq!(read(&[]).unwrap().invariants, None);
    }

    #[test]
    fn a_run_id_stays_in_its_place() {
        assert!(read(&[(Variable::RunId, "../x")]).is_err());
        assert_eq!(
            read(&[(Variable::RunId, "nightly-7")])
                .unwrap()
                .run_id
                .as_deref(),
            Some("nightly-7")
        );
    }
}
