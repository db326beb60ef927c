//! Guests booted on the tcg engine. They need a kernel (`cargo xtask kernel`), QEMU and busybox (`cargo xtask setup`), and
//! fail with that command where one is missing.

mod boot;
mod control;
mod guest;
mod orphan;
