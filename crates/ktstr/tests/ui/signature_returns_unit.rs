use ktstr::prelude::*;

#[ktstr_test]
fn says_nothing(_ctx: &Ctx) -> Result<()> {
    Ok(())
}

ktstr::test_main!();
