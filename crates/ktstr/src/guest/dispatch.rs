//! The process of one test in the guest: plan in, result and exit status out.

use std::env;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ktstr_init::child;

use super::link::{LinkTransport, MessageLink};
use crate::model::call::call;
use crate::model::ctx::{Ctx, Declared, TEST_PLAN_ENV, TEST_PLAN_PATH, TestPlan};
use crate::model::entry::{KtstrTestEntry, find_test};
use crate::model::role::VERIFIER_CELL;
use crate::model::transport::{FAILURE_TAG, HostRequest, READY_TAG, Transport, TransportError};
use crate::model::verdict::{AssertDetail, AssertResult, DetailKind, Outcome};

/// Why there is no plan to run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// Neither the variable nor the file.
    #[error("no test plan: {TEST_PLAN_ENV} is not set and {} cannot be read", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// It does not parse: host and guest are not of one build.
    #[error("test plan does not parse ({} bytes from {origin})", text.len())]
    Malformed {
        /// Where it came from.
        origin: String,
        /// The text.
        text: String,
        /// The parser's complaint.
        #[source]
        source: serde_json::Error,
    },
}

/// Reads the plan that the host left: the variable [`TEST_PLAN_ENV`], else the file [`TEST_PLAN_PATH`].
///
/// # Errors
/// When there is none, or it does not parse.
pub fn load_plan() -> Result<TestPlan, PlanError> {
    match env::var(TEST_PLAN_ENV) {
        Ok(text) => parse_plan(text, TEST_PLAN_ENV),
        Err(_) => load_file(TEST_PLAN_PATH.into()),
    }
}

fn load_file(path: PathBuf) -> Result<TestPlan, PlanError> {
    let origin = path.display().to_string();
    let text = fs::read_to_string(&path).map_err(|source| PlanError::Missing { path, source })?;
    parse_plan(text, &origin)
}

fn parse_plan(text: String, origin: &str) -> Result<TestPlan, PlanError> {
    serde_json::from_str(&text).map_err(|source| PlanError::Malformed {
        origin: origin.to_owned(),
        text,
        source,
    })
}

/// A test's function.
pub type TestFn = fn(&Ctx) -> anyhow::Result<AssertResult>;

/// The main of a test's process: reads the plan and runs the function that `find` has for `name`.
///
/// The result is the exit status of its outcome. Without a plan or a function it is a failure that standard error explains.
pub fn run_named<L: MessageLink + 'static>(
    name: &str,
    find: impl FnOnce(&str) -> Option<TestFn>,
    link: Option<L>,
) -> u8 {
    let plan = match load_plan() {
        Ok(plan) => plan,
        Err(error) => {
            eprintln!("test {name}: {:#}", anyhow::Error::new(error));
            return exit_status(Outcome::Fail);
        }
    };
    let Some(function) = find(name) else {
        eprintln!(
            "test {name}: not in this binary; is the guest's /init the binary that the host runs?"
        );
        return exit_status(Outcome::Fail);
    };
    let payloads = find_test(name).map(KtstrTestEntry::payloads);
    let payloads = payloads.unwrap_or_default();
    run_function(plan, child::scheduler_pid(), link, |ctx| {
        let mut ctx = ctx.clone().with_payloads(payloads);
        if let Some(seq) = child::scheduler_enable_seq() {
            ctx = ctx.with_sched_ext(seq.parse().ok());
        }
        let result = function(&ctx)?;
        Ok(survived(&ctx, find_test(name), result))
    })
}

/// The result of a test with `survives_storm`: a failure when none of its schedulers is in charge at its end. One that left by
/// itself is found in any test; here the test itself may not have taken it away either.
fn survived(ctx: &Ctx, test: Option<&KtstrTestEntry>, mut result: AssertResult) -> AssertResult {
    if test.is_some_and(|test| test.survives_storm)
        && ctx.scheduler_now().declared == Declared::None
    {
        result.push(AssertDetail::fail(
            DetailKind::Other,
            "survives_storm: none of the test's schedulers is in charge at its end; the last operation took it away (Op::detach_scheduler), so attach one again or leave the attribute out",
        ));
    }
    result
}

fn exit_status(outcome: Outcome) -> u8 {
    u8::try_from(outcome.exit_code()).unwrap_or(u8::MAX)
}

/// The whole life of a test's process, after the function was found: plan, context, call, result, exit status.
///
/// Without a link (the process was started by hand) the result goes to standard error. A result that cannot be sent is a
/// failure, whatever it says: the host would not know it.
pub fn run_function<L: MessageLink + 'static>(
    plan: TestPlan,
    scheduler_pid: Option<i32>,
    link: Option<L>,
    function: impl FnOnce(&Ctx) -> anyhow::Result<AssertResult>,
) -> u8 {
    let waits_for_host = plan.waits_for_host;
    let transport = link.map(|link| Arc::new(LinkTransport::new(link)));
    let mut ctx = Ctx::new(plan, scheduler_pid);
    if let Some(transport) = &transport {
        ctx = ctx.with_transport(Arc::clone(transport) as Arc<dyn Transport>);
    }
    let result = match wait_for_host(&ctx, waits_for_host) {
        Ok(()) => call(&ctx, function),
        Err(error) => AssertResult::fail(
            DetailKind::Setup,
            format!("the scheduler could not be prepared: {error}"),
        ),
    };
    if result.is_fail()
        && let Some(host) = ctx.requests()
    {
        ask_for_failure_capture(host);
    }
    let sent = match &transport {
        Some(transport) => transport.send_result(&result),
        None => {
            eprintln!("{}", summary(&ctx, &result));
            Ok(())
        }
    };
    match sent {
        Ok(()) => exit_status(result.outcome()),
        Err(error) => {
            eprintln!(
                "test result could not be sent: {error}\n{}",
                summary(&ctx, &result)
            );
            exit_status(Outcome::Fail)
        }
    }
}

/// How long the host may take to find and write the scheduler's maps.
const READY_DEADLINE: Duration = Duration::from_secs(30);

fn wait_for_host(ctx: &Ctx, wanted: bool) -> Result<(), TransportError> {
    if !wanted {
        return Ok(());
    }
    let host = ctx.requests().ok_or(TransportError::NotSupported)?;
    let request = HostRequest::Capture {
        tag: READY_TAG.to_owned(),
    };
    host.request(&request, READY_DEADLINE)
}

/// How long a failing test waits for the host's look at it.
const CAPTURE_DEADLINE: Duration = Duration::from_secs(20);

/// The scheduler still runs: its state now is what the failure's reader wants to see.
fn ask_for_failure_capture(transport: &dyn Transport) {
    let request = HostRequest::Capture {
        tag: FAILURE_TAG.to_owned(),
    };
    if let Err(error) = transport.request(&request, CAPTURE_DEADLINE) {
        eprintln!("the failing test's state was not captured: {error}");
    }
}

fn summary(ctx: &Ctx, result: &AssertResult) -> String {
    let head = format!("test {}: {}", ctx.name(), result.outcome());
    let details = result.details.iter().map(|detail| detail.message.clone());
    [head]
        .into_iter()
        .chain(details)
        .collect::<Vec<_>>()
        .join("\n  ")
}

/// The whole life of the test's process: takes over the link from init, runs the registered test, and says how it went.
/// Returns the exit status.
pub fn run_test(name: &str) -> u8 {
    let link = ktstr_init::child::Link::from_env().unwrap_or_else(|error| {
        eprintln!("ktstr: the link to init cannot be used: {error}");
        None
    });
    run_named(name, find_function, link)
}

/// A registered test's function, or the one that tries a declared scheduler.
fn find_function(name: &str) -> Option<TestFn> {
    let registered = find_test(name).map(|entry| entry.func);
    registered.or_else(|| {
        name.starts_with(VERIFIER_CELL)
            .then_some(super::verify::cell as TestFn)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::cpuset::CpuMap;
    use std::time::Duration;

    fn ctx() -> Ctx {
        let plan = TestPlan::new("t", CpuMap::new(1, 1, 1, 1), Duration::from_secs(1));
        Ctx::new(plan, None)
    }

    #[test]
    fn a_panic_is_a_failure_with_its_text() {
        let result = call(&ctx(), |_| panic!("lost {} tasks", 3));
        let [detail] = result.details.as_slice() else {
            panic!("{result:?}")
        };
        assert_eq!(detail.kind, DetailKind::Panicked);
        assert_eq!(detail.message, "test t panicked: lost 3 tasks");
        assert_eq!(result.outcome().exit_code(), 1);
    }

    #[test]
    fn a_test_that_ends_without_a_scheduler_fails_where_one_must_survive() {
        let with = |has_scheduler| {
            let plan = TestPlan {
                has_scheduler,
                ..TestPlan::new("t", CpuMap::new(1, 1, 1, 1), Duration::from_secs(1))
            };
            Ctx::new(plan, None)
        };
        let asks = KtstrTestEntry {
            survives_storm: true,
            ..KtstrTestEntry::DEFAULT
        };
        let end = |ctx: &Ctx, test| survived(ctx, test, AssertResult::pass());
        assert!(end(&with(true), Some(&asks)).is_pass());
        let gone = end(&with(false), Some(&asks));
        assert!(gone.is_fail(), "{gone:?}");
        assert!(gone.details[0].message.starts_with("survives_storm: none"));
        assert!(end(&with(false), Some(&KtstrTestEntry::DEFAULT)).is_pass());
        assert!(end(&with(false), None).is_pass());
    }

    #[test]
    fn an_error_is_a_failure_with_its_chain() {
        let error = || anyhow::anyhow!("no such file").context("reading knobs");
        let result = call(&ctx(), |_| Err(error()));
        assert_eq!(result.outcome(), Outcome::Fail);
        assert!(
            result.details[0]
                .message
                .ends_with("reading knobs: no such file")
        );
    }

    #[test]
    fn plans_are_read_or_explained() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("test.json");
        let missing = load_file(file.clone()).unwrap_err();
        assert!(
            missing.to_string().contains("KTSTR_TEST_PLAN is not set"),
            "{missing}"
        );
        fs::write(&file, "{").unwrap();
        let malformed = load_file(file.clone()).unwrap_err();
        assert!(
            malformed.to_string().contains("1 bytes from"),
            "{malformed}"
        );
        let plan = TestPlan::new("t", CpuMap::new(1, 2, 2, 1), Duration::from_secs(1));
        fs::write(&file, serde_json::to_vec(&plan).unwrap()).unwrap();
        assert_eq!(load_file(file).unwrap(), plan);
    }
}
