//! The chapter of the book that shows what ktstr finds.

use super::results::{Class, Kind, Results, Row};

/// Where it is, from the workspace's root.
pub(super) const PATH: &str = "book/src/bugs.md";

const BEGIN: &str = "# Bugs that it finds

<!-- Made by `cargo xtask bugs` from tests/bugs/results.json. -->

Most scheduler bugs are silent: no crash, no warning, only an unfair share, a task that waits, a count that is wrong. Here are some
that happened. Each was planted again into a kernel by undoing its fix, and has a test in `tests/bugs` that triggers it. A test runs in
[virtual time](virtual-time.md) on the kernel with the bug and on the same kernel without it, under the same seeds:

```sh
cargo xtask bugs --seeds 20                          # all; builds the kernels that are missing
cargo xtask bugs delayed_task_changes_class          # one
cargo ktstr kernel build --edit tests/bugs/delayed_task_changes_class/6.12.toml   # its kernel alone
```

Where nothing else is said, the test asserts nothing. It only makes the situation, and ktstr sees in the
[kernel's own books](writing-tests.md#what-fails-a-test-that-passed) that they contradict themselves, or that the kernel or its scheduler gave up.
Times are those of one run: virtual seconds from power-on to the end, and seconds of the machine that made this table.
";

const SHIPPED: &str = "
## In kernels as they are shipped

These kernels have the bug without an edit, so that there is none to compare with.
";

/// The whole chapter.
pub(super) fn text(results: &Results) -> String {
    let mut text = BEGIN.to_owned();
    for (class, title) in [
        (Class::Fair, "The fair class"),
        (Class::Core, "Core, real-time and deadline"),
        (Class::Ext, "sched_ext"),
    ] {
        let rows = of(results, |row| {
            row.kind == Kind::Planted && row.class == class
        });
        if !rows.is_empty() {
            text.push_str(&format!("\n## {title}\n"));
            text.push_str(&table(&rows, true));
        }
    }
    let shipped = of(results, |row| row.kind == Kind::Shipped);
    if !shipped.is_empty() {
        text.push_str(SHIPPED);
        text.push_str(&table(&shipped, false));
    }
    text
}

fn of(results: &Results, is_meant: impl Fn(&Row) -> bool) -> Vec<&Row> {
    results.rows.iter().filter(|row| is_meant(row)).collect()
}

fn table(rows: &[&Row], has_clean: bool) -> String {
    let (title, line) = match has_clean {
        true => (" clean kernel passes |", "---|"),
        false => ("", ""),
    };
    let mut text = format!(
        "\n| bug, its fix | kernel | found by | seeds that show it |{title} virtual s | real s |\n|---|---|---|---|{line}---|---|\n"
    );
    for row in rows {
        let fix = row
            .fix
            .as_ref()
            .map(|fix| format!(" ({fix})"))
            .unwrap_or_default();
        let by = match row.asserts {
            true => String::from("the test's own assertion"),
            false => row.found_by(),
        };
        let passed = match has_clean {
            true => format!(" {} |", row.passed()),
            false => String::new(),
        };
        text.push_str(&format!(
            "| `{}`: {}{fix} | {} | {by} | {} |{passed} {} | {} |\n",
            row.name,
            row.what,
            row.series,
            row.shown(),
            row.with.mean_s(row.with.virtual_ms),
            row.with.mean_s(row.with.real_ms),
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::results::tests::row;
    use super::*;
    use crate::sh;

    #[test]
    fn the_chapter_is_that_of_the_results() {
        let root = sh::root();
        let results = Results::read(&root.join("tests/bugs/results.json")).unwrap();
        let chapter = fs::read_to_string(root.join(PATH)).unwrap();
        assert_eq!(chapter, text(&results), "run `cargo xtask bugs`");
    }

    #[test]
    fn planted_and_shipped_bugs_have_tables_of_their_own() {
        let mut results = Results::default();
        results.put(row("a", Kind::Planted, 4));
        results.put(row("b", Kind::Shipped, 2));
        let text = text(&results);
        let planted =
            "| `a`: it is wrong (0123456789ab) | 6.12 | `cfs-load` | 4 of 4 | 1 of 1 | 1.2 | 2.5 |";
        let shipped =
            "| `b`: it is wrong (0123456789ab) | 6.12 | `cfs-load` | 2 of 4 | 1.2 | 2.5 |";
        assert!(text.contains(planted) && text.contains(shipped), "{text}");
        assert!(text.find(planted) < text.find("as they are shipped"));
    }
}
