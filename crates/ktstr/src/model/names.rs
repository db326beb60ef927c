//! Names of tests: how they are made, and what they may hold. That no two are one is in [`registry`](super::registry).
//!
//! A test is `mod::fn[/scheduler][@preset]`, as libtest names it: the module path without the crate, so that a test at the
//! top of its binary has its function's bare name. In file names `::` and `/` become `__`.

/// The name of a test from its `module_path!()`, `::` and its function: all of it but the crate.
///
/// For `#[ktstr_test]`, which cannot know the module that it is used in.
#[doc(hidden)]
#[must_use]
pub const fn test_name(path: &'static str) -> &'static str {
    let bytes = path.as_bytes();
    let mut at = 0;
    while at + 1 < bytes.len() {
        if bytes[at] == b':' && bytes[at + 1] == b':' {
            return path.split_at(at + 2).1;
        }
        at += 1;
    }
    path
}

/// Whether both lists have the same names, in whatever order; no list has one twice.
pub(crate) const fn are_same(some: &[&str], others: &[&str]) -> bool {
    let mut at = 0;
    while at < some.len() {
        if !has(others, some[at]) {
            return false;
        }
        at += 1;
    }
    some.len() == others.len()
}

const fn has(names: &[&str], wanted: &str) -> bool {
    let mut at = 0;
    while at < names.len() {
        if is(names[at], wanted) {
            return true;
        }
        at += 1;
    }
    false
}

const fn is(name: &str, wanted: &str) -> bool {
    let (name, wanted) = (name.as_bytes(), wanted.as_bytes());
    let mut at = 0;
    while at < name.len() && at < wanted.len() && name[at] == wanted[at] {
        at += 1;
    }
    at == name.len() && at == wanted.len()
}

/// What a test's files are called before their suffix.
#[must_use]
pub fn file_stem(test: &str) -> String {
    test.replace("::", "__").replace('/', "__")
}

/// Why this cannot be a test's name; the part behind an `@` is a preset's.
pub(crate) fn name_fault(name: &str) -> Option<String> {
    if name.is_empty() {
        return Some(String::from("it has no name"));
    }
    let stem = file_stem(name);
    if let Some(bad) = stem.chars().find(|c| *c == '.' || c.is_control()) {
        return Some(format!(
            "its name '{}' has a {bad:?}, which the names of its files cannot have; use '_' or '-'",
            name.escape_debug()
        ));
    }
    // `<stem>.failure-dump.json` is the longest of a test's files; a file's name has at most 255 bytes.
    (stem.len() > 200).then(|| {
        format!(
            "its name has {} bytes, at most 200 make a file's name",
            stem.len()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_the_path_without_the_crate() {
        assert_eq!(test_name("sched::steady"), "steady");
        assert_eq!(test_name("sched::left::deep::steady"), "left::deep::steady");
        assert_eq!(test_name("steady"), "steady");
        assert_eq!(file_stem("left::steady@4cpu"), "left__steady@4cpu");
        assert_eq!(file_stem("left::steady/bad@4cpu"), "left__steady__bad@4cpu");
    }

    #[test]
    fn lists_of_names_are_compared_without_their_order() {
        assert!(are_same(&["a", "bc"], &["bc", "a"]));
        for others in [&["a"][..], &["a", "b"], &["a", "bcd"], &["a", "bc", "d"]] {
            assert!(!are_same(&["a", "bc"], others), "{others:?}");
            assert!(!are_same(others, &["a", "bc"]), "{others:?}");
        }
    }

    #[test]
    fn a_name_that_files_cannot_have_is_refused() {
        assert_eq!(name_fault("left::steady/my-sched@4cpu-1llc"), None);
        for (bad, needle) in [
            ("", "no name"),
            ("a.b", "'.'"),
            ("a\nb", "'\\n'"),
            ("a\0", "'\\0'"),
        ] {
            let fault = name_fault(bad).unwrap();
            assert!(fault.contains(needle), "{fault}");
        }
        assert!(name_fault(&"x".repeat(201)).unwrap().contains("201 bytes"));
    }
}
