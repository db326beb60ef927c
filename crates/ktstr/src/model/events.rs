//! What the scheduler did to tasks in a run of virtual time, in order and with exact times, as a text file of one line each.
//!
//! Written by the host while it follows a guest, read by `cargo ktstr look --until-differs`. The last line says whether the list is
//! whole: a file without one is cut short. Idle tasks have no events, since those of the others tell when a CPU has none.

use std::fmt;
use std::io::{self, BufRead, Write};

/// The first line.
pub const EVENTS_SCHEMA: &str = "ktstr.events/1";

/// The most that are kept of one run; at a few ten microseconds each, and about 50 bytes.
pub const MOST_EVENTS: usize = 500_000;

/// Something that the scheduler did to a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Virtual time since power-on, nanoseconds.
    pub at_ns: u64,
    /// The CPU that did it.
    pub cpu: u32,
    /// The thread's id.
    pub pid: i32,
    /// Its name at that time, without control characters.
    pub comm: String,
    /// What.
    pub what: What,
}

/// What the scheduler did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// It is woken, and put on the runqueue of this CPU.
    Wake {
        /// The CPU.
        on: u32,
    },
    /// It moves to another CPU.
    Migrate {
        /// Where it was.
        from: u32,
        /// Where it goes.
        to: u32,
    },
    /// The CPU goes on to run it.
    Run,
    /// The CPU stops running it.
    Stop(Stopped),
}

/// In which state a task stops running.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stopped {
    /// It was preempted, or yielded.
    Runnable,
    /// It waits for something.
    Asleep,
    /// It has exited.
    Dead,
}

impl Stopped {
    const ALL: [Self; 3] = [Self::Runnable, Self::Asleep, Self::Dead];

    fn word(self) -> &'static str {
        match self {
            Self::Runnable => "runnable",
            Self::Asleep => "asleep",
            Self::Dead => "dead",
        }
    }
}

impl Event {
    /// Whether both say the same of a task, at whatever time.
    #[must_use]
    pub fn is_like(&self, other: &Self) -> bool {
        let place = |event: &Self| match event.what {
            // Which CPU woke or moved it is that CPU's story.
            What::Wake { .. } | What::Migrate { .. } => None,
            What::Run | What::Stop(_) => Some(event.cpu),
        };
        self.pid == other.pid && self.what == other.what && place(self) == place(other)
    }

    fn parse(line: &str) -> Option<Self> {
        let mut words = line.splitn(4, ' ');
        let at_ns = words.next()?.parse().ok()?;
        let cpu = words.next()?.parse().ok()?;
        let pid = words.next()?.parse().ok()?;
        let mut rest = words.next()?;
        let mut word = || {
            let (word, behind) = rest.split_once(' ')?;
            rest = behind;
            Some(word)
        };
        let what = match word()? {
            "wake" => What::Wake {
                on: word()?.parse().ok()?,
            },
            "migrate" => What::Migrate {
                from: word()?.parse().ok()?,
                to: word()?.parse().ok()?,
            },
            "run" => What::Run,
            "stop" => {
                let state = word()?;
                let mut states = Stopped::ALL.into_iter();
                What::Stop(states.find(|known| known.word() == state)?)
            }
            _ => return None,
        };
        Some(Self {
            at_ns,
            cpu,
            pid,
            comm: rest.to_owned(),
            what,
        })
    }
}

/// As a line of the file.
struct Line<'e>(&'e Event);

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let event = self.0;
        write!(f, "{} {} {} ", event.at_ns, event.cpu, event.pid)?;
        match event.what {
            What::Wake { on } => write!(f, "wake {on} ")?,
            What::Migrate { from, to } => write!(f, "migrate {from} {to} ")?,
            What::Run => f.write_str("run ")?,
            What::Stop(state) => write!(f, "stop {} ", state.word())?,
        }
        // A task names itself as it likes.
        let plain = |c: char| if c.is_control() { '?' } else { c };
        event
            .comm
            .chars()
            .map(plain)
            .try_for_each(|c| write!(f, "{c}"))
    }
}

/// For people: `kworker/0:1 (pid 9) is woken, onto CPU 1, by CPU 0`.
impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (comm, pid, cpu) = (&self.comm, self.pid, self.cpu);
        write!(f, "{comm} (pid {pid}) ")?;
        match self.what {
            What::Wake { on } => write!(f, "is woken, onto CPU {on}, by CPU {cpu}"),
            What::Migrate { from, to } => {
                write!(f, "moves from CPU {from} to CPU {to}, by CPU {cpu}")
            }
            What::Run => write!(f, "begins to run on CPU {cpu}"),
            What::Stop(state) => write!(f, "stops running on CPU {cpu}, {}", state.word()),
        }
    }
}

/// The events of one run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Events {
    /// In order.
    pub list: Vec<Event>,
    /// Why there are no more, where the run had more.
    pub cut: Option<String>,
}

impl Events {
    /// Reads a file of events.
    ///
    /// # Errors
    /// When it cannot be read, or holds something else.
    pub fn read(file: impl BufRead) -> io::Result<Self> {
        let invalid = |line: &str| {
            let text = format!("'{line}' is not a line of {EVENTS_SCHEMA}");
            io::Error::new(io::ErrorKind::InvalidData, text)
        };
        let mut lines = file.lines();
        match lines.next().transpose()?.as_deref() {
            Some(EVENTS_SCHEMA) => {}
            other => return Err(invalid(other.unwrap_or_default())),
        }
        let mut list = Vec::new();
        for line in lines {
            let line = line?;
            if line == "end" {
                return Ok(Self { list, cut: None });
            }
            if let Some(reason) = line.strip_prefix("cut ") {
                let cut = Some(reason.to_owned());
                return Ok(Self { list, cut });
            }
            if list.len() >= MOST_EVENTS {
                return Err(invalid(&line));
            }
            list.push(Event::parse(&line).ok_or_else(|| invalid(&line))?);
        }
        let cut = Some(String::from("the run was ended from outside"));
        Ok(Self { list, cut })
    }
}

/// Writes a file of events.
#[derive(Debug)]
pub struct EventWriter<W> {
    to: W,
    left: usize,
}

impl<W: Write> EventWriter<W> {
    /// A file without events.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn new(mut to: W) -> io::Result<Self> {
        writeln!(to, "{EVENTS_SCHEMA}")?;
        let left = MOST_EVENTS;
        Ok(Self { to, left })
    }

    /// One more; false when there is no room for it.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn push(&mut self, event: &Event) -> io::Result<bool> {
        let Some(left) = self.left.checked_sub(1) else {
            return Ok(false);
        };
        self.left = left;
        writeln!(self.to, "{}", Line(event))?;
        Ok(true)
    }

    /// No more come: because the run is over, or for another reason.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn finish(mut self, cut: Option<&str>) -> io::Result<()> {
        match cut {
            None => writeln!(self.to, "end")?,
            Some(reason) => writeln!(self.to, "cut {}", reason.replace('\n', " "))?,
        }
        self.to.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(what: What) -> Event {
        Event {
            at_ns: 1_234_567_890,
            cpu: 1,
            pid: 42,
            comm: String::from("a b"),
            what,
        }
    }

    fn all() -> Vec<Event> {
        let stops = Stopped::ALL.map(What::Stop);
        let others = [
            What::Wake { on: 3 },
            What::Migrate { from: 0, to: 7 },
            What::Run,
        ];
        others.into_iter().chain(stops).map(event).collect()
    }

    fn written(events: &[Event], cut: Option<&str>) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut writer = EventWriter::new(&mut bytes).unwrap();
        for event in events {
            assert!(writer.push(event).unwrap());
        }
        writer.finish(cut).unwrap();
        bytes
    }

    #[test]
    fn events_come_through_the_file() {
        let whole = Events {
            list: all(),
            cut: None,
        };
        assert_eq!(Events::read(&written(&all(), None)[..]).unwrap(), whole);
        let cut = Events::read(&written(&all(), Some("full"))[..]).unwrap();
        assert_eq!((cut.list, cut.cut.as_deref()), (all(), Some("full")));
    }

    #[test]
    fn a_file_that_ends_early_is_cut() {
        let bytes = written(&all(), None);
        let short = bytes.strip_suffix(b"end\n").unwrap();
        let read = Events::read(short).unwrap();
        assert_eq!(read.list, all());
        assert!(read.cut.unwrap().contains("ended"));
    }

    #[test]
    fn what_is_no_event_is_told() {
        for wrong in [
            "",
            "events",
            "ktstr.events/1\n1 2 3 sleep x\n",
            "ktstr.events/1\n1 2\n",
            "ktstr.events/1\n1 2 3 stop here x\n",
        ] {
            assert!(Events::read(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_task_cannot_name_itself_into_another_line() {
        let evil = Event {
            comm: String::from("x\nend"),
            ..event(What::Run)
        };
        let read = Events::read(&written(&[evil, event(What::Run)], None)[..]).unwrap();
        assert_eq!(read.list.len(), 2);
        assert_eq!(read.list[0].comm, "x?end");
    }

    #[test]
    fn times_make_no_difference_and_places_do() {
        let later = Event {
            at_ns: 5,
            ..event(What::Run)
        };
        assert!(event(What::Run).is_like(&later));
        let elsewhere = Event { cpu: 0, ..later };
        assert!(!event(What::Run).is_like(&elsewhere));
        let woken = |cpu, on| Event {
            cpu,
            ..event(What::Wake { on })
        };
        assert!(woken(0, 2).is_like(&woken(1, 2)));
        assert!(!woken(0, 2).is_like(&woken(0, 1)));
    }

    #[test]
    fn people_read_sentences() {
        let texts: Vec<String> = all().iter().map(Event::to_string).collect();
        assert_eq!(texts[0], "a b (pid 42) is woken, onto CPU 3, by CPU 1");
        assert_eq!(texts[3], "a b (pid 42) stops running on CPU 1, runnable");
    }
}
