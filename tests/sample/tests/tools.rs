//! What the command line's tools are tried on: reports, figures, comparisons, shells, exports, the verifier.

use ktstr::prelude::*;

declare_scheduler!(FIXTURE, { name: "sample-fixture", binary: "scx-fixture" });
// It switches only tasks of SCHED_EXT, and loses one.
declare_scheduler!(LOSING, { name: "sample-losing", binary: "scx-fixture", sched_args: ["--partial", "--stall"] });

/// Everything that a host can measure of a guest.
#[ktstr_test(
    scheduler = FIXTURE, topology = "1n1l2c1t", duration_s = 2, num_snapshots = 2, disk = DiskConfig::DEFAULT,
    watch_bpf_maps = [WatchBpfMap::new(".bss", "stats.dispatched", BpfMapAgg::ScalarCounter, "dispatched")]
)]
fn measured(ctx: &Ctx) -> Result<AssertResult> {
    execute_defs(ctx, vec![CgroupDef::named("busy").workers(3)])
}

/// Its function passes; whether the test does is for its host to say.
#[ktstr_test(topology = "1n1l2c1t", duration_s = 1, post_vm = never_good_enough)]
fn judged_by_the_host(ctx: &Ctx) -> Result<AssertResult> {
    execute_defs(ctx, vec![CgroupDef::named("busy").workers(2)])
}

fn never_good_enough(_: &VmResult) -> Result<()> {
    anyhow::bail!("the host is not content")
}

ktstr::test_main!();
