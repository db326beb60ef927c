//! Names that mean two things: this binary must refuse to start.

use ktstr::prelude::*;

mod left {
    use super::*;

    declare_scheduler!(ONE, { name: "twin", binary: "scx_one" });

    #[ktstr_test(host_only)]
    fn same(_: &Ctx) -> Result<AssertResult> {
        Ok(AssertResult::pass())
    }
}

mod right {
    use super::*;

    declare_scheduler!(TWO, { name: "twin", binary: "scx_two" });
}

/// Its files would have the names of `left::same`'s.
#[ktstr_test(host_only)]
#[allow(non_snake_case, reason = "as a path's file is called")]
fn left__same(_: &Ctx) -> Result<AssertResult> {
    Ok(AssertResult::pass())
}

ktstr::test_main!();
