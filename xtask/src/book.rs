//! `cargo xtask book`: the guide as web pages.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::sh;

/// The version that the pages are made and checked with.
const MDBOOK: &str = "0.5.4";

/// Builds the pages and says where they are.
pub(crate) fn run() -> Result<()> {
    let mdbook = mdbook()?;
    let source = sh::root().join("book");
    let pages = sh::target().join("book");
    let mut build = Command::new(&mdbook);
    build
        .arg("build")
        .arg(&source)
        .arg("--dest-dir")
        .arg(&pages);
    sh::logged("book", &mut build)?;
    // It only warns of what it leaves out.
    let log = fs::read_to_string(sh::log_path("book")?)?;
    ensure!(
        !log.contains("WARN") && !log.contains("ERROR"),
        "mdbook complains:\n{log}"
    );
    for chapter in chapters(&source.join("src"))? {
        let page = pages.join(&chapter).with_extension("html");
        ensure!(
            page.is_file(),
            "{chapter} has no page {}; name it in SUMMARY.md",
            page.display()
        );
    }
    println!("{}", pages.join("index.html").display());
    Ok(())
}

/// Every chapter that lies there, whether or not the summary names it.
fn chapters(dir: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(dir).with_context(|| format!("failed to read {}", dir.display()))?;
    let mut names = Vec::new();
    for entry in entries {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.ends_with(".md") && name != "SUMMARY.md" {
            names.push(name);
        }
    }
    Ok(names)
}

/// Finds mdbook, or installs it below the target directory.
fn mdbook() -> Result<PathBuf> {
    let root = sh::target().join("tools");
    let own = root.join("bin/mdbook");
    for candidate in [PathBuf::from("mdbook"), own.clone()] {
        let said = Command::new(&candidate).arg("--version").output();
        if said.is_ok_and(|said| String::from_utf8_lossy(&said.stdout).contains(MDBOOK)) {
            return Ok(candidate);
        }
    }
    let root = root.display().to_string();
    // A debug build is there in half the time, and twenty pages are nothing to it.
    let mut install = sh::cargo(&[
        "install",
        "--debug",
        "--locked",
        "--no-default-features",
        "--features",
        "search",
        "--root",
        &root,
        "--version",
        MDBOOK,
        "mdbook",
    ]);
    install.env("CARGO_TARGET_DIR", sh::target().join("tools-build"));
    sh::logged("install-mdbook", &mut install)?;
    Ok(own)
}
