//! What the guest said of itself.

use std::collections::BTreeMap;

use serde_json::Value;

pub(crate) struct Facts(BTreeMap<String, String>);

/// A line of `/proc/PID/stat`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Stat {
    pub(crate) pid: i32,
    pub(crate) comm: String,
    pub(crate) state: char,
    pub(crate) ppid: i32,
    pub(crate) nice: i32,
    pub(crate) policy: u64,
}

impl Facts {
    pub(crate) fn parse(said: &str) -> Self {
        let mut facts = BTreeMap::new();
        for part in said.split("@@FACT ").skip(1) {
            let (name, rest) = part.split_once('\n').unwrap();
            let body = rest.split("@@END").next().unwrap();
            facts.insert(name.trim().to_owned(), body.to_owned());
        }
        Self(facts)
    }

    #[track_caller]
    pub(crate) fn text(&self, name: &str) -> &str {
        self.0
            .get(name)
            .unwrap_or_else(|| panic!("the guest said nothing of {name}"))
    }

    #[track_caller]
    pub(crate) fn json(&self, name: &str) -> Value {
        let text = self.text(name);
        serde_json::from_str(text).unwrap_or_else(|error| panic!("{name}: {error}: {text}"))
    }

    /// A symbol's address by `/proc/kallsyms`.
    #[track_caller]
    pub(crate) fn symbol(&self, name: &str) -> u64 {
        let line = self
            .text("kallsyms")
            .lines()
            .find(|line| line.split_whitespace().nth(2) == Some(name))
            .unwrap_or_else(|| panic!("no {name} in /proc/kallsyms"));
        u64::from_str_radix(line.split_whitespace().next().unwrap(), 16).unwrap()
    }

    /// Threads, by id.
    pub(crate) fn tasks(&self, when: &str) -> BTreeMap<i32, Stat> {
        self.text(&format!("{when}_tasks"))
            .lines()
            .filter_map(stat)
            .map(|stat| (stat.pid, stat))
            .collect()
    }

    /// Threads of which both reports say the same.
    pub(crate) fn stable_tasks(&self) -> BTreeMap<i32, Stat> {
        let after = self.tasks("after");
        let mut tasks = self.tasks("before");
        tasks.retain(|pid, stat| after.get(pid) == Some(stat));
        tasks
    }

    /// The words of the lines of `/proc/schedstat` that begin so.
    pub(crate) fn schedstat(&self, when: &str) -> Vec<(String, Vec<String>)> {
        self.text(&format!("{when}_schedstat"))
            .lines()
            .filter_map(|line| {
                let mut words = line.split_whitespace().map(str::to_owned);
                Some((words.next()?, words.collect()))
            })
            .collect()
    }
}

fn stat(line: &str) -> Option<Stat> {
    let (pid, rest) = line.split_once(" (")?;
    let (comm, rest) = rest.rsplit_once(") ")?;
    // Numbered as in proc(5), from 3 on.
    let fields: Vec<&str> = rest.split_whitespace().collect();
    Some(Stat {
        pid: pid.trim().parse().ok()?,
        comm: comm.to_owned(),
        state: fields[0].chars().next()?,
        ppid: fields[1].parse().ok()?,
        nice: fields[16].parse().ok()?,
        policy: fields[38].parse().ok()?,
    })
}
