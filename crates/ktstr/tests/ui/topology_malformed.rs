use ktstr::prelude::*;

#[ktstr_test(topology = "2 llcs")]
fn words(_ctx: &Ctx) -> Result<AssertResult> {
    Ok(AssertResult::pass())
}

#[ktstr_test(topology = "2n3l1c1t")]
fn uneven(_ctx: &Ctx) -> Result<AssertResult> {
    Ok(AssertResult::pass())
}

#[ktstr_test(topology = "1n0l1c1t")]
fn nothing(_ctx: &Ctx) -> Result<AssertResult> {
    Ok(AssertResult::pass())
}

ktstr::test_main!();
