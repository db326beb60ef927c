//! From a resolved test to a started VM.

pub(in crate::host) mod archive;
pub(in crate::host) mod session;
