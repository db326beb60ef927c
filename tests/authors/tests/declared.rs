//! Declarations for the verifier and no ktstr test at all, as some schedulers have them.
#![cfg(feature = "ktstr-tests")]

use ktstr::prelude::*;

const CHECKS: Assert = Assert::NO_OVERRIDES.max_gap_ms(50);
const PARENT: &str = "/cells";
const ARGS: &[&str] = &["--primary-domain", "all"];

declare_scheduler!(BPFLAND_PRIMARY, {
    name = "bpfland_primary",
    binary = "scx_bpfland",
    sched_args = ARGS,
    topology = (1, 1, 2, 1),
    cgroup_parent = PARENT,
    constraints = TopologyConstraints::DEFAULT.with_min_llcs(2).with_max_cpus(16),
    assert = CHECKS,
    max_spread_pct = 90,
    sysctls = [Sysctl::new("kernel.panic", "0")],
});

/// A test's part of it, without a guest.
const ENTRY: KtstrTestEntry = KtstrTestEntry {
    name: "entry",
    scheduler: Some(&BPFLAND_PRIMARY),
    constraints: BPFLAND_PRIMARY.constraints,
    ..KtstrTestEntry::DEFAULT
};

#[test]
fn what_is_declared_is_what_tests_get() {
    let declared = find_scheduler("bpfland_primary").expect("it is registered");
    let shape = declared.topology.map(|topology| topology.to_string());
    assert_eq!(shape.as_deref(), Some("1n1l2c1t"));
    assert_eq!(
        (declared.sched_args, declared.cgroup_parent),
        (ARGS, Some("/cells"))
    );
    let checks = ENTRY.merged_assert();
    assert_eq!(
        (checks.max_gap_ms, checks.max_spread_pct),
        (Some(50), Some(90.0))
    );
    let shape = |llcs, cores| TopologySpec {
        numa_nodes: 1,
        llcs,
        cores,
        threads: 1,
    };
    assert!(ENTRY.allows(&shape(2, 8)));
    assert!(!ENTRY.allows(&shape(1, 8)), "too few LLCs");
    assert!(!ENTRY.allows(&shape(4, 8)), "too many CPUs");
    assert!(find_test("entry").is_none(), "nothing registered it");
}
