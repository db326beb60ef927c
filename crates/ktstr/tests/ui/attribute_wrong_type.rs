use ktstr::prelude::*;

#[ktstr_test(duration_s = "3", memory_mib = -1, kaslr = 1)]
fn wrong(_ctx: &Ctx) -> Result<AssertResult> {
    Ok(AssertResult::pass())
}

#[ktstr_test(max_gap_ms)]
fn no_value(_ctx: &Ctx) -> Result<AssertResult> {
    Ok(AssertResult::pass())
}

ktstr::test_main!();
