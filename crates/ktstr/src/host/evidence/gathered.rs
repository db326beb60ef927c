//! What a run left, for record and message, however far it came.

use std::path::PathBuf;
use std::time::Duration;

use crate::host::boot::session::SessionTimes;
use crate::host::evidence::place::Place;
use crate::host::evidence::repro::Repro;
use crate::host::judge::bug_summary::bug_summary;
use crate::host::judge::left::Left;
use crate::host::plan::planned::{Planned, Test};
use crate::host::plan::scheduler::ResolveSource;
use crate::host::watch::coordinator::Failure;
use crate::model::result::VmResult;

#[derive(Debug, Default)]
pub(in crate::host) struct Evidence {
    /// How long the test had to wait for its turn.
    pub(in crate::host) waited: Duration,
    /// What the VM left.
    pub(in crate::host) left: Option<Left>,
    pub(in crate::host) times: SessionTimes,
    pub(in crate::host) kernel_image: Option<PathBuf>,
    pub(in crate::host) scheduler_source: Option<ResolveSource>,
    /// The state that was captured for a failure.
    pub(in crate::host) failure: Option<Failure>,
    /// Why the guest's kernel could not be looked into.
    pub(in crate::host) blind: Option<String>,
    /// What the second run showed, or why there was none though one was due.
    pub(in crate::host) repro: Option<anyhow::Result<Repro>>,
    /// The console is wanted in every message.
    pub(in crate::host) verbose: bool,
    /// Findings that are too long for message and record, whole.
    pub(in crate::host) whole_findings: Option<String>,
}

impl Evidence {
    /// Of a run that came no further than its plan.
    pub(in crate::host) fn before_boot(
        test: &Test<'_>,
        place: &Place,
        planned: Option<&Planned>,
    ) -> Self {
        Self {
            waited: planned.map(|planned| planned.waited).unwrap_or_default(),
            kernel_image: place.kernel_image.clone(),
            scheduler_source: planned.and_then(|planned| planned.scheduler_source),
            verbose: test.config.verbose,
            ..Self::default()
        }
    }

    pub(in crate::host) fn vm(&self) -> Option<&VmResult> {
        self.left.as_ref().map(|left| &left.vm)
    }

    /// The line that a scheduler author can act on.
    pub(in crate::host) fn bug_summary(&self) -> Option<String> {
        let vm = self.vm()?;
        bug_summary([vm.scheduler_log().as_str(), vm.stderr.as_str()])
    }
}
