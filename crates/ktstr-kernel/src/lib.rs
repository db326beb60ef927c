#![doc = include_str!("../README.md")]
//!
//! # Details
//!
//! An entry of the [`Cache`] is a directory `<cache>/<key>` with `bzImage`, `vmlinux`, `vmlinux.debug`, `config` and
//! `metadata.json`. It appears by rename, whole. A user of one holds a shared lock on its `.lock` file, a process that builds or
//! removes one an exclusive lock.
//!
//! [`find`] needs no more than a few crates. Fetching and building are the feature `build`, on by default. This crate reads no
//! environment and knows nothing of tests or VMs.

#[cfg(feature = "build")]
mod build;
mod cache;
#[cfg(feature = "build")]
mod config;
#[cfg(feature = "build")]
mod distro;
#[cfg(feature = "build")]
mod edit;
#[cfg(feature = "build")]
mod kept;
#[cfg(feature = "build")]
mod mirror;
mod release;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

#[cfg(feature = "build")]
pub use build::{BuildOptions, Progress, Source, build, build_changed};
pub use cache::{Cache, Lease, Leftover, Metadata, WorkDir, bytes_below, create_for_all};
#[cfg(feature = "build")]
pub use distro::{Distro, Package};
#[cfg(feature = "build")]
pub use edit::{Changes, Edit, EditFile};
#[cfg(feature = "build")]
pub use mirror::{Release, releases};

/// Where released kernels come from, unless the user names another mirror.
pub const DEFAULT_MIRROR: &str = "https://cdn.kernel.org/pub/linux/kernel";

/// File of the boot image in a cache entry.
const IMAGE: &str = "bzImage";
/// File of the kernel's ELF with BTF in a cache entry.
const VMLINUX: &str = "vmlinux";
/// File of the same ELF with its DWARF in a cache entry.
const VMLINUX_DEBUG: &str = "vmlinux.debug";

/// The ELF with DWARF beside a cached boot image, for tools that open a vmcore.
#[must_use]
pub fn with_debug_information(image: &Path) -> Option<PathBuf> {
    let vmlinux = image.with_file_name(VMLINUX_DEBUG);
    vmlinux.is_file().then_some(vmlinux)
}

/// A kernel that can boot a test.
#[derive(Debug)]
pub struct Kernel {
    /// The boot image.
    pub image: PathBuf,
    /// The ELF with symbols and BTF, when it is known.
    pub vmlinux: Option<PathBuf>,
    /// Keeps the cache entry while a VM uses it.
    _lease: Option<Lease>,
    label: String,
}

impl Kernel {
    /// Its release name, where the boot image tells it.
    #[must_use]
    pub fn release(&self) -> Option<String> {
        release::release_of(&self.image)
    }

    /// A short name for directories and messages.
    #[must_use]
    pub fn label(&self) -> String {
        self.label.clone()
    }
}

/// For `map_err`: what was tried, on which path.
pub(crate) fn failed_to(
    what: &'static str,
    path: &Path,
) -> impl FnOnce(std::io::Error) -> KernelError + use<> {
    let path = path.to_owned();
    move |source| KernelError::Cache { what, path, source }
}

/// A kernel that cannot be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KernelError {
    /// There is none.
    #[error("no test kernel was found in {cache}; run `cargo ktstr kernel build`, or set KTSTR_KERNEL to an image", cache = cache.display())]
    None {
        /// Where it was looked for.
        cache: PathBuf,
    },
    /// `KTSTR_KERNEL` names nothing usable.
    #[error(
        "KTSTR_KERNEL is '{value}': {why}; expected a boot image, a built source tree, or a cache key (have: {keys}); `cargo ktstr kernel build` makes a kernel"
    )]
    BadOverride {
        /// The variable's value.
        value: String,
        /// What is wrong.
        why: String,
        /// Keys in the cache.
        keys: String,
    },
    /// The cache cannot be used.
    #[error("failed to {what} '{path}'", path = path.display())]
    Cache {
        /// What was tried.
        what: &'static str,
        /// On which path.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// An option of the fragment is not in the resulting configuration.
    #[error("the kernel configuration dropped {options}; a dependency is missing or this source does not have it. Configuration: {path}", options = options.join(", "), path = path.display())]
    Config {
        /// The options with their wanted values.
        options: Vec<String>,
        /// The resulting configuration.
        path: PathBuf,
    },
    /// A step of the build failed.
    #[error("{step} failed ({status}); see {log}, last lines:\n{tail}", log = log.display())]
    Build {
        /// The step.
        step: String,
        /// Its exit status.
        status: String,
        /// Its output.
        log: PathBuf,
        /// The end of it.
        tail: String,
    },
    /// A file of edits or a patch that does not fit.
    #[error("{path}: {why}", path = path.display())]
    BadChange {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// Text that is not a version of a released kernel.
    #[error("'{version}' is not a released kernel version: {why}")]
    BadVersion {
        /// The text.
        version: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The mirror does not list this version.
    #[error(
        "there is no Linux {version} in {url}; choose another version, or another mirror with KTSTR_KERNEL_MIRROR"
    )]
    NotOnMirror {
        /// The version.
        version: String,
        /// The list that was read.
        url: String,
    },
    /// A download failed.
    #[error("failed to fetch {url}; choose another mirror with KTSTR_KERNEL_MIRROR")]
    Fetch {
        /// What was fetched.
        url: String,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// A download is not what the mirror's list says.
    #[error(
        "{url} has SHA-256 {found}, the mirror's list says {expected}; nothing was kept, try again or another mirror"
    )]
    Checksum {
        /// What was fetched.
        url: String,
        /// The listed checksum.
        expected: String,
        /// The checksum of what came.
        found: String,
    },
    /// A build would fill the disk.
    #[error(
        "{path} has {free_mib} MiB free, a kernel build needs {need_mib} MiB; free some, or set KTSTR_CACHE_DIR to a directory on another disk", path = path.display()
    )]
    NoSpace {
        /// The cache.
        path: PathBuf,
        /// What is free.
        free_mib: u64,
        /// What is needed.
        need_mib: u64,
    },
    /// The user stopped it; nothing was kept.
    #[error("stopped by the user; nothing was kept")]
    Cancelled,
    /// The source is not there.
    #[error("kernel source '{path}' is not there; {hint}", path = path.display())]
    NoSource {
        /// Where it was expected.
        path: PathBuf,
        /// How to get it.
        hint: &'static str,
    },
}

/// The kernel that `wanted` names (a boot image, a built source tree or a key of the cache), else the newest good entry of the
/// cache. Never builds.
///
/// # Errors
/// When there is none; the message names the command that builds one.
pub fn find(cache: &Cache, wanted: Option<&OsStr>) -> Result<Kernel, KernelError> {
    match wanted {
        Some(value) => resolve_override(cache, &value.to_string_lossy()),
        None => cache.newest()?.ok_or_else(|| KernelError::None {
            cache: cache.root().to_owned(),
        }),
    }
}

fn resolve_override(cache: &Cache, value: &str) -> Result<Kernel, KernelError> {
    let path = Path::new(value);
    if path.is_file() {
        let vmlinux = path
            .parent()
            .map(|dir| dir.join(VMLINUX))
            .filter(|vmlinux| vmlinux.is_file());
        return Ok(plain(path.to_owned(), vmlinux));
    }
    let image = path.join("arch/x86/boot/bzImage");
    if image.is_file() {
        return Ok(plain(
            image,
            Some(path.join(VMLINUX)).filter(|vmlinux| vmlinux.is_file()),
        ));
    }
    if !value.contains('/')
        && let Some(kernel) = cache.entry(value)?
    {
        return Ok(kernel);
    }
    let is_key = cache.all_keys().iter().any(|key| key == value);
    let damage = is_key.then(|| cache.inspect(value).err()).flatten();
    let why = if let Some(damage) = damage {
        format!("the cache's entry of that key is damaged ({damage}); build it anew")
    } else if path.is_dir() {
        String::from("this tree has no arch/x86/boot/bzImage yet; build it")
    } else {
        String::from("there is no such file")
    };
    Err(KernelError::BadOverride {
        value: value.to_owned(),
        why,
        keys: cache.keys().join(", "),
    })
}

fn plain(image: PathBuf, vmlinux: Option<PathBuf>) -> Kernel {
    let name = image
        .ancestors()
        .nth(if image.ends_with("arch/x86/boot/bzImage") {
            4
        } else {
            0
        });
    let name = name
        .and_then(Path::file_name)
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    Kernel {
        image,
        vmlinux,
        _lease: None,
        label: sanitize_kernel_label(&name),
    }
}

/// Lower-case letters, digits and `.`, `_`, `-`; anything else becomes `_`.
#[must_use]
pub fn sanitize_kernel_label(label: &str) -> String {
    let clean = |c: char| {
        if c.is_ascii_alphanumeric() || "._-".contains(c) {
            c.to_ascii_lowercase()
        } else {
            '_'
        }
    };
    let label: String = label.chars().map(clean).collect();
    let label = label.trim_start_matches('.');
    if label.is_empty() {
        String::from("kernel")
    } else {
        label.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_file_names() {
        assert_eq!(
            sanitize_kernel_label("6.12-RC1 (my/tree)"),
            "6.12-rc1__my_tree_"
        );
        assert_eq!(sanitize_kernel_label("../.."), "_..");
        assert_eq!(sanitize_kernel_label(""), "kernel");
    }

    #[test]
    fn a_wrong_override_says_what_would_be_right() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path().join("cache"));
        let error = resolve_override(&cache, "/no/such")
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("/no/such") && error.contains("cache key"),
            "{error}"
        );
        let tree = resolve_override(&cache, dir.path().to_str().unwrap())
            .unwrap_err()
            .to_string();
        assert!(tree.contains("bzImage"), "{tree}");
    }
}
