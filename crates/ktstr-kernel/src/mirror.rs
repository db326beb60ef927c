//! Released kernels from a kernel.org-style mirror.
//!
//! Layout: `<base>/v6.x/linux-6.12.tar.xz`, and beside it `sha256sums.asc`, which lists the checksum of every archive of
//! that major version. An archive is kept under `sources` beside the cache's directory, once its checksum held.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use crate::{KernelError, Progress, failed_to};

/// List of checksums in a directory of the mirror.
const SUMS: &str = "sha256sums.asc";
/// Largest list that is read.
const MAX_SUMS: u64 = 16 << 20;
/// Largest archive that is read; 6.12 has 148 MB.
const MAX_ARCHIVE: u64 = 1 << 30;
/// How long a server may take to begin its answer.
const ANSWER_DEADLINE: Duration = Duration::from_secs(60);
/// How long a whole archive may take.
const FETCH_DEADLINE: Duration = Duration::from_secs(30 * 60);

/// A released version: `6.12` or `6.12.30`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Release(String);

impl Release {
    /// Reads a version.
    ///
    /// # Errors
    /// When it is not two or three numbers; release candidates are in git only.
    pub fn parse(text: &str) -> Result<Self, KernelError> {
        let refuse = |why| KernelError::BadVersion {
            version: text.to_owned(),
            why,
        };
        if text.contains("-rc") {
            return Err(refuse(
                "mirrors hold no archives of release candidates; build one from a source tree",
            ));
        }
        let number = |part: &str| {
            !part.is_empty() && part.len() < 5 && part.bytes().all(|byte| byte.is_ascii_digit())
        };
        let parts: Vec<&str> = text.split('.').collect();
        if matches!(parts.len(), 2 | 3) && parts.iter().all(|part| number(part)) {
            Ok(Self(text.to_owned()))
        } else {
            Err(refuse(
                "expected two or three numbers such as 6.12 or 6.12.30",
            ))
        }
    }

    /// The version as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its two or three numbers; the third of `6.12` is 0.
    #[must_use]
    pub fn numbers(&self) -> (u32, u32, u32) {
        let mut parts = self.0.split('.').map(|part| part.parse().unwrap_or(0));
        let mut next = || parts.next().unwrap_or(0);
        (next(), next(), next())
    }

    fn archive(&self) -> String {
        format!("linux-{}.tar.xz", self.0)
    }

    /// `v6.x`.
    fn directory(&self) -> String {
        let major = self.0.split('.').next().unwrap_or_default();
        format!("v{major}.x")
    }
}

/// The archive of `release`, from `sources` when it is there, else fetched from `base` and checked.
pub(crate) fn fetch(
    base: &str,
    release: &Release,
    sources: &Path,
    progress: &mut dyn Progress,
) -> Result<PathBuf, KernelError> {
    let archive = sources.join(release.archive());
    if archive.is_file() {
        return Ok(archive);
    }
    fs::create_dir_all(sources).map_err(failed_to("create", sources))?;
    let directory = format!("{}/{}", base.trim_end_matches('/'), release.directory());
    let agent = agent();
    progress.step(&format!("fetching the checksums from {directory}"));
    let sums_url = format!("{directory}/{SUMS}");
    let mut sums = String::new();
    get(&agent, &sums_url)?
        .take(MAX_SUMS)
        .read_to_string(&mut sums)
        .map_err(|source| broken(&sums_url, source))?;
    let expected = sum_of(&sums, &release.archive()).ok_or_else(|| KernelError::NotOnMirror {
        version: release.0.clone(),
        url: sums_url.clone(),
    })?;
    let url = format!("{directory}/{}", release.archive());
    progress.step(&format!("fetching {url}"));
    // The file gets its name only when its checksum held; a half one goes away with this handle.
    let mut partial =
        tempfile::NamedTempFile::new_in(sources).map_err(failed_to("create a file in", sources))?;
    let from = get(&agent, &url)?;
    let found = copy_hashed(from, &url, &mut partial, progress)?;
    if found != expected {
        return Err(KernelError::Checksum {
            url,
            expected,
            found,
        });
    }
    partial
        .persist(&archive)
        .map_err(|error| failed_to("write", &archive)(error.error))?;
    Ok(archive)
}

/// Every release of a major version that the mirror lists, oldest first.
///
/// # Errors
/// When the list cannot be fetched.
pub fn releases(base: &str, major: u32) -> Result<Vec<Release>, KernelError> {
    let url = format!("{}/v{major}.x/{SUMS}", base.trim_end_matches('/'));
    let mut sums = String::new();
    get(&agent(), &url)?
        .take(MAX_SUMS)
        .read_to_string(&mut sums)
        .map_err(|source| broken(&url, source))?;
    let mut found = listed(&sums);
    found.sort_by_key(Release::numbers);
    found.dedup();
    Ok(found)
}

fn listed(sums: &str) -> Vec<Release> {
    let names = sums
        .lines()
        .filter_map(|line| Some(line.split_once("  ")?.1));
    names
        .filter_map(|name| name.strip_prefix("linux-")?.strip_suffix(".tar.xz"))
        .filter_map(|version| Release::parse(version).ok())
        .collect()
}

pub(crate) fn agent() -> ureq::Agent {
    let config = ureq::Agent::config_builder()
        .timeout_connect(Some(ANSWER_DEADLINE))
        .timeout_recv_response(Some(ANSWER_DEADLINE))
        .timeout_global(Some(FETCH_DEADLINE))
        .build();
    ureq::Agent::new_with_config(config)
}

pub(crate) fn get(agent: &ureq::Agent, url: &str) -> Result<impl io::Read + use<>, KernelError> {
    let response = agent
        .get(url)
        .call()
        .map_err(|error| broken(url, io::Error::other(error)))?;
    Ok(response
        .into_body()
        .into_with_config()
        .limit(MAX_ARCHIVE)
        .reader())
}

pub(crate) fn copy_hashed(
    mut from: impl io::Read,
    url: &str,
    to: &mut tempfile::NamedTempFile,
    progress: &mut dyn Progress,
) -> Result<String, KernelError> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let len = from
            .read(&mut buffer)
            .map_err(|source| broken(url, source))?;
        let bytes = buffer.get(..len).unwrap_or_default();
        if bytes.is_empty() {
            return Ok(format!("{:x}", hash.finalize()));
        }
        hash.update(bytes);
        if let Err(source) = to.write_all(bytes) {
            return Err(failed_to("write", to.path())(source));
        }
        progress.tick();
        if progress.cancelled() {
            return Err(KernelError::Cancelled);
        }
    }
}

/// The checksum of `name` in a list as `sha256sum` writes it, with or without a signature around it.
fn sum_of(sums: &str, name: &str) -> Option<String> {
    let lines = sums.lines().filter_map(|line| line.split_once("  "));
    lines
        .filter(|(sum, _)| sum.len() == 64 && sum.bytes().all(|byte| byte.is_ascii_hexdigit()))
        .find(|(_, file)| *file == name)
        .map(|(sum, _)| sum.to_ascii_lowercase())
}

pub(crate) fn broken(url: &str, source: io::Error) -> KernelError {
    KernelError::Fetch {
        url: url.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_checked_before_anything_is_fetched() {
        for good in ["6.12", "6.12.30", "7.0.1"] {
            assert_eq!(Release::parse(good).unwrap().as_str(), good);
        }
        for bad in [
            "6",
            "6.12.3.4",
            "v6.12",
            "6.12/../..",
            "",
            "6..1",
            "6.12.99999",
        ] {
            let error = Release::parse(bad).unwrap_err().to_string();
            assert!(error.contains("6.12.30"), "{bad}: {error}");
        }
        let rc = Release::parse("6.14-rc3").unwrap_err().to_string();
        assert!(rc.contains("source tree"), "{rc}");
        assert_eq!(Release::parse("6.12.3").unwrap().directory(), "v6.x");
    }

    #[test]
    fn a_sum_is_found_within_a_signed_list() {
        let sum = "A".repeat(64);
        let list = format!(
            "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\n{}  linux-6.12.1.tar.xz\n{sum}  linux-6.12.tar.xz\n\
             short  linux-6.13.tar.xz\n-----BEGIN PGP SIGNATURE-----\n",
            "b".repeat(64)
        );
        assert_eq!(sum_of(&list, "linux-6.12.tar.xz"), Some("a".repeat(64)));
        assert_eq!(sum_of(&list, "linux-6.13.tar.xz"), None);
        assert_eq!(sum_of(&list, "linux-6.1"), None);
        let listed: Vec<_> = listed(&list).iter().map(Release::numbers).collect();
        assert_eq!(listed, [(6, 12, 1), (6, 12, 0), (6, 13, 0)]);
    }
}
