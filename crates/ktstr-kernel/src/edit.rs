//! Edits of a kernel's source: one expression of one function for another.

use std::fs;
use std::ops::Range;
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

use crate::{KernelError, failed_to};

/// A file of edits.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EditFile {
    /// The commit that these edits undo.
    #[serde(default)]
    pub fix: Option<String>,
    /// What they do to the kernel.
    #[serde(default)]
    pub what: Option<String>,
    /// The edits, applied one after the other.
    #[serde(rename = "edit")]
    pub edits: Vec<Edit>,
}

/// One edit: within the function, `old` occurs exactly once.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Edit {
    /// The file, relative to the source's root.
    pub file: String,
    /// The function's name.
    pub function: String,
    /// Text in it.
    pub old: String,
    /// What stands there instead.
    pub new: String,
}

impl EditFile {
    /// Reads one.
    ///
    /// # Errors
    /// When the file cannot be read, or is not one of edits.
    pub fn read(path: &Path) -> Result<Self, KernelError> {
        let text = fs::read_to_string(path).map_err(failed_to("read the edits in", path))?;
        let bad = |why: String| KernelError::BadChange {
            path: path.to_owned(),
            why,
        };
        let file: Self = toml::from_str(&text).map_err(|error| bad(error.to_string()))?;
        if file.edits.is_empty() {
            return Err(bad(String::from(
                "it has no [[edit]]; expected at least one with file, function, old and new",
            )));
        }
        for edit in &file.edits {
            if !is_inside(&edit.file) {
                let name = &edit.file;
                return Err(bad(format!(
                    "'{name}' is not a path within a source tree; expected one such as kernel/sched/fair.c"
                )));
            }
            if edit.old.is_empty() {
                return Err(bad(format!(
                    "an edit of {}() has nothing in `old`",
                    edit.function
                )));
            }
        }
        Ok(file)
    }
}

/// Whether a relative path stays below where it starts.
pub(crate) fn is_inside(path: &str) -> bool {
    let mut parts = Path::new(path).components().peekable();
    parts.peek().is_some() && parts.all(|part| matches!(part, Component::Normal(_)))
}

impl Edit {
    /// `text` with the edit made; or what is wrong.
    pub(crate) fn apply(&self, text: &str) -> Result<String, String> {
        let Self {
            file,
            function,
            old,
            new,
        } = self;
        let bodies = functions(text, function);
        if bodies.is_empty() {
            return Err(format!("{file} defines no function {function}()"));
        }
        let found: Vec<usize> = bodies
            .into_iter()
            .flat_map(|body| {
                let start = body.start;
                let body = text.get(body).unwrap_or_default();
                body.match_indices(old.as_str())
                    .map(|(at, _)| start + at)
                    .collect::<Vec<_>>()
            })
            .collect();
        let [at] = found.as_slice() else {
            return Err(format!(
                "`old` occurs {} times in {function}() of {file}, expected once: {old:?}",
                found.len()
            ));
        };
        let before = text.get(..*at).unwrap_or_default();
        let after = text.get(at + old.len()..).unwrap_or_default();
        Ok(format!("{before}{new}{after}"))
    }
}

/// Where functions of this name are defined, each from its first line to its closing brace: a header may have a second one for
/// another configuration. The kernel's style is relied on: a definition begins in the first column, and so does its last brace.
fn functions(text: &str, name: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut at = 0;
    let mut rest = text.split_inclusive('\n').peekable();
    while let Some(line) = rest.next() {
        let start = at;
        at += line.len();
        let begins = line.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        if !begins || !calls(line, name) {
            continue;
        }
        // Its arguments may go on for lines; a declaration ends in a semicolon before any brace.
        let mut head = line.to_owned();
        while !head.contains('{') && !head.trim_end().ends_with(';') {
            let Some(next) = rest.next() else { break };
            at += next.len();
            head.push_str(next);
        }
        let Some((_, body)) = head.split_once('{') else {
            continue;
        };
        let on_one_line = body.contains('}') && !body.trim_end().ends_with('{');
        if !on_one_line {
            for line in rest.by_ref() {
                at += line.len();
                if line.starts_with('}') {
                    break;
                }
            }
        }
        found.push(start..at);
    }
    found
}

/// Whether `name(` is in this line as a whole word.
fn calls(line: &str, name: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    line.match_indices(name).any(|(at, _)| {
        let before = line.get(..at).unwrap_or_default();
        let after = line.get(at + name.len()..).unwrap_or_default();
        !before.ends_with(word) && after.trim_start().starts_with('(')
    })
}

/// All changes of one build.
#[derive(Debug, Clone, Default)]
pub struct Changes {
    /// Files of edits with where they were read.
    pub edits: Vec<(PathBuf, EditFile)>,
    /// A user's patches, applied before the edits.
    pub patches: Vec<(PathBuf, Vec<u8>)>,
}

impl Changes {
    /// Reads the files.
    ///
    /// # Errors
    /// When one cannot be read, or a file of edits is none.
    pub fn read(edits: &[PathBuf], patches: &[PathBuf]) -> Result<Self, KernelError> {
        let edits = edits
            .iter()
            .map(|path| Ok((path.clone(), EditFile::read(path)?)))
            .collect::<Result<_, KernelError>>()?;
        let patch = |path: &PathBuf| {
            let bytes = fs::read(path).map_err(failed_to("read the patch", path))?;
            Ok((path.clone(), bytes))
        };
        let patches = patches
            .iter()
            .map(patch)
            .collect::<Result<_, KernelError>>()?;
        Ok(Self { edits, patches })
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.edits.is_empty() && self.patches.is_empty()
    }

    /// Names of the files that they were read from.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let patches = self.patches.iter().map(|(path, _)| path);
        let edits = self.edits.iter().map(|(path, _)| path);
        patches
            .chain(edits)
            .map(|path| path.display().to_string())
            .collect()
    }

    /// What makes a kernel with these changes another one: what is changed, and not the words about it.
    pub(crate) fn identity(&self) -> Vec<u8> {
        let mut all = Vec::new();
        let mut part = |bytes: &[u8]| {
            all.extend((bytes.len() as u64).to_le_bytes());
            all.extend(bytes);
        };
        for (_, bytes) in &self.patches {
            part(b"patch");
            part(bytes);
        }
        for edit in self.edits.iter().flat_map(|(_, file)| &file.edits) {
            for text in [&edit.file, &edit.function, &edit.old, &edit.new] {
                part(text.as_bytes());
            }
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = "/* twice(x) */\nint twice(int x);\n\nstatic int\ntwice(int x)\n{\n\tif (x)\n\t\treturn x * 2;\n\treturn 0;\n}\n\n\
        static inline int once(int a,\n\t\t\t int b)\n{\n\treturn twice(a) + twice(b);\n}\n\nstatic inline void stub(void) { }\n\
        static int other(void)\n{\n\treturn 0;\n}\n";

    fn edit(function: &str, old: &str, new: &str) -> Edit {
        Edit {
            file: String::from("a.c"),
            function: function.to_owned(),
            old: old.to_owned(),
            new: new.to_owned(),
        }
    }

    #[test]
    fn an_edit_is_made_in_its_function_alone() {
        let made = edit("twice", "return 0", "return 1").apply(SOURCE).unwrap();
        assert_eq!(made, SOURCE.replacen("return 0", "return 1", 1));
        let made = edit("once", " + twice(b)", "").apply(SOURCE).unwrap();
        assert_eq!(made, SOURCE.replace(" + twice(b)", ""));
        let made = edit("stub", "{ }", "{ f(); }").apply(SOURCE).unwrap();
        assert!(
            made.contains("stub(void) { f(); }\nstatic int other"),
            "{made}"
        );
    }

    #[test]
    fn an_edit_that_matches_not_once_is_refused_with_the_count() {
        for (edit, says) in [
            (
                edit("twice", "return", ""),
                "occurs 2 times in twice() of a.c",
            ),
            (
                edit("twice", "gone", ""),
                "occurs 0 times in twice() of a.c",
            ),
            (edit("thrice", "x", ""), "a.c defines no function thrice()"),
            (
                edit("stub", "return 0", ""),
                "occurs 0 times in stub() of a.c",
            ),
        ] {
            let error = edit.apply(SOURCE).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn two_definitions_are_searched_as_one() {
        let text = format!("{SOURCE}static inline int stub(int x)\n{{\n\treturn x;\n}}\n");
        let made = edit("stub", "return x", "return 7").apply(&text).unwrap();
        assert!(made.ends_with("return 7;\n}\n"), "{made}");
    }

    #[test]
    fn a_file_of_edits_says_what_is_wrong_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bad.toml");
        let said = |text: &str| {
            fs::write(&path, text).unwrap();
            EditFile::read(&path).unwrap_err().to_string()
        };
        let whole = "[[edit]]\nfile = '../up.c'\nfunction = 'f'\nold = 'a'\nnew = 'b'\n";
        assert!(said(whole).contains("'../up.c' is not a path within"));
        assert!(said(&whole.replace("../up.c", "/etc/x")).contains("is not a path within"));
        let empty = whole.replace("../", "").replace("'a'", "''");
        assert!(said(&empty).contains("nothing in `old`"));
        assert!(said("edit = []").contains("no [[edit]]"));
        assert!(said(&format!("typo = 1\n{whole}")).contains("typo"));
    }

    #[test]
    fn words_about_a_change_make_no_other_kernel() {
        let file = |fix: &str, new: &str| {
            let file = EditFile {
                fix: Some(fix.to_owned()),
                what: None,
                edits: vec![edit("f", "a", new)],
            };
            Changes {
                edits: vec![(PathBuf::from(fix), file)],
                patches: Vec::new(),
            }
            .identity()
        };
        assert_eq!(file("x", "b"), file("y", "b"));
        assert_ne!(file("x", "b"), file("x", "c"));
    }
}
