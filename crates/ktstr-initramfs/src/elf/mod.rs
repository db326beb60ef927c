//! What a dynamically linked program needs, found the way glibc's loader finds it.
//!
//! The search order is ld.so(8)'s, without `LD_LIBRARY_PATH`, which a guest does not have: the RPATH of the object and of those
//! that loaded it (unless it has a RUNPATH), its RUNPATH, `/etc/ld.so.cache`, the default directories.
//!
//! Each library goes to where the guest's loader looks for it: what `$ORIGIN` led to goes to the same place beside the program in
//! the guest, what only the cache knew to a default directory (a guest has no cache), all else to the path where it was found.

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

/// Libraries and loader of a program: absolute guest path to host file.
pub type Closure = BTreeMap<String, PathBuf>;

/// A directory to search, and which one it is in the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Dir {
    host: PathBuf,
    guest: String,
}

/// One object whose needs are still open.
struct Open {
    path: PathBuf,
    /// `$ORIGIN`.
    origin: Dir,
    dynamic: Dynamic,
    /// RPATHs of the objects that led here, nearest first.
    inherited: Vec<Dir>,
}

impl Open {
    /// A program at `guest` in the guest, whose links the kernel follows before the loader asks.
    fn program(path: &Path, guest: &str, dynamic: Dynamic) -> Self {
        let real = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        Self::new(path, &real, guest, dynamic, Vec::new())
    }

    fn new(path: &Path, real: &Path, guest: &str, dynamic: Dynamic, inherited: Vec<Dir>) -> Self {
        let guest = guest.rsplit_once('/').map_or("", |(dir, _)| dir);
        Self {
            path: path.to_owned(),
            origin: Dir {
                host: real.parent().unwrap_or(real).to_owned(),
                guest: guest.to_owned(),
            },
            dynamic,
            inherited,
        }
    }

    fn dirs(&self, paths: &[String]) -> Vec<Dir> {
        paths.iter().map(|path| self.dir(path)).collect()
    }

    /// A search path with `$ORIGIN`, `$LIB` and `$PLATFORM` filled in.
    fn dir(&self, path: &str) -> Dir {
        let filled = |origin: &str| {
            [("ORIGIN", origin), ("LIB", LIB), ("PLATFORM", "x86_64")]
                .into_iter()
                .fold(path.to_owned(), |path, (name, value)| {
                    path.replace(&format!("${{{name}}}"), value)
                        .replace(&format!("${name}"), value)
                })
        };
        Dir {
            host: PathBuf::from(filled(&self.origin.host.display().to_string())),
            guest: plain(&filled(&self.origin.guest)),
        }
    }

    /// The object's own search path. A RUNPATH switches every RPATH off.
    fn search(&self) -> Vec<Dir> {
        if !self.dynamic.runpath.is_empty() {
            return self.dirs(&self.dynamic.runpath);
        }
        let mut dirs = self.dirs(&self.dynamic.rpath);
        dirs.extend(self.inherited.iter().cloned());
        dirs
    }
}

/// What `$LIB` stands for in Debian's loader.
const LIB: &str = "lib/x86_64-linux-gnu";

/// A path without `.` and `..`, which an archive cannot have; `..` of the root is the root.
fn plain(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

/// Finds everything that `program` needs to start; empty for a static one.
///
/// # Errors
/// When a library is missing, unreadable, or not of this machine.
pub fn closure(program: &Path) -> Result<Closure, ClosureError> {
    closure_at(program, &program.display().to_string())
}

/// Finds everything that `program` needs to start at `guest` in the guest.
///
/// # Errors
/// When a library is missing, unreadable, or not of this machine.
pub fn closure_at(program: &Path, guest: &str) -> Result<Closure, ClosureError> {
    closure_with(
        program,
        guest,
        &LdCache::system(),
        &DEFAULT_DIRS.map(PathBuf::from),
    )
}

fn closure_with(
    program: &Path,
    guest: &str,
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
    let mut open = vec![Open::program(program, guest, dynamic)];
    let mut names: BTreeMap<String, ()> = BTreeMap::new();
    while let Some(object) = open.pop() {
        let dirs = object.search();
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
            let Some(Found {
                host,
                guest,
                dynamic,
            }) = find(library, &dirs, cache, defaults)
            else {
                let mut sought: Vec<String> = dirs
                    .iter()
                    .map(|dir| dir.host.display().to_string())
                    .collect();
                sought.push("/etc/ld.so.cache".to_owned());
                sought.extend(defaults.iter().map(|dir| dir.display().to_string()));
                return Err(missing(program, &object.path, library, &sought));
            };
            found.insert(guest.clone(), host.clone());
            let mut inherited = object.dirs(&object.dynamic.rpath);
            inherited.extend(object.inherited.iter().cloned());
            open.push(Open::new(&host, &host, &guest, dynamic, inherited));
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

/// A library that was found.
struct Found {
    host: PathBuf,
    guest: String,
    dynamic: Dynamic,
}

/// The first place with a usable object: the loader passes over files of another machine.
fn find(library: &str, dirs: &[Dir], cache: &LdCache, defaults: &[PathBuf]) -> Option<Found> {
    let same = |path: PathBuf| (plain(&path.display().to_string()), path);
    let candidates: Vec<(String, PathBuf)> = if library.contains('/') {
        vec![same(PathBuf::from(library))]
    } else {
        let own = dirs.iter().map(|dir| {
            (
                plain(&format!("{}/{library}", dir.guest)),
                dir.host.join(library),
            )
        });
        let cached = cache.lookup(library).map(PathBuf::from).map(|path| {
            let is_default = path
                .parent()
                .is_some_and(|dir| defaults.iter().any(|d| d == dir));
            if is_default {
                return same(path);
            }
            (format!("{}/{library}", default_dir()), path)
        });
        own.chain(cached)
            .chain(defaults.iter().map(|dir| same(dir.join(library))))
            .collect()
    };
    candidates.into_iter().find_map(|(guest, host)| {
        let dynamic = load(&host).ok()?;
        Some(Found {
            host,
            guest,
            dynamic,
        })
    })
}

/// A directory that this system's loader, which is the guest's, searches without being told: Debian's, or everybody else's.
fn default_dir() -> &'static str {
    let [debian, ..] = DEFAULT_DIRS;
    if Path::new(debian).is_dir() {
        debian
    } else {
        "/lib64"
    }
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
        let error = closure_with(
            &program,
            "/init",
            &LdCache::default(),
            &[empty.path().to_owned()],
        )
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

    /// Builds a library and a program that needs it, linked with `flags`.
    fn program_with_library(dir: &Path, flags: &[&str]) -> PathBuf {
        let cc = |args: &[&str]| {
            let status = std::process::Command::new("cc")
                .current_dir(dir)
                .args(args)
                .status();
            assert!(
                status
                    .expect("cc is installed; `cargo xtask setup` does it")
                    .success()
            );
        };
        std::fs::create_dir_all(dir.join("bin")).unwrap();
        std::fs::create_dir_all(dir.join("lib")).unwrap();
        std::fs::write(dir.join("own.c"), "int own(void) { return 0; }").unwrap();
        std::fs::write(
            dir.join("main.c"),
            "int own(void); int main(void) { return own(); }",
        )
        .unwrap();
        cc(&["-shared", "-fPIC", "-o", "lib/libktstrown.so", "own.c"]);
        let mut args = vec!["-o", "bin/main", "main.c", "-Llib", "-lktstrown"];
        args.extend(flags);
        cc(&args);
        dir.join("bin/main")
    }

    #[test]
    fn what_origin_leads_to_lies_beside_the_program_in_the_guest() {
        for flags in [
            ["-Wl,--enable-new-dtags", "-Wl,-rpath,$ORIGIN/../lib"],
            ["-Wl,--disable-new-dtags", "-Wl,-rpath,${ORIGIN}/../lib"],
        ] {
            let dir = tempfile::tempdir().unwrap();
            let program = program_with_library(dir.path(), &flags);
            let found = closure_at(&program, "/include-files/deep/main").unwrap();
            let host = found.get("/include-files/lib/libktstrown.so").unwrap();
            assert_eq!(
                host.canonicalize().unwrap(),
                dir.path()
                    .join("lib/libktstrown.so")
                    .canonicalize()
                    .unwrap()
            );
        }
    }

    #[test]
    fn an_absolute_search_path_is_the_same_in_the_guest() {
        let dir = tempfile::tempdir().unwrap();
        let lib = dir.path().join("lib");
        let program = program_with_library(dir.path(), &[&format!("-Wl,-rpath,{}", lib.display())]);
        let found = closure_at(&program, "/x").unwrap();
        assert!(
            found.contains_key(lib.join("libktstrown.so").to_str().unwrap()),
            "{found:?}"
        );
    }

    /// A guest has no cache.
    #[test]
    fn what_only_the_cache_knows_goes_to_a_default_directory() {
        let dir = tempfile::tempdir().unwrap();
        let program = program_with_library(dir.path(), &[]);
        let library = dir.path().join("lib/libktstrown.so");
        let cache = LdCache::of(&[("libktstrown.so", library.to_str().unwrap())]);
        let found = closure_with(&program, "/x", &cache, &DEFAULT_DIRS.map(PathBuf::from)).unwrap();
        let guest = format!("{}/libktstrown.so", default_dir());
        assert_eq!(found.get(&guest), Some(&library), "{found:?}");
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
