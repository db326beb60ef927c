//! An initramfs (newc) out of programs of this machine.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// An archive in the making.
#[derive(Default)]
pub(crate) struct Initrd {
    bytes: Vec<u8>,
    known: BTreeSet<String>,
    inode: u32,
}

impl Initrd {
    fn entry(&mut self, path: &str, mode: u32, data: &[u8]) {
        self.inode += 1;
        let name = path.trim_start_matches('/');
        let fields = [
            self.inode,
            mode,
            0,
            0,
            1,
            0,
            u32::try_from(data.len()).unwrap(),
            0,
            0,
            0,
            0,
            u32::try_from(name.len() + 1).unwrap(),
            0,
        ];
        self.bytes.extend(b"070701");
        for field in fields {
            self.bytes.extend(format!("{field:08x}").bytes());
        }
        self.bytes.extend(name.bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(data);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    /// A directory and those above it.
    pub(crate) fn dir(&mut self, path: &str) -> &mut Self {
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        for end in 1..=parts.len() {
            let part = parts[..end].join("/");
            if self.known.insert(part.clone()) {
                self.entry(&part, 0o040_755, &[]);
            }
        }
        self
    }

    pub(crate) fn file(&mut self, path: &str, data: &[u8]) -> &mut Self {
        let parent = Path::new(path)
            .parent()
            .unwrap()
            .to_str()
            .unwrap()
            .to_owned();
        self.dir(&parent);
        if self.known.insert(path.to_owned()) {
            self.entry(path, 0o100_755, data);
        }
        self
    }

    /// A program and the libraries that it is linked with.
    pub(crate) fn program(&mut self, path: &str, source: &Path) -> &mut Self {
        self.file(path, &std::fs::read(source).unwrap());
        let libraries = Command::new("ldd").arg(source).output().unwrap();
        for word in String::from_utf8_lossy(&libraries.stdout).split_whitespace() {
            if word.starts_with('/') {
                self.file(word, &std::fs::read(word).unwrap());
            }
        }
        self
    }

    pub(crate) fn write(&mut self, path: &Path) {
        self.entry("TRAILER!!!", 0, &[]);
        std::fs::write(path, &self.bytes).unwrap();
    }
}

/// Where a tool lies.
pub(crate) fn tool(name: &str) -> PathBuf {
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':')
        .chain(["/usr/sbin", "/sbin"])
        .map(|dir| Path::new(dir).join(name))
        .find(|candidate| {
            std::fs::metadata(candidate)
                .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
        })
        .unwrap_or_else(|| panic!("{name} is missing; `cargo xtask setup` installs it"))
}
