//! Whole VMs of the kvm engine, with guests of a dozen instructions.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "tests")]

mod baremetal;
#[path = "../shared/cards.rs"]
mod cards;
mod devices;
mod guest;
mod linux;
mod performance;
mod stock_kernel;
mod sysfs;
