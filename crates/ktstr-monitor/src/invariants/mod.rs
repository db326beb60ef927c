//! Rules that the scheduler's own books keep: sums that agree with what they count, trees in order, links that lead back.
//!
//! A machine that stands still shows all of them at one moment. A rule about a runqueue holds while no CPU has the
//! runqueue's lock; one whose lock is held at a stop is not judged then, and [counted](Examined::unjudged).

mod books;
mod cfs;
mod dl;
mod domain;
mod ext;
mod group;
mod ledger;
mod psi;
mod read;
mod rt;
mod runqueue;
mod table;
mod task;

use serde::Serialize;

pub use ledger::Ledger;
pub use table::{DROPPED, TABLE};

use crate::{Kernel, Problems};

/// When a rule holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Valid {
    /// At every stop.
    AnyStop,
    /// While the locks of the runqueues that it is about are free.
    RqLockFree,
    /// It may be broken for so many milliseconds of the guest's time; broken alike at two stops so far apart it is.
    TwoStops(u32),
}

/// What a look at it takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Cost {
    /// A few members of each runqueue.
    Cpu,
    /// All that is queued.
    Queued,
    /// All threads.
    Threads,
}

/// One rule.
#[derive(Debug, Clone, Copy)]
pub struct Invariant {
    /// Its name in tests and reports.
    pub name: &'static str,
    /// What it says.
    pub what: &'static str,
    /// Kernels on which it was seen to hold.
    pub kernels: &'static str,
    /// When it holds.
    pub valid: Valid,
    /// What a look at it takes.
    pub cost: Cost,
    /// Whether tests are held to it unless they name their rules: it was seen to hold at enough stops of guests that use
    /// what it is about.
    pub by_default: bool,
    rule: Rule,
}

impl Invariant {
    /// The same, to be asked for by name: seen to hold, and not at enough stops yet.
    const fn when_asked(mut self) -> Self {
        self.by_default = false;
        self
    }
}

type Rule = fn(&books::Books, &mut Found<'_>);

/// A rule that was broken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Violation {
    /// [Name](Invariant::name) of the rule.
    pub invariant: &'static str,
    /// The CPU whose books they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<u32>,
    /// The task, cgroup or queue.
    pub entity: String,
    /// What the rule demands.
    pub expected: String,
    /// What was there.
    pub found: String,
}

impl std::fmt::Display for Violation {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{}: ", self.invariant)?;
        if let Some(cpu) = self.cpu {
            write!(out, "CPU {cpu}: ")?;
        }
        let Self {
            entity,
            expected,
            found,
            ..
        } = self;
        write!(out, "{entity}: expected {expected}, found {found}")
    }
}

/// A runqueue that was not judged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Unjudged {
    /// Its CPU.
    pub cpu: u32,
    /// Why.
    pub why: &'static str,
}

/// What a standstill is judged by.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    /// Names of the rules; all that one stop is enough for where there are none.
    pub only: Option<Vec<String>>,
}

/// What was found at one stop.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Examined {
    /// Broken rules.
    pub violations: Vec<Violation>,
    /// Rules that were applied.
    pub rules: usize,
    /// Runqueues that were judged.
    pub judged: usize,
    /// Runqueues that were not.
    pub unjudged: Vec<Unjudged>,
    /// The guest's time: the furthest of its runqueues' clocks, nanoseconds.
    pub at_ns: u64,
    /// What could not be read.
    #[serde(skip_serializing_if = "Problems::is_empty")]
    pub problems: Problems,
    /// Broken now, and to be looked at again.
    #[serde(skip)]
    pub(crate) unsettled: Vec<Violation>,
}

/// Violations of one rule that are kept of one stop.
const MAX_OF_ONE: usize = 16;

/// Where a rule puts what it finds.
struct Found<'a> {
    name: &'static str,
    count: usize,
    into: &'a mut Vec<Violation>,
}

impl Found<'_> {
    fn push(
        &mut self,
        cpu: impl Into<Option<u32>>,
        entity: impl Into<String>,
        expected: impl std::fmt::Display,
        found: impl std::fmt::Display,
    ) {
        self.count += 1;
        if self.count <= MAX_OF_ONE {
            self.into.push(Violation {
                invariant: self.name,
                cpu: cpu.into(),
                entity: entity.into(),
                expected: expected.to_string(),
                found: found.to_string(),
            });
        }
    }

    /// Where both are known and differ.
    fn equal(
        &mut self,
        cpu: u32,
        entity: impl Into<String>,
        (what, found): (&str, Option<u64>),
        (why, expected): (&str, Option<u64>),
    ) {
        if let (Some(found), Some(expected)) = (found, expected)
            && found != expected
        {
            let expected = format!("{what} = {expected} ({why})");
            self.push(cpu, entity, expected, format!("{what} = {found}"));
        }
    }
}

/// The rule of this name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Invariant> {
    TABLE.iter().find(|rule| rule.name == name)
}

/// The rules that are broken. The machine stands still.
#[must_use]
pub fn check(kernel: &Kernel, stop: &Stop) -> Vec<Violation> {
    examine(kernel, stop).violations
}

/// The same, with what was judged and what was not.
#[must_use]
pub fn examine(kernel: &Kernel, stop: &Stop) -> Examined {
    let books = read::Reader::new(kernel).books();
    let mut examined = Examined {
        judged: books.free().count(),
        unjudged: books.unjudged(),
        at_ns: books.now(),
        ..Examined::default()
    };
    let chosen = |rule: &&Invariant| {
        let names = stop.only.as_ref();
        names.is_none_or(|names| names.iter().any(|name| name == rule.name))
    };
    for rule in TABLE.iter().filter(chosen) {
        examined.rules += 1;
        let into = match rule.valid {
            Valid::TwoStops(_) => &mut examined.unsettled,
            _ => &mut examined.violations,
        };
        (rule.rule)(
            &books,
            &mut Found {
                name: rule.name,
                count: 0,
                into,
            },
        );
    }
    examined.problems = books.problems;
    examined
}
