//! Versions of a published scheduler: their list, and their binaries.
//!
//! The list is that of crates.io's sparse index (The Cargo Book, "Registry Index"), which cargo asks as well. Binaries are built by
//! `cargo install`, once, and kept in the cache.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use cargo_metadata::semver::Version;
use ktstr::host::plan::config::cache_dir;
use ktstr_kernel::Cache;
use serde::Deserialize;

use super::Candidate;
use crate::project::cargo;

/// Where the index is.
const INDEX: &str = "https://index.crates.io";
/// How long it may take to answer.
const DEADLINE: Duration = Duration::from_secs(60);
/// More than the file of any crate has.
const MOST_BYTES: u64 = 16 << 20;

/// A line of a crate's file in the index, as far as it matters here.
#[derive(Debug, Deserialize)]
struct Line {
    vers: Version,
    yanked: bool,
}

/// The versions between two, oldest first, those two included; and whether the older one is the good one.
///
/// # Errors
/// When the index cannot be read, or does not have both.
pub(super) fn between(name: &str, good: &str, bad: &str) -> Result<(Vec<Candidate>, bool)> {
    let url = format!("{INDEX}/{}", place(name)?);
    let ends = [version(good)?, version(bad)?];
    let text = fetch(&url).with_context(|| format!("the versions of {name} cannot be read"))?;
    choose(name, &text, &ends)
}

fn version(text: &str) -> Result<Version> {
    Version::parse(text)
        .with_context(|| format!("invalid version '{text}'; expected one such as 1.2.3"))
}

fn fetch(url: &str) -> Result<String> {
    let config = ureq::Agent::config_builder()
        .timeout_global(Some(DEADLINE))
        .build();
    let answer = ureq::Agent::new_with_config(config)
        .get(url)
        .call()
        .with_context(|| format!("{url} does not answer as it should"))?;
    let body = answer.into_body().into_with_config().limit(MOST_BYTES);
    body.read_to_string()
        .with_context(|| format!("{url} broke off"))
}

fn choose(name: &str, index: &str, [good, bad]: &[Version; 2]) -> Result<(Vec<Candidate>, bool)> {
    let lines = index.lines().filter(|line| !line.is_empty());
    let lines: Vec<Line> = lines
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()
        .with_context(|| format!("the index of {name} is not understood"))?;
    for end in [good, bad] {
        if !lines.iter().any(|line| line.vers == *end) {
            let mut known: Vec<&Version> = lines.iter().map(|line| &line.vers).collect();
            known.sort();
            let known: Vec<String> = known.iter().map(ToString::to_string).collect();
            bail!(
                "{name} has no version {end}; there are: {}",
                known.join(", ")
            );
        }
    }
    let (old, new) = if good < bad { (good, bad) } else { (bad, good) };
    if old == new {
        bail!("both ends are {old}");
    }
    // What was withdrawn is tried only where the user names it.
    let is_wanted = |line: &&Line| {
        let is_end = line.vers == *good || line.vers == *bad;
        let is_plain = !line.yanked && line.vers.pre.is_empty();
        line.vers >= *old && line.vers <= *new && (is_end || is_plain)
    };
    let mut versions: Vec<&Version> = lines
        .iter()
        .filter(is_wanted)
        .map(|line| &line.vers)
        .collect();
    versions.sort();
    let candidates = versions.iter().map(|version| Candidate {
        id: version.to_string(),
        name: format!("{name} {version}"),
    });
    Ok((candidates.collect(), good < bad))
}

/// A crate's file in the index.
fn place(name: &str) -> Result<String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let begins_well = name.starts_with(|c: char| c.is_ascii_alphabetic());
    if !begins_well || !name.chars().all(plain) {
        bail!("'{name}' is not the name of a crate; give one such as scx_rusty");
    }
    let name = name.to_ascii_lowercase();
    Ok(match name.len() {
        len @ (1 | 2) => format!("{len}/{name}"),
        3 => format!("3/{}/{name}", &name[..1]),
        _ => format!("{}/{}/{name}", &name[..2], &name[2..4]),
    })
}

/// Builds versions of one crate, which share what they have in common.
#[derive(Debug)]
pub(super) struct Installer {
    name: String,
    root: PathBuf,
    /// Of all versions; goes with this value.
    build: tempfile::TempDir,
}

impl Installer {
    /// One for the crate of that name.
    ///
    /// # Errors
    /// When the cache cannot be written.
    pub(super) fn new(name: &str) -> Result<Self> {
        let root = cache_dir().join("schedulers");
        fs::create_dir_all(&root)
            .with_context(|| format!("failed to create {}", root.display()))?;
        let build = tempfile::Builder::new()
            .prefix(".build-")
            .tempdir_in(&root)
            .with_context(|| format!("failed to create a directory in {}", root.display()))?;
        let name = name.to_owned();
        Ok(Self { name, root, build })
    }

    /// The binary of a version, from the cache or built.
    ///
    /// # Errors
    /// When it does not build, or has no binary of the crate's name.
    pub(super) fn install(&self, version: &str) -> Result<PathBuf> {
        let key = format!("{}-{version}", self.name);
        let home = self.root.join(&key);
        let program = home.join("bin").join(&self.name);
        let _lock = Cache::at(self.root.clone())
            .lock_exclusive(&key, || eprintln!("  waiting for another build of {key} …"))?;
        if program.is_file() {
            return Ok(program);
        }
        let mut command = cargo();
        command
            .args(["install", "--locked", "--debug", "--quiet", "--root"])
            .arg(&home)
            .arg(format!("{}@{version}", self.name))
            .current_dir(&self.root)
            .env("CARGO_TARGET_DIR", self.build.path())
            .env("CARGO_PROFILE_DEV_DEBUG", "0")
            // Without any, an emulated CPU takes half a minute to load a scheduler.
            .env("CARGO_PROFILE_DEV_OPT_LEVEL", "1");
        if std::env::var_os("BPF_CLANG").is_none()
            && let Some(clang) = versioned_clang(&std::env::var_os("PATH").unwrap_or_default())
        {
            command.env("BPF_CLANG", clang);
        }
        let status = command.status().context("failed to run cargo")?;
        if !status.success() {
            bail!("it does not build; see the compiler output above");
        }
        if !program.is_file() {
            bail!("it has no binary named {}", self.name);
        }
        Ok(program)
    }
}

/// The newest `clang-N` where there is no plain `clang`, which builds of BPF programs ask for.
fn versioned_clang(path: &std::ffi::OsStr) -> Option<String> {
    let dirs: Vec<PathBuf> = std::env::split_paths(path).collect();
    if dirs.iter().any(|dir| dir.join("clang").is_file()) {
        return None;
    }
    let names = dirs
        .iter()
        .filter_map(|dir| fs::read_dir(dir).ok())
        .flatten();
    let numbers = names.filter_map(|entry| number_of(&entry.ok()?.path()));
    numbers.max().map(|number| format!("clang-{number}"))
}

fn number_of(program: &Path) -> Option<u32> {
    let name = program.file_name()?.to_str()?;
    name.strip_prefix("clang-")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const INDEX: &str = r#"{"name":"scx_a","vers":"1.1.2","deps":[],"cksum":"","features":{},"yanked":false}
{"name":"scx_a","vers":"1.0.9","deps":[],"cksum":"","features":{},"yanked":false}
{"name":"scx_a","vers":"1.1.1","deps":[],"cksum":"","features":{},"yanked":true}
{"name":"scx_a","vers":"1.1.0","deps":[],"cksum":"","features":{},"yanked":false}
{"name":"scx_a","vers":"1.1.2-rc1","deps":[],"cksum":"","features":{},"yanked":false}
{"name":"scx_a","vers":"1.1.10","deps":[],"cksum":"","features":{},"yanked":false}
"#;

    fn ids(good: &str, bad: &str) -> (Vec<String>, bool) {
        let ends = [good, bad].map(|text| version(text).unwrap());
        let (candidates, old_is_good) = choose("scx_a", INDEX, &ends).unwrap();
        let ids = candidates.into_iter().map(|candidate| candidate.id);
        (ids.collect(), old_is_good)
    }

    #[test]
    fn versions_between_two_come_in_order() {
        let list = ["1.0.9", "1.1.0", "1.1.2", "1.1.10"]
            .map(String::from)
            .to_vec();
        assert_eq!(ids("1.0.9", "1.1.10"), (list.clone(), true));
        assert_eq!(ids("1.1.10", "1.0.9"), (list, false));
        let withdrawn = ["1.1.1", "1.1.2"].map(String::from).to_vec();
        assert_eq!(ids("1.1.2", "1.1.1"), (withdrawn, false));
    }

    #[test]
    fn wrong_versions_are_told_with_those_that_exist() {
        let error = |good: &str, bad: &str| {
            let ends = [good, bad].map(|text| version(text).unwrap());
            let error = choose("scx_a", INDEX, &ends).unwrap_err();
            format!("{error:#}")
        };
        let short = version("1.1").unwrap_err().to_string();
        assert!(short.contains("invalid version '1.1'"), "{short}");
        let missing = error("1.0.0", "1.1.2");
        assert!(missing.contains("no version 1.0.0"), "{missing}");
        assert!(
            missing.contains("1.0.9, 1.1.0, 1.1.1, 1.1.2-rc1, 1.1.2, 1.1.10"),
            "{missing}"
        );
        assert!(error("1.1.2", "1.1.2").contains("both ends"));
    }

    #[test]
    fn a_crates_file_lies_where_the_index_says() {
        for (name, expected) in [
            ("a", "1/a"),
            ("ab", "2/ab"),
            ("abc", "3/a/abc"),
            ("scx_lavd", "sc/x_/scx_lavd"),
            ("Inflector", "in/fl/inflector"),
        ] {
            assert_eq!(place(name).unwrap(), expected);
        }
        for wrong in ["", "../x", "a/b", "-x"] {
            assert!(place(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_plain_clang_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["clang-9", "clang-19", "clang-format"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        let found = || versioned_clang(dir.path().as_os_str());
        assert_eq!(found().as_deref(), Some("clang-19"));
        fs::write(dir.path().join("clang"), "").unwrap();
        assert_eq!(found(), None);
    }
}
