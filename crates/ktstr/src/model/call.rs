//! Calling a test function, in a guest or on the host.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::claim::{Inconclusive, collect_dropped};
use super::ctx::Ctx;
use super::verdict::{AssertDetail, AssertResult, DetailKind};

/// Calls a test function; an error or a panic becomes a finding.
pub fn call(
    ctx: &Ctx,
    function: impl FnOnce(&Ctx) -> anyhow::Result<AssertResult>,
) -> AssertResult {
    let (returned, dropped) = collect_dropped(|| catch_unwind(AssertUnwindSafe(|| function(ctx))));
    let mut result = match returned {
        Ok(Ok(result)) => result,
        Ok(Err(error)) if error.downcast_ref::<Inconclusive>().is_some() => {
            AssertResult::inconclusive(DetailKind::Other, format!("{error:#}"))
        }
        Ok(Err(error)) => AssertResult::fail(
            DetailKind::Other,
            format!("test {} returned an error: {error:#}", ctx.name()),
        ),
        Err(payload) => AssertResult::from(AssertDetail::fail(
            DetailKind::Panicked,
            format!(
                "test {} panicked: {}",
                ctx.name(),
                panic_text(payload.as_ref())
            ),
        )),
    };
    for detail in dropped {
        result.push(detail);
    }
    result
}

/// The text of a caught panic.
pub(crate) fn panic_text(payload: &(dyn Any + Send)) -> &str {
    if let Some(text) = payload.downcast_ref::<&str>() {
        return text;
    }
    match payload.downcast_ref::<String>() {
        Some(text) => text,
        None => "(a payload without text)",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::claim::Verdict;
    use crate::model::cpuset::CpuMap;
    use crate::model::ctx::TestPlan;
    use std::time::Duration;

    #[test]
    fn a_test_that_drops_its_verdict_fails_with_its_claims() {
        let plan = TestPlan::new("t", CpuMap::new(1, 1, 1, 1), Duration::from_secs(1));
        let result = call(&Ctx::new(plan, None), |_| {
            let mut verdict = Verdict::new();
            verdict.claim("rate", 3).at_least(4);
            Ok(AssertResult::pass())
        });
        assert!(result.is_fail(), "{result:?}");
        assert!(
            result.details[0]
                .message
                .contains("its Verdict was dropped")
        );
    }
}
