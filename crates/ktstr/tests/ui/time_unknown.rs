use ktstr::prelude::*;

#[ktstr_test(time = "fast")]
fn timed(_: &Ctx) -> Result<AssertResult> {
    Ok(AssertResult::pass())
}

fn main() {}
