//! Nothing: this package is its tests.

#[cfg(test)]
mod tests {
    #[test]
    fn a_library_has_tests_too() {
        assert_eq!(env!("CARGO_PKG_NAME"), "ktstr-sample");
    }
}
