//! What KVM's ioctls say, as errors of this crate.

use std::io;

use crate::error::Error;

/// Turns what an ioctl said into our error.
pub(super) fn failed(what: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> Error {
    move |error| Error::System {
        what,
        source: io::Error::from_raw_os_error(error.errno()),
    }
}
