//! The monitor against a real guest: what it reads is compared with what the guest says of itself, and with drgn.
//!
//! The tests boot Linux in QEMU's TCG. They need a kernel (`cargo xtask kernel` makes one, or `KTSTR_TEST_KERNEL` names
//! one), `qemu-system-x86_64` (or what `KTSTR_QEMU` names), a static `busybox`, `bpftool` and `cc`; each says what it misses and fails.
#![expect(clippy::unwrap_used, reason = "a test's helper fails by panicking")]

mod books;
mod bpf;
mod btf;
mod command;
mod drgn;
mod dump;
mod facts;
mod hostile;
mod initrd;
mod kaslr;
mod kernels;
mod lab;
mod live;
mod locate;
mod log;
mod qemu;
mod sched;
