//! The programs and files of a run, on the host.

use std::path::{Path, PathBuf};

use ktstr_init::ProbePlan;

use crate::host::plan::config::HostConfig;
use crate::host::plan::includes::{self, Include};
use crate::host::plan::scheduler::{ResolveSource, resolve_scheduler};
use crate::model::entry::KtstrTestEntry;

/// Programs and files that a test names; `None` for a scheduler that is part of the kernel.
#[derive(Debug, Default, Clone)]
pub(in crate::host) struct Programs {
    pub(in crate::host) scheduler: Option<PathBuf>,
    /// In the order of the entry's `staged_schedulers`.
    pub(in crate::host) staged: Vec<Option<PathBuf>>,
    /// What the guest's kernel is to record of them.
    pub(in crate::host) probes: Option<ProbePlan>,
    /// Payloads and included files.
    pub(in crate::host) includes: Vec<Include>,
}

impl Programs {
    /// Those of `entry`, and where its scheduler was found, if it is a program.
    ///
    /// # Errors
    /// When one of them is not found.
    pub(in crate::host) fn of(
        entry: &KtstrTestEntry,
        config: &HostConfig,
        manifest_dir: &Path,
    ) -> anyhow::Result<(Self, Option<ResolveSource>)> {
        let resolve = |spec| resolve_scheduler(spec, config, manifest_dir);
        let (scheduler, source) = resolve(entry.scheduler_spec())?;
        let source = scheduler.is_some().then_some(source);
        let staged = entry.staged_schedulers.iter();
        let programs = Self {
            scheduler,
            staged: staged
                .map(|staged| Ok(resolve(staged.spec)?.0))
                .collect::<anyhow::Result<_>>()?,
            includes: includes::of_entry(entry, manifest_dir)?,
            probes: None,
        };
        Ok((programs, source))
    }
}
