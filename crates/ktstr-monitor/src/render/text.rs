//! Compact text: one line, zero members left out.

use std::fmt;

use super::RenderedValue;
use crate::bytes;

impl fmt::Display for RenderedValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unsigned(value) => write!(f, "{value}"),
            Self::Signed(value) => write!(f, "{value}"),
            Self::Bool(value) => write!(f, "{value}"),
            Self::Float(value) => write!(f, "{value}"),
            Self::Text(text) => write!(f, "{text:?}"),
            Self::Enum {
                name: Some(name), ..
            } => f.write_str(name),
            Self::Enum { value, .. } => write!(f, "{value}"),
            Self::Flags { names, value } => flags(f, names, *value),
            Self::Pointer { address: 0, .. } => f.write_str("NULL"),
            Self::Pointer {
                pointee: Some(pointee),
                ..
            } => write!(f, "&{pointee}"),
            Self::Pointer {
                address,
                target: Some(target),
                ..
            } => write!(f, "{address:#x} ({target})"),
            Self::Pointer { address, .. } => write!(f, "{address:#x}"),
            Self::Struct { members, .. } => structure(f, members),
            Self::Array { elements, omitted } => array(f, elements, *omitted),
            Self::Bytes(raw) => write!(f, "0x{}", bytes::hex(raw)),
            Self::Unreadable(why) => write!(f, "<{why}>"),
        }
    }
}

fn flags(f: &mut fmt::Formatter<'_>, names: &[String], value: u64) -> fmt::Result {
    if names.is_empty() {
        write!(f, "{value:#x}")
    } else {
        write!(f, "{} ({value:#x})", names.join("|"))
    }
}

fn structure(f: &mut fmt::Formatter<'_>, members: &[(String, RenderedValue)]) -> fmt::Result {
    f.write_str("{")?;
    let shown = members.iter().filter(|(_, value)| !value.is_zero());
    for (number, (name, value)) in shown.enumerate() {
        let comma = if number == 0 { "" } else { ", " };
        write!(f, "{comma}{name}={value}")?;
    }
    f.write_str("}")
}

/// Equal neighbours are counted.
fn array(f: &mut fmt::Formatter<'_>, elements: &[RenderedValue], omitted: u64) -> fmt::Result {
    f.write_str("[")?;
    for (number, run) in elements.chunk_by(PartialEq::eq).enumerate() {
        let comma = if number == 0 { "" } else { ", " };
        match run {
            [one] => write!(f, "{comma}{one}")?,
            [first, ..] => write!(f, "{comma}{first} x{}", run.len())?,
            [] => {}
        }
    }
    if omitted > 0 {
        let comma = if elements.is_empty() { "" } else { ", " };
        write!(f, "{comma}{omitted} more")?;
    }
    f.write_str("]")
}
