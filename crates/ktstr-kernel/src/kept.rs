//! A source tree that is kept with its objects, so that a changed kernel takes a rebuild of what changed.
//!
//! `<cache>/../trees/<key>` has `source` with the changes of the last build in it, `pristine` with the files they changed as they
//! were, `out` with the objects, and `ready` once the source is whole. A user's own tree is copied there and never written.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::edit::{Changes, is_inside};
use crate::{KernelError, failed_to};

/// One kept tree, which the caller has locked.
#[derive(Debug)]
pub(crate) struct KeptTree {
    dir: PathBuf,
}

/// Files that changes touch: their text with the changes made, or `None` for one that they remove.
type Wanted = BTreeMap<String, Option<PathBuf>>;

impl KeptTree {
    pub(crate) fn at(dir: PathBuf) -> Self {
        Self { dir }
    }

    pub(crate) fn source(&self) -> PathBuf {
        self.dir.join("source")
    }

    pub(crate) fn out(&self) -> PathBuf {
        self.dir.join("out")
    }

    fn pristine(&self) -> PathBuf {
        self.dir.join("pristine")
    }

    fn ready(&self) -> PathBuf {
        self.dir.join("ready")
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.ready().is_file()
    }

    /// Removes what an interrupted unpacking left and makes an empty source directory.
    pub(crate) fn begin(&self) -> Result<(), KernelError> {
        if self.dir.exists() {
            fs::remove_dir_all(&self.dir).map_err(failed_to("remove the unfinished", &self.dir))?;
        }
        for dir in [self.source(), self.out(), self.pristine()] {
            fs::create_dir_all(&dir).map_err(failed_to("create", &dir))?;
        }
        Ok(())
    }

    /// The source is whole now.
    pub(crate) fn finish(&self) -> Result<(), KernelError> {
        fs::write(self.ready(), "").map_err(failed_to("write", &self.ready()))
    }

    /// Gives the source these changes and no others. Files that have the right text already are not written, so that make sees
    /// what differs from the last build.
    pub(crate) fn change(&self, changes: &Changes) -> Result<(), KernelError> {
        let scratch = tempfile::Builder::new()
            .prefix(".changed-")
            .tempdir_in(&self.dir)
            .map_err(failed_to("create a directory in", &self.dir))?;
        let wanted = self.make(changes, scratch.path())?;
        let pristine = self.pristine();
        let mut all: BTreeSet<String> = files_below(&pristine)?.into_iter().collect();
        all.extend(wanted.keys().cloned());
        all.extend(self.added()?);
        for path in &all {
            self.put(path, wanted.get(path))?;
        }
        Ok(())
    }

    /// The file as the source has it without changes; it may be none.
    fn original(&self, path: &str) -> Result<PathBuf, KernelError> {
        let pristine = self.pristine().join(path);
        if pristine.is_file() {
            return Ok(pristine);
        }
        if self.added()?.contains(path) {
            // Of an earlier patch.
            return Ok(pristine);
        }
        Ok(self.source().join(path))
    }

    /// Files that changes have added to the source.
    fn added(&self) -> Result<BTreeSet<String>, KernelError> {
        let list = self.dir.join("added");
        if !list.is_file() {
            return Ok(BTreeSet::new());
        }
        let text = fs::read_to_string(&list).map_err(failed_to("read", &list))?;
        Ok(text.lines().map(str::to_owned).collect())
    }

    fn put(&self, path: &str, wanted: Option<&Option<PathBuf>>) -> Result<(), KernelError> {
        let target = self.source().join(path);
        let original = self.original(path)?;
        if original == target && target.is_file() {
            // Kept whole before the first change reaches it: by its name, it is complete.
            let kept = self.pristine().join(path);
            let half = self.dir.join("half");
            create_parent(&kept)?;
            fs::copy(&target, &half).map_err(failed_to("copy", &target))?;
            fs::rename(&half, &kept).map_err(failed_to("keep", &kept))?;
        } else if !original.is_file() {
            let mut added = self.added()?;
            if added.insert(path.to_owned()) {
                let lines: String = added.iter().map(|path| format!("{path}\n")).collect();
                let list = self.dir.join("added");
                fs::write(&list, lines).map_err(failed_to("write", &list))?;
            }
        }
        let kept = self.pristine().join(path);
        let from = match wanted {
            Some(Some(changed)) => Some(changed.clone()),
            Some(None) => None,
            None => kept.is_file().then_some(kept),
        };
        match from {
            Some(from) => copy_if_different(&from, &target),
            None if target.is_file() => {
                fs::remove_file(&target).map_err(failed_to("remove", &target))
            }
            None => Ok(()),
        }
    }

    /// The changed files, below `scratch`.
    fn make(&self, changes: &Changes, scratch: &Path) -> Result<Wanted, KernelError> {
        let mut names = BTreeSet::new();
        for (_, bytes) in &changes.patches {
            names.extend(named_in(&String::from_utf8_lossy(bytes)));
        }
        for (_, file) in &changes.edits {
            names.extend(file.edits.iter().map(|edit| edit.file.clone()));
        }
        for name in &names {
            let original = self.original(name)?;
            if original.is_file() {
                let copy = scratch.join(name);
                create_parent(&copy)?;
                fs::copy(&original, &copy).map_err(failed_to("copy", &original))?;
            }
        }
        for (path, _) in &changes.patches {
            patch(path, scratch)?;
        }
        for (path, file) in &changes.edits {
            let bad = |why: String| KernelError::BadChange {
                path: path.clone(),
                why,
            };
            for edit in &file.edits {
                let target = scratch.join(&edit.file);
                let text = fs::read_to_string(&target).map_err(|error| {
                    bad(format!("{}: {error}; is it another kernel?", edit.file))
                })?;
                let text = edit.apply(&text).map_err(bad)?;
                fs::write(&target, text).map_err(failed_to("write", &target))?;
            }
        }
        names.extend(files_below(scratch)?);
        let wanted = names.into_iter().map(|name| {
            let made = scratch.join(&name);
            (name, made.is_file().then_some(made))
        });
        Ok(wanted.collect())
    }

    /// Copies into the source what differs in the user's tree since the last time, and removes what is gone there. The tree
    /// is only read.
    pub(crate) fn follow(&self, tree: &Path) -> Result<(), KernelError> {
        let list = self.dir.join("followed");
        let before: BTreeMap<String, String> = fs::read_to_string(&list)
            .unwrap_or_default()
            .lines()
            .filter_map(|line| {
                let (stamp, path) = line.split_once('\t')?;
                Some((path.to_owned(), stamp.to_owned()))
            })
            .collect();
        let mut now = BTreeMap::new();
        for path in files_of(tree)? {
            let from = tree.join(&path);
            // One that git knows of and that was removed.
            let Ok(meta) = from.symlink_metadata() else {
                continue;
            };
            let stamp = format!("{} {}.{:09}", meta.len(), meta.mtime(), meta.mtime_nsec());
            if before.get(&path) != Some(&stamp) {
                self.follow_one(&path, &from)?;
            }
            now.insert(path, stamp);
        }
        for gone in before.keys().filter(|path| !now.contains_key(*path)) {
            for place in [self.source(), self.pristine()] {
                let file = place.join(gone);
                if file.symlink_metadata().is_ok() {
                    fs::remove_file(&file).map_err(failed_to("remove", &file))?;
                }
            }
        }
        let lines: String = now
            .iter()
            .map(|(path, stamp)| format!("{stamp}\t{path}\n"))
            .collect();
        fs::write(&list, lines).map_err(failed_to("write", &list))
    }

    fn follow_one(&self, path: &str, from: &Path) -> Result<(), KernelError> {
        let pristine = self.pristine().join(path);
        let to = if pristine.is_file() || self.added()?.contains(path) {
            create_parent(&pristine)?;
            pristine
        } else {
            self.source().join(path)
        };
        let Ok(link) = fs::read_link(from) else {
            return copy_if_different(from, &to);
        };
        create_parent(&to)?;
        if fs::read_link(&to).is_ok_and(|there| there == link) {
            return Ok(());
        }
        if to.symlink_metadata().is_ok() {
            fs::remove_file(&to).map_err(failed_to("remove", &to))?;
        }
        std::os::unix::fs::symlink(&link, &to).map_err(failed_to("link", &to))
    }
}

fn create_parent(path: &Path) -> Result<(), KernelError> {
    let dir = path.parent().unwrap_or(path);
    fs::create_dir_all(dir).map_err(failed_to("create", dir))
}

fn copy_if_different(from: &Path, to: &Path) -> Result<(), KernelError> {
    let new = fs::read(from).map_err(failed_to("read", from))?;
    let is_link = fs::read_link(to).is_ok();
    if !is_link && fs::read(to).is_ok_and(|old| old == new) {
        return Ok(());
    }
    if is_link {
        fs::remove_file(to).map_err(failed_to("remove", to))?;
    }
    create_parent(to)?;
    fs::write(to, new).map_err(failed_to("write", to))?;
    let permissions = fs::metadata(from)
        .map_err(failed_to("read", from))?
        .permissions();
    fs::set_permissions(to, permissions).map_err(failed_to("set the mode of", to))
}

/// Regular files, relative to `dir`.
fn files_below(dir: &Path) -> Result<Vec<String>, KernelError> {
    let mut files = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(next) = dirs.pop() {
        for entry in fs::read_dir(&next).map_err(failed_to("read", &next))? {
            let entry = entry.map_err(failed_to("read", &next))?;
            let path = entry.path();
            let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
            if is_dir && entry.file_name() != ".git" {
                dirs.push(path);
            } else if !is_dir && let Ok(path) = path.strip_prefix(dir) {
                files.push(path.to_string_lossy().into_owned());
            }
        }
    }
    Ok(files)
}

/// The files of a user's tree: those that git has or would take, where it is a repository of its own; else all.
fn files_of(tree: &Path) -> Result<Vec<String>, KernelError> {
    if tree.join(".git").exists() {
        let mut git = Command::new("git");
        git.arg("-C").arg(tree);
        git.args([
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
        ]);
        if let Ok(output) = git.output()
            && output.status.success()
        {
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            return Ok(text
                .split('\0')
                .filter(|path| is_inside(path))
                .map(str::to_owned)
                .collect());
        }
    }
    files_below(tree)
}

/// The paths in a patch's headers without their first part, which is what `-p1` leaves. Too many do no harm.
fn named_in(patch: &str) -> BTreeSet<String> {
    let path = |line: &str| {
        let (rest, strip) = [
            ("--- ", true),
            ("+++ ", true),
            ("rename from ", false),
            ("copy from ", false),
        ]
        .into_iter()
        .find_map(|(start, strip)| Some((line.strip_prefix(start)?, strip)))?;
        let rest = rest.split('\t').next().unwrap_or(rest).trim_end();
        let rest = if strip { rest.split_once('/')?.1 } else { rest };
        is_inside(rest).then(|| rest.to_owned())
    };
    patch.lines().filter_map(path).collect()
}

/// Applies a patch to the files below `scratch`. Git takes the hunks where they are, moved or not, and all of them or none.
fn patch(path: &Path, scratch: &Path) -> Result<(), KernelError> {
    let bad = |why: String| KernelError::BadChange {
        path: path.to_owned(),
        why,
    };
    let absolute = std::path::absolute(path).map_err(failed_to("find", path))?;
    let output = Command::new("git")
        .args(["apply", "-p1", "--whitespace=nowarn"])
        .arg(&absolute)
        .current_dir(scratch)
        // The cache may lie in a repository; the copy is none.
        .env(
            "GIT_CEILING_DIRECTORIES",
            scratch.parent().unwrap_or(scratch),
        )
        .env_remove("GIT_DIR")
        .env_remove("GIT_WORK_TREE")
        .output()
        .map_err(|error| bad(format!("git, which applies patches, cannot run: {error}")))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(bad(format!(
        "it does not apply to this kernel:\n{}",
        said.trim()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edit::{Edit, EditFile};

    fn kept() -> (tempfile::TempDir, KeptTree) {
        let dir = tempfile::tempdir().unwrap();
        let kept = KeptTree::at(dir.path().join("tree"));
        kept.begin().unwrap();
        for (name, text) in [
            ("a.c", "int f(void)\n{\n\treturn 1;\n}\n"),
            ("sub/b.c", "one\ntwo\n"),
        ] {
            let path = kept.source().join(name);
            create_parent(&path).unwrap();
            fs::write(path, text).unwrap();
        }
        kept.finish().unwrap();
        (dir, kept)
    }

    fn edited(old: &str, new: &str) -> Changes {
        let edit = Edit {
            file: String::from("a.c"),
            function: String::from("f"),
            old: old.to_owned(),
            new: new.to_owned(),
        };
        let file = EditFile {
            fix: None,
            what: None,
            edits: vec![edit],
        };
        Changes {
            edits: vec![(PathBuf::from("e.toml"), file)],
            patches: Vec::new(),
        }
    }

    fn patched(dir: &Path, text: &str) -> Changes {
        let path = dir.join("p.patch");
        fs::write(&path, text).unwrap();
        Changes::read(&[], &[path]).unwrap()
    }

    const PATCH: &str = "--- a/sub/b.c\n+++ b/sub/b.c\n@@ -1,2 +1,2 @@\n one\n-two\n+2\n--- /dev/null\n+++ b/new.c\n@@ -0,0 +1 @@\n+new\n";

    #[test]
    fn each_build_has_its_changes_and_no_others() {
        let (dir, kept) = kept();
        let read = |name: &str| fs::read_to_string(kept.source().join(name)).ok();
        let clean = (read("a.c"), read("sub/b.c"), None);
        let now = || (read("a.c"), read("sub/b.c"), read("new.c"));
        kept.change(&edited("1", "2")).unwrap();
        assert!(now().0.unwrap().contains("return 2"));
        // From the original, not from the last state.
        kept.change(&edited("1", "3")).unwrap();
        assert!(now().0.unwrap().contains("return 3"));
        kept.change(&patched(dir.path(), PATCH)).unwrap();
        assert_eq!(
            now(),
            (
                clean.0.clone(),
                Some("one\n2\n".into()),
                Some("new\n".into())
            )
        );
        kept.change(&patched(dir.path(), PATCH)).unwrap();
        assert_eq!(now().1.unwrap(), "one\n2\n", "twice the same");
        kept.change(&Changes::default()).unwrap();
        assert_eq!(now(), clean);
    }

    #[test]
    fn a_file_that_is_right_already_is_not_written() {
        let (_dir, kept) = kept();
        kept.change(&edited("1", "2")).unwrap();
        let written = || {
            let meta = fs::metadata(kept.source().join("a.c")).unwrap();
            (meta.ino(), meta.ctime(), meta.ctime_nsec())
        };
        let before = written();
        kept.change(&edited("1", "2")).unwrap();
        assert_eq!(written(), before);
    }

    #[test]
    fn a_patch_that_is_rejected_says_where_and_changes_nothing() {
        let (dir, kept) = kept();
        let wrong = patched(dir.path(), &PATCH.replace("-two", "-three"));
        let error = kept.change(&wrong).unwrap_err().to_string();
        assert!(
            error.contains("p.patch") && error.contains("sub/b.c"),
            "{error}"
        );
        assert!(!kept.source().join("new.c").exists());
        let error = kept.change(&edited("7", "8")).unwrap_err().to_string();
        assert!(
            error.contains("e.toml") && error.contains("occurs 0 times in f()"),
            "{error}"
        );
        let outside = patched(dir.path(), &PATCH.replace("b/new.c", "b/../../up.c"));
        assert!(kept.change(&outside).is_err());
        assert!(!dir.path().join("up.c").exists());
    }

    #[test]
    fn a_users_tree_is_followed_and_never_written() {
        let (dir, kept) = kept();
        let user = dir.path().join("user");
        fs::create_dir_all(user.join("sub")).unwrap();
        let write = |name: &str, text: &str| fs::write(user.join(name), text).unwrap();
        write("a.c", "int f(void)\n{\n\treturn 1;\n}\n");
        write("sub/b.c", "b\n");
        std::os::unix::fs::symlink("sub/b.c", user.join("link.c")).unwrap();
        let read = |name: &str| fs::read_to_string(kept.source().join(name)).ok();
        kept.follow(&user).unwrap();
        kept.change(&edited("1", "2")).unwrap();
        assert_eq!(read("link.c").as_deref(), Some("b\n"));
        assert!(read("a.c").unwrap().contains("return 2"));
        // What the user writes reaches the copy, below the changes, too.
        write("a.c", "int f(void)\n{\n\treturn 1 + 10;\n}\n");
        fs::remove_file(user.join("sub/b.c")).unwrap();
        kept.follow(&user).unwrap();
        kept.change(&edited("1 ", "2 ")).unwrap();
        assert!(read("a.c").unwrap().contains("return 2 + 10"));
        assert_eq!(read("sub/b.c"), None);
        let text = fs::read_to_string(user.join("a.c")).unwrap();
        assert!(text.contains("return 1 + 10"), "{text}");
    }
}
