use ktstr::prelude::*;

#[ktstr_test(scheduler = MITOSIS)]
fn undeclared(_ctx: &Ctx) -> Result<AssertResult> {
    Ok(AssertResult::pass())
}

ktstr::test_main!();
