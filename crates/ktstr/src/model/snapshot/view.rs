//! Reading a capture by name: `snapshot.map("x")?.field("a.b")?.as_u64()?`. An error lists the names that exist.

use std::collections::BTreeSet;

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
    /// No such variable in any data section, or in none of the attached scheduler's.
    #[error(
        "there is no variable '{name}' in {place}; there are: {}",
        listed(have)
    )]
    NoVar {
        /// The variable.
        name: String,
        /// Where it was looked for.
        place: &'static str,
        /// The variables that exist.
        have: Vec<String>,
    },
    /// Several data sections have such a variable.
    #[error("'{name}' is a variable of {}: say which one, map(\"{}\")?.field(\"{name}\")", maps.join(" and of "), maps.first().map_or("", String::as_str))]
    AmbiguousVar {
        /// The variable.
        name: String,
        /// The sections that have it.
        maps: Vec<String>,
    },
    /// No scheduler is attached.
    #[error(
        "no scheduler was attached when this was captured (sched_ext was {state}), so that no variable '{name}' is its own; var(\"{name}\") looks in all data sections"
    )]
    NotAttached {
        /// The variable.
        name: String,
        /// What sched_ext was.
        state: String,
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

/// Names for a message; of very many, the first ones.
fn listed(names: &[String]) -> String {
    const SHOWN: usize = 40;
    let mut text: Vec<&str> = names.iter().take(SHOWN).map(String::as_str).collect();
    let more = names.len().saturating_sub(SHOWN);
    let more = format!("{more} more");
    if names.len() > SHOWN {
        text.push(&more);
    }
    if text.is_empty() {
        return String::from("none at all");
    }
    text.join(", ")
}

/// A capture, to be read by name.
#[derive(Debug, Clone, Copy)]
pub struct Snapshot<'r> {
    report: &'r FailureDumpReport,
}

impl<'r> Snapshot<'r> {
    /// A report, to be read by name.
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
    pub fn map(&self, name: &str) -> Result<SnapshotMap<'r>, SnapshotError> {
        let section = find_map(&self.report.maps, |map| map.map.name.as_str(), name)?;
        Ok(SnapshotMap { section })
    }

    /// A global variable, of whichever data section has it (`.bss`, `.data`, `.rodata`); a dotted path goes on into it. Of several
    /// sections of one name, as while a scheduler is being replaced, the newest counts.
    ///
    /// # Errors
    /// When there is none; the error lists those that there are. When sections of several names have it; the error names them.
    pub fn var(&self, name: &str) -> Result<SnapshotField<'r>, SnapshotError> {
        self.only_var(name, self.sections(), "the data sections of this capture")
    }

    /// A global variable of the attached scheduler: of the data sections that its programs use. What other programs have under
    /// this name does not count.
    ///
    /// # Errors
    /// As [`var`](Self::var), and when no scheduler was attached.
    pub fn live_var(&self, name: &str) -> Result<SnapshotField<'r>, SnapshotError> {
        let state = self.report.scx.as_ref().and_then(|scx| scx.state.clone());
        if state.as_deref() != Some("enabled") {
            return Err(SnapshotError::NotAttached {
                name: name.to_owned(),
                state: state.unwrap_or_else(|| String::from("not read")),
            });
        }
        let used = self.maps_of_schedulers();
        let sections = self
            .sections()
            .filter(|map| used.contains(&map.section.map.id));
        self.only_var(name, sections, "the attached scheduler's data sections")
    }

    /// The global variables of this name, one of each data section that has it, in the order in which the sections were made.
    /// Empty when there is none.
    #[must_use]
    pub fn vars(&self, name: &str) -> Vec<SnapshotField<'r>> {
        let found = self.sections().map(|map| map.field(name));
        found.filter_map(Result::ok).collect()
    }

    /// The data sections.
    fn sections(&self) -> impl Iterator<Item = SnapshotMap<'r>> + use<'r> {
        let maps = self
            .report
            .maps
            .iter()
            .map(|section| SnapshotMap { section });
        maps.filter(|map| matches!(map.section.contents, MapContents::Section(_)))
    }

    /// Maps of programs that schedule, and of programs that share one with them: all of one object.
    fn maps_of_schedulers(&self) -> BTreeSet<u32> {
        let programs = || self.report.programs.iter();
        let schedule = programs().filter(|program| program.prog_type == "struct_ops");
        let own: BTreeSet<u32> = schedule
            .flat_map(|program| &program.map_ids)
            .copied()
            .collect();
        let of_object =
            programs().filter(|program| program.map_ids.iter().any(|id| own.contains(id)));
        of_object
            .flat_map(|program| &program.map_ids)
            .copied()
            .collect()
    }

    /// The variable, if the sections that have it are all of one name.
    fn only_var(
        &self,
        name: &str,
        sections: impl Iterator<Item = SnapshotMap<'r>>,
        place: &'static str,
    ) -> Result<SnapshotField<'r>, SnapshotError> {
        let variable = name.split('.').next().unwrap_or(name);
        let sections: Vec<SnapshotMap<'r>> = sections.collect();
        let having: Vec<SnapshotMap<'r>> = sections
            .iter()
            .copied()
            .filter(|map| map.field(variable).is_ok())
            .collect();
        let maps: BTreeSet<&str> = having.iter().map(SnapshotMap::name).collect();
        match having.last() {
            Some(newest) if maps.len() == 1 => newest.field(name),
            Some(_) => Err(SnapshotError::AmbiguousVar {
                name: variable.to_owned(),
                maps: maps.into_iter().map(str::to_owned).collect(),
            }),
            None => Err(SnapshotError::NoVar {
                name: variable.to_owned(),
                place,
                have: sections.iter().flat_map(SnapshotMap::variables).collect(),
            }),
        }
    }
}

/// One map of a capture.
#[derive(Debug, Clone, Copy)]
pub struct SnapshotMap<'r> {
    section: &'r MapSection,
}

impl<'r> SnapshotMap<'r> {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &'r str {
        &self.section.map.name
    }

    /// A field at a dotted path: of the section's variables, or of the only entry's value.
    ///
    /// # Errors
    /// When there is no such field, or several entries to choose from.
    pub fn field(&self, path: &str) -> Result<SnapshotField<'r>, SnapshotError> {
        self.value()?.field(path)
    }

    /// The variables of a data section, or the value of a map with one entry.
    ///
    /// # Errors
    /// When the map holds something else.
    pub fn value(&self) -> Result<SnapshotField<'r>, SnapshotError> {
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
    pub fn at(&self, key: u64) -> Result<SnapshotField<'r>, SnapshotError> {
        self.single(self.entry(key)?)
    }

    /// One CPU's value under a numeric key.
    ///
    /// # Errors
    /// When there is no such entry, or no value for that CPU.
    pub fn at_cpu(&self, key: u64, cpu: u32) -> Result<SnapshotField<'r>, SnapshotError> {
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

    /// The names of a data section's variables.
    fn variables(&self) -> Vec<String> {
        match &self.section.contents {
            MapContents::Section(value @ RenderedValue::Struct { .. }) => names_in(value),
            _ => Vec::new(),
        }
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

    fn single(&self, entry: &'r MapEntry) -> Result<SnapshotField<'r>, SnapshotError> {
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

    fn named(&self, value: &'r RenderedValue, suffix: String) -> SnapshotField<'r> {
        SnapshotField {
            path: format!("{}{suffix}", self.name()),
            value,
        }
    }
}

/// A value and where it was found.
#[derive(Debug, Clone)]
pub struct SnapshotField<'r> {
    path: String,
    value: &'r RenderedValue,
}

impl<'r> SnapshotField<'r> {
    /// The value itself.
    #[must_use]
    pub fn rendered(&self) -> &'r RenderedValue {
        self.value
    }

    /// A field at a dotted path; array elements by number; through pointers into an arena.
    ///
    /// # Errors
    /// When a part is not there; the error lists those that there are.
    pub fn field(&self, path: &str) -> Result<SnapshotField<'r>, SnapshotError> {
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
            here = SnapshotField {
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

#[cfg(test)]
mod tests {
    use super::*;
    use ktstr_monitor::Kva;
    use ktstr_monitor::bpf::{BpfMap, BpfProgram};
    use ktstr_monitor::btf::TypeId;
    use ktstr_monitor::sched::ScxState;

    /// A data section with these variables.
    fn section(id: u32, name: &str, variables: &[(&str, u64)]) -> MapSection {
        let members = variables
            .iter()
            .map(|(name, value)| ((*name).to_owned(), RenderedValue::Unsigned(*value)));
        MapSection {
            map: BpfMap {
                id,
                name: name.to_owned(),
                map_type: String::from("array"),
                key_size: 4,
                value_size: 8,
                max_entries: 1,
                flags: 0,
                frozen: false,
                kva: Kva(0),
                btf: None,
                key_type: TypeId(0),
                value_type: TypeId(0),
                vmlinux_value_type: TypeId(0),
            },
            contents: MapContents::Section(RenderedValue::Struct {
                type_name: name.to_owned(),
                members: members.collect(),
            }),
        }
    }

    fn program(prog_type: &str, map_ids: &[u32]) -> BpfProgram {
        BpfProgram {
            prog_type: prog_type.to_owned(),
            map_ids: map_ids.to_vec(),
            ..BpfProgram::default()
        }
    }

    /// A scheduler of two sections, one of which only its timer's program uses, and a tracer beside it.
    fn report() -> FailureDumpReport {
        FailureDumpReport {
            scx: Some(ScxState {
                state: Some(String::from("enabled")),
                ..ScxState::default()
            }),
            maps: vec![
                section(1, "mine.bss", &[("nr_kicks", 7), ("lag", 3)]),
                section(2, "mine.data", &[("slice_ns", 20)]),
                section(3, "trace.bss", &[("lag", 9), ("hits", 4)]),
            ],
            programs: vec![
                program("struct_ops", &[1]),
                program("syscall", &[1, 2]),
                program("tracing", &[3]),
            ],
            ..FailureDumpReport::default()
        }
    }

    fn number(found: Result<SnapshotField<'_>, SnapshotError>) -> Result<u64, String> {
        let number = found.and_then(|field| field.as_u64());
        number.map_err(|error| error.to_string())
    }

    #[test]
    fn a_variable_is_found_in_whichever_section_has_it() {
        let report = report();
        let snapshot = Snapshot::new(&report).unwrap();
        assert_eq!(number(snapshot.var("nr_kicks")), Ok(7));
        assert_eq!(number(snapshot.var("slice_ns")), Ok(20));
        assert_eq!(
            number(snapshot.var("nr_kick")).unwrap_err(),
            "there is no variable 'nr_kick' in the data sections of this capture; there are: nr_kicks, lag, slice_ns, lag, hits"
        );
        assert_eq!(
            number(snapshot.var("lag")).unwrap_err(),
            "'lag' is a variable of mine.bss and of trace.bss: say which one, map(\"mine.bss\")?.field(\"lag\")"
        );
        let section = snapshot.map(".data").unwrap();
        assert_eq!(number(section.field("slice_ns")), Ok(20));
        assert_eq!(snapshot.report().maps.len(), 3);
        let inside = number(snapshot.var("nr_kicks.x")).unwrap_err();
        assert!(inside.contains("has no field 'x'"), "{inside}");
    }

    #[test]
    fn a_placeholder_is_refused_with_its_reason() {
        let report = FailureDumpReport::placeholder("the guest was gone");
        let error = Snapshot::new(&report).unwrap_err().to_string();
        assert_eq!(error, "this capture is a placeholder: the guest was gone");
    }

    #[test]
    fn all_variables_of_a_name_are_one_of_each_section() {
        let report = report();
        let snapshot = Snapshot::new(&report).unwrap();
        let values = |name: &str| -> Vec<u64> {
            let found = snapshot.vars(name).into_iter();
            found.map(|field| field.as_u64().unwrap()).collect()
        };
        assert_eq!(values("lag"), [3, 9]);
        assert_eq!(values("hits"), [4]);
        assert!(values("no_such").is_empty());
    }

    #[test]
    fn a_live_variable_is_the_attached_schedulers_own() {
        let mut report = report();
        let of = |report: &FailureDumpReport, name: &str| {
            number(Snapshot::new(report).unwrap().live_var(name))
        };
        assert_eq!(of(&report, "lag"), Ok(3));
        assert_eq!(of(&report, "slice_ns"), Ok(20));
        assert_eq!(
            of(&report, "hits").unwrap_err(),
            "there is no variable 'hits' in the attached scheduler's data sections; there are: nr_kicks, lag, slice_ns"
        );
        report.scx.as_mut().unwrap().state = Some(String::from("disabled"));
        let error = of(&report, "lag").unwrap_err();
        assert!(error.contains("sched_ext was disabled"), "{error}");
    }

    #[test]
    fn of_sections_of_one_name_the_newest_counts() {
        let mut report = report();
        report.maps.push(section(4, "mine.bss", &[("nr_kicks", 8)]));
        let snapshot = Snapshot::new(&report).unwrap();
        assert_eq!(number(snapshot.var("nr_kicks")), Ok(8));
        assert_eq!(snapshot.vars("nr_kicks").len(), 2);
    }

    #[test]
    fn of_very_many_names_the_first_are_listed() {
        let names: Vec<String> = (0..42).map(|index| format!("v{index}")).collect();
        assert!(listed(&names).ends_with("v39, 2 more"));
        assert_eq!(listed(&[]), "none at all");
    }
}
