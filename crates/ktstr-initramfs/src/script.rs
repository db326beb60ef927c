//! What a script's first line asks for (execve(2), "Interpreter scripts"; env(1)).

use std::path::{Path, PathBuf};

/// Interpreters that are nothing without files of their own, which nobody carries to a guest.
const NEED_LIBRARIES: [&str; 5] = ["python", "perl", "ruby", "node", "php"];

/// The program of a `#!` line, and the one that `env` is to start.
pub(super) fn interpreters(head: &[u8]) -> Vec<String> {
    let line = head
        .strip_prefix(b"#!")
        .and_then(|rest| rest.split(|byte| *byte == b'\n').next())
        .and_then(|line| std::str::from_utf8(line).ok())
        .unwrap_or_default();
    let mut words = line.split_whitespace();
    let Some(program) = words.next() else {
        return Vec::new();
    };
    let mut found = vec![program.to_owned()];
    if Path::new(program)
        .file_name()
        .is_some_and(|name| name == "env")
    {
        let started = words.find(|word| !word.starts_with('-') && !word.contains('='));
        found.extend(started.map(str::to_owned));
    }
    found
}

/// Where it goes in the guest: what `env` is to find must lie in a directory that every `PATH` has.
pub(super) fn place(interpreter: &str, host: &Path) -> String {
    let searched = ["/bin", "/sbin", "/usr/bin", "/usr/sbin"].map(Path::new);
    if interpreter.contains('/') || host.parent().is_some_and(|dir| searched.contains(&dir)) {
        host.display().to_string()
    } else {
        format!("/bin/{interpreter}")
    }
}

/// Where it lies on the host.
pub(super) fn find(interpreter: &str) -> Result<PathBuf, &'static str> {
    let name = interpreter.rsplit('/').next().unwrap_or(interpreter);
    if NEED_LIBRARIES.iter().any(|known| name.starts_with(known)) {
        return Err(
            "its own library is not carried to the guest; give the program as an ELF file or a shell script",
        );
    }
    let path = if interpreter.contains('/') {
        Some(PathBuf::from(interpreter)).filter(|path| path.is_file())
    } else {
        let dirs = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&dirs)
            .map(|dir| dir.join(interpreter))
            .find(|path| path.is_file())
    };
    path.ok_or("it is not on this host; install it, or name another in the script's first line")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_env_finds_lies_on_every_path() {
        let place = |name, host| place(name, Path::new(host));
        assert_eq!(place("dash", "/usr/bin/dash"), "/usr/bin/dash");
        assert_eq!(place("own", "/opt/x/own"), "/bin/own");
        assert_eq!(place("/opt/x/own", "/opt/x/own"), "/opt/x/own");
    }

    #[test]
    fn first_lines_are_read_as_the_kernel_and_env_do() {
        for (head, expected) in [
            ("#!/bin/sh -e\ntrue", &["/bin/sh"] as &[&str]),
            ("#! /bin/bash", &["/bin/bash"]),
            ("#!/usr/bin/env bash\n", &["/usr/bin/env", "bash"]),
            ("#!/usr/bin/env -S A=b dash -e", &["/usr/bin/env", "dash"]),
            ("#!\n", &[]),
            ("plain", &[]),
        ] {
            assert_eq!(interpreters(head.as_bytes()), expected, "{head:?}");
        }
    }
}
