//! Captures of a guest's state by name: where they are kept, and how a test reads them.

mod bridge;
mod event;
mod map_name;
mod store;
mod view;

pub use bridge::{AccessorState, BridgeGuard, SnapshotBridge, current_bridge};
pub use event::BridgeEvent;
pub use map_name::{MapNameError, find_map};
pub use store::{MAX_EVENTS, MAX_REPORTS, MissingStatsReason, SnapshotEntry, is_periodic_tag};
pub use view::{Snapshot, SnapshotError, SnapshotField, SnapshotMap};

/// Watches that one scenario may have; the fourth slot is the framework's own.
pub const MAX_USER_WATCHES: usize = 3;
