//! Whole VMs of the kvm engine, with guests of a dozen instructions.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "tests")]

mod baremetal;
#[path = "../shared/cards.rs"]
mod cards;
mod clocks;
mod devices;
mod guest;
mod linux;
mod performance;
mod shape;
#[path = "../shared/shape.rs"]
mod shared_shape;
mod stock_kernel;
mod sysfs;
