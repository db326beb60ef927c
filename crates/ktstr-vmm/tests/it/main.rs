//! Guests booted on the tcg engine. They need a kernel (`cargo xtask kernel`), QEMU and busybox (`cargo xtask setup`), and
//! fail with that command where one is missing.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::panic,
    clippy::expect_used,
    reason = "a test may panic"
)]

mod boot;
mod cards;
mod control;
mod guest;
mod orphan;
#[path = "../shared/program.rs"]
mod program;
mod saved;
mod shape;
#[path = "../shared/cards.rs"]
mod shared_cards;
#[path = "../shared/shape.rs"]
mod shared_shape;
mod virtual_time;
