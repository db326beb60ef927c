//! `tests/knobs.toml`: every name that has an effect beside the test that shows it.
//!
//! The names are those of `cargo ktstr knobs`: clap's flags, the macros' tables, the enums. The tests are looked up in the syntax
//! tree of the target that the row names, so that a row cannot outlive its test.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;
use serde_json::Value;

use crate::sh;

/// The table, relative to the workspace.
const TABLE: &str = "tests/knobs.toml";

/// Tests that are compiled on a condition which no step of CI fulfils, as `package::target`, and the test that fulfils it and runs
/// them.
const RUN_BY_ANOTHER: &[(&str, &str)] = &[(
    "ktstr-authors::declared",
    "cargo-ktstr::it::authors::cargo_test_holds_a_declaration_against_what_tests_get",
)];

/// A name that has an effect.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
struct Knob {
    kind: String,
    name: String,
}

/// A knob and `package::target::test` of the test that shows its effect.
#[derive(Debug, Deserialize)]
struct Row {
    #[serde(flatten)]
    knob: Knob,
    test: String,
}

/// A knob that has no test yet, and why.
#[derive(Debug, Deserialize)]
struct Pending {
    #[serde(flatten)]
    knob: Knob,
    reason: String,
}

#[derive(Debug, Default, Deserialize)]
struct Table {
    #[serde(default)]
    knob: Vec<Row>,
    #[serde(default)]
    pending: Vec<Pending>,
}

/// What is wrong with the table; what is still pending is printed.
pub(super) fn complaints(root: &Path, metadata: &Value) -> Result<Vec<String>> {
    let path = root.join(TABLE);
    let text =
        fs::read_to_string(&path).with_context(|| format!("failed to read {}", path.display()))?;
    let table: Table = toml::from_str(&text).with_context(|| format!("cannot read {TABLE}"))?;
    for pending in &table.pending {
        let Knob { kind, name } = &pending.knob;
        eprintln!("  no test yet: {kind} {name}: {}", pending.reason);
    }
    let mut tests = Tests::of(metadata);
    Ok(compare(&known()?, &table, |test| tests.look_up(test)))
}

/// Every knob, as the command line and the crates below it list them.
fn known() -> Result<Vec<Knob>> {
    let mut command = sh::cargo(&["run", "-q", "--bin", "cargo-ktstr", "--", "knobs"]);
    let output = command
        .output()
        .context("failed to run `cargo ktstr knobs`")?;
    ensure!(
        output.status.success(),
        "`cargo ktstr knobs` failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).context("`cargo ktstr knobs` printed no list")
}

/// Knobs without a row, rows without a knob or without a test, knobs that are twice or out of order.
fn compare(
    known: &[Knob],
    table: &Table,
    mut look_up: impl FnMut(&str) -> Result<(), String>,
) -> Vec<String> {
    let mut found = Vec::new();
    let known: BTreeSet<&Knob> = known.iter().collect();
    let mut listed = BTreeSet::new();
    let rows = table.knob.iter().map(|row| &row.knob);
    for knob in rows.chain(table.pending.iter().map(|pending| &pending.knob)) {
        let Knob { kind, name } = knob;
        if !known.contains(knob) {
            found.push(format!(
                "{TABLE}: there is no {kind} '{name}'; remove its row, or mend its kind and name"
            ));
        }
        if !listed.insert(knob) {
            found.push(format!(
                "{TABLE}: {kind} '{name}' is there twice; keep one row"
            ));
        }
    }
    for Knob { kind, name } in known.difference(&listed) {
        found.push(format!(
            "{kind} '{name}' is in no row of {TABLE}: write a test that turns it and sees the difference, and name it there"
        ));
    }
    for Row { knob, test } in &table.knob {
        if let Err(why) = look_up(test) {
            let Knob { kind, name } = knob;
            found.push(format!("{TABLE}: {kind} '{name}': {why}"));
        }
    }
    let order = |row: &Row| row.knob.clone();
    if let Some([first, second]) = table
        .knob
        .array_windows()
        .find(|[a, b]| order(a) > order(b))
    {
        let names = [first, second].map(|row| format!("{} '{}'", row.knob.kind, row.knob.name));
        found.push(format!(
            "{TABLE}: {} stands before {}; sort the rows by kind and name",
            names[0], names[1]
        ));
    }
    found
}

/// The tests of the workspace, by target, read when they are asked for.
#[derive(Debug, Default)]
struct Tests {
    /// Root file of each target, by package and target; a library's target is `lib`.
    roots: BTreeMap<(String, String), Root>,
    read: BTreeMap<PathBuf, Result<Vec<Test>, String>>,
    /// As [`RUN_BY_ANOTHER`].
    run_by_another: &'static [(&'static str, &'static str)],
}

/// A target's root file, and what of features it depends on.
#[derive(Debug)]
struct Root {
    file: PathBuf,
    /// Without these it is not built (`required-features`).
    asks_for: Vec<String>,
    /// The package's default features: on in every step of CI.
    usual: Vec<String>,
}

/// The strings of a list.
fn words(list: &Value) -> Vec<String> {
    let items = list.as_array().into_iter().flatten();
    items
        .filter_map(|word| Some(word.as_str()?.to_owned()))
        .collect()
}

/// A function with `#[test]`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Test {
    /// Modules and name, as libtest writes them.
    path: String,
    ignored: bool,
    /// What it is compiled under, if that is more than `test` and default features: a `cfg` of its own or around it.
    condition: Option<String>,
}

impl Tests {
    fn of(metadata: &Value) -> Self {
        let mut roots = BTreeMap::new();
        for package in metadata["packages"].as_array().into_iter().flatten() {
            let name = package["name"].as_str().unwrap_or_default();
            for target in package["targets"].as_array().into_iter().flatten() {
                let is_library = target["kind"].as_array().is_some_and(|kinds| {
                    kinds
                        .iter()
                        .any(|kind| kind == "lib" || kind == "proc-macro")
                });
                let own = target["name"].as_str().unwrap_or_default();
                let target_name = if is_library { "lib" } else { own };
                let source = target["src_path"].as_str().unwrap_or_default();
                let root = Root {
                    file: source.into(),
                    asks_for: words(&target["required-features"]),
                    usual: words(&package["features"]["default"]),
                };
                roots.insert((name.to_owned(), target_name.to_owned()), root);
            }
        }
        Self {
            roots,
            read: BTreeMap::new(),
            run_by_another: RUN_BY_ANOTHER,
        }
    }

    /// Whether `package::target::modules::test` is there and runs; the modules may be left out where that is clear.
    fn look_up(&mut self, wanted: &str) -> Result<(), String> {
        let mut parts = wanted.splitn(3, "::");
        let (Some(package), Some(target), Some(test)) = (parts.next(), parts.next(), parts.next())
        else {
            return Err(format!("'{wanted}' is not package::target::test"));
        };
        let key = (package.to_owned(), target.to_owned());
        let Some(root) = self.roots.get(&key) else {
            return Err(format!(
                "package '{package}' has no target '{target}' (the library's is called lib)"
            ));
        };
        let read = self.read.entry(root.file.clone());
        let tests = read.or_insert_with(|| tests_in(root)).as_ref();
        let tests = tests.map_err(Clone::clone)?;
        let tail = format!("::{test}");
        let fits = |found: &&Test| found.path == test || found.path.ends_with(&tail);
        match tests.iter().filter(fits).collect::<Vec<_>>().as_slice() {
            [] => Err(format!("there is no test '{wanted}'")),
            [one] if one.ignored => Err(format!("test '{wanted}' is ignored, so nothing runs it")),
            [one] => {
                let condition = one.condition.clone();
                condition.map_or(Ok(()), |condition| self.is_run(wanted, &key, &condition))
            }
            [first, second, ..] => Err(format!(
                "'{wanted}' may be {} or {}; write its modules, too",
                first.path, second.path
            )),
        }
    }

    /// Whether another test runs a test that is compiled only under `condition`.
    fn is_run(
        &mut self,
        wanted: &str,
        (package, target): &(String, String),
        condition: &str,
    ) -> Result<(), String> {
        let target = format!("{package}::{target}");
        let listed = self.run_by_another.iter().find(|(of, _)| *of == target);
        match listed {
            Some((_, runner)) => self
                .look_up(runner)
                .map_err(|why| format!("'{wanted}' is run by another test: {why}")),
            None => Err(format!(
                "test '{wanted}' is compiled under cfg({condition}) only, so that nothing may run it: name another one, or have a test \
                 run it and add that to RUN_BY_ANOTHER in xtask/src/tidy/knobs.rs"
            )),
        }
    }
}

/// All tests of a target.
fn tests_in(root: &Root) -> Result<Vec<Test>, String> {
    let mut found = Vec::new();
    let unusual = |feature: &&String| !root.usual.contains(feature);
    let asked = root.asks_for.iter().find(unusual);
    let condition = asked.map(|feature| format!("feature = \"{feature}\""));
    let place = Place {
        file: &root.file,
        below: root.file.parent().unwrap_or(&root.file),
        path: "",
        condition: condition.as_deref(),
        usual: &root.usual,
    };
    visit(place, &mut found)?;
    Ok(found)
}

/// Where items stand.
#[derive(Debug, Clone, Copy)]
struct Place<'a> {
    file: &'a Path,
    /// Where the files of its modules lie.
    below: &'a Path,
    /// The modules around it.
    path: &'a str,
    /// What all of it is compiled under.
    condition: Option<&'a str>,
    /// Features that are on by default.
    usual: &'a [String],
}

/// Reads the file of a place.
fn visit(place: Place<'_>, found: &mut Vec<Test>) -> Result<(), String> {
    let file = place.file;
    let text = fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
    let syntax = syn::parse_file(&text).map_err(|error| format!("{}: {error}", file.display()))?;
    let own = condition(&syntax.attrs, place.usual);
    let place = Place {
        condition: place.condition.or(own.as_deref()),
        ..place
    };
    items(&syntax.items, place, found)
}

fn items(items_of: &[syn::Item], place: Place<'_>, found: &mut Vec<Test>) -> Result<(), String> {
    let full = |name: &syn::Ident| match place.path {
        "" => name.to_string(),
        path => format!("{path}::{name}"),
    };
    for item in items_of {
        match item {
            syn::Item::Fn(function) if has(&function.attrs, "test") => found.push(Test {
                path: full(&function.sig.ident),
                ignored: has(&function.attrs, "ignore"),
                condition: place
                    .condition
                    .map(str::to_owned)
                    .or_else(|| condition(&function.attrs, place.usual)),
            }),
            syn::Item::Mod(module) => {
                let name = module.ident.to_string();
                let inner = place.below.join(&name);
                let own = condition(&module.attrs, place.usual);
                let within = Place {
                    below: &inner,
                    path: &full(&module.ident),
                    condition: place.condition.or(own.as_deref()),
                    ..place
                };
                match &module.content {
                    Some((_, content)) => items(content, within, found)?,
                    None => {
                        let (file, below) = file_of(module, place.file, place.below, &inner);
                        let (file, below) = (&*file, &*below);
                        visit(
                            Place {
                                file,
                                below,
                                ..within
                            },
                            found,
                        )?;
                    }
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// What the first `cfg` of these asks for that is neither `test` nor a usual feature.
fn condition(attributes: &[syn::Attribute], usual: &[String]) -> Option<String> {
    let mut asked = attributes
        .iter()
        .filter_map(|attribute| match &attribute.meta {
            syn::Meta::List(list) if list.path.is_ident("cfg") => Some(list.tokens.to_string()),
            _ => None,
        });
    let is_met = |asked: &String| {
        let of = |feature: &String| *asked == format!("feature = \"{feature}\"");
        asked == "test" || usual.iter().any(of)
    };
    asked.find(|asked| !is_met(asked))
}

/// The file of a module, and where the files of its own modules lie.
fn file_of(module: &syn::ItemMod, parent: &Path, below: &Path, inner: &Path) -> (PathBuf, PathBuf) {
    if let Some(named) = path_attribute(module) {
        let file = parent.parent().unwrap_or(parent).join(named);
        let inner = file.parent().unwrap_or(&file).to_owned();
        return (file, inner);
    }
    let plain = below.join(format!("{}.rs", module.ident));
    if plain.is_file() {
        (plain, inner.to_owned())
    } else {
        (inner.join("mod.rs"), inner.to_owned())
    }
}

fn path_attribute(module: &syn::ItemMod) -> Option<String> {
    module
        .attrs
        .iter()
        .find_map(|attribute| match &attribute.meta {
            syn::Meta::NameValue(syn::MetaNameValue {
                path,
                value:
                    syn::Expr::Lit(syn::ExprLit {
                        lit: syn::Lit::Str(text),
                        ..
                    }),
                ..
            }) if path.is_ident("path") => Some(text.value()),
            _ => None,
        })
}

fn has(attributes: &[syn::Attribute], name: &str) -> bool {
    attributes
        .iter()
        .any(|attribute| attribute.path().is_ident(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn knob(kind: &str, name: &str) -> Knob {
        Knob {
            kind: kind.to_owned(),
            name: name.to_owned(),
        }
    }

    const TEXT: &str = "[[knob]]\nkind = 'attribute'\nname = 'duration_s'\ntest = 'p::t::good'\n";

    #[track_caller]
    fn check(text: &str, known: &[Knob], needles: &[&str]) {
        let table = toml::from_str(text).unwrap();
        let look_up = |test: &str| match test {
            "p::t::good" => Ok(()),
            other => Err(format!("there is no test '{other}'")),
        };
        let found = compare(known, &table, look_up);
        assert_eq!(found.len(), needles.len(), "{found:#?}");
        for (complaint, needle) in found.iter().zip(needles) {
            assert!(complaint.contains(needle), "{complaint} lacks {needle}");
        }
    }

    #[test]
    fn a_knob_that_is_added_without_a_test_is_named() {
        let one = knob("attribute", "duration_s");
        check(TEXT, std::slice::from_ref(&one), &[]);
        let added = [one, knob("op", "Explode")];
        check(TEXT, &added, &["op 'Explode' is in no row"]);
    }

    #[test]
    fn a_row_needs_its_knob_and_its_test() {
        check(TEXT, &[], &["no attribute 'duration_s'"]);
        let known = [knob("attribute", "duration_s")];
        check(
            &TEXT.replace("good", "gone"),
            &known,
            &["no test 'p::t::gone'"],
        );
        check(&TEXT.repeat(2), &known, &["twice"]);
        let unsorted = format!("{}{TEXT}", TEXT.replace("attribute", "op"));
        let both = [knob("attribute", "duration_s"), knob("op", "duration_s")];
        check(&unsorted, &both, &["sort the rows"]);
    }

    #[test]
    fn what_is_pending_is_neither_missing_nor_allowed_to_linger() {
        let pending = "[[pending]]\nkind = 'op'\nname = 'Explode'\nreason = 'soon'\n";
        check(pending, &[knob("op", "Explode")], &[]);
        check(pending, &[], &["no op 'Explode'"]);
        let known = [knob("attribute", "duration_s"), knob("op", "Explode")];
        let row = TEXT
            .replace("attribute", "op")
            .replace("duration_s", "Explode");
        check(&format!("{TEXT}{row}{pending}"), &known, &["twice"]);
    }

    /// A package with a test target of one inline module, one in a file, and one in a folder.
    fn workspace(dir: &Path) -> Tests {
        let write = |name: &str, text: &str| {
            let path = dir.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write(
            "main.rs",
            "#[cfg(test)] mod near; mod far; mod inline { #[test] fn here() {} mod deep; }\n#[test] fn top() {} fn helper() {}\n\
             #[cfg(unix)] #[test] fn elsewhere() {} #[cfg(feature = \"x\")] mod gated { mod within; }",
        );
        write(
            "near.rs",
            "#[test] #[ignore] fn later() {} #[test] fn twin() {}",
        );
        write("far/mod.rs", "#![allow(unused)] mod away;");
        write("far/away.rs", "#[test] fn twin() {}");
        write("inline/deep.rs", "#[test] fn bottom() {}");
        write("gated/within.rs", "#[test] fn behind_a_feature() {}");
        write(
            "whole.rs",
            "#![cfg(feature = \"x\")] #[test] fn behind_it() {}",
        );
        let target = |name: &str, file: &str| serde_json::json!({"name": name, "kind": ["test"], "src_path": dir.join(file)});
        write(
            "usual.rs",
            "#![cfg(feature = \"build\")] #[test] fn built() {}",
        );
        let mut asking = target("asks", "near.rs");
        asking["required-features"] = serde_json::json!(["build", "sample"]);
        let targets = [
            target("it", "main.rs"),
            target("whole", "whole.rs"),
            target("usual", "usual.rs"),
            asking,
        ];
        Tests::of(
            &serde_json::json!({"packages": [{"name": "p", "features": {"default": ["build"]}, "targets": targets}]}),
        )
    }

    #[track_caller]
    fn is_refused(tests: &mut Tests, wanted: &str, needle: &str) {
        let why = tests.look_up(wanted).unwrap_err();
        assert!(why.contains(needle), "{why}");
    }

    /// A test behind a feature was named by two rows, and no step of CI ran it.
    #[test]
    fn a_test_that_is_compiled_on_a_condition_needs_another_that_runs_it() {
        let dir = tempfile::tempdir().unwrap();
        let mut tests = workspace(dir.path());
        for (wanted, needle) in [
            ("p::it::elsewhere", "under cfg(unix) only"),
            ("p::it::behind_a_feature", "cfg(feature = \"x\")"),
            ("p::whole::behind_it", "cfg(feature = \"x\")"),
            ("p::asks::twin", "cfg(feature = \"sample\")"),
        ] {
            is_refused(&mut tests, wanted, needle);
        }
        assert_eq!(tests.look_up("p::usual::built"), Ok(()));
        tests.run_by_another = &[("p::whole", "p::it::top"), ("p::asks", "p::it::gone")];
        assert_eq!(tests.look_up("p::whole::behind_it"), Ok(()));
        is_refused(&mut tests, "p::asks::twin", "no test 'p::it::gone'");
        is_refused(&mut tests, "p::it::elsewhere", "cfg(unix)");
    }

    #[test]
    fn tests_are_found_in_the_syntax_tree() {
        let dir = tempfile::tempdir().unwrap();
        let mut tests = workspace(dir.path());
        for good in ["top", "here", "inline::deep::bottom", "far::away::twin"] {
            assert_eq!(tests.look_up(&format!("p::it::{good}")), Ok(()), "{good}");
        }
        for (wrong, needle) in [
            ("p::it::helper", "no test"),
            ("p::it::later", "ignored"),
            ("p::it::twin", "near::twin or far::away::twin"),
            ("p::lib::top", "no target 'lib'"),
            ("top", "is not package::target::test"),
        ] {
            is_refused(&mut tests, wrong, needle);
        }
    }
}
