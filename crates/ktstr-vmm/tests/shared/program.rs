//! Programs that tests write and run.

use std::fs;
use std::path::Path;
use std::process::Command;

/// A program that can be run at once. Another process makes it: one that this process writes, a process that another thread forks
/// meanwhile has open for writing, and such a file is not executed (ETXTBSY).
pub(crate) fn write_program(path: &Path, script: &str) {
    let text = path.with_extension("text");
    fs::write(&text, script).expect("a directory that can be written");
    let made = Command::new("install")
        .args(["-m", "755"])
        .args([text.as_path(), path])
        .status()
        .expect("install of coreutils");
    assert!(made.success(), "{made}");
}
