//! What `--kernel` takes. Pure: nothing is fetched or built here.

use std::fmt;
use std::path::{Path, PathBuf};

use ktstr_kernel::{Distro, Release};

/// For `--help` and messages.
pub(crate) const FORMS: &str = "a version (6.12.30), a series (6.12: its newest release), a range (6.12..6.14), \
    a source tree (./linux), an image (./bzImage), a source archive (./linux-6.12.tar.xz), a package (./x.deb, ./x.rpm), \
    git+URL#tag=v6.12 (or branch=, rev=), the newest of a distribution (arch, debian, fedora, gke, ubuntu), or a key from `cargo ktstr kernel list`";

/// One form of a kernel on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum KernelSpec {
    /// A boot image.
    Image(PathBuf),
    /// A source tree.
    Tree(PathBuf),
    /// A source archive.
    Archive(PathBuf),
    /// A local .deb or .rpm.
    Package(PathBuf),
    /// A commit of a repository.
    Git { url: String, at: GitRef },
    /// Exactly this release.
    Release(Release),
    /// The newest release of it.
    Series(Series),
    /// From a to b, both included.
    Range(Bound, Bound),
    /// Debian's source package; no word of the command line names it, `kernel build` takes it when none is given.
    DebianSource,
    /// The newest kernel package of a distribution.
    Newest(Distro),
    /// An entry of the cache.
    Key(String),
}

/// `6.12`
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Series {
    pub(crate) major: u32,
    pub(crate) minor: u32,
}

impl fmt::Display for Series {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}.{}", self.major, self.minor)
    }
}

/// One end of a range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Bound {
    Series(Series),
    Release(Release),
}

impl Bound {
    fn numbers(&self) -> (u32, u32, u32) {
        match self {
            Self::Series(series) => (series.major, series.minor, 0),
            Self::Release(release) => release.numbers(),
        }
    }

    /// Its series.
    pub(crate) fn series(&self) -> Series {
        let (major, minor, _) = self.numbers();
        Series { major, minor }
    }
}

/// Which commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum GitRef {
    Tag(String),
    Branch(String),
    Rev(String),
}

/// Text that names no kernel.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' names no kernel: {why}")]
pub(crate) struct SpecError {
    text: String,
    why: String,
}

impl KernelSpec {
    /// Reads one argument of `--kernel`; looks at the file system for the kind of a path.
    ///
    /// # Errors
    /// When it has none of the forms, or names a file that is not there.
    pub(crate) fn parse(text: &str) -> Result<Self, SpecError> {
        let refuse = |why: String| SpecError {
            text: text.to_owned(),
            why,
        };
        if let Some(rest) = text.strip_prefix("git+") {
            return parse_git(rest).map_err(refuse);
        }
        let is_package = [".deb", ".rpm"].iter().any(|end| text.ends_with(end));
        if text.contains('/') || text == "." || text == ".." || is_package {
            return parse_path(Path::new(text)).map_err(refuse);
        }
        if let Some((from, to)) = text.split_once("..") {
            return parse_range(from, to).map_err(refuse);
        }
        if let Some(distro) = Distro::of_name(text) {
            return Ok(Self::Newest(distro));
        }
        if text.starts_with(|c: char| c.is_ascii_digit()) {
            return match parse_bound(text) {
                Ok(Bound::Series(series)) => Ok(Self::Series(series)),
                Ok(Bound::Release(release)) => Ok(Self::Release(release)),
                Err(why) => Err(refuse(why)),
            };
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        if !text.is_empty() && !text.starts_with('.') && text.chars().all(plain) {
            return Ok(Self::Key(text.to_owned()));
        }
        Err(refuse(format!("expected {FORMS}")))
    }
}

/// `6.12` is the series; `6.12.0` its first release, which archives call 6.12.
fn parse_bound(text: &str) -> Result<Bound, String> {
    let release = Release::parse(text).map_err(|error| error.to_string())?;
    let (major, minor, _) = release.numbers();
    match text.split('.').nth(2) {
        None => Ok(Bound::Series(Series { major, minor })),
        Some("0") => Release::parse(&format!("{major}.{minor}"))
            .map(Bound::Release)
            .map_err(|error| error.to_string()),
        Some(_) => Ok(Bound::Release(release)),
    }
}

fn parse_range(from: &str, to: &str) -> Result<KernelSpec, String> {
    let (from, to) = (parse_bound(from)?, parse_bound(to)?);
    if from.series().major != to.series().major {
        return Err(String::from(
            "both ends of a range must have the same major version; give two ranges",
        ));
    }
    let backwards = match &to {
        Bound::Series(series) => from.series() > *series,
        Bound::Release(_) => from.numbers() > to.numbers(),
    };
    if backwards {
        return Err(String::from(
            "the range runs backwards; put the older end first",
        ));
    }
    Ok(KernelSpec::Range(from, to))
}

fn parse_path(path: &Path) -> Result<KernelSpec, String> {
    let name = path
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    // Runners start tests in other directories.
    let path = path
        .canonicalize()
        .map_err(|error| format!("{}: {error}", path.display()))?;
    if path.is_dir() {
        return if path.join("Makefile").is_file() {
            Ok(KernelSpec::Tree(path))
        } else {
            Err(String::from(
                "this directory has no Makefile; name a Linux source tree",
            ))
        };
    }
    Ok(if name.ends_with(".deb") || name.ends_with(".rpm") {
        KernelSpec::Package(path)
    } else if name.contains(".tar") {
        KernelSpec::Archive(path)
    } else {
        KernelSpec::Image(path)
    })
}

fn parse_git(rest: &str) -> Result<KernelSpec, String> {
    const EXPECTED: &str = "expected git+URL#tag=NAME, #branch=NAME or #rev=SHA";
    let (url, at) = rest.split_once('#').ok_or(EXPECTED)?;
    let (kind, name) = at.split_once('=').ok_or(EXPECTED)?;
    // Both reach git's command line.
    if url.is_empty() || url.starts_with('-') || name.is_empty() || name.starts_with('-') {
        return Err(EXPECTED.to_owned());
    }
    let name = name.to_owned();
    let at = match kind {
        "tag" => GitRef::Tag(name),
        "branch" => GitRef::Branch(name),
        "rev" => GitRef::Rev(name),
        _ => return Err(EXPECTED.to_owned()),
    };
    Ok(KernelSpec::Git {
        url: url.to_owned(),
        at,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn release(text: &str) -> Release {
        Release::parse(text).unwrap()
    }

    #[track_caller]
    fn refuses(text: &str, needle: &str) {
        let error = KernelSpec::parse(text).unwrap_err().to_string();
        assert!(error.contains(needle) && error.contains(text), "{error}");
    }

    #[test]
    fn versions_series_and_ranges() {
        let series = |minor| Series { major: 6, minor };
        assert_eq!(
            KernelSpec::parse("6.12"),
            Ok(KernelSpec::Series(series(12)))
        );
        assert_eq!(
            KernelSpec::parse("6.12.3"),
            Ok(KernelSpec::Release(release("6.12.3")))
        );
        assert_eq!(
            KernelSpec::parse("6.12.0"),
            Ok(KernelSpec::Release(release("6.12")))
        );
        assert_eq!(
            KernelSpec::parse("6.12..6.14"),
            Ok(KernelSpec::Range(
                Bound::Series(series(12)),
                Bound::Series(series(14))
            ))
        );
        assert_eq!(
            KernelSpec::parse("6.12.3..6.12"),
            Ok(KernelSpec::Range(
                Bound::Release(release("6.12.3")),
                Bound::Series(series(12))
            ))
        );
        refuses("6.14..6.12", "backwards");
        refuses("5.15..6.1", "same major");
        refuses("6.14-rc1", "source tree");
        refuses("6", "6.12.30");
    }

    #[test]
    fn paths_by_what_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).display().to_string();
        for name in ["bzImage", "k.deb", "linux-6.12.tar.xz"] {
            std::fs::write(at(name), "").unwrap();
        }
        assert!(matches!(
            KernelSpec::parse(&at("bzImage")),
            Ok(KernelSpec::Image(_))
        ));
        assert!(matches!(
            KernelSpec::parse(&at("k.deb")),
            Ok(KernelSpec::Package(_))
        ));
        assert!(matches!(
            KernelSpec::parse(&at("linux-6.12.tar.xz")),
            Ok(KernelSpec::Archive(_))
        ));
        refuses(&at("none"), "No such file");
        refuses("gone.rpm", "No such file");
        refuses(&dir.path().display().to_string(), "no Makefile");
        std::fs::write(at("Makefile"), "").unwrap();
        assert!(matches!(
            KernelSpec::parse(&dir.path().display().to_string()),
            Ok(KernelSpec::Tree(_))
        ));
    }

    #[test]
    fn git_and_keys() {
        assert_eq!(
            KernelSpec::parse("git+https://example.invalid/l.git#tag=v6.12"),
            Ok(KernelSpec::Git {
                url: "https://example.invalid/l.git".into(),
                at: GitRef::Tag("v6.12".into())
            })
        );
        refuses("git+https://example.invalid/l.git", "#tag=");
        refuses("git+x#rev=--upload-pack=y", "#rev=");
        assert_eq!(
            KernelSpec::parse("linux-6.12-ab12"),
            Ok(KernelSpec::Key("linux-6.12-ab12".into()))
        );
        assert_eq!(
            KernelSpec::parse("debian"),
            Ok(KernelSpec::Newest(Distro::Debian))
        );
        assert_eq!(
            KernelSpec::parse("fedora"),
            Ok(KernelSpec::Newest(Distro::Fedora))
        );
        refuses("a b", "expected a version");
    }
}
