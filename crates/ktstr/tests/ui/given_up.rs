use ktstr::prelude::*;

#[derive(ktstr::Scheduler)]
#[scheduler(name = "x", binary = "scx_x", topology(1, 2, 4, 2))]
enum Flags {
    #[flag(args = ["--a"])]
    A,
}

#[ktstr_test(required_flags = ["a"])]
fn flags(_ctx: &Ctx) -> Result<AssertResult> {
    Ok(AssertResult::pass())
}

#[ktstr_test(memory_mb = 512)]
fn megabytes(_ctx: &Ctx) -> Result<AssertResult> {
    Ok(AssertResult::pass())
}

#[ktstr_test(workers_per_cgroup = 2)]
fn workers(_ctx: &Ctx) -> Result<AssertResult> {
    Ok(AssertResult::pass())
}

#[ktstr_test(not_starved)]
fn starved(_ctx: &Ctx) -> Result<AssertResult> {
    Ok(AssertResult::pass())
}

declare_scheduler!(OLD, { name = "old", path = "/x" });

#[ktstr_test_entry]
const NOT_STATIC: KtstrTestEntry = KtstrTestEntry::DEFAULT;

fn main() {}
