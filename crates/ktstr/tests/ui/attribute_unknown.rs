use ktstr::prelude::*;

#[ktstr_test(topolgy = "1n1l2c1t")]
fn misspelt(_ctx: &Ctx) -> Result<AssertResult> {
    Ok(AssertResult::pass())
}

ktstr::test_main!();
