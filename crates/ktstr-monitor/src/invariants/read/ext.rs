//! sched_ext: its part of a runqueue, and queues.

use super::super::books::{Dsq, Scx, ScxRq};
use super::{MAX_ENTRIES, Reader};
use crate::sched::DsqKind;
use crate::{Kva, Object, Problems, Result};

impl Reader<'_> {
    pub(super) fn scx_rq(&mut self, rq: &Object<'_>) -> Result<Option<ScxRq>> {
        let Ok(scx) = rq.member("scx") else {
            return Ok(None);
        };
        let mut tasks = |what, path, link| -> Result<Option<Vec<Kva>>> {
            let Ok(head) = scx.address_of(path) else {
                return Ok(None);
            };
            let offset = self.kernel.field_of("task_struct", link)?.offset;
            let nodes = self.list(what, head);
            Ok(nodes.map(|nodes| nodes.iter().map(|node| node.wrapping_sub(offset)).collect()))
        };
        let runnable = tasks("a runnable list", "runnable_list", "scx.runnable_node")?;
        let deferred = tasks(
            "deferred dispatches",
            "ddsp_deferred_locals",
            "scx.dsq_list.node",
        )?;
        Ok(Some(ScxRq {
            nr_running: self.uint(&scx, "nr_running"),
            runnable,
            deferred,
        }))
    }

    pub(super) fn scx(&mut self) -> Option<Scx> {
        let state = ["scx_enable_state_var", "scx_ops_enable_state_var"]
            .iter()
            .find_map(|name| self.kernel.global(name, 4).ok())?;
        let value = |name: &str| {
            let btf = self.kernel.btf();
            btf.enumerator("scx_enable_state", &format!("SCX_{name}"))
                .or_else(|| btf.enumerator("scx_ops_enable_state", &format!("SCX_OPS_{name}")))
        };
        Some(Scx {
            enabled: value("ENABLED") == Some(state),
            disabled: value("DISABLED") == Some(state),
            unused: self.kernel.global("scx_enable_seq", 8).ok() == Some(0),
        })
    }

    pub(super) fn dsqs(&mut self) -> Vec<Dsq> {
        let places = self.kernel.places_of_queues(&mut self.problems);
        places
            .into_iter()
            .filter_map(|(kind, _, dsq)| self.dsq(kind, &dsq))
            .collect()
    }

    pub(super) fn dsq(&mut self, kind: DsqKind, dsq: &Object<'_>) -> Option<Dsq> {
        let id = self.uint(dsq, "id")?;
        let (name, cpu) = match kind {
            DsqKind::Local { cpu } => (format!("local DSQ of CPU {cpu}"), Some(cpu)),
            DsqKind::Reject { cpu } => (format!("reject DSQ of CPU {cpu}"), Some(cpu)),
            DsqKind::Rescue { cpu } => (format!("rescue DSQ of CPU {cpu}"), Some(cpu)),
            DsqKind::Bypass { cpu } => (format!("bypass DSQ of CPU {cpu}"), None),
            DsqKind::Global { node } => (format!("global DSQ of node {node}"), None),
            DsqKind::User => (format!("DSQ {id:#x}"), None),
        };
        let mut problems = Problems::new();
        let tasks = self
            .kernel
            .tasks_of_queue(dsq, MAX_ENTRIES.min(self.room), &mut problems);
        if let Ok(Some(tasks)) = &tasks {
            self.room = self.room.saturating_sub(tasks.len());
        }
        self.problems.extend(problems);
        let root = self.pointer(dsq, "priq.rb_node");
        let offset = self
            .kernel
            .field_of("task_struct", "scx.dsq_priq")
            .ok()?
            .offset;
        let priq = self.tree("a DSQ's priority queue", root).map(|nodes| {
            let task = |(node, _): (Kva, _)| node.wrapping_sub(offset);
            nodes.into_iter().map(task).collect()
        });
        Some(Dsq {
            kva: dsq.kva(),
            name,
            cpu,
            is_local: matches!(kind, DsqKind::Local { .. }),
            is_user: matches!(kind, DsqKind::User),
            locked: self.uint(dsq, "lock.raw_lock.val.counter") != Some(0),
            nr: self.uint(dsq, "nr"),
            first: self.uint(dsq, "first_task").map(Kva),
            tasks: self.problems.keep("a DSQ", tasks).flatten(),
            priq,
        })
    }
}
