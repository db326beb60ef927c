//! How tests end under Rust's own harness, all on the host: a plain `#[test]` first, then one of each verdict.
#![cfg(feature = "ktstr-tests")]

use ktstr::prelude::*;

#[test]
fn a_plain_test_comes_first() {
    let thread = std::thread::current();
    assert!(
        thread.name().is_some_and(|name| name != "main")
            || std::env::args().any(|arg| arg == "--test-threads=1"),
        "libtest runs this, not ktstr"
    );
}

#[ktstr_test(host_only)]
fn host_passes(_: &Ctx) -> Result<AssertResult> {
    println!("said by a passing test");
    Ok(AssertResult::pass())
}

#[ktstr_test(host_only)]
fn host_fails(_: &Ctx) -> Result<AssertResult> {
    anyhow::bail!("queue seven is gone")
}

#[ktstr_test(host_only)]
fn host_skips(_: &Ctx) -> Result<AssertResult> {
    Ok(AssertResult::skip("no such device"))
}

#[ktstr_test(host_only)]
fn host_unsure(_: &Ctx) -> Result<AssertResult> {
    Ok(AssertResult::inconclusive(DetailKind::Other, "no samples"))
}

#[ktstr_test(host_only, ignore)]
fn host_ignored(_: &Ctx) -> Result<AssertResult> {
    Ok(AssertResult::pass())
}

#[ktstr_test(host_only)]
#[ignore = "takes long"]
fn host_ignored_by_rusts_own_attribute(_: &Ctx) -> Result<AssertResult> {
    Ok(AssertResult::pass())
}

/// Its guest has no `main` but libtest's, which it never reaches.
#[ktstr_test(llcs = 1, cores = 1, threads = 1, duration_s = 1)]
fn guest_runs_the_body(ctx: &Ctx) -> Result<AssertResult> {
    anyhow::ensure!(std::process::id() != 1, "init itself runs the test");
    execute_defs(ctx, vec![CgroupDef::named("only").workers(1)])
}

/// One that libtest cannot know of.
#[ktstr_test_entry]
static BY_HAND: KtstrTestEntry = KtstrTestEntry {
    name: "host_by_hand",
    func: |_| Ok(AssertResult::pass()),
    host_only: true,
    ..KtstrTestEntry::DEFAULT
};

mod inner {
    #[test]
    fn plain_fails() {
        assert_eq!(1, 2, "the plain one is wrong");
    }
}
