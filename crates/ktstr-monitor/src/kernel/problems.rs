//! What went wrong during a read that went on.

use crate::{Error, Result};

/// A part that could not be read, and why.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Problem {
    /// What was being read.
    pub what: String,
    /// Why it ended.
    pub why: String,
}

/// Problems met, up to a bound.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
#[serde(transparent)]
pub struct Problems {
    list: Vec<Problem>,
}

/// A hostile guest makes more; the first ones tell the story.
const MAX_PROBLEMS: usize = 64;

impl Problems {
    /// None so far.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Keeps the value, or notes why there is none. What this kernel does not have is no problem.
    pub fn keep<T>(&mut self, what: &str, result: Result<T>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                if !error.is_absence() {
                    self.note(what, &error);
                }
                None
            }
        }
    }

    /// As [`Problems::keep`], but what the kernel does not have is a problem as well.
    pub fn need<T>(&mut self, what: &str, result: Result<T>) -> Option<T> {
        result.map_err(|error| self.note(what, &error)).ok()
    }

    /// Notes a problem.
    pub fn note(&mut self, what: &str, error: &Error) {
        if self.list.len() < MAX_PROBLEMS {
            self.list.push(Problem {
                what: what.to_owned(),
                why: error.to_string(),
            });
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

    /// Takes over another reader's.
    pub fn extend(&mut self, other: Problems) {
        let room = MAX_PROBLEMS.saturating_sub(self.list.len());
        self.list.extend(other.list.into_iter().take(room));
    }
}
