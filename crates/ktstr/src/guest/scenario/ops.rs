//! The operations of a step, carried out.

use std::io;
use std::time::Duration;

use rustix::process::Pid;

use super::ScenarioError;
use super::acts::host_act;
use super::bpf;
use super::engine::Engine;
use super::program::Scope;
use super::setup::affinity_sets;
use crate::guest::cgroup::CgroupError;
use crate::guest::link::{bytes_of, kernel_request};
use crate::guest::liveness::{self, Liveness};
use crate::guest::worker::{kernel_cpuset, set_policy_of};
use crate::model::cpuset::CpuSet;
use crate::model::ctx::{Declared, SchedulerNow};
use crate::model::scenario::{CpusetSpec, KernelTarget, Op, SpawnPlacement};
use crate::model::snapshot::{SnapshotBridge, current_bridge};
use crate::model::transport::{
    HostAct, HostRequest, KernelBatch, KernelEntries, SchedulerChange, TransportError,
};
use crate::model::work::{AffinityIntent, SchedPolicy};

/// How long the host has to take a snapshot or set a watch.
const HOST_TIME: Duration = Duration::from_secs(30);
/// How long a scheduler may take to leave and another to attach: init's own deadlines, and some more.
const SCHEDULER_TIME: Duration = Duration::from_secs(60);

impl Engine<'_> {
    /// Carries out one operation; what it makes is of this scope.
    pub(super) fn apply(&mut self, op: &Op, scope: Scope) -> Result<(), ScenarioError> {
        match op {
            Op::AddCgroup { name } => Ok(self.add_cgroup(name, scope)?),
            Op::AddCgroupDef { def } => self.start_defs(std::slice::from_ref(def), scope),
            Op::RemoveCgroup { cgroup } => self.remove_cgroup(cgroup),
            Op::StopCgroup { cgroup } => self.stop_cgroup(cgroup),
            Op::SetCpuset { cgroup, cpus } => self.set_cpuset(cgroup, cpus),
            Op::ClearCpuset { cgroup } => self.clear_cpuset(cgroup),
            Op::SwapCpusets { a, b } => self.swap_cpusets(a, b),
            Op::Spawn { placement, work } => {
                let cgroup = match placement {
                    SpawnPlacement::RunnerCgroup => None,
                    SpawnPlacement::Cgroup(name) => Some(name.as_str()),
                };
                self.start_work(cgroup, work, scope)
            }
            Op::SetAffinity { cgroup, affinity } => self.set_affinity(cgroup, affinity),
            Op::SetPolicy { cgroup, policy } => self.set_policy(cgroup, *policy),
            Op::MoveAllTasks { from, to } => self.move_all(from, to),
            Op::FreezeCgroup { cgroup } => self.freeze(cgroup),
            Op::UnfreezeCgroup { cgroup } => self.unfreeze(cgroup),
            Op::SteerIrq { irq, cpus } => self.steer_irq(*irq, cpus),
            Op::CaptureCgroupProcs { tag, cgroup } => self.record_procs(tag, cgroup),
            Op::CaptureSnapshot { .. }
            | Op::WatchSnapshot { .. }
            | Op::ReadKernelHot { .. }
            | Op::ReadKernelCold { .. }
            | Op::WriteKernelHot { .. }
            | Op::WriteKernelCold { .. } => self.have_host_act(std::slice::from_ref(op)),
            Op::RunPayload {
                payload,
                args,
                cgroup,
            } => self.run_payload(payload, args, cgroup.as_deref(), scope),
            Op::WaitPayload { name, cgroup } => self.wait_payload(name, cgroup.as_deref()),
            Op::KillPayload { name, cgroup } => self.kill_payload(name, cgroup.as_deref()),
            Op::PinBpfMap { map, path } => Ok(bpf::pin_map(map, path)?),
            Op::AttachScheduler { scheduler } => {
                self.change_scheduler(&SchedulerChange::Attach(scheduler.name.to_owned()))
            }
            Op::DetachScheduler => self.change_scheduler(&SchedulerChange::Detach),
            Op::RestartScheduler => self.change_scheduler(&SchedulerChange::Restart),
            Op::ReplaceScheduler { scheduler } => {
                self.change_scheduler(&SchedulerChange::Replace(scheduler.name.to_owned()))
            }
        }
    }

    /// Carries out what the host does; cold writes that follow each other are one batch, with one freeze for all.
    pub(super) fn have_host_act(&mut self, ops: &[Op]) -> Result<(), ScenarioError> {
        match host_act(ops) {
            Some((HostAct::Request(request), _)) => self.ask_host(&request),
            Some((HostAct::Kernel(batch), _)) => {
                let values = self.kernel_op(&batch)?;
                if let KernelEntries::Read(reads) = &batch.entries
                    && let [(target, _)] = reads.as_slice()
                {
                    self.note_read(&batch.tag, target, &values);
                }
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn note_read(&mut self, tag: &str, target: &KernelTarget, values: &[Vec<u8>]) {
        let hex: Vec<String> = values
            .iter()
            .flatten()
            .take(64)
            .map(|byte| format!("{byte:02x}"))
            .collect();
        self.result.note(format!(
            "kernel memory [{tag}] {target:?}: {}",
            hex.join(" ")
        ));
    }

    fn kernel_op(&mut self, batch: &KernelBatch) -> Result<Vec<Vec<u8>>, ScenarioError> {
        if let Some(host) = self.ctx.requests() {
            return Ok(host.kernel_op(batch, HOST_TIME)?);
        }
        let reply = bridge()?.dispatch_kernel_op(&kernel_request(batch, 0));
        reply.result.map_err(TransportError::Refused)?;
        Ok(reply.values.into_iter().map(bytes_of).collect())
    }

    fn remove_cgroup(&mut self, cgroup: &str) -> Result<(), ScenarioError> {
        let below = format!("{cgroup}/");
        self.stop_where(|live| {
            let place = &live.group.spec().cgroup;
            place == cgroup || place.starts_with(&below)
        });
        Ok(self.forget_cgroup(cgroup)?)
    }

    fn stop_cgroup(&mut self, cgroup: &str) -> Result<(), ScenarioError> {
        self.cgroups.path(cgroup)?;
        self.stop_where(|live| live.group.spec().cgroup == cgroup);
        Ok(())
    }

    fn set_cpuset(&mut self, cgroup: &str, spec: &CpusetSpec) -> Result<(), ScenarioError> {
        let cpus = spec.resolve_on(&self.ctx.topology())?;
        self.change_cpuset(cgroup, cpus)
    }

    fn change_cpuset(&mut self, cgroup: &str, cpus: CpuSet) -> Result<(), ScenarioError> {
        self.with_other_cpus(cgroup, |engine| {
            for name in engine.with_sides(cgroup) {
                engine.cgroups.set_cpuset(&name, &cpus)?;
                engine.cpusets.insert(name, cpus.clone());
            }
            Ok(())
        })
    }

    /// A cgroup and those beside it that its workers move to by themselves.
    fn with_sides(&self, cgroup: &str) -> Vec<String> {
        let mut names = self.sides_of(cgroup);
        names.push(cgroup.to_owned());
        names
    }

    fn clear_cpuset(&mut self, cgroup: &str) -> Result<(), ScenarioError> {
        self.with_other_cpus(cgroup, |engine| {
            for name in engine.with_sides(cgroup) {
                engine.cgroups.clear_cpuset(&name)?;
                engine.cpusets.remove(&name);
            }
            Ok(())
        })
    }

    fn swap_cpusets(&mut self, a: &str, b: &str) -> Result<(), ScenarioError> {
        let own = |name: &str| {
            let cpus = self.cpusets.get(name).cloned();
            cpus.ok_or_else(|| ScenarioError::NoCpuset {
                name: name.to_owned(),
            })
        };
        let (of_a, of_b) = (own(a)?, own(b)?);
        self.change_cpuset(a, of_b)?;
        self.change_cpuset(b, of_a)
    }

    /// Changes a cpuset: its workers, and those of cgroups below it, have other CPUs then. Until the kernel has moved them they
    /// may still be seen on the old ones.
    fn with_other_cpus(
        &mut self,
        cgroup: &str,
        change: impl FnOnce(&mut Self) -> Result<(), ScenarioError>,
    ) -> Result<(), ScenarioError> {
        let below = format!("{cgroup}/");
        let concerns = |place: &str| place == cgroup || place.starts_with(&below);
        for live in &mut self.live {
            if concerns(&live.group.spec().cgroup) {
                live.group.begin_cpu_change();
            }
        }
        let changed = change(self);
        for index in 0..self.live.len() {
            let place = self.live[index].group.spec().cgroup.clone();
            if concerns(&place) {
                let cpus = self.allowed_in(&place);
                self.live[index].group.allow_cpus(Some(cpus));
            }
        }
        changed
    }

    /// CPUs that the kernel allows in a cgroup; what was written, where it does not say.
    pub(super) fn allowed_in(&self, cgroup: &str) -> CpuSet {
        let effective = self.cgroups.effective_cpus(cgroup);
        let written = || self.cpuset_of(cgroup).cloned();
        effective
            .or_else(written)
            .unwrap_or_else(|| self.ctx.topology().all())
    }

    fn set_affinity(
        &mut self,
        cgroup: &str,
        affinity: &AffinityIntent,
    ) -> Result<(), ScenarioError> {
        let map = self.ctx.topology();
        let cpus = self.cpuset_of(cgroup).cloned().unwrap_or_else(|| map.all());
        let mut sets = affinity_sets(affinity, &cpus, &map)?;
        if sets.is_empty() {
            sets.push(cpus);
        }
        for (index, pid) in self.cgroups.threads(cgroup)?.into_iter().enumerate() {
            bind(pid, &sets[index % sets.len()])?;
        }
        Ok(())
    }

    /// A task that has ended meanwhile needs no policy.
    fn set_policy(&mut self, cgroup: &str, policy: SchedPolicy) -> Result<(), ScenarioError> {
        for pid in self.cgroups.threads(cgroup)? {
            match set_policy_of(pid, policy) {
                Err(rustix::io::Errno::SRCH) | Ok(()) => {}
                Err(fault) => {
                    return Err(ScenarioError::Policy {
                        pid,
                        policy: format!("{policy:?}"),
                        source: io::Error::from(fault),
                    });
                }
            }
        }
        Ok(())
    }

    fn move_all(&mut self, from: &str, to: &str) -> Result<(), ScenarioError> {
        let ends_with_step = self.owners.get(to) == Some(&Scope::Step);
        let of_backdrop = |live: &super::engine::Live| {
            live.scope == Scope::Backdrop && live.group.spec().cgroup == from
        };
        if ends_with_step && self.live.iter().any(of_backdrop) {
            return Err(ScenarioError::Stranded {
                from: from.to_owned(),
                to: to.to_owned(),
            });
        }
        self.cgroups.path(from)?;
        self.cgroups.path(to)?;
        let mine = |live: &&mut super::engine::Live| live.group.spec().cgroup == from;
        for live in self.live.iter_mut().filter(mine) {
            live.group.begin_cpu_change();
        }
        let moved = self.cgroups.move_all(from, to);
        let mut cpus = self.allowed_in(to);
        if moved.is_err() {
            // Some have moved and some have not.
            cpus = cpus.union(&self.allowed_in(from));
        }
        for live in self.live.iter_mut().filter(mine) {
            if moved.is_ok() {
                live.group.moved_to(to);
            }
            live.group.allow_cpus(Some(cpus.clone()));
        }
        moved?;
        Ok(())
    }

    fn freeze(&mut self, cgroup: &str) -> Result<(), ScenarioError> {
        // Before the freeze, so that no moment of it counts; a freeze that fails is undone at the tear-down.
        self.excuse(cgroup, true);
        for name in self.with_sides(cgroup) {
            self.frozen.insert(name.clone());
            self.cgroups.set_frozen(&name, true)?;
        }
        Ok(())
    }

    fn unfreeze(&mut self, cgroup: &str) -> Result<(), ScenarioError> {
        for name in self.with_sides(cgroup) {
            self.cgroups.set_frozen(&name, false)?;
            self.frozen.remove(&name);
        }
        self.excuse(cgroup, false);
        Ok(())
    }

    /// Time in the freezer is no gap.
    fn excuse(&mut self, cgroup: &str, frozen: bool) {
        let below = format!("{cgroup}/");
        for live in &self.live {
            let place = &live.group.spec().cgroup;
            if place == cgroup || place.starts_with(&below) {
                live.group.set_excused(frozen);
            }
        }
    }

    /// Thaws whatever is frozen at this cgroup or above it.
    pub(super) fn thaw_if_frozen(&mut self, cgroup: &str) -> Result<(), CgroupError> {
        let above =
            |frozen: &&String| cgroup == *frozen || cgroup.starts_with(&format!("{frozen}/"));
        let doomed: Vec<String> = self.frozen.iter().filter(above).cloned().collect();
        for name in doomed {
            self.cgroups.set_frozen(&name, false)?;
            self.frozen.remove(&name);
            self.excuse(&name, false);
        }
        Ok(())
    }

    fn steer_irq(&mut self, irq: u32, spec: &CpusetSpec) -> Result<(), ScenarioError> {
        let cpus = spec.resolve_on(&self.ctx.topology())?;
        let file = format!("/proc/irq/{irq}/smp_affinity_list");
        std::fs::write(&file, cpus.to_string()).map_err(|source| ScenarioError::Bind {
            what: format!("interrupt {irq} ({file})"),
            cpus: cpus.to_string(),
            source,
        })
    }

    fn record_procs(&mut self, tag: &str, cgroup: &str) -> Result<(), ScenarioError> {
        let pids = self.cgroups.procs(cgroup)?;
        self.result
            .note(format!("cgroup.procs [{tag}] {cgroup}: {pids:?}"));
        match self.ctx.transport() {
            Some(host) => host.cgroup_procs(tag, cgroup, &pids)?,
            None => {
                if let Some(bridge) = current_bridge() {
                    bridge.record_cgroup_procs(tag, pids);
                }
            }
        }
        Ok(())
    }

    /// What is watched for signs of death changes with it, also for the test's next scenario.
    fn change_scheduler(&mut self, change: &SchedulerChange) -> Result<(), ScenarioError> {
        let init = self.ctx.requests().ok_or(TransportError::NotSupported)?;
        // The host watches for exits, and takes one that it was not told of for a failure.
        init.request(&HostRequest::PlannedExit, HOST_TIME)?;
        let changed = init.scheduler_op(change, SCHEDULER_TIME);
        let now = match &changed {
            Ok(_) if *change == SchedulerChange::Detach => SchedulerNow::default(),
            Ok(pid) => SchedulerNow {
                declared: match change {
                    SchedulerChange::Replace(name) => Declared::Staged(name.clone()),
                    SchedulerChange::Attach(name) => self.ctx.declared(name),
                    _ => Declared::Own,
                },
                ..liveness::attached(*pid)
            },
            // Nothing was changed.
            Err(TransportError::SchedulerRefused(_) | TransportError::NotSupported) => {
                return Ok(changed.map(drop)?);
            }
            Err(_) => SchedulerNow::default(),
        };
        self.note_restarts();
        self.ctx.set_scheduler(now);
        self.liveness = Liveness::new(&self.ctx.scheduler_now());
        changed.map(drop).map_err(ScenarioError::Scheduler)
    }

    fn ask_host(&mut self, request: &HostRequest) -> Result<(), ScenarioError> {
        if let Some(host) = self.ctx.requests() {
            return Ok(host.request(request, HOST_TIME)?);
        }
        let bridge = bridge()?;
        let done = match request {
            HostRequest::Capture { tag } => bridge.capture_or_reason(tag, Some(self.step)),
            HostRequest::Watch { symbol } => bridge.register_watch(symbol),
            HostRequest::PlannedExit => Ok(()),
        };
        Ok(done.map_err(TransportError::Refused)?)
    }
}

/// Where no host answers, the bridge that the caller has set for this thread does.
fn bridge() -> Result<SnapshotBridge, TransportError> {
    current_bridge().ok_or(TransportError::NotSupported)
}

/// Binds one process; one that has just ended is fine.
fn bind(pid: i32, cpus: &CpuSet) -> Result<(), ScenarioError> {
    let target = Pid::from_raw(pid);
    match rustix::thread::sched_setaffinity(target, &kernel_cpuset(cpus)) {
        Err(rustix::io::Errno::SRCH) | Ok(()) => Ok(()),
        Err(fault) => Err(ScenarioError::Bind {
            what: format!("task {pid}"),
            cpus: cpus.to_string(),
            source: io::Error::from(fault),
        }),
    }
}
