//! Every way in which a test can end, on the host and in a guest.

use std::path::Path;

use ktstr::prelude::*;

static TRUE: Payload = Payload::binary("true", "true");

/// Right on a machine with one LLC and nowhere else; the payload shows that a cell of the gauntlet has its test's programs.
#[ktstr_test(duration_s = 1, payload = TRUE, max_cpus = 9, max_llcs = 3)]
fn one_llc_only(ctx: &Ctx) -> Result<AssertResult> {
    let ran = execute_steps(
        ctx,
        vec![Step::new(
            vec![Op::run_payload(&TRUE, [""; 0]), Op::wait_payload("true")],
            HoldSpec::fixed(std::time::Duration::ZERO),
        )],
    )?;
    let llcs =
        std::fs::read_to_string("/sys/devices/system/cpu/cpu0/cache/index3/shared_cpu_list")?;
    let online = std::fs::read_to_string("/sys/devices/system/cpu/online")?;
    if llcs != online {
        return Ok(AssertResult::fail(
            DetailKind::Other,
            format!(
                "CPU 0 shares its LLC with {}, of {}",
                llcs.trim(),
                online.trim()
            ),
        ));
    }
    Ok(ran)
}

mod left {
    use super::*;

    #[ktstr_test(duration_s = 1)]
    fn same(_: &Ctx) -> Result<AssertResult> {
        Ok(AssertResult::pass())
    }
}

mod right {
    use super::*;

    #[ktstr_test(duration_s = 1)]
    fn same(_: &Ctx) -> Result<AssertResult> {
        Ok(AssertResult::fail(DetailKind::Other, "the right one ran"))
    }
}

#[ktstr_test(topology = "1n1l2c1t", duration_s = 1, ignore)]
fn steady_work(ctx: &Ctx) -> Result<AssertResult> {
    execute_defs(ctx, vec![CgroupDef::named("busy").workers(3)])
}

/// What it says depends on which of two threads came first, and how often: on the interleaving of two CPUs.
#[ktstr_test(topology = "1n1l2c1t", duration_s = 1, ignore)]
fn odd_rounds(_: &Ctx) -> Result<AssertResult> {
    use std::sync::atomic::{AtomicU32, Ordering};
    const ROUNDS: u32 = 2000;
    let (last, changes) = (AtomicU32::new(0), AtomicU32::new(0));
    std::thread::scope(|scope| {
        for thread in [1, 2] {
            let (last, changes) = (&last, &changes);
            scope.spawn(move || {
                for _ in 0..ROUNDS {
                    if last.swap(thread, Ordering::SeqCst) != thread {
                        changes.fetch_add(1, Ordering::SeqCst);
                    }
                    (0..2000).for_each(|n| {
                        std::hint::black_box(n);
                    });
                }
            });
        }
    });
    let changes = changes.into_inner();
    Ok(if changes % 2 == 1 {
        AssertResult::fail(DetailKind::Other, format!("{changes} changes"))
    } else {
        AssertResult::pass()
    })
}

declare_scheduler!(NOBODYS, { name: "nobodys", binary: "scx_that_nobody_has" });

#[ktstr_test(scheduler = NOBODYS, duration_s = 1)]
fn scheduler_by_name(_: &Ctx) -> Result<AssertResult> {
    Ok(AssertResult::pass())
}

#[ktstr_test(host_only)]
fn smoke(_: &Ctx) -> Result<AssertResult> {
    Ok(AssertResult::pass())
}

#[ktstr_test(host_only)]
fn host_fails(_: &Ctx) -> Result<AssertResult> {
    Ok(AssertResult::fail(
        DetailKind::Other,
        "queue seven <is> gone",
    ))
}

#[ktstr_test(host_only)]
fn host_unsure(_: &Ctx) -> Result<AssertResult> {
    Ok(AssertResult::inconclusive(DetailKind::Other, "no samples"))
}

#[ktstr_test(host_only)]
fn host_skips(_: &Ctx) -> Result<AssertResult> {
    Ok(AssertResult::skip("no such device"))
}

#[ktstr_test(host_only, ignore)]
fn host_ignored(_: &Ctx) -> Result<AssertResult> {
    Ok(AssertResult::pass())
}

#[ktstr_test(host_only)]
fn host_aborts(_: &Ctx) -> Result<AssertResult> {
    std::process::abort()
}

/// Fails until it has been there once.
#[ktstr_test(host_only)]
fn host_flaky(_: &Ctx) -> Result<AssertResult> {
    let Some(dir) = std::env::var_os("SAMPLE_DIR") else {
        return Ok(AssertResult::skip("SAMPLE_DIR is not set"));
    };
    let been = Path::new(&dir).join("been");
    if been.exists() {
        return Ok(AssertResult::pass());
    }
    std::fs::write(been, "")?;
    Ok(AssertResult::fail(
        DetailKind::Other,
        "the first time it fails",
    ))
}

#[ktstr_test_entry]
static BY_HAND: KtstrTestEntry = KtstrTestEntry {
    name: "host_by_hand",
    func: |_| Ok(AssertResult::pass()),
    host_only: true,
    ..KtstrTestEntry::DEFAULT
};

ktstr::test_main!();
