//! Values by their BTF type: a tree that prints as text and serializes as JSON.

mod decode;
mod text;
mod value;

pub use decode::{Decoder, Limits, Pointee};
pub use value::RenderedValue;

#[cfg(test)]
mod tests;
