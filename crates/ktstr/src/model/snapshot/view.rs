//! Reading a capture by name: `snapshot.map("x")?.field("a.b")?.as_u64()?`. An error lists the names that exist.

use super::{MapNameError, find_map};
use ktstr_monitor::bpf::{MapContents, MapEntry, MapValue};
use ktstr_monitor::render::RenderedValue;
use ktstr_monitor::{FailureDumpReport, MapSection};

/// Something that a capture does not hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// Nothing was captured.
    #[error("this capture is a placeholder: {reason}")]
    Placeholder {
        /// Why.
        reason: String,
    },
    /// No such map, or several that it may be.
    #[error(transparent)]
    Map(#[from] MapNameError),
    /// No such field.
    #[error("'{at}' has no field '{step}' (in '{path}'); it has: {}", have.join(", "))]
    NoField {
        /// The whole path.
        path: String,
        /// What was reached.
        at: String,
        /// The part that is not there.
        step: String,
        /// The names that exist.
        have: Vec<String>,
    },
    /// The map holds no entry with that key, or no entries at all.
    #[error("map '{map}' has no entry {key}; {why}")]
    NoEntry {
        /// The map.
        map: String,
        /// The key.
        key: String,
        /// What there is.
        why: String,
    },
    /// Another kind of value.
    #[error("'{path}' is {found}, not {wanted}")]
    Kind {
        /// Where.
        path: String,
        /// What is there.
        found: String,
        /// What was asked for.
        wanted: &'static str,
    },
}

/// A capture, to be read by name.
#[derive(Debug, Clone, Copy)]
pub struct Snapshot<'r> {
    report: &'r FailureDumpReport,
}

impl<'r> Snapshot<'r> {
    /// Reads `report`.
    ///
    /// # Errors
    /// For a placeholder.
    pub fn new(report: &'r FailureDumpReport) -> Result<Self, SnapshotError> {
        if report.is_placeholder {
            let reason = report.reason.clone();
            return Err(SnapshotError::Placeholder {
                reason: reason.unwrap_or_else(|| String::from("no reason given")),
            });
        }
        Ok(Self { report })
    }

    /// The whole report.
    #[must_use]
    pub fn report(&self) -> &'r FailureDumpReport {
        self.report
    }

    /// A map by its name; see [`find_map`].
    ///
    /// # Errors
    /// When there is none; the error lists those that there are. When a section's name fits those of several programs.
    pub fn map(&self, name: &str) -> Result<Map<'r>, SnapshotError> {
        let section = find_map(&self.report.maps, |map| map.map.name.as_str(), name)?;
        Ok(Map { section })
    }
}

/// One map of a capture.
#[derive(Debug, Clone, Copy)]
pub struct Map<'r> {
    section: &'r MapSection,
}

impl<'r> Map<'r> {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &'r str {
        &self.section.map.name
    }

    /// A field at a dotted path: of the section's variables, or of the only entry's value.
    ///
    /// # Errors
    /// When there is no such field, or several entries to choose from.
    pub fn field(&self, path: &str) -> Result<Value<'r>, SnapshotError> {
        self.value()?.field(path)
    }

    /// The variables of a data section, or the value of a map with one entry.
    ///
    /// # Errors
    /// When the map holds something else.
    pub fn value(&self) -> Result<Value<'r>, SnapshotError> {
        match &self.section.contents {
            MapContents::Section(value) => Ok(self.named(value, String::new())),
            MapContents::StructOps(ops) => Ok(self.named(&ops.value, String::new())),
            MapContents::Entries(entries) => match entries.as_slice() {
                [entry] => self.single(entry),
                _ => Err(self.no_entry("without a key", entries.len())),
            },
            other => Err(SnapshotError::NoEntry {
                map: self.name().to_owned(),
                key: String::from("without a key"),
                why: format!("it holds {}", kind_of_contents(other)),
            }),
        }
    }

    /// The value under a numeric key: an array's index, or a hash's whole key.
    ///
    /// # Errors
    /// When there is none.
    pub fn at(&self, key: u64) -> Result<Value<'r>, SnapshotError> {
        self.single(self.entry(key)?)
    }

    /// One CPU's value under a numeric key.
    ///
    /// # Errors
    /// When there is no such entry, or no value for that CPU.
    pub fn at_cpu(&self, key: u64, cpu: u32) -> Result<Value<'r>, SnapshotError> {
        let MapValue::PerCpu(values) = &self.entry(key)?.value else {
            return Err(SnapshotError::Kind {
                path: format!("{}[{key}]", self.name()),
                found: String::from("one value for all CPUs"),
                wanted: "a value per CPU",
            });
        };
        let found = values.iter().find(|(number, _)| *number == cpu);
        let (_, value) = found.ok_or_else(|| SnapshotError::NoEntry {
            map: self.name().to_owned(),
            key: format!("{key} on CPU {cpu}"),
            why: format!("it has values for {} CPUs", values.len()),
        })?;
        Ok(self.named(value, format!("[{key}].cpu{cpu}")))
    }

    /// The sum of a numeric field over all CPUs under a numeric key.
    ///
    /// # Errors
    /// When there is no such entry or field, or it is no number.
    pub fn sum_cpus(&self, key: u64, path: &str) -> Result<u64, SnapshotError> {
        let MapValue::PerCpu(values) = &self.entry(key)?.value else {
            return self.at(key)?.field(path)?.as_u64();
        };
        values.iter().try_fold(0u64, |sum, (cpu, value)| {
            let value = self.named(value, format!("[{key}].cpu{cpu}"));
            let number = if path.is_empty() {
                value
            } else {
                value.field(path)?
            };
            Ok(sum.wrapping_add(number.as_u64()?))
        })
    }

    fn entry(&self, key: u64) -> Result<&'r MapEntry, SnapshotError> {
        let MapContents::Entries(entries) = &self.section.contents else {
            return Err(SnapshotError::NoEntry {
                map: self.name().to_owned(),
                key: key.to_string(),
                why: format!("it holds {}", kind_of_contents(&self.section.contents)),
            });
        };
        let found = entries.iter().find(|entry| entry.key.as_u64() == Some(key));
        found.ok_or_else(|| self.no_entry(&key.to_string(), entries.len()))
    }

    fn single(&self, entry: &'r MapEntry) -> Result<Value<'r>, SnapshotError> {
        match &entry.value {
            MapValue::Value(value) => Ok(self.named(value, format!("[{}]", entry.key))),
            MapValue::PerCpu(_) => Err(SnapshotError::Kind {
                path: format!("{}[{}]", self.name(), entry.key),
                found: String::from("a value per CPU (use at_cpu or sum_cpus)"),
                wanted: "one value",
            }),
        }
    }

    fn no_entry(&self, key: &str, count: usize) -> SnapshotError {
        SnapshotError::NoEntry {
            map: self.name().to_owned(),
            key: key.to_owned(),
            why: format!("it has {count} entries"),
        }
    }

    fn named(&self, value: &'r RenderedValue, suffix: String) -> Value<'r> {
        Value {
            path: format!("{}{suffix}", self.name()),
            value,
        }
    }
}

/// A value and where it was found.
#[derive(Debug, Clone)]
pub struct Value<'r> {
    path: String,
    value: &'r RenderedValue,
}

impl<'r> Value<'r> {
    /// The value itself.
    #[must_use]
    pub fn rendered(&self) -> &'r RenderedValue {
        self.value
    }

    /// A field at a dotted path; array elements by number; through pointers into an arena.
    ///
    /// # Errors
    /// When a part is not there; the error lists those that there are.
    pub fn field(&self, path: &str) -> Result<Value<'r>, SnapshotError> {
        let mut here = self.clone();
        for step in path.split('.') {
            let next = here
                .value
                .member(step)
                .ok_or_else(|| SnapshotError::NoField {
                    path: path.to_owned(),
                    at: here.path.clone(),
                    step: step.to_owned(),
                    have: names_in(here.value),
                })?;
            here = Value {
                path: format!("{}.{step}", here.path),
                value: next,
            };
        }
        Ok(here)
    }

    /// A number, truth value, enum or address.
    ///
    /// # Errors
    /// When it is something else, or below 0.
    pub fn as_u64(&self) -> Result<u64, SnapshotError> {
        let number = self.value.as_u64();
        number.ok_or_else(|| self.kind("a number from 0 on"))
    }

    /// A number with its sign.
    ///
    /// # Errors
    /// When it is something else, or beyond `i64::MAX`.
    pub fn as_i64(&self) -> Result<i64, SnapshotError> {
        self.value
            .as_i64()
            .ok_or_else(|| self.kind("a signed number"))
    }

    /// A number of any kind, a floating-point one too; beyond 2^53 it is the nearest that there is.
    ///
    /// # Errors
    /// When it is something else.
    pub fn as_f64(&self) -> Result<f64, SnapshotError> {
        self.value.as_f64().ok_or_else(|| self.kind("a number"))
    }

    /// A truth value, or a number that is not 0.
    ///
    /// # Errors
    /// When it is something else.
    pub fn as_bool(&self) -> Result<bool, SnapshotError> {
        Ok(self.as_i64().is_ok_and(|number| number != 0) || self.as_u64()? != 0)
    }

    /// A text.
    ///
    /// # Errors
    /// When it is something else.
    pub fn as_str(&self) -> Result<&'r str, SnapshotError> {
        match self.value {
            RenderedValue::Text(text) => Ok(text),
            RenderedValue::Enum {
                name: Some(name), ..
            } => Ok(name),
            _ => Err(self.kind("a text")),
        }
    }

    fn kind(&self, wanted: &'static str) -> SnapshotError {
        let mut found = self.value.to_string();
        if found.len() > 60 {
            found = found.chars().take(60).collect::<String>() + "…";
        }
        SnapshotError::Kind {
            path: self.path.clone(),
            found,
            wanted,
        }
    }
}

fn names_in(value: &RenderedValue) -> Vec<String> {
    match value.followed() {
        RenderedValue::Struct { members, .. } => {
            members.iter().map(|(name, _)| name.clone()).collect()
        }
        RenderedValue::Array { elements, .. } if !elements.is_empty() => {
            vec![format!("0 to {}", elements.len() - 1)]
        }
        _ => vec![String::from("no fields")],
    }
}

fn kind_of_contents(contents: &MapContents) -> &'static str {
    match contents {
        MapContents::Entries(_) => "entries",
        MapContents::Section(_) => "variables",
        MapContents::RingBuf(_) => "a ring buffer",
        MapContents::Arena(_) => "an arena",
        MapContents::StructOps(_) => "operations",
        MapContents::Unsupported(_) => "something that cannot be read",
    }
}
