//! Where a run leaves its files.

use std::path::PathBuf;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use ktstr_kernel::{Kernel, KernelError};

use crate::host::evidence::artifacts::{clear_stale, sidecar_dir, test_dir, vmcore_path};
use crate::host::plan::planned::Test;

/// When a test began.
#[derive(Debug)]
pub(in crate::host) struct Started {
    pub(in crate::host) monotonic: Instant,
    /// Since the epoch, in seconds.
    pub(in crate::host) wall_s: u64,
}

impl Started {
    pub(in crate::host) fn now() -> Self {
        let wall_s = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        Self {
            monotonic: Instant::now(),
            wall_s,
        }
    }
}

/// Of one run.
#[derive(Debug)]
pub(in crate::host) struct Place {
    /// For the test's artifacts.
    pub(in crate::host) dir: PathBuf,
    /// When the run began.
    pub(in crate::host) started: Started,
    /// The kernel that was found; none for a test on the host.
    pub(in crate::host) kernel_image: Option<PathBuf>,
    /// Files of an earlier run that could not be removed.
    pub(in crate::host) warnings: Vec<String>,
}

impl Place {
    /// Removes what an earlier run of `test` left: whatever comes of this one, those files are not its own.
    pub(in crate::host) fn prepare(test: &Test<'_>, kernel: &Result<Kernel, KernelError>) -> Self {
        let Test { entry, config, .. } = *test;
        let started = Started::now();
        let label = kernel
            .as_ref()
            .map_or_else(|_| String::from("no-kernel"), Kernel::label);
        let dir = test_dir(config, &sidecar_dir(config, &label), entry.name);
        let cleared = clear_stale(&dir, entry.name, config.attempt);
        let kernel = kernel.as_ref().ok().filter(|_| !entry.host_only);
        Self {
            dir,
            started,
            kernel_image: kernel.map(|kernel| kernel.image.clone()),
            warnings: cleared
                .err()
                .map(|error| format!("{error}: {}", error.source))
                .into_iter()
                .collect(),
        }
    }

    /// Where a failing guest's memory goes, when it is wanted.
    pub(in crate::host) fn vmcore(&self, test: &Test<'_>) -> PathBuf {
        vmcore_path(&self.dir, test.entry.name)
    }
}
