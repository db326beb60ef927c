//! Circles between modules of a crate, the direction of its rooms, and how long its files are.
//!
//! Two modules that stand side by side, with all that is below them, may use each other in one direction. A module and what is
//! below it may use each other; tests may use anything.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow};
use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// A module's path below its crate's root.
type Module = Vec<String>;
/// Who uses whom, and in which file.
type Uses = BTreeMap<Module, BTreeMap<Module, PathBuf>>;

/// Who may use whom among the rooms of a module; what is not listed uses none of these. An arrow that no file uses is a complaint,
/// too, so that the table says what is.
type Rooms = &'static [(&'static str, &'static [&'static str])];

/// The host's rooms: a test passes plan, boot, watch, judge and evidence; the other commands are served by tools.
const HOST: Rooms = &[
    ("plan", &[]),
    ("watch", &[]),
    ("boot", &["plan", "watch"]),
    ("judge", &["plan", "watch"]),
    ("evidence", &["plan", "watch", "boot", "judge"]),
    ("tools", &["plan", "watch", "boot"]),
];

/// The VMM's: tables of a shape, the devices, the engines that run both, and the VM as a user has it.
const VMM: Rooms = &[
    ("topology", &[]),
    ("cpuid", &["topology"]),
    ("acpi", &["topology", "cpuid"]),
    ("devices", &[]),
    ("probe", &[]),
    ("engine", &["topology", "cpuid", "acpi", "devices", "probe"]),
    ("doctor", &["probe", "engine"]),
    ("vm", &["topology", "devices", "probe", "engine"]),
];

/// The rooms that have a direction: crate, module above them, and their arrows.
const ROOMS: &[(&str, &[&str], Rooms)] = &[("ktstr", &["host"], HOST), ("ktstr-vmm", &[], VMM)];

/// The circles of every crate.
pub(super) fn complaints(root: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for (name, src) in crates(root)? {
        let uses = uses(&src)?;
        for (_, above, rooms) in ROOMS.iter().filter(|(of, ..)| *of == name) {
            found.extend(arrows(&name, &uses, above, rooms));
        }
        let circles = circles(&uses);
        if !circles.is_empty() {
            let told: Vec<String> = circles.iter().map(|circle| circle.join("; ")).collect();
            found.push(format!(
                "modules of {name} use each other in {} circles:\n  {}\n  move what both need below them",
                circles.len(),
                told.join("\n  ")
            ));
        }
    }
    Ok(found)
}

/// What differs between the arrows of these rooms and those that their files make.
fn arrows(name: &str, uses: &Uses, above: &[&str], rooms: Rooms) -> Vec<String> {
    let module = |room: &str| -> Module {
        let path = above.iter().chain([&room]);
        path.map(|part| (*part).to_owned()).collect()
    };
    let mut found = Vec::new();
    for (from, allowed) in rooms {
        for (to, _) in rooms.iter().filter(|(to, _)| to != from) {
            let used = uses.get(&module(from)).and_then(|all| all.get(&module(to)));
            match (used, allowed.contains(to)) {
                (Some(file), false) => found.push(format!(
                    "{}: {from} uses {to} of {name}, against the direction of the rooms (ROOMS in xtask/src/tidy/modules.rs); move what \
                     both need below them",
                    file.display()
                )),
                (None, true) => found.push(format!(
                    "{name}: {from} no longer uses {to}; take the arrow out of ROOMS in xtask/src/tidy/modules.rs"
                )),
                _ => {}
            }
        }
    }
    found
}

/// One line for people: circles, and the files' median, 90th percentile and longest.
pub(super) fn summary(root: &Path, lines: &[usize]) -> Result<String> {
    let mut count = 0;
    for (_, src) in crates(root)? {
        count += circles(&uses(&src)?).len();
    }
    let mut lines = lines.to_vec();
    lines.sort_unstable();
    let at = |percent: usize| {
        let last = lines.len().saturating_sub(1);
        lines.get(last * percent / 100).copied().unwrap_or(0)
    };
    Ok(format!(
        "module circles {count}; {} files: median {} lines, p90 {}, longest {}",
        lines.len(),
        at(50),
        at(90),
        at(100)
    ))
}

fn crates(root: &Path) -> Result<Vec<(String, PathBuf)>> {
    let dir = root.join("crates");
    let mut found = vec![(String::from("xtask"), root.join("xtask/src"))];
    for entry in fs::read_dir(&dir).with_context(|| format!("failed to list {}", dir.display()))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        found.push((name.into_owned(), path.join("src")));
    }
    found.sort();
    Ok(found)
}

fn uses(src: &Path) -> Result<Uses> {
    let mut sources = BTreeMap::new();
    read(src, &Vec::new(), &mut sources)?;
    let mut parsed = BTreeMap::new();
    let mut of_tests = Vec::new();
    for (module, path) in &sources {
        let text = fs::read_to_string(path)
            .with_context(|| format!("failed to read {}", path.display()))?;
        let tokens: TokenStream = text
            .parse()
            .map_err(|error| anyhow!("{}: {error}", path.display()))?;
        let mut words = Vec::new();
        for name in flatten(tokens, &mut words) {
            of_tests.push([module.as_slice(), &[name]].concat());
        }
        parsed.insert(module.clone(), words);
    }
    let mut uses = Uses::new();
    for (module, words) in &parsed {
        if of_tests.iter().any(|test| module.starts_with(test)) {
            continue;
        }
        for path in paths(module, words) {
            let Some((from, to)) = beside(module, &path, &parsed) else {
                continue;
            };
            let file = sources.get(module).cloned().unwrap_or_default();
            uses.entry(from).or_default().entry(to).or_insert(file);
        }
    }
    Ok(uses)
}

/// Every module's file.
fn read(dir: &Path, module: &Module, sources: &mut BTreeMap<Module, PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("failed to list {}", dir.display()))? {
        let path = entry?.path();
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        let below = [module.as_slice(), &[stem.to_string()]].concat();
        if path.is_dir() {
            read(&path, &below, sources)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let is_dirs_own = matches!(stem.as_ref(), "mod" | "lib" | "main");
            sources.insert(if is_dirs_own { module.clone() } else { below }, path);
        }
    }
    Ok(())
}

/// Words, `::` as one, and brackets of one file without its tests; returns the names of modules that are tests.
fn flatten(tokens: TokenStream, words: &mut Vec<String>) -> Vec<String> {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    let mut of_tests = Vec::new();
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        at += 1;
        match token {
            TokenTree::Group(group) if is_cfg_test(group) => {
                // `pub(crate)` may stand before.
                let rest = tokens.get(at..).unwrap_or_default();
                let word = |token: &TokenTree| token.to_string();
                let Some(skip) = rest.iter().take(3).position(|token| word(token) == "mod") else {
                    continue;
                };
                of_tests.extend(rest.get(skip + 1).map(word));
                at += skip + 3;
            }
            TokenTree::Group(group) => {
                let (open, close) = match group.delimiter() {
                    Delimiter::Brace => ("{", "}"),
                    _ => ("(", ")"),
                };
                words.push(open.to_owned());
                of_tests.extend(flatten(group.stream(), words));
                words.push(close.to_owned());
            }
            TokenTree::Punct(punct) if punct.as_char() == ':' => {
                match words.last_mut().filter(|last| *last == ":") {
                    Some(last) => last.push(':'),
                    None => words.push(String::from(":")),
                }
            }
            other => words.push(other.to_string()),
        }
    }
    of_tests
}

fn is_cfg_test(group: &proc_macro2::Group) -> bool {
    group.delimiter() == Delimiter::Bracket
        && group.stream().to_string().replace(' ', "") == "cfg(test)"
}

/// All paths that begin with `crate`, `super` or `self`, from the crate's root.
fn paths(module: &Module, words: &[String]) -> Vec<Module> {
    let mut found = Vec::new();
    for (at, pair) in words.windows(2).enumerate() {
        let [first, second] = pair else { continue };
        let follows = at.checked_sub(1).and_then(|before| words.get(before));
        if second != "::" || follows.is_some_and(|word| word == "::" || word == "$") {
            continue;
        }
        let base = match first.as_str() {
            "crate" => Vec::new(),
            "self" => module.clone(),
            "super" => above(module),
            _ => continue,
        };
        tree(words, at + 2, base, &mut found);
    }
    found
}

fn above(module: &Module) -> Module {
    let mut above = module.clone();
    above.pop();
    above
}

/// Reads a path or a tree of paths; returns where it ends.
fn tree(words: &[String], mut at: usize, mut path: Module, found: &mut Vec<Module>) -> usize {
    while let Some(word) = words.get(at) {
        match word.as_str() {
            "{" => {
                at += 1;
                while words.get(at).is_some_and(|word| word != "}") {
                    let next = tree(words, at, path.clone(), found);
                    // A comma, or something that is no path.
                    at = if next == at { at + 1 } else { next };
                }
                return at + 1;
            }
            "super" => path = above(&path),
            "self" | "*" => {}
            name if name.starts_with(|c: char| c.is_alphabetic() || c == '_') => {
                path.push(name.to_owned());
            }
            _ => return at,
        }
        at += 1;
        if words.get(at).is_none_or(|word| word != "::") {
            break;
        }
        at += 1;
    }
    found.push(path);
    at
}

/// The two modules beside each other of which one uses the other; none where one is within the other.
fn beside<T>(
    module: &Module,
    path: &Module,
    known: &BTreeMap<Module, T>,
) -> Option<(Module, Module)> {
    let mut used = path.clone();
    while !known.contains_key(&used) {
        used.pop()?;
    }
    let shared = module
        .iter()
        .zip(&used)
        .take_while(|(one, other)| one == other)
        .count();
    let from = module.get(..=shared)?;
    let to = used.get(..=shared)?;
    Some((from.to_vec(), to.to_vec()))
}

/// Groups of modules that reach each other; of each, who uses whom where.
fn circles(uses: &Uses) -> Vec<Vec<String>> {
    let reach: BTreeMap<&Module, BTreeSet<&Module>> = uses
        .keys()
        .map(|module| {
            let mut seen = BTreeSet::new();
            let mut open = vec![module];
            while let Some(next) = open.pop() {
                let used = uses.get(next).into_iter().flat_map(BTreeMap::keys);
                open.extend(used.filter(|used| seen.insert(*used)));
            }
            (module, seen)
        })
        .collect();
    let reaches = |from: &Module, to: &Module| reach.get(from).is_some_and(|all| all.contains(to));
    let mut done: BTreeSet<&Module> = BTreeSet::new();
    let mut found = Vec::new();
    for module in uses.keys().filter(|module| reaches(module, module)) {
        if !done.insert(module) {
            continue;
        }
        let is_in = |other: &Module| reaches(module, other) && reaches(other, module);
        let mut lines = Vec::new();
        for (from, used) in uses.iter().filter(|(from, _)| is_in(from)) {
            done.insert(from);
            for (to, file) in used.iter().filter(|(to, _)| is_in(to)) {
                let (from, to) = (from.join("::"), to.join("::"));
                lines.push(format!("{from} uses {to} in {}", file.display()));
            }
        }
        found.push(lines);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uses_of(files: &[(&str, &str)]) -> Uses {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        uses(dir.path()).unwrap()
    }

    #[test]
    fn modules_that_use_each_other_are_a_circle() {
        let uses = uses_of(&[
            ("lib.rs", "mod a; mod b; mod c;"),
            ("a.rs", "use crate::{b::{x, y}, c};"),
            ("b/mod.rs", "mod d;"),
            ("b/d.rs", "fn f() { crate::a::z() }"),
            ("c.rs", "use super::Root;"),
        ]);
        let circles = circles(&uses);
        assert_eq!(circles.len(), 1, "{circles:?}");
        assert!(circles[0][0].starts_with("a uses b in "), "{circles:?}");
        assert!(circles[0][1].starts_with("b uses a in "), "{circles:?}");
        assert_eq!(circles[0].len(), 2);
    }

    #[test]
    fn parents_children_and_tests_may_use_each_other() {
        let uses = uses_of(&[
            ("lib.rs", "pub mod a; pub mod b; use a::x::Y;"),
            (
                "a/mod.rs",
                "mod x; #[cfg(test)] mod tests; pub use self::x::Y;",
            ),
            ("a/x.rs", "use super::Z; use crate::b;"),
            ("a/tests.rs", "use crate::b;"),
            (
                "b.rs",
                "// crate::a\n const T: &str = \"crate::a\";\n#[cfg(test)] mod tests { use crate::a; }",
            ),
        ]);
        assert_eq!(circles(&uses), Vec::<Vec<String>>::new());
        assert_eq!(uses.len(), 1, "{uses:?}");
    }

    #[test]
    fn rooms_use_each_other_as_their_table_says() {
        let uses = uses_of(&[
            ("lib.rs", "mod host;"),
            ("host/mod.rs", "mod a; mod b; mod c;"),
            ("host/a.rs", "use crate::host::b::X;"),
            ("host/b.rs", ""),
            ("host/c/mod.rs", "use super::a::Y;"),
        ]);
        let told = |rooms: Rooms| arrows("k", &uses, &["host"], rooms);
        let good: Rooms = &[("b", &[]), ("a", &["b"]), ("c", &["a"])];
        assert_eq!(told(good), Vec::<String>::new());
        let found = told(&[("b", &[]), ("a", &[]), ("c", &["a", "b"])]);
        let [against, unused] = found.as_slice() else {
            panic!("{found:?}")
        };
        assert!(
            against.contains("host/a.rs: a uses b of k, against"),
            "{against}"
        );
        assert!(unused.contains("c no longer uses b"), "{unused}");
    }

    #[test]
    fn there_is_no_circle() {
        let found = complaints(&crate::sh::root()).unwrap();
        assert!(found.is_empty(), "{}", found.join("\n"));
    }

    #[test]
    fn files_are_summed_up() {
        let lines: Vec<usize> = (1..=100).collect();
        let text = summary(&crate::sh::root(), &lines).unwrap();
        assert!(
            text.ends_with("100 files: median 50 lines, p90 90, longest 100"),
            "{text}"
        );
    }
}
