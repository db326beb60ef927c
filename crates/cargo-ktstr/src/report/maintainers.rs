//! A page of plain text about one failure, for the maintainers of the kernel or of the scheduler: what a mail or an issue needs,
//! and nothing of the machine on which it was seen.
//!
//! The record and its message have all of it; here it is put in the order in which a stranger reads it, without paths.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use ktstr::host::evidence::clock::replay_line;
use ktstr::host::evidence::sidecar::Sidecar;

use super::Run;
use crate::output::shell_word;
use crate::test::Case;

/// Sections of a failure's message that are evidence, and their headings here.
const EVIDENCE: [(&str, &str); 8] = [
    ("sched_ext dump", "State at the failure"),
    ("monitor", "Runqueues during the run"),
    ("temporal", "Checks over captures"),
    ("auto-repro", "A second run with probes"),
    ("scheduler log", "Log of the scheduler"),
    ("console", "Kernel console"),
    ("guest output", "Output of the test"),
    ("info", "Notes"),
];
/// First components of paths that are those of a guest, or of any machine.
const GUEST_ROOTS: [&str; 5] = ["sys", "proc", "dev", "include-files", "init"];

/// The page of the test of that name, whole or as its runner knows it.
///
/// # Errors
/// When the run has no such test, or it did not fail there.
pub(super) fn render(run: &Run, test: &str) -> Result<String> {
    let is_it = |case: &&Case| case.name == test || case.test() == test;
    let cases: Vec<&Case> = run
        .tests
        .iter()
        .map(|shown| &shown.case)
        .filter(is_it)
        .collect();
    let case = match cases.as_slice() {
        [] => {
            let names = run.tests.iter().map(|shown| shown.case.name.as_str());
            let names: Vec<&str> = names.collect();
            bail!(
                "run {} has no test '{test}'; there are: {}",
                run.id,
                names.join(", ")
            )
        }
        // On several kernels, or by several binaries: the one that failed.
        several => several.iter().find(|case| case.is_bad()).copied(),
    };
    let case = case.with_context(|| format!("'{test}' did not fail in run {}", run.id))?;
    let record = case
        .sidecar
        .as_ref()
        .with_context(|| format!("'{test}' has left no record: {}", case.message))?;
    Ok(page(case, record))
}

fn page(case: &Case, record: &Sidecar) -> String {
    let mut out = String::new();
    heading(&mut out, &plain(&case.headline()), '=');
    facts(&mut out, record);
    heading(&mut out, "What is wrong", '-');
    let result = &record.result;
    for detail in result
        .failure_details()
        .chain(result.inconclusive_details())
    {
        for line in detail.to_string().lines() {
            let _ = writeln!(out, "{}", plain(line));
        }
    }
    heading(&mut out, "How to see it again", '-');
    again(&mut out, record);
    let message = record.message.as_deref().unwrap_or_default();
    let steps = section(message, "timeline");
    if !steps.is_empty() {
        heading(&mut out, "Steps", '-');
        lines(&mut out, &steps);
    }
    for (name, title) in EVIDENCE {
        let found = section(message, name);
        if !found.is_empty() {
            heading(&mut out, title, '-');
            lines(&mut out, &found);
        }
    }
    out
}

/// Writing to a String cannot fail.
fn heading(out: &mut String, title: &str, line: char) {
    if !out.is_empty() {
        out.push('\n');
    }
    let line: String = std::iter::repeat_n(line, title.chars().count()).collect();
    let _ = writeln!(out, "{title}\n{line}");
}

fn lines(out: &mut String, found: &[&str]) {
    for line in found {
        let _ = writeln!(out, "{}", plain(line).trim_end());
    }
}

fn facts(out: &mut String, record: &Sidecar) {
    let kernel = record.kernel_release.as_deref();
    let scheduler = record.scheduler.as_deref();
    let clock = &record.clock;
    let mut fact = |name: &str, value: &str| {
        let _ = writeln!(out, "{name:<10} {}", plain(value));
    };
    fact("test", &record.test);
    fact("kernel", kernel.unwrap_or("did not report its release"));
    fact("scheduler", scheduler.unwrap_or("the kernel's own"));
    fact("machine", &shape(&record.topology));
    fact(
        "engine",
        record.engine.as_deref().unwrap_or("none: no VM ran"),
    );
    let time = match (&clock.clock, clock.seed, clock.speed) {
        (Some(time), Some(seed), Some(speed)) => format!(
            "{time}, seed {seed}, {} million instructions a second on each CPU",
            speed / 1_000_000
        ),
        (Some(time), ..) => time.clone(),
        (None, ..) => String::from("none: no VM ran"),
    };
    fact("time", &time);
    if let Some(ms) = record.vm_ms {
        fact(
            "after",
            &format!("{:.3} s since power-on", ms as f64 / 1000.0),
        );
    }
}

/// `1n2l4c2t` in words.
fn shape(topology: &str) -> String {
    let mut numbers = topology
        .split(|c: char| !c.is_ascii_digit())
        .map(|number| number.parse().unwrap_or(0));
    let mut next = || numbers.next().unwrap_or(0u32);
    let (nodes, llcs, cores, threads) = (next(), next(), next(), next());
    let cpus = llcs.saturating_mul(cores).saturating_mul(threads);
    format!(
        "{topology}: {cpus} CPUs; NUMA nodes {nodes}, LLCs {llcs}, cores per LLC {cores}, threads per core {threads}"
    )
}

fn again(out: &mut String, record: &Sidecar) {
    let clock = &record.clock;
    let test = shell_word(&record.test);
    let _ = match clock.seed {
        Some(seed) => {
            let (identity, fingerprint) = (clock.identity.as_deref(), clock.fingerprint.as_deref());
            let line = replay_line(&test, seed, identity, fingerprint);
            writeln!(
                out,
                "{line}\nThe run is the same each time, on any host, with the test binary, kernel and emulator of this run."
            )
        }
        None => writeln!(
            out,
            "This run was in the host's time and is not repeated exactly. Look for it under seeds of virtual time:\n\
             cargo ktstr explore {test} --seeds 100"
        ),
    };
}

/// The lines of a section of a message, without their indent.
fn section<'m>(message: &'m str, name: &str) -> Vec<&'m str> {
    let begins = |line: &str| {
        let title = line.strip_prefix("--- ");
        let rest = title.and_then(|title| title.strip_prefix(name));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(" ("))
    };
    let behind = message.lines().skip_while(|line| !begins(line)).skip(1);
    behind.map_while(|line| line.strip_prefix("  ")).collect()
}

/// A line without paths of the host: of each, its last component stays.
fn plain(line: &str) -> String {
    let is_of_path = |c: char| c.is_ascii_alphanumeric() || "/._-+@~".contains(c);
    let mut out = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(at) = rest.find('/') {
        let (before, path) = rest.split_at(at);
        out.push_str(before);
        let end = path.find(|c: char| !is_of_path(c)).unwrap_or(path.len());
        let (path, behind) = path.split_at(end);
        let begins_here = !out.chars().next_back().is_some_and(is_of_path);
        out.push_str(if begins_here { last(path) } else { path });
        rest = behind;
    }
    out.push_str(rest);
    out
}

fn last(path: &str) -> &str {
    let mut parts = path.trim_end_matches(['.', '/']).split('/').skip(1);
    let first = parts.next().unwrap_or_default();
    if parts.next().is_none() || GUEST_ROOTS.contains(&first) {
        return path;
    }
    let name = Path::new(path).file_name();
    name.and_then(|name| name.to_str()).unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_the_host_are_left_out_and_others_stay() {
        for (line, expected) in [
            (
                "kernel: 6.12 (/home/me/.cache/k/bzImage)",
                "kernel: 6.12 (bzImage)",
            ),
            ("at /work/x/src/lib.rs:12:5", "at lib.rs:12:5"),
            ("'/tmp/a b'", "'a b'"),
            ("/sys/fs/cgroup/a/cpu.max", "/sys/fs/cgroup/a/cpu.max"),
            ("kernel/sched/ext.c:12", "kernel/sched/ext.c:12"),
            ("3 of 4/5, and/or", "3 of 4/5, and/or"),
            ("a line without any", "a line without any"),
            ("path=/opt/x/y.", "path=y."),
            ("/", "/"),
        ] {
            assert_eq!(plain(line), expected, "{line}");
        }
    }

    #[test]
    fn sections_end_where_the_next_begins() {
        let message = "cause: x\n--- timeline\n  0 ms\n  5 ms\n--- console (guest: done; off)\n  boot\nkernel: 6\n";
        assert_eq!(section(message, "timeline"), ["0 ms", "5 ms"]);
        assert_eq!(section(message, "console"), ["boot"]);
        assert_eq!(section(message, "time"), [""; 0]);
    }

    #[test]
    fn a_shape_is_told_in_words() {
        assert_eq!(
            shape("1n2l4c2t"),
            "1n2l4c2t: 16 CPUs; NUMA nodes 1, LLCs 2, cores per LLC 4, threads per core 2"
        );
    }
}
