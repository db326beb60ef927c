//! From a scheduler's declaration to the binary that goes into the guest.

use std::path::{Path, PathBuf};

use crate::host::plan::config::HostConfig;
pub use crate::host::plan::program::{ProgramError, ResolveSource};
use crate::host::plan::program::{checked, find_program};
use crate::model::entry::SchedulerSpec;

/// Finds the binary of `spec`, building it where it is part of the workspace around `manifest_dir`.
///
/// The answer is the same for the whole process, so callers may ignore the source.
///
/// # Errors
/// When the declared scheduler cannot be had; the message names the next step.
pub fn resolve_scheduler(
    spec: SchedulerSpec,
    config: &HostConfig,
    manifest_dir: &Path,
) -> Result<(Option<PathBuf>, ResolveSource), ProgramError> {
    match spec {
        SchedulerSpec::Eevdf | SchedulerSpec::KernelBuiltin { .. } => {
            Ok((None, ResolveSource::Kernel))
        }
        SchedulerSpec::Path(path) => {
            checked("scheduler", PathBuf::from(path), ResolveSource::Path).map(some)
        }
        SchedulerSpec::Discover(name) => match &config.scheduler_override {
            Some(path) => checked("scheduler", path.clone(), ResolveSource::Override).map(some),
            None => find_program("scheduler", name, manifest_dir).map(some),
        },
    }
}

fn some((path, source): (PathBuf, ResolveSource)) -> (Option<PathBuf>, ResolveSource) {
    (Some(path), source)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(scheduler_override: Option<&str>) -> HostConfig {
        HostConfig {
            scheduler_override: scheduler_override.map(PathBuf::from),
            ..HostConfig::from_env().unwrap()
        }
    }

    #[track_caller]
    fn check_error(spec: SchedulerSpec, over: Option<&str>, needles: &[&str]) {
        let dir = tempfile::tempdir().unwrap();
        let err = resolve_scheduler(spec, &config(over), dir.path())
            .unwrap_err()
            .to_string();
        for needle in needles {
            assert!(err.contains(needle), "{err:?} lacks {needle:?}");
        }
    }

    #[test]
    fn what_is_missing_is_named_with_the_next_step() {
        check_error(
            SchedulerSpec::Path("/no/such"),
            None,
            &["/no/such", "the declared path"],
        );
        check_error(
            SchedulerSpec::Discover("scx_nowhere"),
            None,
            &["scx_nowhere", "cargo install", "KTSTR_SCHEDULER"],
        );
        check_error(
            SchedulerSpec::Discover("x"),
            Some("/etc/passwd"),
            &["/etc/passwd", "KTSTR_SCHEDULER"],
        );
    }

    #[test]
    fn eevdf_needs_no_binary() {
        let found = resolve_scheduler(SchedulerSpec::Eevdf, &config(None), Path::new("/")).unwrap();
        assert_eq!(found, (None, ResolveSource::Kernel));
    }
}
