//! The guest's end.

use rustix::system::{RebootCommand, reboot};

/// Powers the guest off. Returns only if the kernel refuses; then there is nothing better than to end init, which panics
/// the kernel and so ends the guest all the same.
pub(crate) fn off() -> ! {
    rustix::fs::sync();
    let _ = reboot(RebootCommand::PowerOff);
    std::process::exit(1)
}
