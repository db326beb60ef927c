//! Newest kernels of distributions: which packages hold them, found in the distribution's own listings.
//!
//! Debian and Ubuntu list packages with their checksums (`Packages.xz`), Arch has a database (`core.db`), Fedora's directory is
//! read as a browser shows it. Nothing is unpacked here.

use std::fmt;
use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::failed_to;
use crate::mirror::{agent, broken, copy_hashed, get};
use crate::{KernelError, Progress};

/// Largest listing that is read, unpacked; Debian's has 60 MB.
const MAX_LISTING: u64 = 512 << 20;

/// A distribution whose newest kernel can be asked for by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Distro {
    /// Debian unstable.
    Debian,
    /// Ubuntu's next release.
    Ubuntu,
    /// Ubuntu's kernel for nodes of Google's Kubernetes Engine.
    Gke,
    /// Fedora rawhide.
    Fedora,
    /// Arch Linux.
    Arch,
}

/// One file to fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package {
    /// Its address below the mirror's base.
    pub path: String,
    /// What the listing says of it; Fedora's directory says nothing, its packages are signed inside.
    pub sha256: Option<String>,
}

impl Package {
    /// The file's name.
    #[must_use]
    pub fn file(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or_default()
    }
}

impl Distro {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Arch,
        Self::Debian,
        Self::Fedora,
        Self::Gke,
        Self::Ubuntu,
    ];

    /// The word that names it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Debian => "debian",
            Self::Ubuntu => "ubuntu",
            Self::Gke => "gke",
            Self::Fedora => "fedora",
            Self::Arch => "arch",
        }
    }

    /// Whom a word names.
    #[must_use]
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|distro| distro.name() == name)
    }

    const fn public_mirror(self) -> &'static str {
        match self {
            Self::Debian => "http://deb.debian.org/debian",
            Self::Ubuntu | Self::Gke => "http://archive.ubuntu.com/ubuntu",
            Self::Fedora => "https://dl.fedoraproject.org/pub/fedora/linux",
            Self::Arch => "https://geo.mirror.pkgbuild.com",
        }
    }

    /// Its mirror's base address: from a table such as `debian=URL fedora=URL`, else the one that apt uses on a host of that
    /// distribution, else the public one.
    #[must_use]
    pub fn mirror(self, table: Option<&str>) -> String {
        let base = table
            .and_then(|text| of_table(text, self.name()))
            .or_else(|| self.of_apt(Path::new("/etc/apt")))
            .unwrap_or_else(|| self.public_mirror().to_owned());
        base.trim_end_matches('/').to_owned()
    }

    /// The first address in apt's sources whose last part is the distribution's name.
    fn of_apt(self, etc: &Path) -> Option<String> {
        let archive = match self {
            Self::Debian => "debian",
            Self::Ubuntu | Self::Gke => "ubuntu",
            Self::Fedora | Self::Arch => return None,
        };
        let parts = fs::read_dir(etc.join("sources.list.d"))
            .into_iter()
            .flatten();
        let mut files: Vec<PathBuf> = parts.flatten().map(|entry| entry.path()).collect();
        files.push(etc.join("sources.list"));
        files.sort();
        let texts = files
            .iter()
            .filter_map(|path| fs::read_to_string(path).ok());
        let all: String = texts.collect::<Vec<_>>().join("\n");
        let lines = all
            .lines()
            .filter(|line| !line.trim_start().starts_with('#'));
        let mut words = lines.flat_map(str::split_whitespace);
        words
            .find(|word| {
                let bare = word.trim_end_matches('/');
                bare.starts_with("http") && bare.rsplit('/').next() == Some(archive)
            })
            .map(str::to_owned)
    }

    /// Where the listing lies below the base.
    #[must_use]
    pub const fn listing(self) -> &'static str {
        match self {
            Self::Debian => "dists/sid/main/binary-amd64/Packages.xz",
            Self::Ubuntu => "dists/devel/main/binary-amd64/Packages.xz",
            Self::Gke => "dists/noble-updates/main/binary-amd64/Packages.xz",
            Self::Fedora => "development/rawhide/Everything/x86_64/os/Packages/k/",
            Self::Arch => "core/os/x86_64/core.db",
        }
    }

    /// The packages of its newest kernel, those that every kernel needs before those that only some do.
    fn packages(self, listing: &str) -> Vec<Package> {
        match self {
            Self::Debian => of_debian(listing, "linux-image-amd64"),
            Self::Ubuntu => of_debian(listing, "linux-image-generic"),
            Self::Gke => of_debian(listing, "linux-image-gke"),
            Self::Fedora => of_directory(listing, self.listing()),
            Self::Arch => of_arch(listing),
        }
    }

    /// Asks the mirror at `base`.
    ///
    /// # Errors
    /// When it cannot be reached or lists no kernel.
    pub fn newest(
        self,
        base: &str,
        progress: &mut dyn Progress,
    ) -> Result<Vec<Package>, KernelError> {
        let url = format!("{base}/{}", self.listing());
        progress.step(&format!(
            "fetching the list of {self}'s packages from {url}"
        ));
        let text = read_listing(self, &url)?;
        let packages = self.packages(&text);
        if packages.is_empty() {
            return Err(broken(
                &url,
                io::Error::other(format!("it lists no kernel of {self}")),
            ));
        }
        Ok(packages)
    }

    /// Fetches a package into `dir`, unless it is there.
    ///
    /// # Errors
    /// When it cannot be fetched, or is not what the listing says.
    pub fn fetch(
        self,
        base: &str,
        package: &Package,
        dir: &Path,
        progress: &mut dyn Progress,
    ) -> Result<PathBuf, KernelError> {
        let file = dir.join(package.file());
        if file.is_file() {
            return Ok(file);
        }
        fs::create_dir_all(dir).map_err(failed_to("create", dir))?;
        let url = format!("{base}/{}", package.path);
        progress.step(&format!("fetching {url}"));
        let mut partial =
            tempfile::NamedTempFile::new_in(dir).map_err(failed_to("create a file in", dir))?;
        let found = copy_hashed(get(&agent(), &url)?, &url, &mut partial, progress)?;
        if let Some(expected) = package.sha256.clone().filter(|sum| *sum != found) {
            return Err(KernelError::Checksum {
                url,
                expected,
                found,
            });
        }
        partial
            .persist(&file)
            .map_err(|error| failed_to("write", &file)(error.error))?;
        Ok(file)
    }
}

impl fmt::Display for Distro {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// `debian=URL fedora=URL`
fn of_table(text: &str, name: &str) -> Option<String> {
    let mut pairs = text
        .split([' ', ','])
        .filter_map(|pair| pair.split_once('='));
    pairs
        .find(|(key, _)| *key == name)
        .map(|(_, url)| url.to_owned())
}

fn read_listing(distro: Distro, url: &str) -> Result<String, KernelError> {
    let from = get(&agent(), url)?;
    let mut text = String::new();
    let read = match distro {
        Distro::Debian | Distro::Ubuntu | Distro::Gke => liblzma::read::XzDecoder::new(from)
            .take(MAX_LISTING)
            .read_to_string(&mut text),
        Distro::Fedora => from.take(MAX_LISTING).read_to_string(&mut text),
        Distro::Arch => descriptions(from).map(|found| {
            text = found;
            text.len()
        }),
    };
    read.map_err(|source| broken(url, source))?;
    Ok(text)
}

/// The descriptions of Arch's kernel and its headers, out of the packed database.
fn descriptions(mut from: impl io::Read + Send) -> io::Result<String> {
    let mut tar = Command::new("tar")
        .args([
            "-xzO",
            "--wildcards",
            "linux-[0-9]*/desc",
            "linux-headers-[0-9]*/desc",
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let stdin = tar.stdin.take();
    let output = std::thread::scope(|scope| {
        scope.spawn(move || stdin.map(|mut stdin| io::copy(&mut from, &mut stdin)));
        tar.wait_with_output()
    })?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// One paragraph of a `Packages` file.
struct Stanza<'t> {
    name: &'t str,
    depends: &'t str,
    package: Package,
}

fn stanza(text: &str) -> Option<Stanza<'_>> {
    let field = |key: &str| {
        let mut lines = text.lines();
        lines.find_map(|line| line.strip_prefix(key)?.strip_prefix(": "))
    };
    Some(Stanza {
        name: field("Package")?,
        depends: field("Depends").unwrap_or_default(),
        package: Package {
            path: field("Filename")?.to_owned(),
            sha256: field("SHA256").map(str::to_owned),
        },
    })
}

/// What the package that always depends on the newest kernel depends on: image and configuration first, modules last.
fn of_debian(listing: &str, meta: &str) -> Vec<Package> {
    let kernels = |text: &&str| text.starts_with("Package: linux-");
    let known: Vec<Stanza<'_>> = listing
        .split("\n\n")
        .filter(kernels)
        .filter_map(stanza)
        .collect();
    let find = |name: &str| known.iter().find(|stanza| stanza.name == name);
    let mut found: Vec<&Stanza<'_>> = Vec::new();
    let mut open: Vec<&Stanza<'_>> = find(meta).into_iter().collect();
    while let Some(stanza) = open.pop() {
        if found.iter().any(|known| known.name == stanza.name) {
            continue;
        }
        found.push(stanza);
        let names = stanza
            .depends
            .split(", ")
            .filter_map(|one| one.split([' ', '|']).next());
        open.extend(names.filter(|name| of_one_kernel(name)).filter_map(find));
    }
    found.retain(|stanza| stanza.name != meta);
    found.sort_by_key(|stanza| (stanza.name.starts_with("linux-modules"), stanza.name));
    found
        .into_iter()
        .map(|stanza| stanza.package.clone())
        .collect()
}

/// `linux-image-7.2.13-amd64` and its like; neither tools nor packages without a version.
fn of_one_kernel(name: &str) -> bool {
    let kinds = ["image-", "binary-", "base-", "modules-"];
    let rest = name.strip_prefix("linux-");
    let rest = rest.and_then(|rest| kinds.iter().find_map(|kind| rest.strip_prefix(kind)));
    rest.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
}

/// `kernel-core` of the greatest version in a directory that a web server shows, and the modules of the same.
fn of_directory(listing: &str, directory: &str) -> Vec<Package> {
    let links = listing.split("href=\"").skip(1);
    let links = links.filter_map(|rest| Some(rest.split_once('"')?.0));
    let names: Vec<&str> = links.filter_map(|link| link.rsplit('/').next()).collect();
    let version = |name: &str, package: &str| -> Option<String> {
        let rest = name.strip_prefix(package)?.strip_suffix(".x86_64.rpm")?;
        rest.starts_with(|c: char| c.is_ascii_digit())
            .then(|| rest.to_owned())
    };
    let cores = names
        .iter()
        .filter_map(|name| version(name, "kernel-core-"));
    let Some(newest) = cores.max_by_key(|text| numbers(text)) else {
        return Vec::new();
    };
    let of_newest =
        ["kernel-core-", "kernel-modules-core-"].map(|name| format!("{name}{newest}.x86_64.rpm"));
    let there = of_newest
        .into_iter()
        .filter(|name| names.contains(&name.as_str()));
    there
        .map(|name| Package {
            path: format!("{directory}{name}"),
            sha256: None,
        })
        .collect()
}

/// Every number of a version, in order.
fn numbers(version: &str) -> Vec<u64> {
    let parts = version.split(|c: char| !c.is_ascii_digit());
    parts.filter_map(|part| part.parse().ok()).collect()
}

/// From descriptions of Arch's database, one after another: kernel first, then its headers, which have the configuration.
fn of_arch(listing: &str) -> Vec<Package> {
    let after = |text: &str, key: &str| {
        let mut lines = text.lines().skip_while(|line| *line != key).skip(1);
        lines.next().map(str::to_owned)
    };
    let each = listing.split("%FILENAME%\n").skip(1);
    let each = each.filter_map(|text| {
        let file = text.lines().next()?;
        let package = Package {
            path: format!("core/os/x86_64/{file}"),
            sha256: after(text, "%SHA256SUM%"),
        };
        Some((after(text, "%NAME%")?, package))
    });
    let mut named: Vec<(String, Package)> = each.collect();
    named.retain(|(name, _)| ["linux", "linux-headers"].contains(&name.as_str()));
    named.sort_by(|a, b| a.0.cmp(&b.0));
    named.into_iter().map(|(_, package)| package).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(distro: Distro, listing: &str) -> Vec<String> {
        let packages = distro.packages(listing);
        packages
            .iter()
            .map(|package| package.file().to_owned())
            .collect()
    }

    /// As it stood in unstable in November 2026, shortened.
    const DEBIAN: &str = include_str!("../testdata/listings/debian.txt");
    /// The other three are in the form that these distributions publish; names and sums are made up.
    const UBUNTU: &str = include_str!("../testdata/listings/ubuntu.txt");
    const FEDORA: &str = include_str!("../testdata/listings/fedora.html");
    const ARCH: &str = include_str!("../testdata/listings/arch.txt");

    #[test]
    fn debians_kernel_comes_in_parts() {
        assert_eq!(
            files(Distro::Debian, DEBIAN),
            [
                "linux-base-7.2.13+deb14-amd64_7.2.13-1_amd64.deb",
                "linux-binary-7.2.13+deb14-amd64_7.2.13-1_amd64.deb",
                "linux-image-7.2.13+deb14-amd64_7.2.13-1_amd64.deb",
                "linux-modules-7.2.13+deb14-amd64_7.2.13-1_amd64.deb",
            ]
        );
        let first = &Distro::Debian.packages(DEBIAN)[0];
        assert!(first.path.starts_with("pool/main/l/linux/"), "{first:?}");
        assert_eq!(first.sha256.as_ref().map(String::len), Some(64));
    }

    #[test]
    fn ubuntus_flavours_have_one_listing() {
        assert_eq!(
            files(Distro::Ubuntu, UBUNTU),
            [
                "linux-image-6.14.0-29-generic_6.14.0-29.29_amd64.deb",
                "linux-modules-6.14.0-29-generic_6.14.0-29.29_amd64.deb",
            ]
        );
        assert_eq!(
            files(Distro::Gke, UBUNTU),
            [
                "linux-image-6.8.0-1033-gke_6.8.0-1033.37_amd64.deb",
                "linux-modules-6.8.0-1033-gke_6.8.0-1033.37_amd64.deb",
            ]
        );
        assert!(files(Distro::Debian, UBUNTU).is_empty());
    }

    #[test]
    fn fedoras_newest_is_the_greatest_number_not_the_last_word() {
        assert_eq!(
            files(Distro::Fedora, FEDORA),
            [
                "kernel-core-6.18.0-0.rc10.53.fc44.x86_64.rpm",
                "kernel-modules-core-6.18.0-0.rc10.53.fc44.x86_64.rpm",
            ]
        );
        assert!(files(Distro::Fedora, "<html>no kernels</html>").is_empty());
    }

    #[test]
    fn archs_database_has_kernel_and_headers() {
        assert_eq!(
            files(Distro::Arch, ARCH),
            [
                "linux-6.17.8.arch1-1-x86_64.pkg.tar.zst",
                "linux-headers-6.17.8.arch1-1-x86_64.pkg.tar.zst",
            ]
        );
        assert!(Distro::Arch.packages(ARCH)[0].sha256.is_some());
    }

    #[test]
    fn a_mirror_is_named_by_the_user_or_by_apt() {
        let table = "fedora=http://a.invalid/f/,debian=http://b.invalid/debian";
        assert_eq!(
            of_table(table, "debian").as_deref(),
            Some("http://b.invalid/debian")
        );
        assert_eq!(of_table(table, "arch"), None);
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("sources.list.d")).unwrap();
        let text = "Types: deb\n# http://c.invalid/debian\nURIs: http://d.invalid/debian/\n";
        fs::write(dir.path().join("sources.list.d/debian.sources"), text).unwrap();
        let of = |distro: Distro| distro.of_apt(dir.path());
        assert_eq!(
            of(Distro::Debian).as_deref(),
            Some("http://d.invalid/debian/")
        );
        assert_eq!(of(Distro::Ubuntu), None);
        assert_eq!(of(Distro::Fedora), None);
    }

    #[test]
    fn every_name_is_its_own() {
        for distro in Distro::ALL {
            assert_eq!(Distro::of_name(distro.name()), Some(distro));
        }
        assert_eq!(Distro::of_name("slackware"), None);
    }
}
