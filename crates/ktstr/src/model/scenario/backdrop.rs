//! What lives across all steps.

use super::super::payload::Payload;
use super::{CgroupDef, Op};

/// What lives across all steps: made before the first, torn down after the last. Cgroups come first, then operations, then
/// payloads.
#[derive(Debug, Clone, Default)]
pub struct Backdrop {
    /// Cgroups with their workers.
    pub cgroups: Vec<CgroupDef>,
    /// Operations after they are made.
    pub ops: Vec<Op>,
    /// Programs that run beside them, in the test's own cgroup.
    pub payloads: Vec<&'static Payload>,
}

impl Backdrop {
    /// Nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            cgroups: Vec::new(),
            ops: Vec::new(),
            payloads: Vec::new(),
        }
    }

    /// These cgroups.
    pub fn from_cgroups(cgroups: impl IntoIterator<Item = CgroupDef>) -> Self {
        Self::new().extend_cgroups(cgroups)
    }

    /// Adds a cgroup.
    #[must_use]
    pub fn push_cgroup(mut self, def: CgroupDef) -> Self {
        self.cgroups.push(def);
        self
    }

    /// Adds cgroups.
    #[must_use]
    pub fn extend_cgroups(mut self, defs: impl IntoIterator<Item = CgroupDef>) -> Self {
        self.cgroups.extend(defs);
        self
    }

    /// Adds an operation.
    #[must_use]
    pub fn push_op(mut self, op: Op) -> Self {
        self.ops.push(op);
        self
    }

    /// Adds operations.
    #[must_use]
    pub fn extend_ops(mut self, ops: impl IntoIterator<Item = Op>) -> Self {
        self.ops.extend(ops);
        self
    }

    /// Adds a payload, which runs with its default arguments.
    #[must_use]
    pub fn push_payload(mut self, payload: &'static Payload) -> Self {
        self.payloads.push(payload);
        self
    }

    /// Adds payloads.
    #[must_use]
    pub fn extend_payloads(mut self, payloads: impl IntoIterator<Item = &'static Payload>) -> Self {
        self.payloads.extend(payloads);
        self
    }

    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.cgroups.is_empty() && self.ops.is_empty() && self.payloads.is_empty()
    }
}

impl FromIterator<CgroupDef> for Backdrop {
    fn from_iter<I: IntoIterator<Item = CgroupDef>>(defs: I) -> Self {
        Self::from_cgroups(defs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_builder_adds_to_what_is_there() {
        assert!(Backdrop::new().is_empty());
        let named = |name: &str| CgroupDef::named(name.to_owned());
        let all = Backdrop::from_cgroups([named("a")])
            .push_cgroup(named("b"))
            .extend_cgroups([named("c"), named("d")])
            .push_op(Op::stop_cgroup("a"))
            .extend_ops([Op::stop_cgroup("b")]);
        let names: Vec<&str> = all.cgroups.iter().map(|def| def.name.as_str()).collect();
        assert_eq!(names, ["a", "b", "c", "d"]);
        assert_eq!(all.ops, [Op::stop_cgroup("a"), Op::stop_cgroup("b")]);
        assert!(!all.is_empty() && !Backdrop::new().push_op(Op::stop_cgroup("a")).is_empty());
        static BENCH: Payload = Payload::binary("bench", "bench");
        let with = Backdrop::new()
            .push_payload(&BENCH)
            .extend_payloads([&BENCH]);
        assert!(with.payloads.len() == 2 && !with.is_empty());
        let collected: Backdrop = [named("a"), named("b")].into_iter().collect();
        assert_eq!(collected.cgroups.len(), 2);
    }
}
