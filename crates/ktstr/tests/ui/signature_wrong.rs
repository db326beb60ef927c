use ktstr::prelude::*;

#[ktstr_test]
fn no_context() -> Result<AssertResult> {
    Ok(AssertResult::pass())
}

#[ktstr_test]
async fn asynchronous(_ctx: &Ctx) -> Result<AssertResult> {
    Ok(AssertResult::pass())
}

#[ktstr_test]
fn generic<T: Default>(_ctx: &Ctx) -> Result<AssertResult> {
    Ok(AssertResult::pass())
}

#[ktstr_test]
fn no_result(_ctx: &Ctx) {}

ktstr::test_main!();
