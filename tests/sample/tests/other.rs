//! A second binary with a test of a name that the first has, too: this one aborts before it leaves a record.

use ktstr::prelude::*;

#[ktstr_test(host_only)]
fn smoke(_: &Ctx) -> Result<AssertResult> {
    std::process::abort()
}

ktstr::test_main!();
