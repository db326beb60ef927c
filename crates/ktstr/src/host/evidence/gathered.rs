//! Everything that was gathered on a test's way; record and message are made from it whatever happened.

use std::path::PathBuf;
use std::time::Duration;

use crate::host::boot::archive::Programs;
use crate::host::boot::session::SessionTimes;
use crate::host::evidence::bug_summary::bug_summary;
use crate::host::evidence::repro::Repro;
use crate::host::judge::left::Left;
use crate::host::plan::admission::Admission;
use crate::host::plan::scheduler::ResolveSource;
use crate::host::watch::coordinator::Failure;
use crate::model::result::VmResult;

#[derive(Debug, Default)]
pub(in crate::host) struct Evidence {
    /// The right to run VMs on this host, for a second run, too.
    pub(in crate::host) admission: Option<Admission>,
    /// How long the test had to wait for it.
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
    /// What was run, for a second time.
    pub(in crate::host) programs: Option<Programs>,
    /// What the second run showed, or why there was none though one was due.
    pub(in crate::host) repro: Option<anyhow::Result<Repro>>,
    /// The console is wanted in every message.
    pub(in crate::host) verbose: bool,
    /// Findings that are too long for message and record, whole.
    pub(in crate::host) whole_findings: Option<String>,
}

impl Evidence {
    pub(in crate::host) fn vm(&self) -> Option<&VmResult> {
        self.left.as_ref().map(|left| &left.vm)
    }

    /// The line that a scheduler author can act on.
    pub(in crate::host) fn bug_summary(&self) -> Option<String> {
        let vm = self.vm()?;
        bug_summary([vm.scheduler_log().as_str(), vm.stderr.as_str()])
    }
}
