//! What a runner saw of each test's process: the only witness of a test that left no record.

use serde::{Deserialize, Serialize};

/// One test as its runner saw it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Seen {
    /// Package and target of its binary, as in a record.
    pub(crate) binary: String,
    pub(crate) name: String,
    /// Its process failed.
    pub(crate) failed: bool,
    /// How.
    pub(crate) message: String,
    pub(crate) seconds: f64,
    /// What its attempts before the last one failed with.
    #[serde(default)]
    pub(crate) failed_before: Vec<String>,
}

impl Seen {
    /// Whether this is the test of that record. A record of an earlier version names no binary.
    pub(crate) fn is(&self, binary: &str, name: &str) -> bool {
        self.name == name && (binary.is_empty() || same_binary(&self.binary, binary))
    }
}

/// A file's name has `_` where a target's may have `-`.
fn same_binary(a: &str, b: &str) -> bool {
    let plain = |c: char| if c == '-' { '_' } else { c };
    a.chars().map(plain).eq(b.chars().map(plain))
}

/// What a runner has to say beside the records.
#[derive(Debug, Default)]
pub(crate) struct RunnerReport {
    /// Every test that it ran, also those with a record.
    pub(crate) tests: Vec<Seen>,
    /// How many tests the selection has on all shards together.
    pub(crate) matched: usize,
    /// Why it could not run tests at all (the build failed).
    pub(crate) broken: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_is_known_by_its_binary_and_its_name() {
        let seen = Seen {
            binary: "scx-mine.my-it".into(),
            name: "a::same".into(),
            ..Seen::default()
        };
        assert!(seen.is("scx-mine.my_it", "a::same"));
        assert!(seen.is("", "a::same"));
        assert!(!seen.is("scx-mine.other", "a::same"));
        assert!(!seen.is("scx-mine.my_it", "same"));
    }
}
