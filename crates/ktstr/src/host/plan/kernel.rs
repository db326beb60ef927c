//! The kernel of this run, as the environment chooses it, and the caches.

use std::ffi::OsString;

use ktstr_kernel::{Cache, DEFAULT_MIRROR, Kernel, KernelError};

use crate::host::plan::config::{Variable, cache_dir};

/// The cache of kernels: `kernels` below [`cache_dir`].
#[must_use]
pub fn default_cache() -> Cache {
    Cache::at(cache_dir().join("kernels"))
}

/// The cache of booted guests, of which tests in virtual time start copies: `templates` below [`cache_dir`].
#[must_use]
pub fn templates() -> Cache {
    Cache::at(cache_dir().join("templates"))
}

/// The kernel for this run: `KTSTR_TEST_KERNEL` or `KTSTR_KERNEL`, else the newest good entry of the cache. Never builds.
///
/// # Errors
/// When there is none; the message names the command that builds one.
pub fn resolve_test_kernel() -> Result<Kernel, KernelError> {
    ktstr_kernel::find(&default_cache(), wanted_kernel().as_deref())
}

/// What the environment names as the test kernel, if anything.
#[must_use]
pub fn wanted_kernel() -> Option<OsString> {
    // An empty variable does not hide the other one.
    Variable::TestKernel
        .value()
        .or_else(|| Variable::Kernel.value())
}

/// The base address of the mirror to use: `KTSTR_KERNEL_MIRROR`, else kernel.org's.
#[must_use]
pub fn mirror_base() -> String {
    Variable::KernelMirror
        .value()
        .and_then(|base| base.into_string().ok())
        .unwrap_or_else(|| String::from(DEFAULT_MIRROR))
}

/// Base addresses of distributions' mirrors as the user names them: `debian=URL fedora=URL`.
#[must_use]
pub fn distro_mirrors() -> Option<String> {
    Variable::DistroMirror.value()?.into_string().ok()
}
