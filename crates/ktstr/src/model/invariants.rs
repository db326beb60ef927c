//! Which rules of the kernel's own books a test is held to.

use ktstr_monitor::invariants;

/// Rules of [`ktstr_monitor::invariants::TABLE`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Invariants {
    /// Those that hold [by default](invariants::Invariant::by_default).
    On,
    /// None.
    Off,
    /// Those of these names.
    Only(&'static [&'static str]),
}

/// Names among these that no rule has, in words.
pub(crate) fn unknown<'a>(names: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let unknown = |name: &&str| invariants::find(name).is_none();
    let found: Vec<&str> = names.into_iter().filter(unknown).collect();
    (!found.is_empty()).then(|| {
        format!(
            "no invariant is called {}; `cargo ktstr check --list` prints all names",
            found.join(", ")
        )
    })
}
