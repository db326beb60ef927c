//! A kernel that was found, fetched or built, and its label.

use std::ffi::OsString;
use std::path::Path;

use ktstr_kernel::{Kernel, sanitize_kernel_label};

/// A kernel to run tests on. Keeps it in the cache while it lives.
#[derive(Debug)]
pub(crate) struct Resolved {
    /// What `KTSTR_KERNEL` is set to; `None` leaves the variable alone.
    pub(crate) value: Option<String>,
    /// For directories and tables.
    pub(crate) label: String,
    /// For humans and JSON.
    pub(crate) image: std::path::PathBuf,
    _keep: Option<Kernel>,
}

/// What has test binaries take this kernel.
pub(crate) fn environment(kernel: &str) -> [(&'static str, OsString); 2] {
    [
        ("KTSTR_KERNEL", kernel.into()),
        // It would win over the one that was asked for.
        ("KTSTR_TEST_KERNEL", OsString::new()),
    ]
}

impl Resolved {
    pub(super) fn cached(kernel: Kernel) -> Self {
        Self {
            value: Some(kernel.label()),
            label: kernel.label(),
            image: kernel.image.clone(),
            _keep: Some(kernel),
        }
    }

    /// Of another cache than the one in which tests look keys up.
    pub(super) fn cached_elsewhere(kernel: Kernel) -> Self {
        Self {
            value: Some(kernel.image.display().to_string()),
            ..Self::cached(kernel)
        }
    }

    pub(super) fn image(path: &Path, label: &str) -> Self {
        Self {
            value: Some(path.display().to_string()),
            label: sanitize_kernel_label(label),
            image: path.to_owned(),
            _keep: None,
        }
    }
}

/// Gives kernels of one label labels of their own: directories, tables and reports are by label.
pub(crate) fn label_apart(kernels: &mut [Resolved]) {
    let labels = |kernels: &[Resolved]| -> Vec<String> {
        kernels.iter().map(|kernel| kernel.label.clone()).collect()
    };
    let before = labels(kernels);
    let is_twin = |labels: &[String], label: &String| {
        labels.iter().filter(|other| *other == label).count() > 1
    };
    for kernel in kernels.iter_mut() {
        let parent = kernel
            .value
            .as_deref()
            .map(Path::new)
            .and_then(Path::parent);
        if is_twin(&before, &kernel.label)
            && let Some(parent) = parent.and_then(Path::file_name)
        {
            let parent = parent.to_string_lossy();
            kernel.label = sanitize_kernel_label(&format!("{parent}_{}", kernel.label));
        }
    }
    // One that was named twice, or whose parents are alike, too.
    let mut taken: Vec<String> = Vec::new();
    for kernel in kernels.iter_mut() {
        let base = kernel.label.clone();
        let mut number = 2;
        while taken.contains(&kernel.label) {
            kernel.label = format!("{base}-{number}");
            number += 1;
        }
        taken.push(kernel.label.clone());
    }
    for (kernel, before) in kernels.iter().zip(before) {
        if kernel.label != before {
            eprintln!(
                "cargo ktstr: kernel {} is {}",
                kernel.label,
                kernel.image.display()
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_of_one_name_are_told_apart() {
        let labelled = |paths: &[&str]| -> Vec<String> {
            let image = |path: &&str| {
                let name = path.rsplit('/').next().unwrap_or_default();
                Resolved::image(Path::new(path), name)
            };
            let mut kernels: Vec<Resolved> = paths.iter().map(image).collect();
            label_apart(&mut kernels);
            kernels.into_iter().map(|kernel| kernel.label).collect()
        };
        assert_eq!(labelled(&["/a/linux", "/a/other"]), ["linux", "other"]);
        assert_eq!(labelled(&["/a/linux", "/b/linux"]), ["a_linux", "b_linux"]);
        assert_eq!(
            labelled(&["/a/linux", "/a/linux"]),
            ["a_linux", "a_linux-2"]
        );
        assert_eq!(
            labelled(&["/x/a/linux", "/y/a/Linux", "/z/a_linux"]),
            ["a_linux", "a_linux-2", "a_linux-3"]
        );
    }
}
