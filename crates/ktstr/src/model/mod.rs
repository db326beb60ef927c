//! Data that host and guest share.

pub mod call;
pub mod checks;
pub mod claim;
pub mod cpuset;
pub mod ctx;
mod declare;
pub mod device;
pub mod entry;
pub mod kernel_filter;
pub mod names;
pub mod payload;
pub mod phase;
pub mod post_vm;
pub mod report;
pub mod result;
pub mod role;
mod rules;
pub mod scenario;
pub mod series;
pub mod snapshot;
pub mod stage;
pub mod stats;
pub mod stats_client;
pub mod transport;
pub mod verdict;
pub mod work;
