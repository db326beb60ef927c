//! Two runs of one test: where they begin to differ.
//!
//! What is compared is the story of each task by itself: when it is woken, moved, run and stopped, and where. In which order
//! things of different tasks happen differs at once between two seeds, and so do times; neither is a difference.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::thread;

use anyhow::{Context as _, Result};
use ktstr::host::evidence::sidecar::Sidecar;
use ktstr::host::plan::config::EVENTS_ENV;
use ktstr::model::events::{Event, Events};

use super::Built;
use crate::output::shell_word;

/// Tasks that are listed behind the first.
const MOST_OTHERS: usize = 8;

/// A run and what happened in it.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) seed: u64,
    pub(crate) record: Sidecar,
    pub(crate) events: Events,
}

/// The first thing that is not the same in a task's two stories; where one of them has ended, it is absent there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Difference {
    pub(crate) one: Option<Event>,
    pub(crate) other: Option<Event>,
    /// What happened to the task before, in both runs.
    pub(crate) before: Option<[Event; 2]>,
}

impl Difference {
    /// Either exists.
    fn of(one: Option<&Event>, other: Option<&Event>, before: Option<[&Event; 2]>) -> Self {
        Self {
            one: one.cloned(),
            other: other.cloned(),
            before: before.map(|pair| pair.map(Clone::clone)),
        }
    }

    fn events(&self) -> impl Iterator<Item = &Event> {
        self.one.iter().chain(&self.other)
    }

    /// When it can be seen first.
    pub(crate) fn first_ns(&self) -> u64 {
        let times = self.events().map(|event| event.at_ns);
        times.min().unwrap_or(u64::MAX)
    }

    /// The moment in the first run: that of its event, or that at which the other run has one more.
    pub(crate) fn at_ns(&self) -> u64 {
        let mut events = self.events();
        events.next().map_or(0, |event| event.at_ns)
    }

    fn task(&self) -> String {
        let event = self.events().next();
        event.map_or_else(String::new, |event| {
            format!("{} (pid {})", event.comm, event.pid)
        })
    }
}

/// Both runs, at once.
///
/// # Errors
/// When one cannot be had, or leaves no events.
pub(crate) fn run_both(built: &Built, seeds: [u64; 2], dir: &Path) -> Result<[Told; 2]> {
    let [one, other] = thread::scope(|scope| {
        let runs = [(0, seeds[0]), (1, seeds[1])].map(|(place, seed)| {
            scope.spawn(move || tell(built, seed, &dir.join(format!("run-{place}"))))
        });
        runs.map(|run| {
            run.join()
                .unwrap_or_else(|_| Err(anyhow::anyhow!("a run's thread panicked")))
        })
    });
    Ok([one?, other?])
}

fn tell(built: &Built, seed: u64, dir: &Path) -> Result<Told> {
    std::fs::create_dir_all(dir).with_context(|| format!("failed to create {}", dir.display()))?;
    let path = dir.join("events");
    let mut command = built.command(seed, dir);
    command.env(EVENTS_ENV, &path);
    let run = command.output().context("failed to run the test binary")?;
    let record = built.record_of(&run, dir)?;
    let read = || -> Result<Events> { Ok(Events::read(BufReader::new(File::open(&path)?))?) };
    let events = read().with_context(|| {
        let message = record.message.as_deref().unwrap_or_default();
        format!("the run of seed {seed} has left no events: {message}")
    })?;
    Ok(Told {
        seed,
        record,
        events,
    })
}

/// The first difference of each task that has one, the earliest first.
pub(crate) fn differences(one: &Events, other: &Events) -> Vec<Difference> {
    let (ones, others) = (stories(one), stories(other));
    let pids: BTreeSet<i32> = ones.keys().chain(others.keys()).copied().collect();
    let mut found: Vec<Difference> = pids
        .iter()
        .filter_map(|pid| {
            let one_story = ones.get(pid).map_or(&[][..], Vec::as_slice);
            let other_story = others.get(pid).map_or(&[][..], Vec::as_slice);
            let pairs = one_story.iter().zip(other_story);
            let same = pairs.take_while(|(a, b)| a.is_like(b)).count();
            let (a, b) = (one_story.get(same), other_story.get(same));
            let is_one = match (a, b) {
                (Some(_), Some(_)) => true,
                // A list that was cut says nothing of what came behind.
                (Some(_), None) => other.cut.is_none(),
                (None, Some(_)) => one.cut.is_none(),
                (None, None) => false,
            };
            let before = same
                .checked_sub(1)
                .and_then(|last| Some([*one_story.get(last)?, *other_story.get(last)?]));
            is_one.then(|| Difference::of(a.copied(), b.copied(), before))
        })
        .collect();
    found.sort_by_key(Difference::first_ns);
    found
}

fn stories(events: &Events) -> BTreeMap<i32, Vec<&Event>> {
    let mut stories: BTreeMap<i32, Vec<&Event>> = BTreeMap::new();
    for event in &events.list {
        stories.entry(event.pid).or_default().push(event);
    }
    stories
}

/// A moment as `--at` takes it.
pub(crate) fn moment(ns: u64) -> String {
    format!("{}.{:09}s", ns / 1_000_000_000, ns % 1_000_000_000)
}

/// The report on two runs.
pub(crate) fn text(test: &str, told: &[Told; 2], found: &[Difference]) -> String {
    let mut out = String::new();
    for told in told {
        let (seed, verdict, count) = (told.seed, told.record.verdict, told.events.list.len());
        // Writing to a String cannot fail.
        let _ = write!(out, "seed {seed}: {verdict}, {count} events");
        let _ = match &told.events.cut {
            None => writeln!(out),
            Some(reason) => {
                let last = told.events.list.last().map_or(0, |event| event.at_ns);
                writeln!(out, " up to {}, and no more: {reason}", moment(last))
            }
        };
    }
    let Some((first, others)) = found.split_first() else {
        out.push_str("no event differs\n");
        return out;
    };
    let [one, other] = told.each_ref().map(|told| told.seed);
    let cpu = first.events().next().map_or(0, |event| event.cpu);
    let _ = writeln!(
        out,
        "first difference: at {}, CPU {cpu}, {}",
        moment(first.at_ns()),
        first.task()
    );
    for (seed, event) in [(one, &first.one), (other, &first.other)] {
        let _ = match event {
            Some(event) => writeln!(out, "  seed {seed}: at {}, {event}", moment(event.at_ns)),
            None => writeln!(out, "  seed {seed}: nothing more happens to it"),
        };
    }
    if let Some([a, b]) = &first.before {
        let times = [a, b].map(|event| moment(event.at_ns));
        let _ = writeln!(
            out,
            "  before, in both: {a} (at {} and {})",
            times[0], times[1]
        );
    }
    if !others.is_empty() {
        out.push_str("tasks that differ later:\n");
    }
    for later in others.iter().take(MOST_OTHERS) {
        let _ = writeln!(
            out,
            "  {} from {} on",
            later.task(),
            moment(later.first_ns())
        );
    }
    if let Some(more) = others
        .len()
        .checked_sub(MOST_OTHERS)
        .filter(|more| *more > 0)
    {
        let _ = writeln!(out, "  and {more} more");
    }
    let at =
        |event: &Option<Event>| moment(event.as_ref().map_or(first.at_ns(), |event| event.at_ns));
    for (seed, at) in [(one, at(&first.one)), (other, at(&first.other))] {
        let _ = writeln!(
            out,
            "state in seed {seed}: cargo ktstr look {} --seed {seed} --at {at}",
            shell_word(test)
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use ktstr::model::events::{Stopped, What};

    fn event(at_ns: u64, cpu: u32, pid: i32, what: What) -> Event {
        Event {
            at_ns,
            cpu,
            pid,
            comm: format!("t{pid}"),
            what,
        }
    }

    fn events(list: &[Event]) -> Events {
        Events {
            list: list.to_vec(),
            cut: None,
        }
    }

    fn story() -> Vec<Event> {
        vec![
            event(10, 0, 1, What::Wake { on: 0 }),
            event(11, 0, 1, What::Run),
            event(12, 1, 2, What::Run),
            event(15, 0, 1, What::Stop(Stopped::Asleep)),
            event(16, 1, 2, What::Stop(Stopped::Runnable)),
        ]
    }

    #[test]
    fn order_between_tasks_and_times_are_no_difference() {
        let mut other = story();
        other.swap(1, 2);
        for event in &mut other {
            event.at_ns += 7;
        }
        assert_eq!(differences(&events(&story()), &events(&other)), []);
    }

    #[test]
    fn the_first_difference_of_each_task_is_found() {
        let mut other = story();
        // Task 2 runs elsewhere, task 1 is preempted later on.
        other[2].cpu = 0;
        other[3].what = What::Stop(Stopped::Runnable);
        let found = differences(&events(&story()), &events(&other));
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].one, Some(story()[2].clone()));
        assert_eq!(found[0].other.as_ref().unwrap().cpu, 0);
        assert_eq!(found[0].before, None);
        assert_eq!(found[1].at_ns(), 15);
        let before = found[1].before.as_ref().unwrap();
        assert_eq!(before[0], story()[1]);
    }

    #[test]
    fn one_event_more_is_a_difference_unless_the_list_was_cut() {
        let short = events(&story()[..4]);
        let found = differences(&events(&story()), &short);
        assert_eq!((found.len(), found[0].other.clone()), (1, None));
        assert_eq!(found[0].at_ns(), 16);
        let cut = Events {
            cut: Some(String::from("full")),
            ..short
        };
        assert_eq!(differences(&events(&story()), &cut), []);
        assert_eq!(differences(&cut, &events(&story())), []);
    }

    #[test]
    fn a_moment_keeps_its_nanoseconds() {
        assert_eq!(moment(1_000_000_005), "1.000000005s");
    }
}
