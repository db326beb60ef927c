//! Tests that are none of ktstr's.

#[test]
fn plain_passes() {
    assert_eq!(1 + 1, 2);
}

#[test]
fn smoke() {
    assert_eq!(1, 2, "the plain one is wrong");
}
