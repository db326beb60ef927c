//! What held the CPU: tasks of real-time classes, which no scheduler of the fair class or sched_ext can push away.

use std::collections::BTreeMap;
use std::fs;

/// Flag of kernel threads in a task's `stat` (include/linux/sched.h: `PF_KTHREAD`).
const PF_KTHREAD: u64 = 0x0020_0000;
/// The kernel's unit of times in `stat` (`USER_HZ` is 100 on every machine of ours).
const TICK_MS: u64 = 10;
/// Shares of one CPU from which a task counts as one that held it, percent.
const HOLDS_PCT: u64 = 50;
/// Shortest time between two looks: the kernel's times are in steps of 10 ms.
const MIN_WINDOW_MS: u64 = 100;
/// Tasks that are named.
const MAX_NAMED: usize = 4;

/// A task of a class above the fair one.
#[derive(Debug, Clone, PartialEq, Eq)]
struct RtTask {
    name: String,
    class: &'static str,
    priority: u64,
    cpu: u64,
    used_ms: u64,
}

/// Watches real-time tasks from a scenario's start on.
#[derive(Debug, Default)]
pub(super) struct Hogs {
    /// CPU time of each at the last look, and when that was.
    before: BTreeMap<i32, u64>,
    looked_at_ms: u64,
    /// Those that held a CPU between two looks, with that time.
    found: BTreeMap<i32, (RtTask, u64)>,
}

impl Hogs {
    pub(super) fn begin() -> Self {
        let mut hogs = Self::default();
        hogs.note(0, rt_tasks());
        hogs
    }

    /// Looks again: before workers are stopped, since one of them may be the hog.
    pub(super) fn look(&mut self, elapsed_ms: u64) {
        self.note(elapsed_ms, rt_tasks());
    }

    fn note(&mut self, elapsed_ms: u64, tasks: Vec<(i32, RtTask)>) {
        let window_ms = elapsed_ms.saturating_sub(self.looked_at_ms);
        if elapsed_ms > 0 && window_ms < MIN_WINDOW_MS {
            return;
        }
        let before = std::mem::take(&mut self.before);
        for (tid, mut task) in tasks {
            self.before.insert(tid, task.used_ms);
            let earlier = before.get(&tid).copied().unwrap_or(0);
            task.used_ms = task.used_ms.saturating_sub(earlier);
            let share_pct = (task.used_ms * 100).checked_div(window_ms).unwrap_or(0);
            if share_pct >= HOLDS_PCT {
                self.found.insert(tid, (task, window_ms));
            }
        }
        self.looked_at_ms = elapsed_ms;
    }

    /// The tasks that used most of a CPU between two looks, for a finding's text.
    pub(super) fn words(&self) -> Option<String> {
        let named: Vec<String> = self
            .found
            .iter()
            .take(MAX_NAMED)
            .map(|(tid, (task, window_ms))| {
                let RtTask {
                    name,
                    class,
                    priority,
                    cpu,
                    used_ms,
                } = task;
                format!("{name} (pid {tid}, {class} {priority}, last on cpu {cpu}) had {used_ms} of {window_ms} ms")
            })
            .collect();
        (!named.is_empty()).then(|| format!("a real-time task held a CPU: {}", named.join(", ")))
    }
}

/// All threads of real-time classes that are no kernel's, but for this process and init.
fn rt_tasks() -> Vec<(i32, RtTask)> {
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    let numbers = |path: &str| -> Vec<i32> {
        let entries = fs::read_dir(path).into_iter().flatten().flatten();
        entries
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .collect()
    };
    let others = numbers("/proc")
        .into_iter()
        .filter(|pid| *pid != own && *pid != 1);
    others
        .flat_map(|pid| {
            let tids = numbers(&format!("/proc/{pid}/task"));
            tids.into_iter().filter_map(move |tid| {
                let stat = fs::read_to_string(format!("/proc/{pid}/task/{tid}/stat")).ok()?;
                Some((tid, parse(&stat)?))
            })
        })
        .collect()
}

/// One line of `/proc/PID/stat` (kernel: `do_task_stat`); `None` for a task of another class.
fn parse(stat: &str) -> Option<RtTask> {
    let (head, tail) = stat.rsplit_once(") ")?;
    let name = head.split_once('(')?.1.to_owned();
    // The first of these is field 3.
    let fields: Vec<&str> = tail.split_ascii_whitespace().collect();
    let number = |field: usize| -> Option<u64> { fields.get(field - 3)?.parse().ok() };
    let class = match number(41)? {
        1 => "SCHED_FIFO",
        2 => "SCHED_RR",
        6 => "SCHED_DEADLINE",
        _ => return None,
    };
    if number(9)? & PF_KTHREAD != 0 {
        return None;
    }
    Some(RtTask {
        name,
        class,
        priority: number(40)?,
        cpu: number(39)?,
        used_ms: number(14)?
            .saturating_add(number(15)?)
            .saturating_mul(TICK_MS),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stat(name: &str, flags: u64, ticks: u64, policy: u64) -> String {
        let mut fields = vec!["0".to_owned(); 50];
        fields[0] = "R".into();
        fields[9 - 3] = flags.to_string();
        fields[14 - 3] = ticks.to_string();
        fields[39 - 3] = "1".into();
        fields[40 - 3] = "50".into();
        fields[41 - 3] = policy.to_string();
        format!("77 ({name}) {}\n", fields.join(" "))
    }

    #[test]
    fn only_real_time_tasks_of_user_space_count() {
        let task = parse(&stat("rt) hog", 0, 230, 1)).unwrap();
        assert_eq!(
            (task.name.as_str(), task.class, task.used_ms),
            ("rt) hog", "SCHED_FIFO", 2_300)
        );
        assert_eq!(parse(&stat("fair", 0, 230, 0)), None);
        assert_eq!(parse(&stat("migration/1", PF_KTHREAD, 230, 1)), None);
        assert_eq!(parse("nonsense"), None);
    }

    #[test]
    fn who_held_a_cpu_is_named_with_class_and_priority() {
        let tasks = |hog, small| {
            let task = |name, ticks, policy| parse(&stat(name, 0, ticks, policy)).unwrap();
            vec![(77, task("hog", hog, 1)), (78, task("small", small, 2))]
        };
        let mut hogs = Hogs::default();
        hogs.note(0, tasks(1_000, 0));
        assert_eq!(hogs.words(), None, "what it did before is no matter");
        hogs.note(3_000, tasks(1_230, 10));
        hogs.note(9_000, tasks(1_230, 20));
        let words = hogs.words().unwrap();
        for needle in [
            "hog (pid 77, SCHED_FIFO 50, last on cpu 1)",
            "2300 of 3000 ms",
        ] {
            assert!(words.contains(needle), "{words}");
        }
        assert!(!words.contains("small"), "{words}");
    }
}
