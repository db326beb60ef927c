//! Tests whose workload is a program of its own; `tests/payloads.rs` runs them and looks at what was measured.

use std::time::Duration;

use ktstr::prelude::*;

/// A benchmark that reports in JSON.
const WAKEBENCH: Payload = Payload {
    output: OutputFormat::Json,
    default_args: &["--seconds", "1"],
    metrics: &[
        MetricHint::lower("wakeup.p99_us", "us").bounds(0.0, 60e6),
        MetricHint::higher("rps", "1/s"),
    ],
    checks: &[
        MetricCheck::Min {
            metric: "wakeup.samples",
            at_least: 10.0,
        },
        MetricCheck::Exists {
            metric: "wakeup.p99_us",
        },
    ],
    ..Payload::binary("wakebench", "wakebench")
};

/// The same program, whose text an extractor on the host reads.
const TEXTBENCH: Payload = Payload {
    output: OutputFormat::Extract(&["./extractors/schbench.sh"]),
    default_args: &["--seconds", "1", "--text"],
    metrics: &[MetricHint::lower("wakeup_p99", "us")],
    checks: &[MetricCheck::Min {
        metric: "rps",
        at_least: 1.0,
    }],
    ..Payload::binary("wakebench", "wakebench")
};

/// The same again, asked for more than any machine gives.
const HOPELESS: Payload = Payload {
    output: OutputFormat::Json,
    checks: &[
        MetricCheck::Min {
            metric: "rps",
            at_least: 1e12,
        },
        MetricCheck::ExitCode(3),
    ],
    ..Payload::binary("wakebench", "wakebench")
};

/// Programs as strangers have them, each of which ends with a status of its own: one whose library lies beside it, a script of the
/// shell, and one whose interpreter `env` looks for.
const WITH_LIBRARY: Payload = stranger("with-library", &[MetricCheck::ExitCode(7)]);
const SHELL_SCRIPT: Payload = stranger("shell-script", &[MetricCheck::ExitCode(8)]);
const ENV_SCRIPT: Payload = stranger("env-script", &[MetricCheck::ExitCode(9)]);

const fn stranger(name: &'static str, checks: &'static [MetricCheck]) -> Payload {
    Payload {
        checks,
        ..Payload::binary(name, name)
    }
}

declare_scheduler!(FIXTURE, { name: "fixture", binary: "scx-fixture" });

fn run_it(ctx: &Ctx, cgroup: Option<&str>) -> Result<AssertResult> {
    let payload = ctx.payload("wakebench").expect("the test declares it");
    let start = match cgroup {
        None => Op::run_payload(payload, ["--workers", "2"]),
        Some(cgroup) => Op::run_payload_in_cgroup(payload, ["--workers", "2"], cgroup),
    };
    let ops = vec![start, Op::wait_payload("wakebench")];
    let step = Step::new(ops, HoldSpec::fixed(Duration::ZERO));
    execute_scenario(
        ctx,
        Backdrop::from_cgroups(vec![CgroupDef::named("busy").workers(1)]),
        vec![step],
    )
}

/// The caller has made them, on `PATH`.
#[ktstr_test(topology = "1n1l1c1t", duration_s = 20, workloads = [WITH_LIBRARY, SHELL_SCRIPT, ENV_SCRIPT], ignore)]
fn programs_of_strangers(ctx: &Ctx) -> Result<AssertResult> {
    let mut ops = Vec::new();
    for name in ["with-library", "shell-script", "env-script"] {
        let payload = ctx.payload(name).expect("the test declares it");
        ops.push(Op::run_payload(payload, [""; 0]));
        ops.push(Op::wait_payload(name));
    }
    execute_steps(ctx, vec![Step::new(ops, HoldSpec::fixed(Duration::ZERO))])
}

/// Under the fixture, in the busy cgroup.
#[ktstr_test(scheduler = FIXTURE, topology = "1n1l2c1t", duration_s = 20, payload = WAKEBENCH, ignore)]
fn json_metrics(ctx: &Ctx) -> Result<AssertResult> {
    run_it(ctx, Some("busy"))
}

/// Under the kernel's own scheduler, with the extractor.
#[ktstr_test(topology = "1n1l2c1t", duration_s = 20, workloads = [TEXTBENCH], ignore)]
fn extracted_metrics(ctx: &Ctx) -> Result<AssertResult> {
    run_it(ctx, None)
}

/// Both of its checks fail.
#[ktstr_test(topology = "1n1l2c1t", duration_s = 20, payload = HOPELESS, ignore)]
fn failed_checks(ctx: &Ctx) -> Result<AssertResult> {
    run_it(ctx, None)
}

ktstr::test_main!();
