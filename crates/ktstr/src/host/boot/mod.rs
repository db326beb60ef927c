//! From a resolved test to a started VM.

pub(in crate::host) mod archive;
pub(in crate::host) mod on_host;
pub(in crate::host) mod session;
pub(in crate::host) mod start;
pub(in crate::host) mod template;
