#![doc = include_str!("../README.md")]
//!
//! # Details
//!
//! Copying is cheaper than any compression here, for the host and for the guest's kernel.
//!
//! A [`Builder`] collects files and programs; a program brings its loader and libraries ([`elf::closure`]). The finished
//! [`Initramfs`] is a file of memory. This crate knows no VM.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use object::read::ReadCache;

use self::archive::{Archive, Kind, S_IFCHR, S_IFDIR, S_IFLNK, S_IFREG};
use crate::elf::{ClosureError, Piece};

mod archive;
pub mod elf;
mod script;

/// Largest file that a newc header can tell.
const MAX_FILE: u64 = u32::MAX as u64;

/// A file system that cannot be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InitramfsError {
    /// A file cannot be read.
    #[error("failed to read '{path}' for the guest's {guest_path}", path = path.display())]
    Read {
        /// On the host.
        path: PathBuf,
        /// In the guest.
        guest_path: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A program's libraries cannot be had.
    #[error(transparent)]
    Closure(#[from] ClosureError),
    /// Two different files want one path.
    #[error("both '{first}' and '{second}' want to be the guest's {guest_path}")]
    Conflict {
        /// The path in the guest.
        guest_path: String,
        /// Who came first.
        first: String,
        /// Who came second.
        second: String,
    },
    /// A path that the guest cannot have.
    #[error("invalid path in the guest '{guest_path}': {why}")]
    BadPath {
        /// What was given.
        guest_path: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A script that could not start in the guest.
    #[error("script '{script}' wants '{interpreter}': {why}", script = script.display())]
    Interpreter {
        /// The script, on the host.
        script: PathBuf,
        /// What its first line names.
        interpreter: String,
        /// What is wrong with that, and what to do.
        why: &'static str,
    },
    /// The archive itself cannot be written.
    #[error("failed to write the guest's archive to memory")]
    Store(#[source] io::Error),
    /// A file is too large for the format.
    #[error("'{path}' has {len} bytes, a cpio archive holds at most {MAX_FILE} per file", path = path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        len: u64,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Node {
    Dir,
    Host {
        path: PathBuf,
        mode: u32,
    },
    /// An ELF program, packed without its debugging sections.
    Program {
        path: PathBuf,
        mode: u32,
    },
    Bytes {
        bytes: Vec<u8>,
        mode: u32,
    },
    Symlink {
        target: String,
    },
    Device {
        major: u32,
        minor: u32,
        mode: u32,
    },
}

/// Collects files; directories on the way come by themselves.
#[derive(Debug, Default)]
pub struct Builder {
    nodes: BTreeMap<String, Node>,
}

/// A finished archive, in a file of memory.
#[derive(Debug, Clone)]
pub struct Initramfs {
    file: Arc<File>,
    len: u64,
    largest: Option<(String, u64)>,
}

impl Initramfs {
    /// Size of the archive in bytes.
    #[must_use]
    #[expect(
        clippy::len_without_is_empty,
        reason = "an archive has at least its end mark"
    )]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// The archive's file of memory. Whoever reads it shares its position; see [`open`](Self::open).
    #[must_use]
    pub fn file(&self) -> Arc<File> {
        Arc::clone(&self.file)
    }

    /// The archive as a file with a position of its own, at its beginning.
    ///
    /// # Errors
    /// When the process has no descriptor left.
    pub fn open(&self) -> io::Result<File> {
        archive::reopen(&self.file)
    }

    /// The largest file's guest path and size.
    #[must_use]
    pub fn largest(&self) -> Option<(&str, u64)> {
        self.largest
            .as_ref()
            .map(|(path, len)| (path.as_str(), *len))
    }
}

impl Builder {
    /// An empty file system, but for `/dev/console` and `/dev/null`, which the kernel wants before anything is mounted.
    #[must_use]
    pub fn new() -> Self {
        let mut nodes = BTreeMap::new();
        nodes.insert(
            String::from("dev/console"),
            Node::Device {
                major: 5,
                minor: 1,
                mode: 0o600,
            },
        );
        nodes.insert(
            String::from("dev/null"),
            Node::Device {
                major: 1,
                minor: 3,
                mode: 0o666,
            },
        );
        Self { nodes }
    }

    /// Adds an empty directory.
    ///
    /// # Errors
    /// For a path that the guest cannot have, or that is taken.
    pub fn dir(&mut self, guest_path: &str) -> Result<&mut Self, InitramfsError> {
        self.add(guest_path, Node::Dir)
    }

    /// Adds a host's file as it is; it is read when the archive is built.
    ///
    /// # Errors
    /// For a path that the guest cannot have, or that is taken by another file.
    pub fn file(
        &mut self,
        guest_path: &str,
        host: &Path,
        mode: u32,
    ) -> Result<&mut Self, InitramfsError> {
        self.add(
            guest_path,
            Node::Host {
                path: host.to_owned(),
                mode,
            },
        )
    }

    /// Adds a file of these bytes.
    ///
    /// # Errors
    /// For a path that the guest cannot have, or that is taken by another file.
    pub fn bytes(
        &mut self,
        guest_path: &str,
        bytes: Vec<u8>,
        mode: u32,
    ) -> Result<&mut Self, InitramfsError> {
        self.add(guest_path, Node::Bytes { bytes, mode })
    }

    /// Adds a symbolic link.
    ///
    /// # Errors
    /// For a path that the guest cannot have, or that is taken by another file.
    pub fn symlink(&mut self, guest_path: &str, target: &str) -> Result<&mut Self, InitramfsError> {
        self.add(
            guest_path,
            Node::Symlink {
                target: target.to_owned(),
            },
        )
    }

    /// Adds a program with its loader and libraries; a script's interpreter comes along with its own, and what `env` is to
    /// start. A file that is neither is added as it is.
    ///
    /// # Errors
    /// When the file or a library cannot be read or found, or a path is taken by another file.
    pub fn binary(&mut self, guest_path: &str, host: &Path) -> Result<&mut Self, InitramfsError> {
        let read = |source| InitramfsError::Read {
            path: host.to_owned(),
            guest_path: guest_path.to_owned(),
            source,
        };
        let mut head = [0; 256];
        let mut file = File::open(host).map_err(read)?;
        let len = file.read(&mut head).map_err(read)?;
        let mode = file.metadata().map_err(read)?.permissions().mode() & 0o777;
        let head = head.get(..len).unwrap_or_default();
        if head.starts_with(b"\x7fELF") {
            self.add(
                guest_path,
                Node::Program {
                    path: host.to_owned(),
                    mode,
                },
            )?;
            for (path, library) in elf::closure_at(host, guest_path)? {
                self.file(&path, &library, 0o755)?;
            }
            return Ok(self);
        }
        self.file(guest_path, host, mode)?;
        for interpreter in script::interpreters(head) {
            let refused = |why| InitramfsError::Interpreter {
                script: host.to_owned(),
                interpreter: interpreter.clone(),
                why,
            };
            let path = script::find(&interpreter).map_err(refused)?;
            let guest = script::place(&interpreter, &path);
            if self.nodes.contains_key(guest.trim_start_matches('/')) {
                continue;
            }
            self.binary(&guest, &path)?;
        }
        Ok(self)
    }

    fn add(&mut self, guest_path: &str, node: Node) -> Result<&mut Self, InitramfsError> {
        let bad = |why| InitramfsError::BadPath {
            guest_path: guest_path.to_owned(),
            why,
        };
        let path = guest_path.trim_start_matches('/').trim_end_matches('/');
        if path.is_empty() || path.contains('\0') {
            return Err(bad("it is empty or has a NUL"));
        }
        if path.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return Err(bad("its parts must be plain names"));
        }
        match self.nodes.get(path) {
            Some(old) if *old == node => Ok(self),
            Some(old) => Err(InitramfsError::Conflict {
                guest_path: guest_path.to_owned(),
                first: describe(old),
                second: describe(&node),
            }),
            None => {
                self.nodes.insert(path.to_owned(), node);
                Ok(self)
            }
        }
    }

    /// What the archive is made of, without reading it: each file's place, and of a host's file its path, size, number and the time
    /// of its last change. Equal descriptions are equal archives, unless a file was written in place and given its old time back.
    ///
    /// # Errors
    /// When a file is not there.
    pub fn describe(&self) -> Result<Vec<u8>, InitramfsError> {
        let mut text = Vec::new();
        for (guest_path, node) in &self.nodes {
            // Each part has its length before it, so that no two lists look the same.
            let mut put = |bytes: &[u8]| {
                text.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
                text.extend_from_slice(bytes);
            };
            put(guest_path.as_bytes());
            match node {
                Node::Dir => put(b"dir"),
                Node::Host { path, mode } | Node::Program { path, mode } => {
                    let meta = std::fs::metadata(path).map_err(|source| InitramfsError::Read {
                        path: path.clone(),
                        guest_path: guest_path.clone(),
                        source,
                    })?;
                    put(path.as_os_str().as_encoded_bytes());
                    let is_program = matches!(node, Node::Program { .. });
                    // Not the inode's change, which one more or one less link to the file is, too.
                    let (number, at) = (meta.ino(), (meta.mtime(), meta.mtime_nsec()));
                    put(format!("{mode} {is_program} {} {number} {at:?}", meta.len()).as_bytes());
                }
                Node::Bytes { bytes, mode } => {
                    put(mode.to_string().as_bytes());
                    put(bytes);
                }
                Node::Symlink { target } => put(target.as_bytes()),
                Node::Device { major, minor, mode } => {
                    put(format!("{major} {minor} {mode}").as_bytes());
                }
            }
        }
        Ok(text)
    }

    /// Reads all files and writes the archive.
    ///
    /// # Errors
    /// When a file cannot be read or is too large, or the system has no memory for the archive.
    pub fn build(&self) -> Result<Initramfs, InitramfsError> {
        let dirs = self.parents()?;
        let mut archive = Archive::new().map_err(InitramfsError::Store)?;
        for dir in &dirs {
            let kind = Kind::of(S_IFDIR | 0o755);
            archive.entry(dir, kind, 0).map_err(InitramfsError::Store)?;
        }
        let mut largest: Option<(String, u64)> = None;
        for (path, node) in &self.nodes {
            if *node == Node::Dir && dirs.contains(path) {
                continue;
            }
            let before = archive.len();
            write_node(&mut archive, path, node)?;
            let len = archive.len() - before;
            if largest.as_ref().is_none_or(|(_, most)| len > *most) {
                largest = Some((format!("/{path}"), len));
            }
        }
        let (file, len) = archive.finish().map_err(InitramfsError::Store)?;
        Ok(Initramfs {
            file: Arc::new(file),
            len,
            largest,
        })
    }

    /// Every directory that a path goes through; a file in such a place is a conflict.
    fn parents(&self) -> Result<BTreeSet<String>, InitramfsError> {
        let mut dirs = BTreeSet::new();
        for path in self.nodes.keys() {
            for (at, _) in path.match_indices('/') {
                let dir = path.get(..at).unwrap_or_default();
                match self.nodes.get(dir) {
                    None | Some(Node::Dir) => dirs.insert(dir.to_owned()),
                    Some(other) => {
                        let second = format!("the directory of /{path}");
                        return Err(InitramfsError::Conflict {
                            guest_path: dir.to_owned(),
                            first: describe(other),
                            second,
                        });
                    }
                };
            }
        }
        Ok(dirs)
    }
}

fn describe(node: &Node) -> String {
    match node {
        Node::Dir => String::from("a directory"),
        Node::Host { path, .. } | Node::Program { path, .. } => path.display().to_string(),
        Node::Bytes { bytes, .. } => format!("{} generated bytes", bytes.len()),
        Node::Symlink { target } => format!("a link to {target}"),
        Node::Device { major, minor, .. } => format!("device {major}:{minor}"),
    }
}

fn write_node(archive: &mut Archive, path: &str, node: &Node) -> Result<(), InitramfsError> {
    let (kind, content): (_, &[u8]) = match node {
        Node::Host { path: host, mode } => return write_file(archive, path, host, *mode, false),
        Node::Program { path: host, mode } => return write_file(archive, path, host, *mode, true),
        Node::Dir => (Kind::of(S_IFDIR | 0o755), &[]),
        Node::Bytes { bytes, mode } => (Kind::of(S_IFREG | mode), bytes),
        Node::Symlink { target } => (Kind::of(S_IFLNK | 0o777), target.as_bytes()),
        Node::Device { major, minor, mode } => {
            let device = (*major, *minor);
            let mode = S_IFCHR | mode;
            (Kind { mode, device }, &[])
        }
    };
    let len = u64::try_from(content.len()).unwrap_or(u64::MAX);
    let size = checked_size(Path::new(path), len)?;
    archive
        .entry(path, kind, size)
        .and_then(|()| archive.put(content))
        .and_then(|()| archive.pad())
        .map_err(InitramfsError::Store)
}

/// A host's file; of a program, only the parts that stay are read at all.
fn write_file(
    archive: &mut Archive,
    path: &str,
    host: &Path,
    mode: u32,
    is_program: bool,
) -> Result<(), InitramfsError> {
    let failed = |source| InitramfsError::Read {
        path: host.to_owned(),
        guest_path: path.to_owned(),
        source,
    };
    let file = File::open(host).map_err(failed)?;
    let whole = file.metadata().map_err(failed)?.len();
    let pieces = is_program
        .then(|| elf::slim(&ReadCache::new(&file)))
        .flatten()
        .unwrap_or_else(|| {
            vec![Piece::Copy {
                offset: 0,
                len: whole,
            }]
        });
    let len = pieces
        .iter()
        .fold(0, |len: u64, piece| len.saturating_add(piece.len()));
    let size = checked_size(host, len)?;
    archive
        .entry(path, Kind::of(S_IFREG | mode), size)
        .map_err(InitramfsError::Store)?;
    for piece in pieces {
        match piece {
            Piece::Bytes(bytes) => archive.put(&bytes).map_err(InitramfsError::Store)?,
            Piece::Copy { offset, len } => archive.copy(&file, offset, len).map_err(failed)?,
        }
    }
    archive.pad().map_err(InitramfsError::Store)
}

/// A size that the format can tell.
fn checked_size(path: &Path, len: u64) -> Result<u32, InitramfsError> {
    u32::try_from(len).map_err(|_| InitramfsError::TooLarge {
        path: path.to_owned(),
        len,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    /// The archive's listing by the cpio tool, an independent reader.
    fn cpio(archive: &Initramfs, args: &[&str], dir: &Path) -> String {
        let mut child = Command::new("cpio")
            .args(args)
            .current_dir(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("cpio is installed; `cargo xtask setup` does it");
        let mut stdin = child.stdin.take().unwrap();
        std::io::copy(&mut archive.open().unwrap(), &mut stdin).unwrap();
        drop(stdin);
        let output = child.wait_with_output().unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn a_description_follows_the_file_and_not_its_links() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("program");
        std::fs::write(&path, "one").unwrap();
        let mut builder = Builder::new();
        builder.file("/bin/program", &path, 0o755).unwrap();
        let first = builder.describe().unwrap();
        std::fs::hard_link(&path, dir.path().join("again")).unwrap();
        assert_eq!(builder.describe().unwrap(), first, "one more link");
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        file.set_modified(std::time::UNIX_EPOCH).unwrap();
        assert_ne!(builder.describe().unwrap(), first, "changed");
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "two").unwrap();
        let other = std::fs::File::options().write(true).open(&path).unwrap();
        other.set_modified(std::time::UNIX_EPOCH).unwrap();
        let replaced = builder.describe().unwrap();
        builder = Builder::new();
        builder.file("/bin/program", &path, 0o700).unwrap();
        assert_ne!(builder.describe().unwrap(), replaced, "another mode");
    }

    #[test]
    fn the_cpio_tool_reads_what_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let mut builder = Builder::new();
        builder
            .bytes("/etc/deep/er/note", b"hello".to_vec(), 0o640)
            .unwrap();
        builder.symlink("/bin/sh", "busybox").unwrap();
        builder
            .file("/data", Path::new("/etc/hostname"), 0o644)
            .unwrap();
        let archive = builder.build().unwrap();
        cpio(
            &archive,
            &[
                "-id",
                "--quiet",
                "--no-absolute-filenames",
                "etc/*",
                "data",
                "bin/*",
            ],
            dir.path(),
        );
        assert_eq!(
            std::fs::read(dir.path().join("etc/deep/er/note")).unwrap(),
            b"hello"
        );
        assert_eq!(
            std::fs::read(dir.path().join("data")).unwrap(),
            std::fs::read("/etc/hostname").unwrap()
        );
        assert_eq!(
            std::fs::read_link(dir.path().join("bin/sh")).unwrap(),
            Path::new("busybox")
        );
        let listing = cpio(&archive, &["-tv", "--quiet"], dir.path());
        assert!(
            listing
                .lines()
                .any(|line| line.starts_with("crw-------") && line.ends_with("dev/console")),
            "{listing}"
        );
    }

    #[test]
    fn a_program_brings_its_libraries() {
        let dir = tempfile::tempdir().unwrap();
        let mut builder = Builder::new();
        builder
            .binary("/init", &std::env::current_exe().unwrap())
            .unwrap();
        let archive = builder.build().unwrap();
        let listing = cpio(&archive, &["-t", "--quiet"], dir.path());
        assert!(
            listing.lines().any(|line| line.ends_with("libc.so.6")),
            "{listing}"
        );
        assert_eq!(archive.largest().unwrap().0, "/init");
    }

    #[test]
    fn a_script_brings_its_interpreter() {
        let dir = tempfile::tempdir().unwrap();
        let script = dir.path().join("s");
        std::fs::write(&script, "#!/bin/sh -e\ntrue\n").unwrap();
        let mut builder = Builder::new();
        builder.binary("/s", &script).unwrap();
        let listing = cpio(&builder.build().unwrap(), &["-t", "--quiet"], dir.path());
        assert!(listing.lines().any(|line| line == "bin/sh"), "{listing}");
    }

    #[test]
    fn what_env_is_to_start_comes_along() {
        let dir = tempfile::tempdir().unwrap();
        let script = dir.path().join("s");
        std::fs::write(&script, "#!/usr/bin/env -S LANG=C sh -e\ntrue\n").unwrap();
        let mut builder = Builder::new();
        builder.binary("/s", &script).unwrap();
        let listing = cpio(&builder.build().unwrap(), &["-t", "--quiet"], dir.path());
        for wanted in ["usr/bin/env", "bin/sh"] {
            assert!(
                listing.lines().any(|line| line.ends_with(wanted)),
                "{listing}"
            );
        }
    }

    #[test]
    fn a_script_that_could_not_start_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let script = dir.path().join("s");
        for (line, needle) in [
            (
                "#!/no/such/shell\n",
                "'/no/such/shell': it is not on this host",
            ),
            (
                "#!/usr/bin/env no-such-shell\n",
                "'no-such-shell': it is not on this host",
            ),
            ("#!/usr/bin/env python3\n", "'python3': its own library"),
        ] {
            std::fs::write(&script, line).unwrap();
            check_error(Builder::new().binary("/s", &script), needle);
        }
    }

    /// It would be its own interpreter for ever.
    #[test]
    fn a_script_that_interprets_itself_ends() {
        let dir = tempfile::tempdir().unwrap();
        let script = dir.path().join("s");
        std::fs::write(&script, format!("#!{}\n", script.display())).unwrap();
        let mut builder = Builder::new();
        builder.binary("/s", &script).unwrap();
    }

    #[track_caller]
    fn check_error(result: Result<&mut Builder, InitramfsError>, needle: &str) {
        let error = result.unwrap_err().to_string();
        assert!(error.contains(needle), "{error}");
    }

    #[test]
    fn wrong_paths_and_conflicts_are_named() {
        let mut builder = Builder::new();
        check_error(builder.bytes("/a/../b", vec![], 0o644), "plain names");
        check_error(builder.bytes("/", vec![], 0o644), "empty");
        builder.bytes("/a", b"1".to_vec(), 0o644).unwrap();
        builder.bytes("/a", b"1".to_vec(), 0o644).unwrap();
        check_error(
            builder.bytes("/a", b"2222".to_vec(), 0o644),
            "4 generated bytes",
        );
        builder.bytes("/a/b", vec![], 0o644).unwrap();
        assert!(
            builder
                .build()
                .unwrap_err()
                .to_string()
                .contains("the directory of /a/b")
        );
        check_error(
            Builder::new().binary("/x", Path::new("/no/such")),
            "/no/such",
        );
    }
}
