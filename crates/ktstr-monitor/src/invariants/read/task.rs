//! Threads.

use std::collections::HashMap;

use super::super::books::{ScxTask, Task};
use super::Reader;
use crate::sched::TaskRef;
use crate::{Kva, Object, Problems, Result};

impl Reader<'_> {
    pub(super) fn tasks(&mut self, classes: &HashMap<u64, &'static str>) -> Vec<Task> {
        let mut problems = Problems::new();
        let threads = self.kernel.threads(&mut problems);
        self.problems.extend(problems);
        let threads = self.problems.need("the task list", threads);
        let mut found = Vec::new();
        for kva in threads.unwrap_or_default() {
            let task = self.task(kva, classes);
            found.extend(self.problems.need("a task", task));
        }
        found
    }

    pub(super) fn task(&mut self, kva: Kva, classes: &HashMap<u64, &'static str>) -> Result<Task> {
        let task = self.kernel.object("task_struct", kva)?;
        let TaskRef { pid, comm, .. } = TaskRef::read(&task)?;
        let name = format!("task {comm} (pid {pid})");
        let policy = task.uint("policy")?;
        self.names.insert(kva, (name.clone(), policy));
        let flag = |value: Option<u64>| value.is_some_and(|value| value != 0);
        let entity = self.entity(task.address_of("se")?);
        let own = task.address_of("cpus_mask").ok();
        Ok(Task {
            kva,
            name,
            cpu: self
                .any(&task, &["thread_info.cpu", "cpu"])
                .map(crate::bytes::low32),
            class: classes.get(&task.uint("sched_class")?).copied(),
            state: self.any(&task, &["__state", "state"]).unwrap_or(0),
            on_rq: task.uint("on_rq")?,
            on_cpu: flag(self.uint(&task, "on_cpu")),
            policy,
            static_prio: task.uint("static_prio")?,
            counts_as_load: flag(self.uint(&task, "sched_contributes_to_load")),
            throttled: task.field("throttled").is_ok() && flag(self.uint(&task, "throttled")),
            group: self.pointer(&task, "sched_task_group"),
            entity: entity.unwrap_or_default(),
            rt_on_rq: flag(self.uint(&task, "rt.on_rq")),
            dl_queued: self.in_tree(&task, "dl.rb_node"),
            dl_throttled: flag(self.uint(&task, "dl.dl_throttled")),
            nr_cpus_allowed: self.uint(&task, "nr_cpus_allowed"),
            cpus_mask: own.and_then(|at| {
                let mask = self.kernel.cpus_of_mask(at);
                self.problems.keep("task.cpus_mask", mask)
            }),
            allowed: self.problems.keep("task.cpus_ptr", task.cpus("cpus_ptr")),
            has_own_mask: own.map(|own| self.pointer(&task, "cpus_ptr") == own),
            migration_disabled: self.uint(&task, "migration_disabled").unwrap_or(0) & 0xffff,
            migration_pending: !self.pointer(&task, "migration_pending").is_null(),
            psi_flags: self.uint(&task, "psi_flags"),
            scx: self.scx_task(&task),
        })
    }

    pub(super) fn task_name(&mut self, task: Kva) -> (String, u64) {
        if let Some(known) = self.names.get(&task) {
            return known.clone();
        }
        let read = || -> Result<(String, u64)> {
            let object = self.kernel.object("task_struct", task)?;
            let TaskRef { pid, comm, .. } = TaskRef::read(&object)?;
            Ok((format!("task {comm} (pid {pid})"), object.uint("policy")?))
        };
        read().unwrap_or_else(|_| (format!("task at {task}"), 0))
    }

    pub(super) fn scx_task(&mut self, task: &Object<'_>) -> Option<ScxTask> {
        let scx = task.member("scx").ok()?;
        let flags = self.uint(&scx, "flags")?;
        let value = |name| self.kernel.btf().enumerator("scx_ent_flags", name);
        let queued = value("SCX_TASK_QUEUED");
        let (shift, bits) = (
            value("SCX_TASK_STATE_SHIFT").unwrap_or(8).min(31),
            value("SCX_TASK_STATE_BITS").unwrap_or(2),
        );
        // Among the flags in new kernels, an enum of its own in old ones.
        let enabled = value("SCX_TASK_ENABLED").map(|value| value >> shift);
        let of_enum = || {
            let btf = self.kernel.btf();
            btf.enumerator("scx_task_state", "SCX_TASK_ENABLED")
        };
        let enabled = enabled.or_else(of_enum);
        let mask = (1_u64 << bits.min(8)) - 1;
        let node = scx.address_of("dsq_list.node").ok()?;
        let next = self.kernel.read_u64(node).ok()?;
        Some(ScxTask {
            queued: queued.map(|bit| flags & bit != 0),
            state_is_enabled: enabled.map(|enabled| flags >> shift & mask == enabled),
            ops: self.uint(&scx, "ops_state")?,
            dsq: self.pointer(&scx, "dsq"),
            linked: next != 0 && next != node.0,
            weight: self.uint(&scx, "weight"),
            sticky_cpu: scx.int("sticky_cpu").unwrap_or(-1),
            holding_cpu: scx.int("holding_cpu").unwrap_or(-1),
        })
    }
}
