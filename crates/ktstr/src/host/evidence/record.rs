//! The record of a test, from everything that was gathered.

use std::path::PathBuf;
use std::time::Duration;

use crate::host::boot::session;
use crate::host::evidence::clock::ClockFigures;
use crate::host::evidence::figures::Figures;
use crate::host::evidence::gathered::Evidence;
use crate::host::evidence::place::Started;
use crate::host::evidence::sidecar::{SIDECAR_SCHEMA, Sidecar};
use crate::model::entry::KtstrTestEntry;
use crate::model::verdict::{AssertResult, Outcome};

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
        standstill_us: evidence.times.standstill.and_then(micros),
        start_us: evidence.times.start.and_then(micros),
        given_task_us: evidence.times.given_task.and_then(micros),
        total_ms: millis(started.monotonic.elapsed().saturating_sub(evidence.waited)),
        exit_reason: vm.map(|vm| vm.exit_reason.to_string()),
        timed_out: vm.is_some_and(|vm| vm.timed_out),
        stage: vm.map(|vm| vm.stages().label.to_owned()),
        verifier_stats: vm.map(|vm| vm.verifier_stats.clone()).unwrap_or_default(),
        figures: vm.map(Figures::of).unwrap_or_default(),
        clock: vm.map(ClockFigures::of).unwrap_or_default(),
        cause: None,
        message: failed.then(|| text.to_owned()),
        result,
        started_at: started.wall_s,
    }
}

fn micros(duration: Duration) -> Option<u64> {
    u64::try_from(duration.as_micros()).ok()
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
