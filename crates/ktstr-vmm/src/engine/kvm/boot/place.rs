//! Bytes into guest memory.

use vm_memory::{Bytes as _, GuestAddress, GuestMemoryMmap};

use crate::boot_error::BootError;

/// Places `bytes` at `gpa`; an error where that is not all memory.
pub(super) fn write(memory: &GuestMemoryMmap<()>, gpa: u64, bytes: &[u8]) -> Result<(), BootError> {
    memory
        .write_slice(bytes, GuestAddress(gpa))
        .map_err(|_| BootError::KernelTooLarge {
            end: gpa + bytes.len() as u64,
            memory_end: gpa,
        })
}
