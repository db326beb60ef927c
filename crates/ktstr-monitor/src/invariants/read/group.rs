//! Task groups.

use super::super::books::Group;
use super::Reader;
use crate::btf::Kind;
use crate::{Kva, Object, Result};

/// cgroups.
const MAX_GROUPS: usize = 4096;

pub(super) type GroupParts = (Kva, Vec<Option<GroupOnCpu>>);

/// A group's part on one CPU.
#[derive(Debug, Clone, Copy)]
pub(super) struct GroupOnCpu {
    pub(super) cpu: u32,
    pub(super) cfs_rq: Kva,
    pub(super) entity: Option<Kva>,
}

impl Reader<'_> {
    pub(super) fn groups(&mut self, cpus: &[u32]) -> (Vec<Group>, Vec<GroupParts>) {
        let Ok(head) = self.kernel.symbol("task_groups") else {
            return (Vec::new(), Vec::new());
        };
        let nodes = self.list("task groups", head).unwrap_or_default();
        let root = self.kernel.symbol("root_task_group").ok();
        let possible = self.possible().unwrap_or_else(|_| cpus.to_vec());
        let (mut groups, mut parts) = (Vec::new(), Vec::new());
        for node in nodes.into_iter().take(MAX_GROUPS) {
            let Ok(group) = self.kernel.container_of(node, "task_group", "list") else {
                continue;
            };
            let is_root = Some(group.kva()) == root;
            let on_cpus: Vec<Option<GroupOnCpu>> = possible
                .iter()
                .map(|&cpu| {
                    let here = self.group_on_cpu(&group, cpu);
                    self.problems.keep("a group's cfs_rq", here).flatten()
                })
                .collect();
            let mut read = self.group(&group, is_root, &on_cpus);
            read.offline = self.offline(cpus, &on_cpus);
            groups.push(read);
            // The root's queues are the runqueues' own.
            let on_cpus = if is_root { Vec::new() } else { on_cpus };
            parts.push((group.kva(), on_cpus));
        }
        (groups, parts)
    }

    pub(super) fn group(
        &mut self,
        group: &Object<'_>,
        is_root: bool,
        on_cpus: &[Option<GroupOnCpu>],
    ) -> Group {
        let path = group
            .follow("css.cgroup")
            .ok()
            .flatten()
            .and_then(|cgroup| self.kernel.cgroup_path(&cgroup).ok());
        let name = path.map_or_else(
            || format!("task group at {}", group.kva()),
            |path| format!("cgroup {path}"),
        );
        self.group_names.insert(group.kva(), name.clone());
        let mut contribs = on_cpus.iter().map(|here| {
            let queue = self.kernel.object("cfs_rq", here.as_ref()?.cfs_rq).ok()?;
            self.uint(&queue, "tg_load_avg_contrib")
        });
        let contribs = contribs.try_fold(0_u64, |sum, one| Some(sum.wrapping_add(one?)));
        let list = group.address_of("cfs_bandwidth.throttled_cfs_rq").ok();
        let throttled = list
            .and_then(|head| self.list("a group's throttled queues", head))
            .and_then(|nodes| {
                let offset = self
                    .kernel
                    .field_of("cfs_rq", "throttled_list")
                    .ok()?
                    .offset;
                Some(nodes.iter().map(|node| node.wrapping_sub(offset)).collect())
            });
        Group {
            kva: group.kva(),
            name,
            parent: self.pointer(group, "parent"),
            is_root,
            shares: self.uint(group, "shares"),
            idle: self.uint(group, "idle"),
            load_avg: self.uint(group, "load_avg.counter"),
            contribs,
            offline: Vec::new(),
            throttled,
            bandwidth_locked: self.uint(group, "cfs_bandwidth.lock.raw_lock.val.counter")
                != Some(0),
        }
    }

    pub(super) fn offline(
        &mut self,
        online: &[u32],
        parts: &[Option<GroupOnCpu>],
    ) -> Vec<(u32, u64)> {
        let offline = parts
            .iter()
            .flatten()
            .filter(|here| !online.contains(&here.cpu));
        offline
            .filter_map(|here| {
                let queue = self.kernel.object("cfs_rq", here.cfs_rq).ok()?;
                Some((here.cpu, self.uint(&queue, "tg_load_avg_contrib")?))
            })
            .collect()
    }

    /// A table with one pointer for each CPU; from 7.2 on a per-CPU object around queue and entity.
    pub(super) fn group_on_cpu(&self, group: &Object<'_>, cpu: u32) -> Result<Option<GroupOnCpu>> {
        let table = group.pointer("cfs_rq")?;
        if table.is_null() {
            return Ok(None);
        }
        let btf = self.kernel.btf();
        let is_table = btf
            .resolve(group.field("cfs_rq")?.ty)
            .and_then(|pointer| btf.resolve(pointer.target()?))
            .is_some_and(|target| target.kind() == Kind::Ptr);
        let slot = |table: Kva| -> Result<Kva> {
            let at = table.wrapping_add(u64::from(cpu) * 8);
            Ok(Kva(self.kernel.read_u64(at)?))
        };
        if is_table {
            let (cfs_rq, entity) = (slot(table)?, slot(group.pointer("se")?)?);
            let entity = (!entity.is_null()).then_some(entity);
            return Ok((!cfs_rq.is_null()).then_some(GroupOnCpu {
                cpu,
                cfs_rq,
                entity,
            }));
        }
        let cfs_rq = self.kernel.per_cpu(table, cpu)?;
        let state = self.kernel.container_of(cfs_rq, "cfs_tg_state", "cfs_rq")?;
        let entity = state.address_of("se").ok();
        Ok(Some(GroupOnCpu {
            cpu,
            cfs_rq,
            entity,
        }))
    }
}
