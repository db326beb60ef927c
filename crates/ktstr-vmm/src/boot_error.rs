//! Why a guest cannot be booted.

use std::io;

/// Kernel, initrd or tables do not fit the guest.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BootError {
    /// A file cannot be read.
    #[error("failed to read the {what}")]
    Unreadable {
        /// Its role.
        what: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The kernel is neither a bzImage nor an ELF file for x86-64.
    #[error("the kernel image is malformed: {reason}")]
    Malformed {
        /// What is wrong with it.
        reason: String,
    },
    /// A bzImage without the 64-bit entry point (`XLF_KERNEL_64`).
    #[error("the bzImage has no 64-bit entry point; build the kernel with CONFIG_64BIT")]
    NoLongEntry,
    /// The kernel needs more memory than lies below the device hole.
    #[error(
        "the kernel needs memory up to {end:#x} and low memory ends at {memory_end:#x}; give the VM more memory"
    )]
    KernelTooLarge {
        /// First byte after what it needs.
        end: u64,
        /// First byte after low memory.
        memory_end: u64,
    },
    /// The kernel would lie over boot data.
    #[error(
        "the kernel starts at {start:#x}, below the first free address {lowest:#x}; link it higher"
    )]
    KernelTooLow {
        /// Its lowest address.
        start: u64,
        /// The lowest address that is free.
        lowest: u64,
    },
    /// The initrd would lie over the kernel.
    #[error(
        "the initrd has {len:#x} bytes and {room:#x} are free above the kernel's end at {kernel_end:#x}; give the VM more memory"
    )]
    InitrdTooLarge {
        /// Its length.
        len: u64,
        /// Free bytes.
        room: u64,
        /// First byte after the kernel.
        kernel_end: u64,
    },
    /// The command line is too long.
    #[error("the command line has {len} bytes, at most {max} are taken")]
    CmdlineTooLong {
        /// Its length.
        len: u64,
        /// The limit.
        max: u64,
    },
    /// The ACPI tables outgrew their place.
    #[error("the ACPI tables have {len:#x} bytes and {max:#x} are reserved for them")]
    TablesTooLarge {
        /// Their length.
        len: u64,
        /// The limit.
        max: u64,
    },
}
