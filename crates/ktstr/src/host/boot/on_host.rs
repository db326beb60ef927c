//! `host_only`: the test's function in this process, with the host's own CPUs, a cgroup of its own, and a deadline.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use crate::host::boot::session;
use crate::host::plan::config::Variable;
use crate::model::call::call;
use crate::model::cpuset::{CpuMap, CpuSet};
use crate::model::ctx::{Ctx, DEFAULT_WORKLOAD_ROOT};
use crate::model::entry::KtstrTestEntry;
use crate::model::verdict::{AssertResult, DetailKind};

/// Beyond its declared duration, what the test may take for cgroups, workers and its own code.
const HEADROOM: Duration = Duration::from_secs(60);
const CPUS: &str = "/sys/devices/system/cpu";

/// Runs it here; its panic is a failure as in a guest.
pub(in crate::host) fn run(entry: &KtstrTestEntry) -> AssertResult {
    let deadline = Duration::from_secs(entry.duration_s.into()) + HEADROOM;
    run_within(entry, deadline)
}

fn run_within(entry: &KtstrTestEntry, deadline: Duration) -> AssertResult {
    let parent = match cgroup_parent(Variable::HostCgroup.path()) {
        Ok(parent) => parent,
        Err(why) => return AssertResult::fail(DetailKind::Setup, why),
    };
    let mut plan = session::test_plan(entry);
    plan.topology = host_map(Path::new(CPUS));
    // Of each test alone: two of them may run at the same time.
    plan.workload_root = parent.join(format!(
        "{}-{}",
        entry.registered_name().replace('/', "__"),
        std::process::id()
    ));
    let ctx = Ctx::new(plan, None).with_payloads(entry.payloads());
    let function = entry.func;
    let (done, result) = mpsc::channel();
    let started = std::thread::Builder::new()
        .name(String::from("host_only"))
        .spawn(move || {
            // The receiver may have given up.
            let _ = done.send(call(&ctx, function));
        });
    let mut result = match started {
        Ok(_) => result.recv_timeout(deadline).unwrap_or_else(|_| {
            let text = format!(
                "the test did not end within {} s ({} s declared as duration_s, and {} s of head-room); its process still runs it",
                deadline.as_secs(),
                entry.duration_s,
                HEADROOM.as_secs()
            );
            AssertResult::fail(DetailKind::TimedOut, text)
        }),
        Err(error) => AssertResult::fail(
            DetailKind::Setup,
            format!("starting a thread for the test: {error}"),
        ),
    };
    result.stats.name_payload_metrics();
    result.note("host_only: no VM was booted");
    result
}

/// Where the cgroups of tests go: the usual place, or the one that the user names.
fn cgroup_parent(named: Option<PathBuf>) -> Result<PathBuf, String> {
    let Some(named) = named else {
        return Ok(PathBuf::from(DEFAULT_WORKLOAD_ROOT));
    };
    let root = Path::new("/sys/fs/cgroup");
    let below = named.strip_prefix(root).ok();
    let is_below = below.is_some_and(|rest| {
        rest.components().next().is_some()
            && !rest.components().any(|part| part.as_os_str() == "..")
    });
    if is_below {
        return Ok(named);
    }
    Err(format!(
        "{} is '{}', expected a cgroup below {}, not that itself",
        Variable::HostCgroup.name(),
        named.display(),
        root.display()
    ))
}

/// The host's CPUs as far as they form a regular machine; otherwise one cache with one thread per core.
fn host_map(root: &Path) -> CpuMap {
    let list =
        |file: PathBuf| -> Option<CpuSet> { fs::read_to_string(file).ok()?.trim().parse().ok() };
    let online = list(root.join("online")).filter(|cpus| !cpus.is_empty());
    let Some(online) = online else {
        let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        return CpuMap::new(1, 1, u32::try_from(cpus).unwrap_or(u32::MAX), 1);
    };
    let count = u32::try_from(online.len()).unwrap_or(u32::MAX);
    let flat = CpuMap::new(1, 1, count, 1);
    let of = |cpu: u32, file: &str| list(root.join(format!("cpu{cpu}/{file}")));
    let size_of = |file: &str| -> Option<u32> {
        let sizes: Vec<usize> = online
            .iter()
            .map(|cpu| of(cpu, file).map(|set| set.len()))
            .collect::<Option<_>>()?;
        let first = *sizes.first()?;
        sizes
            .iter()
            .all(|size| *size == first)
            .then(|| u32::try_from(first).ok())?
    };
    let shape = (|| {
        let threads = size_of("topology/thread_siblings_list")?;
        let per_llc = size_of("cache/index3/shared_cpu_list").unwrap_or(count);
        let fits = threads > 0 && per_llc.is_multiple_of(threads) && count.is_multiple_of(per_llc);
        fits.then(|| CpuMap::new(1, count / per_llc, per_llc / threads, threads))
    })();
    // The map's numbers are dense: a machine that numbers otherwise is flat.
    let dense = |map: &CpuMap| {
        (0..map.llcs).all(|llc| {
            let first = map.llc(llc).iter().next();
            first
                .and_then(|cpu| of(cpu, "cache/index3/shared_cpu_list"))
                .is_none_or(|set| set == map.llc(llc))
        })
    };
    shape.filter(dense).unwrap_or(flat)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    fn passes(_: &Ctx) -> anyhow::Result<AssertResult> {
        Ok(AssertResult::pass())
    }

    fn hangs(_: &Ctx) -> anyhow::Result<AssertResult> {
        loop {
            std::thread::park();
        }
    }

    fn names_its_cgroup(ctx: &Ctx) -> anyhow::Result<AssertResult> {
        let root = ctx.workload_root().display().to_string();
        Ok(AssertResult::pass().with_note(root))
    }

    fn entry(func: crate::model::entry::TestFn) -> KtstrTestEntry {
        KtstrTestEntry {
            name: "t",
            func,
            host_only: true,
            ..KtstrTestEntry::DEFAULT
        }
    }

    #[test]
    fn a_test_that_hangs_ends_at_its_deadline() {
        let begun = Instant::now();
        let result = run_within(&entry(hangs), Duration::from_millis(100));
        assert!(result.is_fail() && begun.elapsed() < Duration::from_secs(30));
        assert!(
            result.details[0].message.contains("did not end within"),
            "{result:?}"
        );
        assert!(run(&entry(passes)).is_pass());
    }

    #[test]
    fn each_test_has_a_cgroup_of_its_own() {
        let result = run(&entry(names_its_cgroup));
        let own = format!("{DEFAULT_WORKLOAD_ROOT}/t-{}", std::process::id());
        assert!(result.info_notes.contains(&own), "{result:?}");
    }

    #[test]
    fn a_parent_is_checked() {
        let parent = |text: &str| cgroup_parent(Some(PathBuf::from(text)));
        assert_eq!(
            cgroup_parent(None),
            Ok(PathBuf::from(DEFAULT_WORKLOAD_ROOT))
        );
        assert!(parent("/sys/fs/cgroup/mine").is_ok());
        for wrong in [
            "/sys/fs/cgroup",
            "/sys/fs/cgroup/",
            "/sys/fs/cgroup/../x",
            "/tmp",
            "x",
        ] {
            let error = parent(wrong).unwrap_err();
            assert!(error.contains("KTSTR_HOST_CGROUP_PARENT"), "{error}");
        }
    }

    #[test]
    fn the_hosts_own_shape_is_read_where_it_is_regular() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        fs::write(root.join("online"), "0-7\n").unwrap();
        assert_eq!(
            host_map(root),
            CpuMap::new(1, 1, 8, 1),
            "nothing else is known"
        );
        for cpu in 0..8u32 {
            let cpu_dir = root.join(format!("cpu{cpu}"));
            fs::create_dir_all(cpu_dir.join("topology")).unwrap();
            fs::create_dir_all(cpu_dir.join("cache/index3")).unwrap();
            let (core, llc) = (cpu / 2 * 2, cpu / 4 * 4);
            fs::write(
                cpu_dir.join("topology/thread_siblings_list"),
                format!("{core}-{}\n", core + 1),
            )
            .unwrap();
            fs::write(
                cpu_dir.join("cache/index3/shared_cpu_list"),
                format!("{llc}-{}\n", llc + 3),
            )
            .unwrap();
        }
        assert_eq!(host_map(root), CpuMap::new(1, 2, 2, 2));
        fs::write(root.join("cpu7/cache/index3/shared_cpu_list"), "7\n").unwrap();
        assert_eq!(host_map(root), CpuMap::new(1, 1, 8, 1), "irregular");
    }
}
