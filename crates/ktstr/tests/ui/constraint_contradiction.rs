use ktstr::prelude::*;

#[ktstr_test(min_llcs = 4, max_llcs = 2)]
fn impossible(_ctx: &Ctx) -> Result<AssertResult> {
    Ok(AssertResult::pass())
}

#[ktstr_test(expect_err, expect_scx_bpf_error_matches = "(unclosed")]
fn bad_pattern(_ctx: &Ctx) -> Result<AssertResult> {
    Ok(AssertResult::pass())
}

ktstr::test_main!();
