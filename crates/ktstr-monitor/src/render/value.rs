//! The tree.

use serde::ser::{SerializeMap as _, SerializeStruct as _};
use serde::{Serialize, Serializer};

use crate::bytes;

/// A decoded value.
///
/// As JSON, numbers, truth values and texts are themselves, structs are objects in member order and arrays lists. What
/// JSON has no form for is an object: `{"enum": name, "value": n}`, `{"flags": [names], "value": n}`,
/// `{"ptr": "0x…", "to": hint}` (and `"at"`, what lies there, where it was followed), `{"bytes": hex}`, `{"unreadable": reason}`, and
/// `{"elements": […], "omitted": n}` for an array that was cut short.
#[derive(Debug, Clone, PartialEq)]
pub enum RenderedValue {
    /// A number without sign.
    Unsigned(u64),
    /// A number with sign.
    Signed(i64),
    /// A truth value.
    Bool(bool),
    /// A `float` or `double`.
    Float(f64),
    /// A character array, up to its NUL.
    Text(String),
    /// An enum's value, by name where one fits.
    Enum {
        /// The enumerator.
        name: Option<String>,
        /// The number, sign-extended where the enum is signed.
        value: i64,
    },
    /// A combination of an enum's single-bit values.
    Flags {
        /// Names of the bits that are set.
        names: Vec<String>,
        /// All bits, those without name included.
        value: u64,
    },
    /// An address.
    Pointer {
        /// Where it points.
        address: u64,
        /// What lies there: a symbol, or the C type.
        target: Option<String>,
        /// Its value, where that is the scheduler's own: an object in an arena, the CPUs of a mask.
        pointee: Option<Box<RenderedValue>>,
    },
    /// A struct, union or data section.
    Struct {
        /// The C name, empty for an anonymous one.
        type_name: String,
        /// Members in order; anonymous ones are spread out.
        members: Vec<(String, RenderedValue)>,
    },
    /// An array.
    Array {
        /// The first elements.
        elements: Vec<RenderedValue>,
        /// How many more there are.
        omitted: u64,
    },
    /// Bytes without a type.
    Bytes(Vec<u8>),
    /// What could not be decoded, and why.
    Unreadable(String),
}

impl RenderedValue {
    /// The member at a dotted path; array elements by number (`cpus.3.pid`), through pointers that were followed.
    #[must_use]
    pub fn member(&self, path: &str) -> Option<&Self> {
        path.split('.')
            .try_fold(self, |value, step| match value.followed() {
                Self::Struct { members, .. } => members
                    .iter()
                    .find(|(name, _)| name == step)
                    .map(|(_, value)| value),
                Self::Array { elements, .. } => elements.get(step.parse::<usize>().ok()?),
                _ => None,
            })
    }

    /// What a pointer leads to, where it was followed; else the value itself.
    #[must_use]
    pub fn followed(&self) -> &Self {
        match self {
            Self::Pointer {
                pointee: Some(pointee),
                ..
            } => pointee.followed(),
            other => other,
        }
    }

    /// A number, truth value, enum, flags or pointer; None for one below 0, which no unsigned number is.
    #[must_use]
    pub fn as_u64(&self) -> Option<u64> {
        match self {
            Self::Unsigned(value)
            | Self::Flags { value, .. }
            | Self::Pointer { address: value, .. } => Some(*value),
            Self::Signed(value) | Self::Enum { value, .. } => u64::try_from(*value).ok(),
            Self::Bool(value) => Some((*value).into()),
            _ => None,
        }
    }

    /// The same with its sign; None for one beyond `i64::MAX`.
    #[must_use]
    pub fn as_i64(&self) -> Option<i64> {
        match self {
            Self::Signed(value) | Self::Enum { value, .. } => Some(*value),
            other => i64::try_from(other.as_u64()?).ok(),
        }
    }

    /// The same as a floating-point number, which it may be itself; beyond 2^53 it is the nearest that there is.
    #[must_use]
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            Self::Float(value) => Some(*value),
            Self::Signed(value) | Self::Enum { value, .. } => Some(*value as f64),
            other => other.as_u64().map(|value| value as f64),
        }
    }

    /// Whether it is all zero, empty or false: what compact text leaves out.
    #[must_use]
    pub fn is_zero(&self) -> bool {
        match self {
            Self::Text(text) => text.is_empty(),
            Self::Struct { members, .. } => members.iter().all(|(_, value)| value.is_zero()),
            Self::Array { elements, omitted } => {
                *omitted == 0 && elements.iter().all(Self::is_zero)
            }
            Self::Bytes(raw) => raw.iter().all(|&byte| byte == 0),
            Self::Float(value) => *value == 0.0,
            Self::Unreadable(_) => false,
            scalar => scalar.as_i64() == Some(0),
        }
    }
}

impl Serialize for RenderedValue {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Unsigned(value) => serializer.serialize_u64(*value),
            Self::Signed(value) => serializer.serialize_i64(*value),
            Self::Bool(value) => serializer.serialize_bool(*value),
            Self::Float(value) => serializer.serialize_f64(*value),
            Self::Text(text) => serializer.serialize_str(text),
            Self::Enum { name, value } => {
                let mut object = serializer.serialize_struct("enum", 2)?;
                object.serialize_field("enum", name)?;
                object.serialize_field("value", value)?;
                object.end()
            }
            Self::Flags { names, value } => {
                let mut object = serializer.serialize_struct("flags", 2)?;
                object.serialize_field("flags", names)?;
                object.serialize_field("value", value)?;
                object.end()
            }
            Self::Pointer {
                address,
                target,
                pointee,
            } => {
                let count = 2 + usize::from(pointee.is_some());
                let mut object = serializer.serialize_struct("ptr", count)?;
                object.serialize_field("ptr", &format!("{address:#x}"))?;
                object.serialize_field("to", target)?;
                if let Some(pointee) = pointee {
                    object.serialize_field("at", pointee)?;
                }
                object.end()
            }
            Self::Struct { members, .. } => {
                let mut object = serializer.serialize_map(Some(members.len()))?;
                for (name, value) in members {
                    object.serialize_entry(name, value)?;
                }
                object.end()
            }
            Self::Array {
                elements,
                omitted: 0,
            } => elements.serialize(serializer),
            Self::Array { elements, omitted } => {
                let mut object = serializer.serialize_struct("array", 2)?;
                object.serialize_field("elements", elements)?;
                object.serialize_field("omitted", omitted)?;
                object.end()
            }
            Self::Bytes(raw) => {
                let mut object = serializer.serialize_struct("bytes", 1)?;
                object.serialize_field("bytes", &bytes::hex(raw))?;
                object.end()
            }
            Self::Unreadable(why) => {
                let mut object = serializer.serialize_struct("unreadable", 1)?;
                object.serialize_field("unreadable", why)?;
                object.end()
            }
        }
    }
}
