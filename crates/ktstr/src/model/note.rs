//! Named values that a test notes down beside its verdict.

use std::fmt;

/// A value that a test notes down; `.into()` makes it of numbers, truth values and texts.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum NoteValue {
    /// A signed number.
    Int(i64),
    /// A number from 0 on.
    Uint(u64),
    /// A floating-point number.
    Float(f64),
    /// A truth value.
    Bool(bool),
    /// A text.
    Text(String),
}

impl NoteValue {
    /// As a metric: a finite number, beyond 2^53 the nearest that there is.
    pub(super) fn number(&self) -> Option<f64> {
        let number = match self {
            Self::Int(number) => *number as f64,
            Self::Uint(number) => *number as f64,
            Self::Float(number) => *number,
            Self::Bool(_) | Self::Text(_) => return None,
        };
        // JSON has no other ones, and a result that cannot be read back would be lost.
        number.is_finite().then_some(number)
    }
}

impl fmt::Display for NoteValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Int(number) => number.fmt(f),
            Self::Uint(number) => number.fmt(f),
            Self::Float(number) => number.fmt(f),
            Self::Bool(value) => value.fmt(f),
            Self::Text(text) => text.fmt(f),
        }
    }
}

macro_rules! from {
    ($($type:ty => $variant:ident),*) => { $(
        impl From<$type> for NoteValue {
            fn from(value: $type) -> Self {
                Self::$variant(value.into())
            }
        }
    )* };
}

from!(i64 => Int, i32 => Int, u64 => Uint, u32 => Uint, f64 => Float, bool => Bool, String => Text, &str => Text);
