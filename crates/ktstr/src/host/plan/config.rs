//! The environment, read once at the rim and passed down as a value.

use std::path::PathBuf;

use ktstr_vmm::EngineChoice;

/// What the environment asks of the host side.
#[derive(Debug, Clone)]
pub struct HostConfig {
    /// `KTSTR_ENGINE`: auto, kvm or tcg.
    pub engine: EngineChoice,
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
    /// `KTSTR_VERBOSE`: show console, stages and timings of passing tests too.
    pub verbose: bool,
    /// `KTSTR_VMCORE`: keep a failing guest's whole memory as an ELF vmcore.
    pub vmcore: bool,
    /// Where cargo builds to.
    pub cargo_target_dir: Option<PathBuf>,
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
        Self::from_lookup(|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
    }

    pub(in crate::host) fn from_lookup(
        get: impl Fn(&'static str) -> Option<String>,
    ) -> Result<Self, ConfigError> {
        let engine = match get("KTSTR_ENGINE").as_deref() {
            None | Some("auto") => EngineChoice::Auto,
            Some("kvm") => EngineChoice::Kvm,
            Some("tcg") => EngineChoice::Tcg,
            Some(found) => {
                return Err(ConfigError {
                    name: "KTSTR_ENGINE",
                    found: found.to_owned(),
                    expected: "auto, kvm or tcg",
                });
            }
        };
        let run_id = get("KTSTR_RUN_ID");
        if let Some(found) = run_id
            .as_ref()
            .filter(|id| id.contains('/') || id.starts_with('.'))
        {
            return Err(ConfigError {
                name: "KTSTR_RUN_ID",
                found: found.clone(),
                expected: "a plain directory name",
            });
        }
        Ok(Self {
            engine,
            sidecar_dir: get("KTSTR_SIDECAR_DIR").map(PathBuf::from),
            coverage_dir: get("KTSTR_COVERAGE_DIR").map(PathBuf::from),
            run_dir: get("KTSTR_RUN_DIR").map(PathBuf::from),
            binary: binary_name(""),
            run_id,
            scheduler_override: get("KTSTR_SCHEDULER").map(PathBuf::from),
            qemu: get("KTSTR_QEMU").map(PathBuf::from),
            verbose: get("KTSTR_VERBOSE").is_some_and(|value| value != "0"),
            vmcore: get("KTSTR_VMCORE").is_some_and(|value| value != "0"),
            cargo_target_dir: get("CARGO_TARGET_DIR").map(PathBuf::from),
        })
    }
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

    fn read(vars: &[(&'static str, &str)]) -> Result<HostConfig, ConfigError> {
        HostConfig::from_lookup(|name| {
            vars.iter()
                .find(|(n, _)| *n == name)
                .map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn empty_environment_means_auto() {
        let config = read(&[]).unwrap();
        assert_eq!(config.engine, EngineChoice::Auto);
        assert!(!config.verbose);
    }

    #[test]
    fn a_wrong_engine_says_what_is_right() {
        let err = read(&[("KTSTR_ENGINE", "qemu")]).unwrap_err();
        assert_eq!(
            err.to_string(),
            "KTSTR_ENGINE is 'qemu', expected auto, kvm or tcg"
        );
    }

    #[test]
    fn a_run_id_stays_in_its_place() {
        assert!(read(&[("KTSTR_RUN_ID", "../x")]).is_err());
        assert_eq!(
            read(&[("KTSTR_RUN_ID", "nightly-7")])
                .unwrap()
                .run_id
                .as_deref(),
            Some("nightly-7")
        );
    }
}
