use ktstr::prelude::*;

#[ktstr_test(scheduler = "scx_rusty")]
fn by_text(_ctx: &Ctx) -> Result<AssertResult> {
    Ok(AssertResult::pass())
}

ktstr::test_main!();
