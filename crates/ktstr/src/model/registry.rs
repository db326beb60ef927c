//! All that a binary registers, taken together: no two tests and no two schedulers have one name.

use super::entry::{KtstrTestEntry, Scheduler};
use super::names::file_stem;

/// What is wrong with all that a binary registers taken together; empty when every name means one thing.
#[must_use]
pub fn registry_faults(
    tests: &[&'static KtstrTestEntry],
    schedulers: &[&'static Scheduler],
) -> Vec<String> {
    let mut faults = Vec::new();
    for entry in tests.iter().filter(|entry| entry.name.contains('@')) {
        faults.push(format!(
            "test '{}' ({}): '@' stands before a preset's name; a test cannot have it in its own",
            entry.name,
            place_of(entry.place)
        ));
    }
    for one in schedulers {
        if let Some(bad) = one.name.chars().find(|c| "./@".contains(*c)) {
            faults.push(format!(
                "scheduler '{}' ({}): its name has a '{bad}', which tests named after it cannot have; use '_' or '-'",
                one.name,
                place_of(one.place)
            ));
        }
    }
    let test_key =
        |entry: &&'static KtstrTestEntry| (file_stem(entry.name), entry.name, entry.place);
    faults.extend(twins("test", tests.iter().map(test_key)));
    let scheduler_key = |one: &&'static Scheduler| (one.name.to_owned(), one.name, one.place);
    faults.extend(twins("scheduler", schedulers.iter().map(scheduler_key)));
    faults
}

/// Those of one key, each pair with both places.
fn twins(
    kind: &str,
    named: impl Iterator<Item = (String, &'static str, &'static str)>,
) -> Vec<String> {
    let mut seen: std::collections::BTreeMap<String, (&str, &str)> = Default::default();
    let mut faults = Vec::new();
    for (key, name, place) in named {
        let Some((other, at)) = seen.get(&key) else {
            seen.insert(key, (name, place));
            continue;
        };
        let (at, place) = (place_of(at), place_of(place));
        faults.push(if *other == name {
            format!("two {kind}s are called '{name}', at {at} and at {place}; rename one")
        } else {
            format!(
                "{kind}s '{other}' ({at}) and '{name}' ({place}) would share their files '{key}.*'; rename one"
            )
        });
    }
    faults
}

fn place_of(place: &str) -> &str {
    if place.is_empty() {
        "an entry made by hand"
    } else {
        place
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn entry(name: &'static str, place: &'static str) -> KtstrTestEntry {
        KtstrTestEntry {
            name,
            place,
            ..KtstrTestEntry::DEFAULT
        }
    }

    #[test]
    fn two_of_one_name_are_named_with_both_places() {
        static ONE: KtstrTestEntry = entry("same", "a.rs:1");
        static TWO: KtstrTestEntry = entry("same", "b.rs:2");
        static PATH: KtstrTestEntry = entry("a::b", "c.rs:3");
        static FILE: KtstrTestEntry = entry("a__b", "");
        static AT: KtstrTestEntry = entry("x@y", "d.rs:4");
        static SCHEDULER: Scheduler = Scheduler {
            name: "s",
            place: "e.rs:5",
            ..Scheduler::DEFAULT
        };
        static DOTTED: Scheduler = Scheduler {
            name: "scx_x-1.1",
            ..Scheduler::DEFAULT
        };
        assert_eq!(registry_faults(&[&ONE, &PATH], &[&SCHEDULER]), [""; 0]);
        let faults = registry_faults(
            &[&ONE, &PATH, &TWO, &FILE, &AT],
            &[&SCHEDULER, &DOTTED, &SCHEDULER],
        );
        let needles: [&[&str]; 5] = [
            &["test 'x@y' (d.rs:4)", "preset"],
            &["scheduler 'scx_x-1.1'", "'.'"],
            &["two tests are called 'same', at a.rs:1 and at b.rs:2"],
            &[
                "'a::b' (c.rs:3) and 'a__b' (an entry made by hand)",
                "'a__b.*'",
            ],
            &["two schedulers are called 's', at e.rs:5 and at e.rs:5"],
        ];
        assert_eq!(faults.len(), needles.len(), "{faults:#?}");
        for (fault, needles) in faults.iter().zip(needles) {
            assert!(
                needles.iter().all(|needle| fault.contains(needle)),
                "{fault}"
            );
        }
    }
}
