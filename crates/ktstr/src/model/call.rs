//! Calling a test function, in a guest or on the host.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::ctx::Ctx;
use super::verdict::{AssertDetail, AssertResult, DetailKind};

/// Calls a test function; an error or a panic becomes a finding.
pub fn call(
    ctx: &Ctx,
    function: impl FnOnce(&Ctx) -> anyhow::Result<AssertResult>,
) -> AssertResult {
    match catch_unwind(AssertUnwindSafe(|| function(ctx))) {
        Ok(Ok(result)) => result,
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
    }
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
