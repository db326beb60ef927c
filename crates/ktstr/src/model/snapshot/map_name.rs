//! Which map a name means: one rule for captures, `bpf_map_write`, `watch_bpf_maps` and `Op::PinBpfMap`.

use std::collections::BTreeSet;

/// The kernel keeps this many bytes of a map's name (`BPF_OBJ_NAME_LEN`, its last one being zero).
const KEPT: usize = 15;

/// A name that means no map, or several.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MapNameError {
    /// No such map.
    #[error("there is no map '{name}'; there are: {}", have.join(", "))]
    None {
        /// The name.
        name: String,
        /// The names that exist.
        have: Vec<String>,
    },
    /// Several programs have such a section.
    #[error("'{name}' may be any of {}: give the whole name", have.join(", "))]
    Ambiguous {
        /// The name.
        name: String,
        /// The maps that it may be.
        have: Vec<String>,
    },
}

/// The map that `wanted` means, of `maps` in the order in which they were made. A name is compared as the kernel keeps it,
/// cut to 15 bytes. One that begins with a dot also means the data section of the only program that has such a one:
/// `.bss` is `my_sched.bss`. Of several maps of one name, as while a scheduler is being replaced, the newest counts.
///
/// # Errors
/// When there is none, or a section's name fits the sections of several programs.
pub fn find_map<'m, T>(
    maps: &'m [T],
    name_of: impl Fn(&T) -> &str,
    wanted: &str,
) -> Result<&'m T, MapNameError> {
    let cut = |name: &str| -> usize {
        let fits = (0..=name.len().min(KEPT)).rev();
        fits.into_iter()
            .find(|len| name.is_char_boundary(*len))
            .unwrap_or(0)
    };
    let kept = wanted.get(..cut(wanted)).unwrap_or(wanted);
    let newest = |fits: &dyn Fn(&str) -> bool| maps.iter().rev().find(|map| fits(name_of(map)));
    if let Some(exact) = newest(&|name| name == kept) {
        return Ok(exact);
    }
    let is_section = |name: &str| kept.starts_with('.') && name.ends_with(kept);
    let sections: BTreeSet<&str> = maps
        .iter()
        .map(&name_of)
        .filter(|name| is_section(name))
        .collect();
    if sections.len() > 1 {
        return Err(MapNameError::Ambiguous {
            name: wanted.to_owned(),
            have: sections.into_iter().map(str::to_owned).collect(),
        });
    }
    newest(&is_section).ok_or_else(|| MapNameError::None {
        name: wanted.to_owned(),
        have: maps.iter().map(|map| name_of(map).to_owned()).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names with the number of their making.
    #[track_caller]
    fn check(names: &[&str], wanted: &str, expected: Result<usize, &str>) {
        let maps: Vec<(usize, &str)> = names.iter().copied().enumerate().collect();
        let found = find_map(&maps, |(_, name)| name, wanted).map(|(number, _)| *number);
        match (found, expected) {
            (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{wanted}"),
            (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error}"),
            (found, _) => panic!("{wanted}: {found:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn one_rule() {
        let one = ["cpu_slots", "fixture.bss", "fixture.rodata"];
        check(&one, "cpu_slots", Ok(0));
        check(&one, ".bss", Ok(1));
        check(&one, "fixture.bss", Ok(1));
        check(
            &one,
            "slots",
            Err("there is no map 'slots'; there are: cpu_slots, fixture.bss"),
        );
        // As the kernel keeps it.
        check(&["a_very_long_nam"], "a_very_long_name_of_a_map", Ok(0));
        // A scheduler on its way out and the next one.
        check(&["fixture.bss", "fixture.bss"], ".bss", Ok(1));
        check(&["x", "y", "x"], "x", Ok(2));
        let two = ["a.bss", "b.bss"];
        check(&two, ".bss", Err("'.bss' may be any of a.bss, b.bss"));
        check(&two, "b.bss", Ok(1));
        check(&[], ".bss", Err("there is no map '.bss'"));
    }
}
