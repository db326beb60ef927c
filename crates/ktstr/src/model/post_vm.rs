//! What a callback after a VM's end may return.

use std::fmt;

use super::claim::Verdict;
use super::verdict::AssertResult;

/// What the result of a `post_vm` function may hold: nothing, a [`Verdict`], a whole [`AssertResult`] or a skip.
pub trait IntoPostVm {
    /// The findings; a skip when the run could not be judged.
    fn into_post_vm(self) -> AssertResult;
}

impl IntoPostVm for () {
    fn into_post_vm(self) -> AssertResult {
        AssertResult::pass()
    }
}

impl IntoPostVm for Verdict {
    fn into_post_vm(self) -> AssertResult {
        self.into_result()
    }
}

impl IntoPostVm for AssertResult {
    fn into_post_vm(self) -> AssertResult {
        self
    }
}

impl IntoPostVm for PostVmSkip {
    fn into_post_vm(self) -> AssertResult {
        AssertResult::skip(self.reason)
    }
}

/// This run cannot be judged, for a reason that is not a fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PostVmSkip {
    reason: String,
}

impl PostVmSkip {
    /// With its reason.
    pub fn new(reason: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
        }
    }
}

impl fmt::Display for PostVmSkip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl std::error::Error for PostVmSkip {}

/// Makes the test a skip when a callback returns it as its error: `return Err(post_vm_skip("no capture came"))`. A failure, of
/// the guest, the host or the other callback, stays one.
pub fn post_vm_skip(reason: impl Into<String>) -> anyhow::Error {
    PostVmSkip::new(reason).into()
}

/// A callback for [`KtstrTestEntry::post_vm`](super::entry::KtstrTestEntry::post_vm) of an entry that is built by hand, from
/// any function `fn(&VmResult) -> anyhow::Result<impl IntoPostVm>`.
#[macro_export]
macro_rules! post_vm {
    ($callback:expr) => {{
        fn callback(
            vm: &$crate::model::result::VmResult,
        ) -> $crate::prelude::Result<$crate::model::verdict::AssertResult> {
            let returned = ($callback)(vm)?;
            ::core::result::Result::Ok($crate::model::post_vm::IntoPostVm::into_post_vm(returned))
        }
        callback
    }};
}
