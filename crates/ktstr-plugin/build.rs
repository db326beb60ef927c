//! Compiles the plugin, a dynamic library of its own, so that crates that depend on this one have its bytes.
//!
//! Cargo gives a library's users no shared object, so rustc is called directly. The plugin uses std alone.

use std::path::PathBuf;
use std::process::{Command, exit};

fn main() {
    println!("cargo::rerun-if-changed=plugin");
    println!("cargo::rerun-if-changed=src/gate.rs");
    println!("cargo::rerun-if-changed=src/options.rs");
    println!("cargo::rerun-if-changed=src/report.rs");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").unwrap_or_default());
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let target = std::env::var("TARGET").unwrap_or_default();
    let library = out.join("libktstr_plugin.so");
    let status = Command::new(rustc)
        .args(["--crate-type", "cdylib", "--crate-name", "ktstr_plugin"])
        .args(["--edition", "2024", "--target", &target])
        .args([
            "-C",
            "opt-level=3",
            "-C",
            "panic=abort",
            "-C",
            "strip=symbols",
        ])
        .arg("-o")
        .arg(&library)
        .arg("plugin/lib.rs")
        .status();
    match status {
        Ok(status) if status.success() => {}
        Ok(status) => {
            eprintln!("rustc could not build the emulator's plugin: {status}");
            exit(1);
        }
        Err(error) => {
            eprintln!("rustc could not be started for the emulator's plugin: {error}");
            exit(1);
        }
    }
}
