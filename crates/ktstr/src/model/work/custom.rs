//! The test author's own loop.

use std::fmt;
use std::time::Duration;

/// What a custom loop sees of its worker.
pub trait WorkLoop {
    /// Whether the worker has been asked to stop; a loop that does not look is killed after a grace time.
    fn stopping(&self) -> bool;
    /// This worker's number in its group.
    fn index(&self) -> usize;
    /// An iteration that did `units` of work is over.
    fn tick(&mut self, units: u64);
    /// Sleeps; what passes after the end asked for is wake latency.
    fn sleep(&mut self, time: Duration);
}

/// A loop of the test author, by name.
///
/// It runs in a forked process (or a thread of one): it may allocate, but should not print and must not rely on other
/// threads of the test.
#[derive(Clone, Copy)]
pub struct CustomWork {
    /// Name in reports.
    pub name: &'static str,
    /// The loop.
    pub run: fn(&mut dyn WorkLoop),
}

impl CustomWork {
    /// A loop and its name.
    pub const fn new(name: &'static str, run: fn(&mut dyn WorkLoop)) -> Self {
        Self { name, run }
    }
}

impl fmt::Debug for CustomWork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CustomWork").field(&self.name).finish()
    }
}

/// By name: the addresses of functions say nothing.
impl PartialEq for CustomWork {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}
