//! Cgroups and workers brought to life.

use std::path::PathBuf;
use std::time::Duration;

use super::ScenarioError;
use super::engine::{Engine, Live, Scope};
use crate::guest::cgroup::CgroupError;
use crate::guest::worker::{GroupSpec, WorkerGroup};
use crate::model::cpuset::{CpuMap, CpuSet};
use crate::model::scenario::CgroupDef;
use crate::model::work::{Affinity, CloneMode, WorkSpec, WorkerCount};

/// How long workers have to come to the barrier: forks of many workers on a slow guest take seconds.
const READY_TIME: Duration = Duration::from_secs(20);

impl Engine<'_> {
    /// Makes all these cgroups, then their workers, then opens all barriers.
    pub(super) fn start_defs(
        &mut self,
        defs: &[CgroupDef],
        scope: Scope,
    ) -> Result<(), ScenarioError> {
        let mut groups = Vec::new();
        for def in defs {
            self.make_cgroup(def, scope)?;
            for work in def.resolved_works() {
                groups.extend(self.spawn(Some(&def.name), &work, scope)?);
            }
        }
        self.open_barriers(groups, scope)
    }

    /// Starts one more work, in a cgroup or in the test's own.
    pub(super) fn start_work(
        &mut self,
        cgroup: Option<&str>,
        work: &WorkSpec,
        scope: Scope,
    ) -> Result<(), ScenarioError> {
        let group = self.spawn(cgroup, work, scope)?;
        self.open_barriers(group.into_iter().collect(), scope)
    }

    fn make_cgroup(&mut self, def: &CgroupDef, scope: Scope) -> Result<(), ScenarioError> {
        let map = self.ctx.topology();
        let cpus = def
            .cpuset
            .as_ref()
            .map(|spec| spec.resolve(&map))
            .transpose()?;
        self.add_cgroup(&def.name, scope)?;
        if def.threaded {
            self.cgroups.set_threaded(&def.name)?;
        }
        if let Some(cpus) = cpus {
            self.cgroups.set_cpuset(&def.name, &cpus)?;
            self.cpusets.insert(def.name.clone(), cpus);
        }
        if let Some(mems) = &def.mems {
            self.cgroups.set_mems(&def.name, mems)?;
        }
        if let Some(weight) = def.cpu_weight {
            self.cgroups.set_weight(&def.name, weight)?;
        }
        if let Some(max) = def.cpu_max {
            self.cgroups.set_max(&def.name, max)?;
        }
        Ok(())
    }

    /// Makes a cgroup and notes whose it is; parents made with it are of the same scope.
    pub(super) fn add_cgroup(&mut self, name: &str, scope: Scope) -> Result<(), CgroupError> {
        self.cgroups.add(name)?;
        for made in self.cgroups.names() {
            self.owners.entry(made.clone()).or_insert(scope);
        }
        Ok(())
    }

    /// Removes a cgroup, thawed before; its workers are gone already.
    pub(super) fn forget_cgroup(&mut self, name: &str) -> Result<(), CgroupError> {
        for side in self.sides_of(name) {
            self.thaw_if_frozen(&side)?;
            self.cgroups.remove(&side)?;
        }
        self.thaw_if_frozen(name)?;
        self.cgroups.remove(name)?;
        let cgroups = &self.cgroups;
        self.owners.retain(|owned, _| cgroups.contains(owned));
        self.cpusets.retain(|owned, _| cgroups.contains(owned));
        Ok(())
    }

    /// The cpuset in force in a cgroup: its own or the nearest above it.
    pub(super) fn cpuset_of(&self, cgroup: &str) -> Option<&CpuSet> {
        let mut name = cgroup;
        loop {
            if let Some(cpus) = self.cpusets.get(name) {
                return Some(cpus);
            }
            name = name.rsplit_once('/')?.0;
        }
    }

    fn spawn(
        &mut self,
        cgroup: Option<&str>,
        work: &WorkSpec,
        scope: Scope,
    ) -> Result<Option<WorkerGroup>, ScenarioError> {
        let threads_only = cgroup.is_some_and(|name| self.cgroups.is_threaded(name));
        let map = self.ctx.topology();
        let cpuset = cgroup.and_then(|name| self.cpuset_of(name)).cloned();
        let cpus = cpuset.clone().unwrap_or_else(|| map.all());
        let info = work.work_type.info();
        let count = work
            .workers
            .unwrap_or(WorkerCount::Exactly(info.group_size));
        let count = count.resolve(cpus.len(), info.group_size);
        if count == 0 {
            return Ok(None);
        }
        let mut spec = GroupSpec::new(work.work_type.clone(), count);
        spec.policy = work.policy.unwrap_or_default();
        spec.nice = work.nice.unwrap_or_default();
        spec.affinity = affinity_sets(work.affinity.as_ref(), &cpus, &map);
        spec.cgroup = cgroup.unwrap_or_default().to_owned();
        spec.step = match scope {
            Scope::Backdrop => 0,
            Scope::Step => self.step,
        };
        spec.cpuset = cpuset.zip(cgroup).map(|(_, name)| self.allowed_in(name));
        spec.mem_policy = work.mem_policy.clone().unwrap_or_default();
        spec.clone_mode = if threads_only {
            CloneMode::Thread
        } else {
            work.clone_mode
        };
        spec.count_pages = self.counts_pages;
        spec.disk = self.ctx.transport().and_then(|_| guest_disk());
        if work.work_type.moves_between_cgroups() {
            spec.side_cgroups = self.side_cgroups(cgroup.unwrap_or(ROOT_SIDE), scope)?;
        }
        if let Some(comm) = &work.comm {
            spec.comm.clone_from(comm);
        }
        let group = WorkerGroup::spawn(spec)?;
        if let Some(name) = cgroup {
            let domain = self.cgroups.domain_of(name);
            for pid in group.pids() {
                self.cgroups.place(domain, pid)?;
            }
        }
        Ok(Some(group))
    }

    /// Two cgroups beside `cgroup` with the same CPUs, for workers that move by themselves. They end with it.
    fn side_cgroups(&mut self, cgroup: &str, scope: Scope) -> Result<Vec<PathBuf>, ScenarioError> {
        let cpus = self.cpusets.get(cgroup).cloned();
        let mut dirs = Vec::new();
        for name in side_names(cgroup) {
            self.add_cgroup(&name, scope)?;
            if let Some(cpus) = &cpus {
                self.cgroups.set_cpuset(&name, cpus)?;
                self.cpusets.insert(name.clone(), cpus.clone());
            }
            dirs.push(self.cgroups.path(&name)?);
        }
        Ok(dirs)
    }

    /// The side cgroups of `cgroup` that exist.
    pub(super) fn sides_of(&self, cgroup: &str) -> Vec<String> {
        let names = side_names(cgroup).into_iter();
        names.filter(|name| self.cgroups.contains(name)).collect()
    }

    /// Waits until all stand at their barriers, and only then opens them: the windows begin together.
    fn open_barriers(
        &mut self,
        mut groups: Vec<WorkerGroup>,
        scope: Scope,
    ) -> Result<(), ScenarioError> {
        for group in &mut groups {
            group.make_ready(READY_TIME)?;
            let name = &group.spec().cgroup;
            // Threads exist only now; until here they were in the cgroup of their process.
            if self.cgroups.is_threaded(name) {
                for tid in group.tids() {
                    self.cgroups.place(name, tid)?;
                }
            }
        }
        for mut group in groups {
            let throttled_before = self.cgroups.throttled(&group.spec().cgroup);
            group.start();
            self.live.push(Live {
                group,
                scope,
                throttled_before,
            });
        }
        Ok(())
    }
}

/// Base of the side cgroups of workers that are in no cgroup of the scenario.
const ROOT_SIDE: &str = "side";

fn side_names(cgroup: &str) -> [String; 2] {
    ["a", "b"].map(|side| format!("{cgroup}.side-{side}"))
}

/// The disk that a test declared. It is written to, so that it must be one of ours by its own word; a test that runs on bare
/// metal touches no disk.
fn guest_disk() -> Option<PathBuf> {
    let serial = std::fs::read_to_string("/sys/block/vda/serial").ok()?;
    (serial.trim() == ktstr_vmm::DISK_SERIAL).then(|| PathBuf::from("/dev/vda"))
}

/// The CPUs that workers bind themselves to, round and round; empty: none does.
pub(super) fn affinity_sets(
    affinity: Option<&Affinity>,
    cpus: &CpuSet,
    map: &CpuMap,
) -> Vec<CpuSet> {
    let within = |set: CpuSet| -> CpuSet { set.iter().filter(|cpu| cpus.contains(*cpu)).collect() };
    let sets: Vec<CpuSet> = match affinity {
        None | Some(Affinity::Inherit) => Vec::new(),
        Some(Affinity::Exact(set)) => vec![set.clone()],
        Some(Affinity::SingleCpu) => cpus.iter().map(|cpu| CpuSet::from([cpu])).collect(),
        Some(Affinity::LlcAligned) => (0..map.llcs).map(|llc| within(map.llc(llc))).collect(),
        Some(Affinity::SmtSiblings) => {
            let cores = cpus.iter().filter(|cpu| cpu % map.threads == 0);
            cores.map(|cpu| within(map.siblings(cpu))).collect()
        }
    };
    sets.into_iter().filter(|set| !set.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn affinities_stay_inside_the_cpuset() {
        let map = CpuMap::new(1, 2, 2, 2);
        let cpus = CpuSet::from([2, 3, 4]);
        let lists = |affinity: Affinity| -> Vec<String> {
            let sets = affinity_sets(Some(&affinity), &cpus, &map);
            sets.iter().map(CpuSet::to_string).collect()
        };
        assert!(lists(Affinity::Inherit).is_empty());
        assert_eq!(lists(Affinity::SingleCpu), ["2", "3", "4"]);
        assert_eq!(lists(Affinity::LlcAligned), ["2-3", "4"]);
        assert_eq!(lists(Affinity::SmtSiblings), ["2-3", "4"]);
        assert_eq!(lists(Affinity::Exact(CpuSet::from([7]))), ["7"]);
    }
}
