//! Cgroups that come and go under a scheduler that keeps state for them.

use super::{equal_steps, family, of_type, repeated, spinning};
use crate::model::scenario::{CgroupDef, Op};
use crate::model::work::WorkSpec;

family! { "dynamic";
    /// Cgroups with workers are added, one in each step.
    add(1) = |_| equal_steps(vec![spinning("first")], vec![
        Vec::new(),
        vec![added("second")],
        vec![added("third")],
    ]);
    /// Cgroups with workers are removed, one in each step.
    remove(1) = |_| equal_steps(vec![spinning("first"), spinning("second"), spinning("third")], vec![
        Vec::new(),
        vec![removed("third")],
        vec![removed("second")],
    ]);
    /// A cgroup with workers is removed and added anew five times a second.
    churn(1) = |_| repeated(vec![spinning("stays")], vec![removed("flickers"), added("flickers")]);
    /// Workers are started in a cgroup and stopped again five times a second.
    spawn_and_stop(1) = |_| repeated(vec![spinning("stays"), spinning("flickers")], vec![
        Op::stop_cgroup("flickers"),
        Op::spawn_workers("flickers", WorkSpec::default().workers(2)),
    ]);
    /// A cgroup is frozen and thawed five times a second beside one that runs.
    freeze_and_thaw(1) = |_| repeated(vec![spinning("runs"), spinning("blinks")], vec![
        Op::freeze_cgroup("blinks"),
        Op::unfreeze_cgroup("blinks"),
    ]);
    /// Tasks are moved to and fro between two cgroups five times a second.
    move_tasks(1) = |_| repeated(vec![spinning("left"), CgroupDef::named("right").without_workers()], vec![
        moved("left", "right"),
        moved("right", "left"),
    ]);
    /// Workers move themselves and each other between cgroups, beside spinning ones.
    attach_storm(1) = |_| super::whole(vec![
        CgroupDef::named("self").work(of_type("CgroupChurn")),
        CgroupDef::named("others").work(of_type("CgroupAttachStorm")),
        spinning("beside"),
    ]);
}

fn added(name: &str) -> Op {
    Op::add_cgroup_def(spinning(name))
}

fn removed(name: &str) -> Op {
    Op::remove_cgroup(name)
}

fn moved(from: &str, to: &str) -> Op {
    Op::move_all_tasks(from, to)
}
