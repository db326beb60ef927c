//! What a run leaves for its user: message, dump, timeline, record, memory image.

pub mod artifacts;
pub(in crate::host) mod bug_summary;
pub(in crate::host) mod dump;
pub(in crate::host) mod dump_text;
pub mod figures;
pub(in crate::host) mod gathered;
pub(in crate::host) mod leave;
pub(in crate::host) mod message;
pub(in crate::host) mod parts;
pub(in crate::host) mod record;
pub(in crate::host) mod repro;
pub mod sidecar;
pub(in crate::host) mod text;
pub mod timeline;
pub(in crate::host) mod vmcore;
