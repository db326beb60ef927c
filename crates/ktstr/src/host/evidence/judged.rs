//! The fourth stage of a run: what it left becomes a verdict. What is judged, and how, is in [`judge`].

use std::path::Path;

use crate::host::boot::session::Ran;
use crate::host::evidence::coverage;
use crate::host::evidence::gathered::Evidence;
use crate::host::evidence::leave::{leave_dump, leave_timeline};
use crate::host::evidence::place::Place;
use crate::host::judge::captures::Periodic;
use crate::host::judge::expectations::Facts;
use crate::host::judge::left::{CapturedExit, Left, guest_result};
use crate::host::judge::{self, callbacks, findings, payload};
use crate::host::plan::planned::{NoRun, Planned, Test};
use crate::model::entry::KtstrTestEntry;
use crate::model::verdict::{AssertResult, DetailKind};

/// A run's verdict, before what its test expects of it.
#[derive(Debug)]
pub(in crate::host) struct Judgement {
    pub(in crate::host) result: AssertResult,
    pub(in crate::host) facts: Facts,
    pub(in crate::host) evidence: Evidence,
}

/// Judges `ran`.
pub(in crate::host) fn judge(
    test: &Test<'_>,
    place: &Place,
    planned: Option<&Planned>,
    ran: Result<Ran, NoRun>,
) -> Judgement {
    let mut evidence = Evidence::before_boot(test, place, planned);
    let ran = match ran {
        Ok(ran) => ran,
        Err(NoRun(result)) => return as_told(*result, evidence),
    };
    coverage::keep(&ran.vm, test.config, test.entry.name);
    evidence.times = ran.times.clone();
    evidence.blind.clone_from(&ran.outcome.blind);
    let looked = ran.outcome.looked;
    let left = left_of(ran, test.entry, &place.dir, &mut evidence);
    if looked {
        let failure = evidence.failure.as_ref();
        let at = failure.map_or("", |failure| failure.trigger.as_str());
        let text = format!("ended for a look at {at}");
        evidence.left = Some(left);
        let result = AssertResult::inconclusive(DetailKind::Looked, text);
        return as_told(result, evidence);
    }
    judge_run(test, place, left, evidence)
}

/// A verdict that no VM's end decided.
fn as_told(result: AssertResult, evidence: Evidence) -> Judgement {
    let facts = Facts {
        booted: true,
        ..Facts::default()
    };
    Judgement {
        result,
        facts,
        evidence,
    }
}

/// What decides the verdict; what only explains it goes to `evidence`.
fn left_of(ran: Ran, entry: &KtstrTestEntry, dir: &Path, evidence: &mut Evidence) -> Left {
    let Ran {
        mut vm,
        deadlines,
        outcome,
        lost,
        ..
    } = ran;
    let periodic = Periodic {
        tally: outcome.periodic,
        scenarios: outcome.scenarios,
        real: vm.periodic_real,
        blind: outcome.blind,
        evicted: outcome.bridge.evicted(),
    };
    vm.entry_name = Some(entry.name.to_owned());
    vm.artifact_dir = Some(dir.to_owned());
    let exit = CapturedExit::of(outcome.failure.as_ref());
    evidence.failure = outcome.failure;
    Left {
        vm,
        deadlines,
        exit,
        lost,
        periodic,
        books: outcome.books,
    }
}

/// What follows the VM's end, in order.
fn judge_run(test: &Test<'_>, place: &Place, mut left: Left, mut evidence: Evidence) -> Judgement {
    let Test {
        entry,
        manifest_dir,
        ..
    } = *test;
    let mut found = findings::of(entry, &left);
    payload::settle(entry, &left.vm, manifest_dir, &mut found);
    left.lost.excuse(&mut found, &left.vm);
    left.vm.success = left.succeeded();
    evidence.left = Some(left);
    let Some(left) = &evidence.left else {
        return as_told(found, evidence);
    };
    if found.is_fail()
        && let Err(error) = leave_dump(entry, &found, &evidence, &place.dir)
    {
        tracing::warn!(%error, source = %error.source, "no failure dump for the callbacks");
    }
    let called = callbacks::call(entry, &left.vm, guest_result(&left.vm).as_ref());
    // After the callbacks, which may want the captures for themselves, and may drain the bridge.
    found.stats.phases = left.vm.phase_buckets();
    leave_timeline(&left.vm, &place.dir, entry.name);
    let result = judge::fold(entry, left, found, &called);
    Judgement {
        facts: judge::facts(left, &called),
        result,
        evidence,
    }
}
