//! What went wrong during a read that went on.

use std::collections::BTreeSet;

use crate::{Error, Result};

/// A part that could not be read, and why.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Problem {
    /// What was being read.
    pub what: String,
    /// Why it ended.
    pub why: String,
    /// How often that was so.
    #[serde(skip_serializing_if = "is_one")]
    pub times: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants it")]
fn is_one(times: &u64) -> bool {
    *times == 1
}

/// Problems met, up to a bound, and what the kernel turned out not to have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Problems {
    list: Vec<Problem>,
    dropped: u64,
    absent: BTreeSet<String>,
}

/// Different problems of one reader that are kept. A hostile guest makes more; the first ones tell the story.
const MAX_PROBLEMS: usize = 64;
/// Names that no kernel has; there are not so many in the readers.
const MAX_ABSENT: usize = 1024;

impl Problems {
    /// None so far.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Keeps the value, or notes why there is none. What this kernel does not have is no problem, but
    /// [listed](Self::absent).
    pub fn keep<T>(&mut self, what: &str, result: Result<T>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                match error.absent() {
                    Some(name) => self.note_absent(name),
                    None => self.note(what, &error),
                }
                None
            }
        }
    }

    /// As [`Problems::keep`], but what the kernel does not have is a problem as well.
    pub fn need<T>(&mut self, what: &str, result: Result<T>) -> Option<T> {
        result.map_err(|error| self.note(what, &error)).ok()
    }

    /// Notes a problem; one that is there already is counted.
    pub fn note(&mut self, what: &str, error: &Error) {
        self.add(Problem {
            what: what.to_owned(),
            why: error.to_string(),
            times: 1,
        });
    }

    fn add(&mut self, new: Problem) {
        let has_room = self.list.len() < MAX_PROBLEMS;
        let known = self
            .list
            .iter_mut()
            .find(|known| known.what == new.what && known.why == new.why);
        match known {
            Some(known) => known.times = known.times.saturating_add(new.times),
            None if has_room => self.list.push(new),
            None => self.dropped = self.dropped.saturating_add(new.times),
        }
    }

    fn note_absent(&mut self, name: String) {
        if self.absent.len() < MAX_ABSENT {
            self.absent.insert(name);
        }
    }

    /// Whether there were none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.list.iter()
    }

    /// How many there were beyond those that are kept.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Types, members and symbols that were looked for and that this kernel does not have.
    #[must_use]
    pub fn absent(&self) -> &BTreeSet<String> {
        &self.absent
    }

    /// Takes over another reader's, within the bound of one.
    pub fn extend(&mut self, other: Problems) {
        self.dropped = self.dropped.saturating_add(other.dropped);
        other.list.into_iter().for_each(|new| self.add(new));
        other
            .absent
            .into_iter()
            .for_each(|name| self.note_absent(name));
    }

    /// Takes over all that another reader kept, whatever is here already: no reader's problems push out another's.
    pub(crate) fn append(&mut self, mut other: Problems) {
        self.dropped = self.dropped.saturating_add(other.dropped);
        self.list.append(&mut other.list);
        other
            .absent
            .into_iter()
            .for_each(|name| self.note_absent(name));
    }
}

/// A list; its last entry says how many more there were.
impl serde::Serialize for Problems {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let rest = (self.dropped > 0).then(|| Problem {
            what: "more problems".to_owned(),
            why: "they are counted, not listed".to_owned(),
            times: self.dropped,
        });
        serializer.collect_seq(self.list.iter().chain(&rest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(value: u64) -> Error {
        Error::Implausible {
            what: "length",
            value,
        }
    }

    #[test]
    fn equal_problems_are_counted_and_the_rest_as_well() {
        let mut problems = Problems::new();
        for _ in 0..1000 {
            problems.note("a task", &error(1));
        }
        assert_eq!(problems.iter().count(), 1);
        assert_eq!(problems.iter().next().map(|first| first.times), Some(1000));
        for value in 0..100 {
            problems.note("a map", &error(value));
        }
        assert_eq!((problems.iter().count(), problems.dropped()), (64, 37));
        let json = serde_json::to_value(&problems).unwrap();
        assert_eq!(json[0]["times"], 1000);
        assert!(json[1].get("times").is_none());
        assert_eq!(json[64]["what"], "more problems");
        assert_eq!(json[64]["times"], 37);
    }

    #[test]
    fn one_readers_problems_push_out_no_others() {
        let mut report = Problems::new();
        for reader in ["tasks", "maps", "the log"] {
            let mut own = Problems::new();
            for value in 0..100 {
                own.note(reader, &error(value));
            }
            report.append(own);
        }
        assert_eq!((report.iter().count(), report.dropped()), (192, 108));
        assert!(report.iter().any(|problem| problem.what == "the log"));
    }

    #[test]
    fn what_a_kernel_lacks_is_listed_and_no_problem() {
        let mut problems = Problems::new();
        let lacks = |path: &str| Error::NoField {
            ty: "struct scx_rq".to_owned(),
            path: path.to_owned(),
        };
        for _ in 0..3 {
            problems.keep::<u64>("rq.scx.pnt_seq", Err(lacks("pnt_seq")));
        }
        let name = "runqueues".to_owned();
        problems.keep::<u64>("runqueues", Err(Error::NoSymbol { name }));
        assert!(problems.is_empty());
        let absent: Vec<&str> = problems.absent().iter().map(String::as_str).collect();
        assert_eq!(absent, ["struct scx_rq.pnt_seq", "symbol runqueues"]);
    }
}
