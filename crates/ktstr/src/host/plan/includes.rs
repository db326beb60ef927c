//! Host files for the guest's `/include-files`: payloads, what they need, and what a test asks for besides.
//!
//! A declaration is a bare name, looked for in the test's package and then on `PATH`; or a path, from the package if it is
//! relative; a directory comes with all regular files in it, links followed. Two declarations may name the same file; two
//! files for one place in the guest are an error that names both.

use std::fs;
use std::io::{self, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use ktstr_initramfs::{Builder, InitramfsError};

use crate::host::plan::program::{ProgramError, ResolveSource, checked, find_program, on_path};
use crate::model::entry::{KtstrTestEntry, Scheduler};
use crate::model::payload::{Payload, PayloadKind};

/// Where included files lie in the guest; on the `PATH` of its programs.
pub(in crate::host) const GUEST_INCLUDE_DIR: &str = "/include-files";
/// How deep directories are followed: links may form a circle.
const MAX_DEPTH: usize = 32;

/// A file that cannot be included.
#[derive(Debug, thiserror::Error)]
pub(in crate::host) enum IncludeError {
    /// It is not there.
    #[error("{by} names '{spec}', which is neither in {} nor on PATH", dir.display())]
    Missing {
        by: String,
        spec: String,
        dir: PathBuf,
    },
    /// A scheduler's configuration is not there.
    #[error("{by}: {} is not a file; name it from the package, or by an absolute path", path.display())]
    NoConfig { by: String, path: PathBuf },
    /// It is there and cannot be read.
    #[error("failed to read {} for {by}", path.display())]
    Unreadable {
        by: String,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// Another file would lie in the same place.
    #[error(
        "two files for {guest} in the guest: {} ({first_by}) and {} ({second_by}); rename one",
        first.display(), second.display()
    )]
    Conflict {
        guest: String,
        first: PathBuf,
        first_by: String,
        second: PathBuf,
        second_by: String,
    },
    /// A payload's program cannot be had.
    #[error(transparent)]
    Program(#[from] ProgramError),
}

/// One file and its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::host) struct Include {
    guest: String,
    host: PathBuf,
    /// What asks for it.
    by: String,
}

impl Include {
    /// Its place below [`GUEST_INCLUDE_DIR`], and the host file.
    pub(in crate::host) fn place(&self) -> (&str, &Path) {
        let below = self.guest.strip_prefix(GUEST_INCLUDE_DIR);
        let below = below.unwrap_or(&self.guest).trim_start_matches('/');
        (below, &self.host)
    }

    /// Whether it is a program, which needs its libraries beside it.
    pub(in crate::host) fn is_elf(&self) -> bool {
        is_elf(&self.host)
    }

    /// Puts it into an initramfs: a program with its libraries, a script with its interpreter, anything else as it is.
    ///
    /// # Errors
    /// When it cannot be read, or a library or an interpreter is missing.
    pub(in crate::host) fn add_to(&self, builder: &mut Builder) -> Result<(), InitramfsError> {
        if is_elf(&self.host) || is_executable(&self.host) {
            builder.binary(&self.guest, &self.host)?;
        } else {
            // What is no program here may be one there.
            builder.file(&self.guest, &self.host, 0o755)?;
        }
        Ok(())
    }
}

fn is_executable(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|meta| meta.permissions().mode() & 0o111 != 0)
}

fn is_elf(path: &Path) -> bool {
    let mut magic = [0; 4];
    fs::File::open(path).is_ok_and(|mut file| file.read_exact(&mut magic).is_ok())
        && magic == *b"\x7fELF"
}

/// All that `entry` wants in the guest beside its schedulers.
///
/// # Errors
/// When a payload does not build, a file is missing, or two files want one place.
pub(in crate::host) fn of_entry(
    entry: &KtstrTestEntry,
    manifest_dir: &Path,
) -> Result<Vec<Include>, IncludeError> {
    let mut all = Vec::new();
    for payload in entry.payloads() {
        let by = format!("payload {:?}", payload.name());
        all.push(Include {
            guest: format!("{GUEST_INCLUDE_DIR}/{}", payload.name()),
            host: program_of(payload, manifest_dir)?,
            by: by.clone(),
        });
        for spec in payload.include_files {
            all.extend(of_spec(spec, &by, manifest_dir)?);
        }
    }
    for spec in entry.extra_include_files {
        all.extend(of_spec(spec, "extra_include_files", manifest_dir)?);
    }
    for scheduler in entry.scheduler.iter().chain(entry.staged_schedulers) {
        all.extend(config_of(scheduler, manifest_dir)?);
    }
    merged(all)
}

/// A scheduler's configuration: one file of the package, or an absolute path.
fn config_of(scheduler: &Scheduler, manifest_dir: &Path) -> Result<Option<Include>, IncludeError> {
    let Some(config) = scheduler.config_file else {
        return Ok(None);
    };
    let by = format!("config of scheduler '{}'", scheduler.name);
    let host = manifest_dir.join(config);
    let name = host.file_name().filter(|_| host.is_file());
    let Some(name) = name.map(|name| name.to_string_lossy().into_owned()) else {
        return Err(IncludeError::NoConfig { by, path: host });
    };
    Ok(Some(Include {
        guest: format!("{GUEST_INCLUDE_DIR}/{name}"),
        host,
        by,
    }))
}

/// Files named on the command line.
///
/// # Errors
/// As [`of_entry`].
pub(in crate::host) fn of_paths(paths: &[PathBuf]) -> Result<Vec<Include>, IncludeError> {
    let mut all = Vec::new();
    for path in paths {
        all.extend(of_file(path, "--include")?);
    }
    Ok(all)
}

/// The same files, each once.
///
/// # Errors
/// When two files want one place.
pub(in crate::host) fn merged(
    all: impl IntoIterator<Item = Include>,
) -> Result<Vec<Include>, IncludeError> {
    let mut kept: Vec<Include> = Vec::new();
    for include in all {
        match kept.iter().find(|earlier| earlier.guest == include.guest) {
            None => kept.push(include),
            Some(earlier) if same_file(&earlier.host, &include.host) => {}
            Some(earlier) => {
                return Err(IncludeError::Conflict {
                    guest: include.guest,
                    first: earlier.host.clone(),
                    first_by: earlier.by.clone(),
                    second: include.host,
                    second_by: include.by,
                });
            }
        }
    }
    Ok(kept)
}

fn same_file(a: &Path, b: &Path) -> bool {
    match (a.canonicalize(), b.canonicalize()) {
        (Ok(a), Ok(b)) => a == b,
        _ => a == b,
    }
}

fn program_of(payload: &Payload, manifest_dir: &Path) -> Result<PathBuf, ProgramError> {
    let PayloadKind::Binary(program) = payload.kind else {
        // Validation refuses a scheduler in a payload's place before anything is looked for.
        return Ok(PathBuf::from(payload.program()));
    };
    let found = if program.contains('/') {
        checked("payload", manifest_dir.join(program), ResolveSource::Path)
    } else {
        find_program("payload", program, manifest_dir)
    };
    Ok(found?.0)
}

fn of_spec(spec: &str, by: &str, manifest_dir: &Path) -> Result<Vec<Include>, IncludeError> {
    let in_package = manifest_dir.join(spec);
    let path = if in_package.exists() {
        Some(in_package)
    } else if spec.contains('/') {
        None
    } else {
        on_path(spec)
    };
    let path = path.ok_or_else(|| IncludeError::Missing {
        by: by.to_owned(),
        spec: spec.to_owned(),
        dir: manifest_dir.to_owned(),
    })?;
    of_file(&path, by)
}

fn of_file(path: &Path, by: &str) -> Result<Vec<Include>, IncludeError> {
    let mut found = Vec::new();
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    walk(
        path,
        &format!("{GUEST_INCLUDE_DIR}/{name}"),
        by,
        0,
        &mut found,
    )?;
    Ok(found)
}

fn walk(
    path: &Path,
    guest: &str,
    by: &str,
    depth: usize,
    found: &mut Vec<Include>,
) -> Result<(), IncludeError> {
    let unreadable = |source| IncludeError::Unreadable {
        by: by.to_owned(),
        path: path.to_owned(),
        source,
    };
    let meta = fs::metadata(path).map_err(unreadable)?;
    if meta.is_file() {
        found.push(Include {
            guest: guest.to_owned(),
            host: path.to_owned(),
            by: by.to_owned(),
        });
    } else if meta.is_dir() && depth < MAX_DEPTH {
        let entries = fs::read_dir(path).map_err(unreadable)?;
        let mut names = entries
            .map(|entry| entry.map(|entry| entry.file_name()))
            .collect::<Result<Vec<_>, _>>()
            .map_err(unreadable)?;
        names.sort();
        for name in names {
            let inside = format!("{guest}/{}", name.to_string_lossy());
            walk(&path.join(&name), &inside, by, depth + 1, found)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("data/deep")).unwrap();
        fs::write(dir.path().join("data/deep/a.txt"), b"a").unwrap();
        fs::write(dir.path().join("data/b.txt"), b"b").unwrap();
        fs::write(dir.path().join("b.txt"), b"other").unwrap();
        dir
    }

    fn entry(files: &'static [&'static str]) -> KtstrTestEntry {
        KtstrTestEntry {
            name: "t",
            extra_include_files: files,
            ..KtstrTestEntry::DEFAULT
        }
    }

    #[track_caller]
    fn check(files: &'static [&'static str], expected: &[&str]) {
        let dir = package();
        let found = of_entry(&entry(files), dir.path()).unwrap();
        let places: Vec<&str> = found.iter().map(|include| include.guest.as_str()).collect();
        assert_eq!(places, expected);
    }

    #[test]
    fn names_paths_and_directories() {
        check(&["b.txt", "b.txt"], &["/include-files/b.txt"]);
        check(
            &["data"],
            &[
                "/include-files/data/b.txt",
                "/include-files/data/deep/a.txt",
            ],
        );
        check(&["sh"], &["/include-files/sh"]);
    }

    #[test]
    fn what_is_missing_or_in_the_way_is_named() {
        let dir = package();
        let error = |files| of_entry(&entry(files), dir.path()).unwrap_err().to_string();
        let missing = error(&["no/such.txt"]);
        assert!(
            missing.contains("extra_include_files names 'no/such.txt'"),
            "{missing}"
        );
        let conflict = error(&["b.txt", "data/b.txt"]);
        assert!(
            conflict.contains("two files for /include-files/b.txt"),
            "{conflict}"
        );
    }

    #[test]
    fn a_circle_of_links_ends() {
        let dir = package();
        std::os::unix::fs::symlink(dir.path().join("data"), dir.path().join("data/loop")).unwrap();
        let found = of_entry(&entry(&["data"]), dir.path());
        // The kernel gives up on the names before we do, or we before it.
        assert!(found.is_ok_and(|found| found.len() <= 2 * MAX_DEPTH));
    }
}
