//! Cgroups that come and go under a scheduler that keeps state for them.

use super::{equal_steps, family, of_type, repeated, spinning};
use crate::model::scenario::Op;
use crate::model::work::WorkSpec;

family! { "dynamic";
    /// Cgroups with workers are added, one in each step.
    add(1) = |_| equal_steps(vec![spinning("first")], vec![
        ("one", Vec::new()),
        ("two", vec![added("second")]),
        ("three", vec![added("third")]),
    ]);
    /// Cgroups with workers are removed, one in each step.
    remove(1) = |_| equal_steps(vec![spinning("first"), spinning("second"), spinning("third")], vec![
        ("three", Vec::new()),
        ("two", vec![removed("third")]),
        ("one", vec![removed("second")]),
    ]);
    /// A cgroup with workers is removed and added anew five times a second.
    churn(1) = |_| repeated(vec![spinning("stays")], vec![removed("flickers"), added("flickers")]);
    /// Workers are started in a cgroup and stopped again five times a second.
    spawn_and_stop(1) = |_| repeated(vec![spinning("stays"), spinning("flickers")], vec![
        Op::StopCgroup { cgroup: "flickers".to_owned() },
        Op::Spawn { cgroup: Some("flickers".to_owned()), work: spin(2) },
    ]);
    /// A cgroup is frozen and thawed five times a second beside one that runs.
    freeze_and_thaw(1) = |_| repeated(vec![spinning("runs"), spinning("blinks")], vec![
        Op::FreezeCgroup { cgroup: "blinks".to_owned() },
        Op::UnfreezeCgroup { cgroup: "blinks".to_owned() },
    ]);
    /// Tasks are moved to and fro between two cgroups five times a second.
    move_tasks(1) = |_| repeated(vec![spinning("left"), spinning("right").workers(0)], vec![
        moved("left", "right"),
        moved("right", "left"),
    ]);
    /// Workers move themselves and each other between cgroups, beside spinning ones.
    attach_storm(1) = |_| super::whole(vec![
        crate::model::scenario::CgroupDef::named("self").work(of_type("CgroupChurn")),
        crate::model::scenario::CgroupDef::named("others").work(of_type("CgroupAttachStorm")),
        spinning("beside"),
    ]);
}

fn spin(count: usize) -> WorkSpec {
    WorkSpec::new(crate::model::work::WorkType::SpinWait).workers(count)
}

fn added(name: &str) -> Op {
    Op::AddCgroupDef(spinning(name))
}

fn removed(name: &str) -> Op {
    Op::RemoveCgroup {
        cgroup: name.to_owned(),
    }
}

fn moved(from: &str, to: &str) -> Op {
    Op::MoveAllTasks {
        from: from.to_owned(),
        to: to.to_owned(),
    }
}
