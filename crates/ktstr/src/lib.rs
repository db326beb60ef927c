//! A test harness for Linux process schedulers.
pub mod guest;
pub mod model;
