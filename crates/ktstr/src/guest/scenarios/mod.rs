//! Canned scenarios by family, one line each: `scenarios::steady(ctx)`, `scenarios::cpuset::swap(ctx)`. Those that most tests
//! use are at hand without their family: `scenarios::cpuset_apply(ctx)`.
//!
//! All last as long as the test does; what they assert is what the test asserts. Each is also data ([`ALL`]), so that a tool can
//! list them and a test can run them all.

pub mod affinity;
pub mod contention;
pub mod cpuset;
pub mod dynamic;
pub mod nesting;
mod steady;
pub mod stress;

pub use affinity::{change as affinity_change, pinned as affinity_pinned};
pub use contention::host_contention;
pub use cpuset::{apply as cpuset_apply, clear as cpuset_clear, resize as cpuset_resize};
pub use dynamic::{add as cgroup_add, remove as cgroup_remove};
pub use nesting::{nested_steady, task_move as nested_task_move};
pub use steady::{mixed_workloads, oversubscribed, steady, steady_llc};

use crate::model::cpuset::CpuMap;
use crate::model::ctx::Ctx;
use crate::model::scenario::{Backdrop, CgroupDef, HoldSpec, Op, Step};
use crate::model::verdict::AssertResult;
use crate::model::work::{WorkSpec, WorkType};

use super::scenario::execute_scenario;

/// What a canned scenario does.
#[derive(Debug, Clone)]
pub struct Plan {
    /// What lives across all steps.
    pub backdrop: Backdrop,
    /// The steps.
    pub steps: Vec<Step>,
}

/// A canned scenario, as data.
#[derive(Debug, Clone, Copy)]
pub struct Canned {
    /// Its family.
    pub family: &'static str,
    /// Its name in the family.
    pub name: &'static str,
    /// What it does, in a sentence.
    pub about: &'static str,
    /// CPUs that it needs; on fewer it is skipped.
    pub min_cpus: u32,
    plan: fn(&CpuMap) -> Plan,
}

impl Canned {
    /// Its steps on these CPUs.
    pub fn plan(&self, map: &CpuMap) -> Plan {
        (self.plan)(map)
    }

    /// Runs it; a skip where there are too few CPUs.
    ///
    /// # Errors
    /// As [`execute_scenario`].
    pub fn run(&self, ctx: &Ctx) -> anyhow::Result<AssertResult> {
        let cpus = ctx.topology().total_cpus();
        if cpus < self.min_cpus {
            return Ok(AssertResult::skip(format!(
                "scenario {}::{} needs {} CPUs, the guest has {cpus}; give the test a larger topology",
                self.family, self.name, self.min_cpus
            )));
        }
        let plan = self.plan(&ctx.topology());
        execute_scenario(ctx, plan.backdrop, plan.steps)
    }
}

/// All families, in order.
pub const ALL: [&[Canned]; 7] = [
    steady::ALL,
    affinity::ALL,
    cpuset::ALL,
    dynamic::ALL,
    nesting::ALL,
    contention::ALL,
    stress::ALL,
];

/// Declares a family: a function and an entry in its table for each scenario.
macro_rules! family {
    ($family:literal; $( $(#[doc = $about:literal])+ $name:ident($min_cpus:literal) = $plan:expr; )+) => {
        $(
            $(#[doc = $about])+
            ///
            /// # Errors
            /// As [`execute_scenario`](crate::guest::scenario::execute_scenario).
            pub fn $name(ctx: &$crate::model::ctx::Ctx) -> anyhow::Result<$crate::model::verdict::AssertResult> {
                let this = ALL.iter().find(|canned| canned.name == stringify!($name));
                this.expect("every function has its entry").run(ctx)
            }
        )+

        /// The scenarios of this family.
        pub(super) const ALL: &[$crate::guest::scenarios::Canned] = &[$(
            $crate::guest::scenarios::Canned {
                family: $family,
                name: stringify!($name),
                about: concat!($($about),+),
                min_cpus: $min_cpus,
                plan: $plan,
            },
        )+];
    };
}
use family;

/// Cgroups for the whole duration.
fn whole(defs: Vec<CgroupDef>) -> Plan {
    Plan {
        backdrop: Backdrop::new(),
        steps: vec![Step::with_defs(defs, HoldSpec::FULL)],
    }
}

/// Cgroups that live through steps of equal length.
fn equal_steps(cgroups: Vec<CgroupDef>, steps: Vec<Vec<Op>>) -> Plan {
    let share = HoldSpec::frac(1.0 / steps.len().max(1) as f64);
    let step = |ops: Vec<Op>| Step::new(ops, share);
    Plan {
        backdrop: Backdrop::from_cgroups(cgroups),
        steps: steps.into_iter().map(step).collect(),
    }
}

/// Cgroups that live while operations are repeated five times a second.
fn repeated(cgroups: Vec<CgroupDef>, ops: Vec<Op>) -> Plan {
    let interval = std::time::Duration::from_millis(200);
    Plan {
        backdrop: Backdrop::from_cgroups(cgroups),
        steps: vec![Step::new(ops, HoldSpec::loop_at(interval))],
    }
}

fn spinning(name: &str) -> CgroupDef {
    CgroupDef::named(name).workers(2)
}

/// One group of a work type, by its usual parameters.
fn of_type(name: &str) -> WorkSpec {
    let work = WorkType::from_name(name).expect("the names in this module are work types");
    WorkSpec::default().work_type(work)
}

#[cfg(test)]
mod tests;
