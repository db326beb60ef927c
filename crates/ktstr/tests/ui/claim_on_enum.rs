use ktstr::prelude::*;

#[derive(Claim)]
enum Load {
    Low,
    High(u32),
}

ktstr::test_main!();
