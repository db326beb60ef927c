//! Runqueues, tasks, domains and sched_ext against /proc and /sys of the frozen guest.

use std::collections::{BTreeMap, BTreeSet};

use ktstr_monitor::sched::{DsqKind, ScxLayout};

use crate::lab::lab;

#[test]
fn runqueues_hold_the_tasks_that_were_pinned_there() {
    let lab = lab();
    let walk = lab.kernel.runqueues();
    assert!(walk.problems.is_empty(), "{:?}", walk.problems);
    let queues = walk.found;
    assert_eq!(
        queues.iter().map(|rq| rq.cpu).collect::<Vec<_>>(),
        [0, 1, 2, 3]
    );
    assert!(queues[0].nr_running.unwrap() >= 2, "{:?}", queues[0]);
    assert!(queues[1].nr_running.unwrap() >= 1, "{:?}", queues[1]);
    assert!(queues[0].scx.as_ref().unwrap().nr_running.unwrap() >= 2);
    for (cpu, least) in [(0, 2), (1, 1)] {
        let scx = queues[cpu].scx.as_ref().unwrap();
        // The one that runs is not in the list.
        let running = u64::from(queues[cpu].is_idle == Some(false));
        let waiting = scx.runnable.len() as u64;
        assert_eq!(Some(waiting + running), scx.nr_running, "{scx:?}");
        let shells = scx.runnable.iter().filter(|task| task.task.comm == "sh");
        assert!(shells.count() + 1 >= least, "{scx:?}");
        assert!(scx.runnable.iter().all(|task| task.runnable_for.is_some()));
    }
    for rq in &queues {
        let server = rq.fair_server.as_ref().unwrap();
        let (budget, period) = (server.dl_runtime, server.dl_period);
        assert_eq!((budget, period), (Some(50_000_000), Some(1_000_000_000)));
        assert!(rq.clock.unwrap() > 1_000_000_000, "{rq:?}");
        assert_eq!(rq.is_idle.unwrap(), rq.curr.as_ref().unwrap().pid == 0);
        let flags = &rq.scx.as_ref().unwrap().flag_names;
        assert!(flags.iter().any(|flag| flag == "ONLINE"), "{flags:?}");
    }
}

/// /proc/schedstat: yld_count, 0, sched_count, sched_goidle, ttwu_count, ttwu_local, rq_cpu_time, run_delay, pcount.
#[test]
fn schedstats_lie_between_the_guests_own_readings() {
    let lab = lab();
    let lines = |when| -> BTreeMap<String, Vec<String>> {
        lab.facts
            .schedstat(when)
            .into_iter()
            .filter(|(name, _)| name.starts_with("cpu"))
            .collect()
    };
    let (before, after) = (lines("before"), lines("after"));
    for rq in lab.kernel.runqueues().found {
        let stat = rq.schedstat.unwrap();
        let found = [
            (0, stat.yld_count),
            (2, stat.sched_count),
            (3, stat.sched_goidle),
            (4, stat.ttwu_count),
            (5, stat.ttwu_local),
            (6, stat.rq_cpu_time),
            (7, stat.run_delay),
            (8, stat.pcount),
        ];
        let name = format!("cpu{}", rq.cpu);
        for (column, found) in found {
            let bound = |lines: &BTreeMap<String, Vec<String>>| {
                lines[&name][column].parse::<u64>().unwrap()
            };
            let (low, found, high) = (bound(&before), found.unwrap(), bound(&after));
            assert!(
                (low..=high).contains(&found),
                "{name} column {column}: {low} <= {found} <= {high}"
            );
        }
    }
}

#[test]
fn tasks_are_those_of_proc() {
    let lab = lab();
    let walk = lab.kernel.tasks();
    assert!(walk.problems.is_empty(), "{:?}", walk.problems);
    let found: BTreeMap<i32, _> = walk
        .found
        .into_iter()
        .map(|task| (task.pid, task))
        .collect();
    let stable = lab.facts.stable_tasks();
    assert!(
        stable.len() > 40,
        "only {} tasks are in both reports",
        stable.len()
    );
    let cgroups: BTreeMap<i32, String> = lab
        .facts
        .text("cgroups")
        .lines()
        .filter_map(|line| {
            let (pid, cgroup) = line.trim().split_once(' ')?;
            Some((
                pid.parse().ok()?,
                cgroup.trim().strip_prefix("0::")?.to_owned(),
            ))
        })
        .collect();
    for (pid, said) in stable {
        let task = found
            .get(&pid)
            .unwrap_or_else(|| panic!("{said:?} was not found"));
        // /proc adds to workers' names what they work on, and knows the whole name of kernel threads.
        let is_worker = said.comm.starts_with("kworker/");
        let is_cut = task.is_kthread == Some(true) && said.comm.starts_with(&task.comm);
        assert!(
            is_worker || is_cut || task.comm == said.comm,
            "{task:?} {said:?}"
        );
        // A task may run at one moment and wait at another.
        let moves = said.state == 'R' || task.state == Some('R');
        assert!(moves || task.state == Some(said.state), "{task:?} {said:?}");
        assert_eq!(task.ppid, Some(said.ppid), "{said:?}");
        assert_eq!(task.nice, Some(said.nice), "{said:?}");
        assert_eq!(task.policy, Some(said.policy), "{said:?}");
        if let Some(cgroup) = cgroups.get(&pid) {
            assert_eq!(task.cgroup.as_ref(), Some(cgroup), "{said:?}");
        }
    }
    let all: BTreeSet<i32> = ["before", "after"]
        .iter()
        .flat_map(|when| lab.facts.tasks(when).into_keys())
        .collect();
    let strangers: Vec<_> = found.keys().filter(|pid| !all.contains(pid)).collect();
    assert!(strangers.len() < 4, "{strangers:?}");
}

#[test]
fn what_the_guest_arranged_is_seen() {
    let lab = lab();
    let tasks = lab.kernel.tasks().found;
    let find = |test: &dyn Fn(&ktstr_monitor::sched::Task) -> bool| {
        tasks
            .iter()
            .find(|task| test(task))
            .unwrap_or_else(|| panic!("{tasks:#?}"))
    };
    assert_eq!(
        find(&|task| task.cgroup.as_deref() == Some("/alpha/beta")).comm,
        "sleep"
    );
    find(&|task| task.state == Some('T'));
    find(&|task| task.nice == Some(7));
    let pinned = tasks
        .iter()
        .filter(|task| task.cpus_allowed.as_deref() == Some(&[0]) && task.comm == "sh");
    assert_eq!(pinned.count(), 2);
    let pinned = find(&|task| task.cpus_allowed.as_deref() == Some(&[1]) && task.comm == "sh");
    assert_eq!(
        (pinned.sched_class.as_deref(), pinned.cpu),
        (Some("ext"), Some(1))
    );
    let scx = pinned.scx.as_ref().unwrap();
    assert_eq!(scx.state.as_deref(), Some("enabled"), "{scx:?}");
    assert!(
        scx.flag_names.iter().any(|flag| flag == "queued"),
        "{scx:?}"
    );
    // Of the two on CPU 0 one waits, and was taken off the CPU by the scheduler.
    let waiting =
        find(&|task| task.on_cpu == Some(false) && task.on_rq == Some(true) && task.comm == "sh");
    let has_schedule = waiting
        .stack
        .iter()
        .any(|frame| frame.contains("schedule+"));
    assert!(has_schedule, "{waiting:?}");
    let groups = lab.kernel.task_groups();
    assert!(groups.problems.is_empty(), "{:?}", groups.problems);
    assert_eq!(groups.found[0].cgroup.as_deref(), Some("/"), "{groups:?}");
}

/// /proc/schedstat lists each CPU's domains with the CPUs they span.
#[test]
fn sched_domains_span_what_the_guest_says() {
    let lab = lab();
    let mut said = Vec::new();
    let mut cpu = 0;
    for (name, words) in lab.facts.schedstat("before") {
        if let Some(number) = name.strip_prefix("cpu") {
            cpu = number.parse().unwrap();
        } else if let Some(depth) = name.strip_prefix("domain") {
            // Since 6.15 the domain's name stands before its mask.
            let mask = words
                .iter()
                .find_map(|word| u64::from_str_radix(&word.replace(',', ""), 16).ok())
                .unwrap();
            let span: Vec<u32> = (0..64).filter(|bit| mask >> bit & 1 == 1).collect();
            said.push((cpu, depth.parse().unwrap(), span));
        }
    }
    let found: Vec<(u32, u32, Vec<u32>)> = lab
        .kernel
        .sched_domains()
        .found
        .into_iter()
        .map(|domain| (domain.cpu, domain.depth, domain.span))
        .collect();
    assert!(!said.is_empty());
    assert_eq!(found, said);
    let inner = &lab.kernel.sched_domains().found[0];
    assert!(
        inner.flag_names.iter().any(|flag| flag == "SD_SHARE_LLC"),
        "{inner:?}"
    );
}

#[test]
fn sched_ext_state_is_that_of_sysfs() {
    let lab = lab();
    let scx = lab.kernel.scx().unwrap().unwrap();
    assert!(scx.problems.is_empty(), "{:?}", scx.problems);
    let said: BTreeMap<&str, &str> = lab
        .facts
        .text("scx")
        .lines()
        .filter_map(|line| line.trim().split_once(' '))
        .collect();
    let expected = match lab.kernel.btf().find_struct("scx_sched") {
        Some(_) => ScxLayout::Root,
        None => ScxLayout::Globals,
    };
    assert_eq!(scx.layout, expected);
    let roots = usize::from(expected == ScxLayout::Root);
    assert_eq!(scx.schedulers.len(), roots, "{:?}", scx.schedulers);
    // Two CPUs are busy for ever.
    let idle = &scx.idle.cpus;
    assert!(!idle.contains(&0) && !idle.contains(&1), "{idle:?}");
    assert_eq!(scx.state.as_deref(), Some(said["state"]));
    assert_eq!(scx.ops_name.as_deref(), Some(said["ops"]));
    assert_eq!(scx.enable_seq.unwrap().to_string(), said["enable_seq"]);
    assert_eq!(scx.nr_rejected.unwrap().to_string(), said["nr_rejected"]);
    assert_eq!(
        u64::from(scx.switch_all.unwrap()).to_string(),
        said["switch_all"]
    );
    assert_eq!((scx.exit_kind, scx.bypass_depth), (Some(0), Some(0)));
    // 9 s were written from outside while the guest ran, at 1000 Hz.
    assert_eq!(scx.watchdog_timeout, Some(9000));
    let ages = scx
        .jiffies
        .unwrap()
        .wrapping_sub(scx.watchdog_timestamp.unwrap());
    assert!(ages < 60_000, "{ages}");
}

#[test]
fn dispatch_queues_hold_tasks_that_wait() {
    let lab = lab();
    let walk = lab.kernel.dispatch_queues();
    assert!(walk.problems.is_empty(), "{:?}", walk.problems);
    let user: Vec<_> = walk
        .found
        .iter()
        .filter(|dsq| dsq.kind == DsqKind::User)
        .collect();
    let ids: BTreeSet<u64> = user.iter().map(|dsq| dsq.id.unwrap()).collect();
    assert_eq!(ids, BTreeSet::from([0, 1]), "the fixture makes two");
    let pids: BTreeSet<i32> = lab
        .kernel
        .tasks()
        .found
        .iter()
        .map(|task| task.pid)
        .collect();
    for dsq in &walk.found {
        assert_eq!(dsq.nr, Some(dsq.tasks.len() as u64), "{dsq:?}");
        for queued in &dsq.tasks {
            assert!(pids.contains(&queued.task.pid), "{queued:?}");
        }
    }
    // Of the two tasks on CPU 0 one waits somewhere.
    let waiting: usize = walk.found.iter().map(|dsq| dsq.tasks.len()).sum();
    assert!(waiting >= 1, "{walk:?}");
    let locals = walk
        .found
        .iter()
        .filter(|dsq| matches!(dsq.kind, DsqKind::Local { .. }));
    assert_eq!(locals.count(), 4);
}
