//! What a dynamically linked program needs, found the way glibc's loader finds it.
//!
//! The search order is ld.so(8)'s, without `LD_LIBRARY_PATH`, which a guest does not have: the RPATH of the object and of those
//! that loaded it (unless it has a RUNPATH), its RUNPATH, `/etc/ld.so.cache`, the default directories. Each library goes to the
//! guest at the path where it was found, so that the guest's loader finds it too.

mod cache;
mod dynamic;
mod slim;

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

pub use dynamic::{Dynamic, ElfError};
use object::read::ReadCache;
pub(crate) use slim::{Piece, slim};

use cache::LdCache;

/// Directories searched last (glibc's built-in ones and Debian's multiarch ones).
const DEFAULT_DIRS: [&str; 6] = [
    "/lib/x86_64-linux-gnu",
    "/usr/lib/x86_64-linux-gnu",
    "/lib64",
    "/usr/lib64",
    "/lib",
    "/usr/lib",
];
/// More libraries than this are a loop or a joke.
const MAX_OBJECTS: usize = 1024;

/// A program's needs cannot be met.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClosureError {
    /// A library is nowhere.
    #[error(
        "'{needer}' needs library '{library}', which is not in {sought}; install the package that has it, \
         or link '{program}' statically"
    )]
    Missing {
        /// The program that started the search.
        program: String,
        /// The object that names the library.
        needer: String,
        /// The library's name.
        library: String,
        /// Where it was looked for.
        sought: String,
    },
    /// A file cannot be read.
    #[error("failed to read '{path}'", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A file is no program of this machine.
    #[error("'{path}': {source}", path = path.display())]
    Elf {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: ElfError,
    },
    /// The needs never end.
    #[error("'{program}' needs more than {MAX_OBJECTS} libraries")]
    Endless {
        /// The program.
        program: String,
    },
}

/// Libraries and loader of a program: guest path to host file. Both are absolute; they differ only by symbolic links.
pub type Closure = BTreeMap<String, PathBuf>;

/// One object whose needs are still open.
struct Open {
    path: PathBuf,
    dynamic: Dynamic,
    /// RPATHs of the objects that led here, nearest first.
    inherited: Vec<String>,
}

/// Finds everything that `program` needs to start; empty for a static one.
///
/// # Errors
/// When a library is missing, unreadable, or not of this machine.
pub fn closure(program: &Path) -> Result<Closure, ClosureError> {
    closure_with(
        program,
        &LdCache::system(),
        &DEFAULT_DIRS.map(PathBuf::from),
    )
}

fn closure_with(
    program: &Path,
    cache: &LdCache,
    defaults: &[PathBuf],
) -> Result<Closure, ClosureError> {
    let mut found = Closure::new();
    let dynamic = load(program)?;
    if let Some(loader) = &dynamic.interpreter {
        let path = PathBuf::from(loader);
        if !path.is_file() {
            return Err(missing(
                program,
                program,
                loader,
                &["its PT_INTERP".to_owned()],
            ));
        }
        found.insert(loader.clone(), path);
    }
    let mut open = vec![Open {
        path: program.to_owned(),
        dynamic,
        inherited: Vec::new(),
    }];
    let mut names: BTreeMap<String, ()> = BTreeMap::new();
    while let Some(object) = open.pop() {
        let dirs = search_dirs(&object);
        for library in &object.dynamic.needed {
            // A name that is loaded already is not searched again, whoever needs it.
            if names.insert(library.clone(), ()).is_some() {
                continue;
            }
            if names.len() > MAX_OBJECTS {
                return Err(ClosureError::Endless {
                    program: program.display().to_string(),
                });
            }
            let Some((path, dynamic)) = find(library, &dirs, cache, defaults) else {
                let mut sought = dirs.clone();
                sought.push("/etc/ld.so.cache".to_owned());
                sought.extend(defaults.iter().map(|dir| dir.display().to_string()));
                return Err(missing(program, &object.path, library, &sought));
            };
            found.insert(path.display().to_string(), path.clone());
            let mut inherited = object.dynamic.rpath.clone();
            inherited.extend(object.inherited.iter().cloned());
            open.push(Open {
                path,
                dynamic,
                inherited,
            });
        }
    }
    Ok(found)
}

fn missing(program: &Path, needer: &Path, library: &str, sought: &[String]) -> ClosureError {
    ClosureError::Missing {
        program: program.display().to_string(),
        needer: needer.display().to_string(),
        library: library.to_owned(),
        sought: sought.join(", "),
    }
}

/// Reads the parts that count, which are a few pages of a large file.
fn load(path: &Path) -> Result<Dynamic, ClosureError> {
    let file = File::open(path).map_err(|source| ClosureError::Read {
        path: path.to_owned(),
        source,
    })?;
    Dynamic::parse(&ReadCache::new(file)).map_err(|source| ClosureError::Elf {
        path: path.to_owned(),
        source,
    })
}

/// The object's own search path with `$ORIGIN` and `$LIB` filled in. A RUNPATH switches every RPATH off.
fn search_dirs(object: &Open) -> Vec<String> {
    let own = &object.dynamic;
    let paths: Vec<&String> = if own.runpath.is_empty() {
        own.rpath.iter().chain(&object.inherited).collect()
    } else {
        own.runpath.iter().collect()
    };
    let origin = object
        .path
        .canonicalize()
        .unwrap_or_else(|_| object.path.clone());
    let origin = origin
        .parent()
        .map(|dir| dir.display().to_string())
        .unwrap_or_default();
    paths
        .into_iter()
        .map(|dir| {
            let dir = dir
                .replace("${ORIGIN}", &origin)
                .replace("$ORIGIN", &origin);
            dir.replace("${LIB}", "lib/x86_64-linux-gnu")
                .replace("$LIB", "lib/x86_64-linux-gnu")
        })
        .collect()
}

/// The first place with a usable object: the loader passes over files of another machine.
fn find(
    library: &str,
    dirs: &[String],
    cache: &LdCache,
    defaults: &[PathBuf],
) -> Option<(PathBuf, Dynamic)> {
    let candidates: Vec<PathBuf> = if library.contains('/') {
        vec![PathBuf::from(library)]
    } else {
        let own = dirs.iter().map(|dir| Path::new(dir).join(library));
        let cached = cache.lookup(library).map(PathBuf::from);
        own.chain(cached)
            .chain(defaults.iter().map(|dir| dir.join(library)))
            .collect()
    };
    candidates.into_iter().find_map(|path| {
        let dynamic = load(&path).ok()?;
        Some((path, dynamic))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_test_binary_needs_libc_and_a_loader() {
        let found = closure(&std::env::current_exe().unwrap()).unwrap();
        let names: Vec<&str> = found
            .keys()
            .map(|path| path.rsplit('/').next().unwrap())
            .collect();
        assert!(names.contains(&"libc.so.6"), "{names:?}");
        assert!(
            names.iter().any(|name| name.starts_with("ld-linux")),
            "{names:?}"
        );
        assert!(found.values().all(|path| path.is_file()));
    }

    #[test]
    fn a_missing_library_names_who_needs_it_and_where_it_was_sought() {
        let program = std::env::current_exe().unwrap();
        let empty = tempfile::tempdir().unwrap();
        let error = closure_with(&program, &LdCache::default(), &[empty.path().to_owned()])
            .unwrap_err()
            .to_string();
        for needle in [
            program.to_str().unwrap(),
            "needs library",
            "ld.so.cache",
            empty.path().to_str().unwrap(),
        ] {
            assert!(error.contains(needle), "{needle:?} is not in {error}");
        }
    }

    #[test]
    fn a_text_file_is_no_program() {
        let error = closure(Path::new("/etc/hostname")).unwrap_err().to_string();
        assert!(
            error.contains("/etc/hostname") && error.contains("ELF"),
            "{error}"
        );
    }
}
