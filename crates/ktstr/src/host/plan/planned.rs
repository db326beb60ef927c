//! The first stage of a run: everything that its boot needs, or why there is none.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use ktstr_kernel::{Kernel, KernelError};
use ktstr_vmm::{Clock, Engine, Probe};

use crate::host::plan::admission::{Admission, Share, admit};
use crate::host::plan::config::{HostConfig, Variable};
use crate::host::plan::programs::Programs;
use crate::host::plan::scheduler::ResolveSource;
use crate::host::plan::time::Time;
use crate::model::entry::KtstrTestEntry;
use crate::model::kernel_filter::refusal;
use crate::model::verdict::{AssertResult, DetailKind};

/// What is to be run, and how.
#[derive(Debug, Clone, Copy)]
pub(in crate::host) struct Test<'a> {
    pub(in crate::host) entry: &'a KtstrTestEntry,
    pub(in crate::host) config: &'a HostConfig,
    /// Of the test's package.
    pub(in crate::host) manifest_dir: &'a Path,
}

/// The result of a test whose VM never ran: a skip, what it did on the host, or why it cannot run.
#[derive(Debug)]
pub(in crate::host) struct NoRun(pub(in crate::host) Box<AssertResult>);

impl NoRun {
    pub(in crate::host) fn skip(reason: String) -> Self {
        Self(Box::new(AssertResult::skip(reason)))
    }
}

impl From<anyhow::Error> for NoRun {
    fn from(error: anyhow::Error) -> Self {
        let text = format!("{error:#}");
        Self(Box::new(AssertResult::fail(DetailKind::Setup, text)))
    }
}

/// All that a boot needs, and the right to run a VM on this host while it lives.
#[derive(Debug)]
pub(in crate::host) struct Planned {
    pub(in crate::host) kernel: Kernel,
    pub(in crate::host) programs: Programs,
    pub(in crate::host) scheduler_source: Option<ResolveSource>,
    pub(in crate::host) time: Time,
    /// How long the test had to wait for its turn.
    pub(in crate::host) waited: Duration,
    /// None where the VM's own locks say when its turn is.
    _turn: Option<Admission>,
}

/// Resolves what `test` names, then waits for its turn: only what can run queues.
///
/// # Errors
/// When the test is skipped or cannot run.
pub(in crate::host) fn plan(
    test: &Test<'_>,
    kernel: Result<Kernel, KernelError>,
) -> Result<Planned, NoRun> {
    let Test {
        entry,
        config,
        manifest_dir,
    } = *test;
    config.engine.check().map_err(anyhow::Error::from)?;
    let kernel = kernel.map_err(anyhow::Error::from)?;
    if let Some(reason) = kernel_refused(entry, kernel.release().as_deref()) {
        return Err(NoRun::skip(reason));
    }
    let (programs, scheduler_source) = Programs::of(entry, config, manifest_dir)?;
    let time = Time::of(entry, config)?;
    let began = Instant::now();
    let turn = wait_for_turn(entry, time.clock)?;
    Ok(Planned {
        kernel,
        programs,
        scheduler_source,
        time,
        waited: began.elapsed(),
        _turn: turn,
    })
}

/// Whether the entry is sound, and whether this host can give what it asks for.
///
/// # Errors
/// When it is not, or cannot.
pub(in crate::host) fn check(test: &Test<'_>) -> Result<(), NoRun> {
    test.entry.validate().map_err(anyhow::Error::from)?;
    match skip_reason(test.entry, || test.config.engine.resolve()) {
        Some(reason) => Err(NoRun::skip(reason)),
        None => Ok(()),
    }
}

fn wait_for_turn(entry: &KtstrTestEntry, clock: Clock) -> anyhow::Result<Option<Admission>> {
    let Some(need) = Share::of_entry(entry, clock) else {
        return Ok(None);
    };
    let mut say = |line: &str| eprintln!("ktstr: {line}");
    let admission = admit(entry.name, need, &mut say);
    let admission = admission.with_context(|| {
        let name = Variable::LockDir.name();
        format!("no turn for the VM of this test; {name} names a directory for the lock files")
    })?;
    Ok(Some(admission))
}

/// Genuine skips: what this host cannot give, with the reason.
fn skip_reason(entry: &KtstrTestEntry, engine: impl FnOnce() -> Probe) -> Option<String> {
    if !entry.performance_mode {
        return None;
    }
    let Probe { engine, why, .. } = engine();
    (engine == Engine::Tcg).then(|| {
        format!("performance mode needs the kvm engine, and this run has tcg ({why}); run it where /dev/kvm is genuine")
    })
}

/// Why the `kernels` of one of its schedulers leave out this kernel.
fn kernel_refused(entry: &KtstrTestEntry, release: Option<&str>) -> Option<String> {
    let release = release.unwrap_or("of an unknown release");
    entry.schedulers().find_map(|scheduler| {
        let wanted = refusal(scheduler.kernels, release)?;
        Some(format!(
            "scheduler '{}' is declared for kernels {wanted}, and this one is {release}",
            scheduler.name
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probe(engine: Engine) -> Probe {
        Probe::new(engine, "so it is")
    }

    #[test]
    fn performance_mode_is_skipped_on_tcg_alone() {
        let entry = KtstrTestEntry {
            performance_mode: true,
            ..KtstrTestEntry::DEFAULT
        };
        let reason = skip_reason(&entry, || probe(Engine::Tcg)).unwrap();
        assert!(reason.contains("tcg (so it is)"), "{reason}");
        assert_eq!(skip_reason(&entry, || probe(Engine::Kvm)), None);
        let plain = || unreachable!("nothing is measured for other tests");
        assert_eq!(skip_reason(&KtstrTestEntry::DEFAULT, plain), None);
    }

    #[test]
    fn a_kernel_that_its_scheduler_is_not_declared_for_is_a_skip_with_both_named() {
        static PICKY: crate::model::entry::Scheduler = crate::model::entry::Scheduler {
            name: "picky",
            kernels: &["7.0..7.4"],
            ..crate::model::entry::Scheduler::DEFAULT
        };
        let entry = KtstrTestEntry {
            scheduler: Some(&PICKY),
            ..KtstrTestEntry::DEFAULT
        };
        let staged = KtstrTestEntry {
            staged_schedulers: const { &[&PICKY] },
            ..KtstrTestEntry::DEFAULT
        };
        assert_eq!(kernel_refused(&KtstrTestEntry::DEFAULT, None), None);
        for entry in [entry, staged] {
            assert_eq!(kernel_refused(&entry, Some("7.3.4")), None);
            for release in [Some("6.12.117"), None] {
                let reason = kernel_refused(&entry, release).unwrap();
                assert!(
                    reason.contains("picky") && reason.contains("7.0..7.4"),
                    "{reason}"
                );
            }
        }
    }
}
