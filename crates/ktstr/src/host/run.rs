//! One test's life on the host: plan, boot, watch, judge, record. Each stage's value is what the next one takes.

use std::path::Path;
use std::thread;

use ktstr_vmm::EngineChoice;

use crate::host::boot::on_host;
use crate::host::boot::session::Ran;
use crate::host::boot::start::boot;
pub use crate::host::boot::start::is_resource_contention;
use crate::host::evidence::judged::judge;
use crate::host::evidence::place::Place;
pub use crate::host::evidence::report::Report;
use crate::host::evidence::report::record;
use crate::host::plan::config::{HostConfig, TimeChoice};
use crate::host::plan::kernel::resolve_test_kernel;
use crate::host::plan::planned::{NoRun, Planned, Test, check, plan};
use crate::model::entry::KtstrTestEntry;
use crate::model::verdict::Outcome;

/// Runs one test and stores its record. Never panics on what a guest, a file, a user or a user's callback did.
///
/// A test with `seeds` runs under each of them until one does not pass, which is the run that is told; where a seed or host time is
/// asked for, only so.
#[must_use]
pub fn run_test(entry: &KtstrTestEntry, config: &HostConfig, manifest_dir: &Path) -> Report {
    let is_one = config.seed.is_some() || config.time == TimeChoice::Host;
    let seeds = if is_one { 0 } else { u64::from(entry.seeds) };
    for seed in 0..seeds.saturating_sub(1) {
        let config = HostConfig {
            seed: Some(seed),
            ..config.clone()
        };
        let report = run_once(entry, &config, manifest_dir);
        if report.outcome != Outcome::Pass {
            return report;
        }
    }
    let last = HostConfig {
        seed: seeds.checked_sub(1).or(config.seed),
        ..config.clone()
    };
    run_once(entry, &last, manifest_dir)
}

fn run_once(entry: &KtstrTestEntry, config: &HostConfig, manifest_dir: &Path) -> Report {
    if config.engine != EngineChoice::Tcg && !entry.host_only {
        // Measured once per process; here while kernel, programs and archive are gathered.
        thread::spawn(ktstr_vmm::probe);
    }
    let test = Test {
        entry,
        config,
        manifest_dir,
    };
    let kernel = resolve_test_kernel();
    let place = Place::prepare(&test, &kernel);
    let planned = check(&test).and_then(|()| {
        if entry.host_only {
            return Err(NoRun(Box::new(on_host::run(entry))));
        }
        plan(&test, kernel)
    });
    // Lives to the end: a second run, too, is made in this test's turn.
    let (planned, ran) = match planned {
        Ok(planned) => {
            let ran = run(&test, &planned, &place);
            (Some(planned), ran)
        }
        Err(no_run) => (None, Err(no_run)),
    };
    let judgement = judge(&test, &place, planned.as_ref(), ran);
    record(&test, place, planned.as_ref(), judgement)
}

fn run(test: &Test<'_>, planned: &Planned, place: &Place) -> Result<Ran, NoRun> {
    let booted = boot(test, planned, &place.vmcore(test))?;
    Ok(booted.watch()?)
}
