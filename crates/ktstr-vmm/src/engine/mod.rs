//! What executes a guest.

pub(crate) mod tcg;
