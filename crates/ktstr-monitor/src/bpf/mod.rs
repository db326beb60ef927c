//! BPF maps and programs, as the kernel's id registries list them.

mod arena;
mod contents;
mod elements;
mod hash;
mod map;
mod other;
mod program;
mod reader;
mod scalar;
mod stacks;
mod stream;
mod symbols;
mod types;

pub use arena::{Arena, ArenaPage};
pub use contents::{MapContents, MapEntry, MapValue, RingBuf, StructOps};
pub use elements::{RawEntry, RawValue};
pub use map::BpfMap;
pub use program::{BpfProgram, ProgVerifierStats};
pub use scalar::MapField;
pub use symbols::{BpfSymbol, SourceLine};

#[cfg(test)]
mod payload_tests;
#[cfg(test)]
mod tests;
