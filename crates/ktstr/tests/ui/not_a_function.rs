use ktstr::prelude::*;

#[ktstr_test]
struct Test;

ktstr::test_main!();
