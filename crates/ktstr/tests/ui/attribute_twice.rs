use ktstr::prelude::*;

#[ktstr_test(duration_s = 3, not_stuck, duration_s = 4)]
fn twice(_ctx: &Ctx) -> Result<AssertResult> {
    Ok(AssertResult::pass())
}

ktstr::test_main!();
