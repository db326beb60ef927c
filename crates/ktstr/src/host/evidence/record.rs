//! The record of a test, from everything that was gathered.

use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::host::boot::session;
use crate::host::evidence::figures::Figures;
use crate::host::evidence::gathered::Evidence;
use crate::host::evidence::sidecar::{SIDECAR_SCHEMA, Sidecar};
use crate::model::entry::KtstrTestEntry;
use crate::model::verdict::{AssertResult, Outcome};

/// When a test began.
#[derive(Debug)]
pub(in crate::host) struct Started {
    monotonic: Instant,
    wall_s: u64,
}

impl Started {
    pub(in crate::host) fn now() -> Self {
        let wall_s = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        Self {
            monotonic: Instant::now(),
            wall_s,
        }
    }
}

pub(in crate::host) fn make_sidecar(
    entry: &KtstrTestEntry,
    result: AssertResult,
    evidence: &Evidence,
    started: &Started,
    text: &str,
) -> Sidecar {
    let vm = evidence.vm();
    let outcome = result.outcome();
    let failed = matches!(outcome, Outcome::Fail | Outcome::Inconclusive);
    Sidecar {
        schema: SIDECAR_SCHEMA.to_owned(),
        test: entry.name.to_owned(),
        binary: String::new(),
        dir: PathBuf::new(),
        verdict: outcome,
        skip_reason: (outcome == Outcome::Skip).then(|| text.to_owned()),
        engine: vm.map(|vm| vm.engine.to_string()),
        engine_why: vm.map(|vm| vm.engine_why.clone()),
        topology: entry.topology.to_string(),
        scheduler: entry.scheduler_name().map(str::to_owned),
        scheduler_source: evidence.scheduler_source.map(|source| source.to_string()),
        kernel: evidence.kernel_image.clone(),
        kernel_release: evidence.times.kernel_release.clone(),
        boot_ms: vm.and_then(|vm| vm.boot_duration).map(millis),
        scenario_ms: vm.and_then(session::scenario_ms),
        vm_ms: vm.map(|vm| millis(vm.duration)),
        cleanup_ms: vm.and_then(|vm| vm.cleanup_duration).map(millis),
        initramfs_bytes: evidence.times.initramfs_bytes,
        initramfs_ms: evidence.times.initramfs.map(millis),
        standstill_us: evidence
            .times
            .standstill
            .and_then(|time| u64::try_from(time.as_micros()).ok()),
        total_ms: millis(started.monotonic.elapsed().saturating_sub(evidence.waited)),
        exit_reason: vm.map(|vm| vm.exit_reason.to_string()),
        timed_out: vm.is_some_and(|vm| vm.timed_out),
        stage: vm.map(|vm| vm.stages().label.to_owned()),
        verifier_stats: vm.map(|vm| vm.verifier_stats.clone()).unwrap_or_default(),
        figures: vm.map(Figures::of).unwrap_or_default(),
        message: failed.then(|| text.to_owned()),
        result,
        started_at: started.wall_s,
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
