//! What a run leaves for its user: message, dump, timeline, record, memory image.

pub mod artifacts;
pub mod clock;
pub(in crate::host) mod coverage;
pub(in crate::host) mod dump;
pub(in crate::host) mod dump_text;
pub mod figures;
pub(in crate::host) mod gathered;
pub(in crate::host) mod judged;
pub(in crate::host) mod leave;
pub(in crate::host) mod message;
pub(in crate::host) mod parts;
pub(in crate::host) mod place;
pub(in crate::host) mod record;
pub mod report;
pub(in crate::host) mod repro;
pub mod sidecar;
pub mod timeline;
