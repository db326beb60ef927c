//! BTF, the kernel's own type information: a zero-copy index over the blob.
//!
//! Indexing is one pass that checks every type's extent and files names in a hash table; everything else is decoded
//! when asked for. Functions are not filed: there are more of them than of all else, and no reader wants them.
//!
//! A split BTF (a module's, or a program's built upon the kernel's) holds its base and continues its ids and strings.

mod blob;
mod cache;
mod index;
mod member;
mod types;

pub use blob::Blob;
pub use cache::{load_cached, store_cached};
pub use index::Btf;
pub(crate) use index::MAX_BTF;
pub use member::{BitSpan, Field};
pub use types::{Enumerator, IntEncoding, Kind, Member, SectionVar, Type, TypeId};

#[cfg(test)]
pub(crate) mod build;
#[cfg(test)]
mod tests;
