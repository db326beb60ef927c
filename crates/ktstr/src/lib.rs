//! A test harness for Linux process schedulers.
pub mod model;
