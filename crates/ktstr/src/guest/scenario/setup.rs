//! Cgroups and workers brought to life.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use super::ScenarioError;
use super::engine::{Engine, Live};
use super::program::Scope;
use crate::guest::cgroup::CgroupError;
use crate::guest::worker::{GroupSpec, WorkerGroup};
use crate::model::cpuset::{CpuMap, CpuSet};
use crate::model::scenario::{CgroupDef, CpusetSpec};
use crate::model::work::{AffinityIntent, CloneMode, MemPolicy, WorkSpec};

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
            for work in def.merged_works() {
                groups.push(self.spawn(Some(&def.name), &work, scope)?);
            }
        }
        self.open_barriers(groups, scope)?;
        for def in defs {
            if let Some(payload) = def.payload {
                self.run_payload(payload, &[], Some(&def.name), scope)?;
            }
        }
        Ok(())
    }

    /// Starts one more work, in a cgroup or in the test's own.
    pub(super) fn start_work(
        &mut self,
        cgroup: Option<&str>,
        work: &WorkSpec,
        scope: Scope,
    ) -> Result<(), ScenarioError> {
        let group = self.spawn(cgroup, work, scope)?;
        self.open_barriers(vec![group], scope)
    }

    fn make_cgroup(&mut self, def: &CgroupDef, scope: Scope) -> Result<(), ScenarioError> {
        self.take_checks(def)?;
        let map = self.ctx.topology();
        let cpus = def
            .cpuset
            .as_ref()
            .map(|spec| spec.resolve_on(&map))
            .transpose()?;
        self.add_cgroup(&def.name, scope)?;
        if def.threaded {
            self.cgroups.set_threaded(&def.name)?;
        }
        if let Some(cpus) = cpus {
            self.cgroups.set_cpuset(&def.name, &cpus)?;
            self.cpusets.insert(def.name.clone(), cpus);
        }
        if let Some(nodes) = &def.cpuset_mems {
            let nodes: CpuSet = nodes.iter().map(|node| narrow(*node)).collect();
            self.cgroups.set_mems(&def.name, &nodes.to_string())?;
        }
        self.set_limits(def)
    }

    /// The cgroup's own checks, for the workers that begin in it from now on.
    fn take_checks(&mut self, def: &CgroupDef) -> Result<(), ScenarioError> {
        let checks = def.assert;
        let of_monitor = checks.named_of_monitor();
        if !of_monitor.is_empty() {
            return Err(ScenarioError::NotOfCgroup {
                name: def.name.clone(),
                checks: of_monitor.join(", "),
            });
        }
        self.counts_pages |= checks.asks_of_pages();
        if checks.has_worker_checks() {
            self.checked.insert(def.name.clone());
        }
        self.checks.insert(def.name.clone(), checks);
        Ok(())
    }

    fn set_limits(&mut self, def: &CgroupDef) -> Result<(), ScenarioError> {
        let name = &def.name;
        if let Some(cpu) = def.cpu {
            self.cgroups.set_max(name, cpu)?;
            if let Some(weight) = cpu.weight {
                self.cgroups.set_weight(name, weight)?;
            }
        }
        for (controller, file, number) in numbers_of(def) {
            self.cgroups.enable_for(name, controller);
            self.cgroups.set_limit(name, file, Some(number))?;
        }
        if let Some(pids) = def.pids {
            self.cgroups.enable_for(name, "pids");
            self.cgroups.set_limit(name, "pids.max", pids.max)?;
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
        self.checks.retain(|owned, _| cgroups.contains(owned));
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
    ) -> Result<WorkerGroup, ScenarioError> {
        let threads_only = cgroup.is_some_and(|name| self.cgroups.is_threaded(name));
        let map = self.ctx.topology();
        let cpuset = cgroup.and_then(|name| self.cpuset_of(name)).cloned();
        let cpus = cpuset.clone().unwrap_or_else(|| map.all());
        let count = work.count(cpus.len())?;
        let mut spec = GroupSpec::new(work.work_type.clone(), count);
        spec.policy = work.sched_policy;
        spec.nice = work.nice.unwrap_or_default();
        let work = &on_its_node(work, &map)?;
        spec.affinity = affinity_sets(&work.affinity, &cpus, &map)?;
        spec.uid = work.uid.unwrap_or_default();
        spec.gid = work.gid.unwrap_or_default();
        spec.cgroup_dir = cgroup.map(|name| self.cgroups.path(name)).transpose()?;
        spec.cgroup = cgroup.unwrap_or_default().to_owned();
        spec.step = match scope {
            Scope::Backdrop => 0,
            Scope::Step => self.step,
        };
        spec.cpuset = cpuset.zip(cgroup).map(|(_, name)| self.allowed_in(name));
        spec.mem_policy = work.mem_policy.clone();
        spec.mpol_flags = work.mpol_flags;
        spec.clone_mode = if threads_only {
            CloneMode::Thread
        } else {
            work.clone_mode
        };
        spec.count_pages = self.counts_pages;
        spec.disk = self.ctx.transport().and_then(|_| guest_disk());
        let sides = work.work_type.side_cgroups();
        if sides > 0 {
            spec.side_cgroups = self.side_cgroups(cgroup.unwrap_or(ROOT_SIDE), sides, scope)?;
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
        Ok(group)
    }

    /// Cgroups beside `cgroup` with the same CPUs, for workers that move by themselves. They end with it.
    fn side_cgroups(
        &mut self,
        cgroup: &str,
        count: usize,
        scope: Scope,
    ) -> Result<Vec<PathBuf>, ScenarioError> {
        let cpus = self.cpusets.get(cgroup).cloned();
        let mut dirs = Vec::new();
        for name in (0..count).map(|number| side_name(cgroup, number)) {
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
        let names = (0..).map(|number| side_name(cgroup, number));
        names
            .take_while(|name| self.cgroups.contains(name))
            .collect()
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
            let checks = self.checks.get(&group.spec().cgroup).copied();
            self.manned.insert(group.spec().cgroup.clone());
            group.start();
            let number = self.groups;
            self.groups += 1;
            self.live.push(Live {
                group,
                scope,
                number,
                throttled_before,
                checks: checks.unwrap_or_default(),
            });
        }
        Ok(())
    }
}

/// Base of the side cgroups of workers that are in no cgroup of the scenario.
const ROOT_SIDE: &str = "side";

fn side_name(cgroup: &str, number: usize) -> String {
    format!("{cgroup}.side-{number}")
}

fn narrow(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// The disk that a test declared. It is written to, so that it must be one of ours by its own word; a test that runs on bare
/// metal touches no disk.
fn guest_disk() -> Option<PathBuf> {
    let serial = std::fs::read_to_string("/sys/block/vda/serial").ok()?;
    (serial.trim() == ktstr_vmm::DISK_SERIAL).then(|| PathBuf::from("/dev/vda"))
}

/// The limits of memory and disks that are said: controller, file, number.
fn numbers_of(def: &CgroupDef) -> Vec<(&'static str, &'static str, u64)> {
    let memory = def.memory.unwrap_or_default();
    let weight = def.io.and_then(|io| io.weight).map(u64::from);
    let all = [
        ("memory", "memory.max", memory.max),
        ("memory", "memory.high", memory.high),
        ("memory", "memory.low", memory.low),
        ("memory", "memory.swap.max", memory.swap_max),
        ("io", "io.weight", weight),
    ];
    let said = all
        .into_iter()
        .filter_map(|(controller, file, number)| Some((controller, file, number?)));
    said.collect()
}

/// The work with what `numa_node` says of its CPUs and memory, where it says nothing itself.
///
/// # Errors
/// When there is no such node.
fn on_its_node(work: &WorkSpec, map: &CpuMap) -> Result<WorkSpec, ScenarioError> {
    let mut placed = work.clone();
    let Some(node) = work.numa_node else {
        return Ok(placed);
    };
    let number = usize::try_from(node).unwrap_or(usize::MAX);
    let cpus = CpusetSpec::numa(number).resolve_on(map)?;
    if placed.affinity == AffinityIntent::Inherit {
        let cpus = cpus.iter().filter_map(|cpu| usize::try_from(cpu).ok());
        placed.affinity = AffinityIntent::exact(cpus);
    }
    if placed.mem_policy == MemPolicy::Default {
        placed.mem_policy = MemPolicy::bind([number]);
    }
    Ok(placed)
}

/// The CPUs that workers bind themselves to, round and round; empty: none does.
///
/// # Errors
/// When the cpuset allows none of those that were asked for.
pub(super) fn affinity_sets(
    affinity: &AffinityIntent,
    cpus: &CpuSet,
    map: &CpuMap,
) -> Result<Vec<CpuSet>, ScenarioError> {
    let within = |set: CpuSet| -> CpuSet { set.iter().filter(|cpu| cpus.contains(*cpu)).collect() };
    let allowed = |asked: &BTreeSet<usize>| {
        let set = within(asked.iter().map(|cpu| narrow(*cpu)).collect());
        if set.is_empty() {
            let asked: CpuSet = asked.iter().map(|cpu| narrow(*cpu)).collect();
            return Err(ScenarioError::Affinity {
                asked: asked.to_string(),
                allowed: cpus.to_string(),
            });
        }
        Ok(set)
    };
    let cores = || cpus.iter().map(|cpu| within(map.siblings(cpu)));
    let llcs = || (0..map.llcs).map(|llc| within(map.llc(llc)));
    let sets: Vec<CpuSet> = match affinity {
        AffinityIntent::Inherit => Vec::new(),
        AffinityIntent::Exact(set) => vec![allowed(set)?],
        AffinityIntent::SingleCpu => cpus.iter().take(1).map(|cpu| [cpu].into()).collect(),
        // Of two that share as many, the first: the fold keeps what is not surpassed.
        AffinityIntent::LlcAligned => llcs()
            .reduce(|best, llc| if llc.len() > best.len() { llc } else { best })
            .into_iter()
            .collect(),
        AffinityIntent::SmtSiblingPair => cores().take(1).collect(),
        AffinityIntent::CrossCgroup => vec![map.all()],
        AffinityIntent::RandomSubset { from, count } => {
            vec![random_subset(&allowed(from)?, *count)]
        }
        AffinityIntent::OneCpuEach => cpus.iter().map(|cpu| [cpu].into()).collect(),
        AffinityIntent::OneLlcEach => llcs().collect(),
        AffinityIntent::OneCoreEach => {
            let mut each: Vec<CpuSet> = cores().collect();
            each.dedup();
            each
        }
    };
    Ok(sets.into_iter().filter(|set| !set.is_empty()).collect())
}

/// `count` of these CPUs (at least one), chosen by a shuffle that the same question always shuffles the same.
fn random_subset(from: &CpuSet, count: usize) -> CpuSet {
    let mut cpus = from.to_vec();
    let mut state = cpus.iter().fold(count as u64 + 1, |state, cpu| {
        (state ^ u64::from(*cpu)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }) | 1;
    for last in (1..cpus.len()).rev() {
        // xorshift64: good enough to choose CPUs.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let other = usize::try_from(state % (last as u64 + 1)).unwrap_or(0);
        cpus.swap(last, other);
    }
    cpus.into_iter().take(count.max(1)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lists(affinity: AffinityIntent, cpus: &[u32]) -> Vec<String> {
        let map = CpuMap::new(1, 2, 2, 2);
        let cpus = cpus.iter().copied().collect();
        let sets = affinity_sets(&affinity, &cpus, &map).unwrap();
        sets.iter().map(CpuSet::to_string).collect()
    }

    #[test]
    fn all_workers_get_the_same_inside_the_cpuset() {
        let cpus = [3, 4, 5, 6];
        assert!(lists(AffinityIntent::Inherit, &cpus).is_empty());
        assert_eq!(lists(AffinityIntent::SingleCpu, &cpus), ["3"]);
        assert_eq!(lists(AffinityIntent::LlcAligned, &cpus), ["4-6"]);
        assert_eq!(lists(AffinityIntent::LlcAligned, &[2, 4]), ["2"]);
        assert_eq!(lists(AffinityIntent::SmtSiblingPair, &[2, 3, 4]), ["2-3"]);
        assert_eq!(lists(AffinityIntent::exact([4, 7]), &cpus), ["4"]);
        assert_eq!(lists(AffinityIntent::CrossCgroup, &cpus), ["0-7"]);
    }

    #[test]
    fn cpus_that_the_cpuset_forbids_altogether_are_an_error() {
        let map = CpuMap::new(1, 2, 2, 2);
        for affinity in [
            AffinityIntent::exact([0]),
            AffinityIntent::random_subset([0], 1),
        ] {
            let error = affinity_sets(&affinity, &CpuSet::from([2, 3]), &map).unwrap_err();
            let text = error.to_string();
            assert!(text.contains("cpus 0") && text.contains("2-3"), "{text}");
        }
    }

    #[test]
    fn limits_of_memory_and_disks_go_to_their_files_and_what_is_not_said_does_not() {
        let def = CgroupDef::named("a").memory_swap_max(4096).io_weight(200);
        let expected = [
            ("memory", "memory.swap.max", 4096),
            ("io", "io.weight", 200),
        ];
        assert_eq!(numbers_of(&def), expected);
        let def = def.memory_swap_unlimited().memory_max(1);
        let expected = [("memory", "memory.max", 1), ("io", "io.weight", 200)];
        assert_eq!(numbers_of(&def), expected);
        assert!(numbers_of(&CgroupDef::named("b")).is_empty());
    }

    #[test]
    fn a_work_of_a_node_has_its_cpus_and_memory_unless_it_says_otherwise() {
        let map = CpuMap::new(2, 2, 2, 2);
        let on = |work: WorkSpec| on_its_node(&work.numa_node(1), &map).unwrap();
        let plain = on(WorkSpec::default());
        assert_eq!(plain.affinity, AffinityIntent::exact(4..8));
        assert_eq!(plain.mem_policy, MemPolicy::bind([1]));
        let own = WorkSpec::default()
            .affinity(AffinityIntent::SingleCpu)
            .mem_policy(MemPolicy::Local);
        assert_eq!(on(own.clone()), own.clone().numa_node(1));
        assert_eq!(on_its_node(&own, &map).unwrap(), own);
        let missing = on_its_node(&own.numa_node(2), &map).unwrap_err();
        assert!(
            missing.to_string().contains("2n2l2c2t"),
            "{missing}: which nodes there are"
        );
    }

    #[test]
    fn each_worker_gets_its_own_in_turn() {
        let cpus = [2, 3, 4];
        assert_eq!(lists(AffinityIntent::OneCpuEach, &cpus), ["2", "3", "4"]);
        assert_eq!(lists(AffinityIntent::OneLlcEach, &cpus), ["2-3", "4"]);
        assert_eq!(lists(AffinityIntent::OneCoreEach, &cpus), ["2-3", "4"]);
    }

    #[test]
    fn a_random_subset_is_some_of_them_and_always_the_same() {
        let asked = || AffinityIntent::random_subset(0..8, 3);
        let all: Vec<u32> = (1..8).collect();
        let [once] = &lists(asked(), &all)[..] else {
            panic!("one set")
        };
        let set: CpuSet = once.parse().unwrap();
        assert!(set.len() == 3 && !set.contains(0), "{once}");
        assert_eq!(lists(asked(), &all), [once.as_str()]);
        assert_eq!(
            lists(AffinityIntent::random_subset([1, 2], 9), &all),
            ["1-2"]
        );
    }
}
