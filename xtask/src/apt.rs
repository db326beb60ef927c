//! Packages of Debian releases that this machine does not follow: apt-get with a source list, lists and a cache of its own.
//! The machine's apt and what is installed stay as they are.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use ktstr::host::plan::config::cache_dir;

use crate::sh;

/// Debian signs its archives with these.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
const MIRROR: &str = "http://deb.debian.org/debian";

/// One suite of Debian's archive.
#[derive(Debug)]
pub(crate) struct Suite {
    name: &'static str,
    home: PathBuf,
}

impl Suite {
    /// Reads the suite's list of packages anew.
    pub(crate) fn update(name: &'static str) -> Result<Self> {
        ensure!(
            Path::new(KEYRING).is_file(),
            "{KEYRING} is not there, so the signatures of packages of {name} cannot be checked; install debian-archive-keyring"
        );
        let suite = Self {
            name,
            home: cache_dir().join("apt").join(name),
        };
        for dir in ["lists/partial", "cache/archives/partial"] {
            let dir = suite.home.join(dir);
            fs::create_dir_all(&dir)
                .with_context(|| format!("failed to create {}", dir.display()))?;
        }
        let list = suite.home.join("sources.list");
        fs::write(
            &list,
            format!("deb [signed-by={KEYRING}] {MIRROR} {name} main\n"),
        )
        .with_context(|| format!("failed to write {}", list.display()))?;
        let mut update = suite.apt("apt-get");
        sh::logged(&format!("apt-lists-of-{name}"), update.arg("update"))?;
        Ok(suite)
    }

    fn apt(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let at = |name: &str| self.home.join(name).display().to_string();
        for option in [
            format!("Dir::Etc::sourcelist={}", at("sources.list")),
            String::from("Dir::Etc::sourceparts=/dev/null"),
            format!("Dir::State::Lists={}", at("lists")),
            format!("Dir::Cache={}", at("cache")),
            // What is installed here and what is not decides nothing.
            String::from("Dir::State::status=/dev/null"),
            // The cache belongs to one user only.
            String::from("APT::Sandbox::User=root"),
        ] {
            command.args(["-o", &option]);
        }
        command
    }

    /// The version of a package that it has.
    pub(crate) fn version(&self, package: &str) -> Result<String> {
        let output = self.apt("apt-cache").args(["madison", package]).output();
        let output = output.context("failed to run apt-cache")?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        match newest_of_madison(&text) {
            Some(version) => Ok(version.to_owned()),
            None => bail!("Debian's {} has no package {package} any more", self.name),
        }
    }

    /// Packages whose names match a regular expression.
    pub(crate) fn names(&self, pattern: &str) -> Result<Vec<String>> {
        let mut search = self.apt("apt-cache");
        let output = search.args(["search", "--names-only", pattern]).output();
        let output = output.context("failed to run apt-cache")?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let names = text.lines().filter_map(|line| line.split(' ').next());
        Ok(names.map(str::to_owned).collect())
    }

    /// Unpacks packages below `into`, without installing them; where `patterns` are given, only the files that match one.
    pub(crate) fn unpack(&self, packages: &[&str], patterns: &[&str], into: &Path) -> Result<()> {
        fs::create_dir_all(into).with_context(|| format!("failed to create {}", into.display()))?;
        let work = tempfile::tempdir_in(&self.home).context("failed to create a directory")?;
        let mut download = self.apt("apt-get");
        download
            .arg("download")
            .args(packages)
            .current_dir(work.path());
        sh::logged(&format!("download-of-{}", packages[0]), &mut download)?;
        let debs = fs::read_dir(work.path()).context("failed to list what was downloaded")?;
        let mut found = 0;
        for deb in debs.filter_map(Result::ok) {
            unpack_one(&deb.path(), patterns, into)?;
            found += 1;
        }
        ensure!(
            found == packages.len(),
            "apt-get left {found} packages of {}",
            packages.join(" ")
        );
        Ok(())
    }
}

fn unpack_one(deb: &Path, patterns: &[&str], into: &Path) -> Result<()> {
    if patterns.is_empty() {
        let mut unpack = Command::new("dpkg-deb");
        return sh::logged("dpkg-deb", unpack.arg("-x").arg(deb).arg(into));
    }
    let mut reader = Command::new("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(deb)
        .stdout(Stdio::piped())
        .spawn()
        .context("failed to run dpkg-deb")?;
    let tar = reader.stdout.take().context("dpkg-deb has no output")?;
    let unpacked = Command::new("tar")
        .args(["-x", "--wildcards", "-C"])
        .arg(into)
        .args(patterns)
        .stdin(tar)
        .output();
    let read = reader.wait().context("failed to wait for dpkg-deb")?;
    let unpacked = unpacked.context("failed to run tar")?;
    ensure!(
        read.success() && unpacked.status.success(),
        "{} cannot be unpacked: {}",
        deb.display(),
        String::from_utf8_lossy(&unpacked.stderr)
    );
    Ok(())
}

/// The version in the first line of `apt-cache madison`, which lists the newest first.
fn newest_of_madison(text: &str) -> Option<&str> {
    text.lines().next()?.split('|').nth(1).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_version_is_listed_first() {
        let text = " linux-source-7.2 | 7.2.12-1~bpo13+1 | http://example.invalid trixie-backports/main amd64 Packages\n \
                     linux-source-7.2 | 7.2.11-1~bpo13+1 | http://example.invalid trixie-backports/main amd64 Packages\n";
        assert_eq!(newest_of_madison(text), Some("7.2.12-1~bpo13+1"));
        assert_eq!(newest_of_madison(""), None);
    }
}
