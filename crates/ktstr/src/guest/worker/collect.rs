//! The end of a group: stop that cannot hang, and the reports.

use std::os::fd::AsFd;
use std::sync::atomic::Ordering::{Relaxed, Release};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::group::WorkerGroup;
use super::meter::nanos;
use super::page::Slot;
use super::proc;
use super::process::{AtStop, Process};
use crate::guest::sys;
use crate::model::cpuset::CpuSet;
use crate::model::report::{Gap, LatencySummary, PagePlacement, WorkerExit, WorkerReport};
use crate::model::work::CloneMode;

/// How long killed workers have to leave the kernel.
const REAP_TIME: Duration = Duration::from_secs(2);

impl WorkerGroup {
    /// Closes the window and asks all workers to stop, without waiting. Several groups are closed one after the other
    /// before any is finished, so that their windows end together.
    pub fn close_window(&mut self) {
        if self.at_stop.is_empty() {
            self.at_stop = (0..self.slots.len()).map(|i| self.at_stop(i)).collect();
            self.ask_to_stop();
        }
    }

    /// Waits for the workers' ends and reports. One that does not stop within `grace` is killed, and the report says so;
    /// the call returns at most about two seconds after that.
    pub fn finish(mut self, grace: Duration) -> Vec<WorkerReport> {
        self.close_window();
        self.wait_for_ends(grace);
        let late: Vec<bool> = self.processes.iter_mut().map(|p| !p.try_reap()).collect();
        self.kill_all();
        self.judge_cpus();
        (0..self.slots.len())
            .map(|index| {
                let late = late[self.process_of(index)];
                self.report(index, &self.at_stop[index], late, grace)
            })
            .collect()
    }

    /// What can only be read while the worker lives.
    fn at_stop(&mut self, index: usize) -> AtStop {
        let process = self.process_of(index);
        let ended_before = self.processes[process].try_reap();
        let task = self.task_of(index);
        if ended_before {
            return AtStop {
                cpu_ns: None,
                run_delay_ns: None,
                pages: None,
                ended_before,
            };
        }
        let times = proc::run_time_ns(task);
        let cpu_ns = match self.spec.clone_mode {
            // Threads that the work type itself made count as well.
            CloneMode::Fork => sys::process_cpu_ns(task.0),
            CloneMode::Thread => times.map(|times| times.cpu_ns),
        };
        AtStop {
            cpu_ns,
            run_delay_ns: times.map(|times| times.delay_ns),
            pages: self
                .spec
                .count_pages
                .then(|| proc::pages_by_node(task.0))
                .flatten(),
            ended_before,
        }
    }

    /// Closes the window and finishes: for a group on its own.
    pub fn stop(mut self, grace: Duration) -> Vec<WorkerReport> {
        self.close_window();
        self.finish(grace)
    }

    /// While `excused`, and until it is called off, time without progress is no gap: the group is frozen.
    pub fn set_excused(&self, excused: bool) {
        let until_ns = if excused {
            u64::MAX
        } else {
            sys::monotonic_ns()
        };
        self.control[0].excused_ns.store(until_ns, Relaxed);
    }

    fn ask_to_stop(&mut self) {
        let control = &self.control[0];
        self.excused_at_stop_ns = control.excused_ns.load(Relaxed);
        control.stop_ns.store(sys::monotonic_ns(), Release);
        control.stop.store(1, Release);
        control.stop_flag.store(true, Release);
        sys::futex_wake_all(&control.stop);
        sys::futex_wake_all(&control.phase);
        for slot in self.slots.iter() {
            sys::futex_wake_all(&slot.handoff);
        }
    }

    /// Waits until all workers have ended, at most `limit`.
    fn wait_for_ends(&mut self, limit: Duration) {
        let until_ns = sys::monotonic_ns().saturating_add(nanos(limit));
        loop {
            let alive: Vec<&Process> = self.processes.iter_mut().fold(Vec::new(), |mut all, p| {
                if !p.try_reap() {
                    all.push(&*p);
                }
                all
            });
            let left_ns = until_ns.saturating_sub(sys::monotonic_ns());
            let Some(first) = alive.first().filter(|_| left_ns > 0) else {
                return;
            };
            let mut fds = [PollFd::from_borrowed_fd(first.pidfd.as_fd(), PollFlags::IN)];
            let timeout = Timespec::try_from(Duration::from_nanos(left_ns)).ok();
            let _ = poll(&mut fds, timeout.as_ref());
        }
    }

    fn kill_all(&mut self) {
        for process in &mut self.processes {
            if !process.try_reap() {
                process.kill();
            }
        }
        self.wait_for_ends(REAP_TIME);
    }

    fn report(&self, index: usize, at_stop: &AtStop, late: bool, grace: Duration) -> WorkerReport {
        let slot = &self.slots[index];
        let process = &self.processes[self.process_of(index)];
        let start_ns = self.control[0].start_ns.load(Relaxed);
        let stop_ns = self.control[0].stop_ns.load(Relaxed);
        let started = start_ns > 0;
        let seen = self.cpus.of(index);
        let own_cpu_ns = slot.cpu_now_ns.load(Relaxed);
        let cpu_ns = at_stop.cpu_ns.unwrap_or(own_cpu_ns).max(own_cpu_ns);
        WorkerReport {
            tid: self.task_of(index).1,
            cgroup: self.spec.cgroup.clone(),
            step: self.spec.step,
            work_type: self.spec.work_type.name().to_owned(),
            iterations: slot.iterations.load(Relaxed),
            work_units: slot.work_units.load(Relaxed),
            cpu_time_ns: cpu_in_window(slot, cpu_ns),
            wall_time_ns: if started {
                stop_ns.saturating_sub(start_ns)
            } else {
                0
            },
            migrations: slot.migrations.load(Relaxed),
            cpuset: self.cpus.allowed().cloned(),
            longest_gap: if started {
                self.longest_gap(slot, cpu_ns)
            } else {
                Gap::default()
            },
            longest_stall_ns: slot.stall_ns.load(Relaxed),
            wake: slot.wakes(),
            latencies: self.latencies(slot),
            pages: at_stop
                .pages
                .as_ref()
                .map(|pages| self.placement(&seen.all, pages)),
            cpus_seen: seen.all,
            cpus_outside: seen.outside,
            run_delay_ns: at_stop
                .run_delay_ns
                .zip(self.run_start.get(index).copied().flatten())
                .map(|(end, start)| end.saturating_sub(start.delay_ns)),
            throttled: None,
            has_wakes: self.spec.work_type.info().wake_latency.is_some(),
            cpu_bound: self.spec.work_type.info().cpu_bound,
            exit: exit_of(process, at_stop.ended_before, late, grace),
        }
    }

    fn latencies(&self, slot: &Slot) -> Vec<LatencySummary> {
        let names = self.spec.work_type.shape().latencies;
        let pairs = slot.latencies.iter().zip(names);
        pairs
            .filter_map(|(histogram, name)| histogram.summary(name))
            .collect()
    }

    fn placement(&self, seen: &CpuSet, by_node: &[(u32, u64)]) -> PagePlacement {
        let nodes = proc::nodes();
        let home = self.cpus.allowed().unwrap_or(seen);
        let own = |cpus: &CpuSet| cpus.iter().any(|cpu| home.contains(cpu));
        PagePlacement {
            by_node: by_node.to_vec(),
            own_nodes: nodes
                .iter()
                .filter_map(|(node, cpus)| own(cpus).then_some(*node))
                .collect(),
            slow_nodes: nodes
                .iter()
                .filter_map(|(node, cpus)| cpus.is_empty().then_some(*node))
                .collect(),
            migrated: proc::pages_migrated()
                .zip(self.migrated_start)
                .map(|(end, start)| end.saturating_sub(start)),
        }
    }

    /// The longer of the gap that the worker noticed itself and the one that is still open at the stop.
    fn longest_gap(&self, slot: &Slot, cpu_ns: u64) -> Gap {
        let control = &self.control[0];
        let (start_ns, stop_ns) = (
            control.start_ns.load(Relaxed),
            control.stop_ns.load(Relaxed),
        );
        let noticed = slot.noticed_gap(start_ns);
        // `ASLEEP` and "frozen now" are both later than any stop.
        let base_ns = slot.base_ns.load(Relaxed).max(self.excused_at_stop_ns);
        let open_ns = stop_ns.saturating_sub(base_ns);
        if open_ns <= noticed.wall_ns {
            return noticed;
        }
        let on_cpu_ns = match slot.cpu_now_ns.load(Relaxed) {
            0 => 0,
            last => cpu_ns.saturating_sub(last),
        };
        Gap {
            wall_ns: open_ns,
            on_cpu_ns: on_cpu_ns.min(open_ns),
            cpu: None,
            at_ns: base_ns.saturating_sub(start_ns),
        }
    }
}

impl Drop for WorkerGroup {
    fn drop(&mut self) {
        self.kill_all();
    }
}

/// CPU time since the barrier opened. A worker that never got so far has not noted its start.
fn cpu_in_window(slot: &Slot, cpu_ns: u64) -> u64 {
    match slot.cpu_start_ns.load(Relaxed) {
        0 => 0,
        start => cpu_ns.saturating_sub(start),
    }
}

fn exit_of(process: &Process, ended_before: bool, late: bool, grace: Duration) -> WorkerExit {
    let Some(status) = process.ended.as_ref() else {
        return WorkerExit::Unreaped;
    };
    if late {
        let grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
        return WorkerExit::Killed { grace_ms };
    }
    match (status.terminating_signal(), status.exit_status()) {
        (Some(signal), _) => WorkerExit::Signaled(signal),
        (None, Some(0)) if !ended_before => WorkerExit::Stopped,
        (None, code) => WorkerExit::Exited(code.unwrap_or(0)),
    }
}
