//! `cargo ktstr explore`: one test under many seeds.

use std::path::Path;
use std::process::Stdio;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::found::Found;
use super::{Built, RunOptions};
use crate::exit::Exit;
use crate::project::Project;
use crate::{interrupt, output, runs};

/// Seeds when neither a number nor a time is named.
const SEEDS: u64 = 100;

/// Which test, and how often.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Every run is in virtual time: a seed is one interleaving of the vCPUs, and the same one each time.\n\n\
    Exit codes: 0 no run failed, 1 a failure was found, 2 none failed but some were not finished."
)]
pub(crate) struct Options {
    /// The test, by its whole name.
    test: String,
    #[command(flatten)]
    how: RunOptions,
    /// Run seeds 0 to N-1; 100 unless --for is given.
    #[arg(long, value_name = "N", conflicts_with = "time")]
    seeds: Option<u64>,
    /// Run seeds from 0 on until this much time has passed, as 90s, 10m or 2h.
    #[arg(long = "for", value_name = "TIME", value_parser = duration)]
    time: Option<Duration>,
    /// Runs at once; one per CPU by default.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    jobs: Option<u64>,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

fn duration(text: &str) -> Result<Duration, String> {
    let expected =
        || format!("'{text}' is not a time; expected a number with s, m or h, such as 10m");
    let (number, unit) = text
        .split_at_checked(text.len().saturating_sub(1))
        .ok_or_else(expected)?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return Err(expected()),
    };
    let number: u64 = number.parse().map_err(|_| expected())?;
    let seconds = number.checked_mul(seconds).ok_or_else(expected)?;
    Ok(Duration::from_secs(seconds))
}

/// Runs them and tells what failed.
pub(crate) fn run(options: &Options) -> Result<Exit> {
    let project = Project::find(options.how.build.manifest_path.as_deref())?;
    let built = Built::new(&options.test, &options.how)?;
    let root = project.runs_root().with_file_name("ktstr-explore");
    let root = root.join(runs::new_run_id());
    std::fs::create_dir_all(&root)
        .with_context(|| format!("failed to create {}", root.display()))?;
    let began = Instant::now();
    let until = options.time.map(|time| began + time);
    let last = match until {
        Some(_) => u64::MAX,
        None => options.seeds.unwrap_or(SEEDS),
    };
    let _unwinding = interrupt::Unwinding::begin();
    let found = Mutex::new(Found::default());
    let jobs = options.jobs.unwrap_or_else(cpus);
    each_seed(jobs, last, until, |seed| one(&built, seed, &root, &found))?;
    let found = found
        .into_inner()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    let summary = found.summary(built.name(), began.elapsed());
    if options.json {
        output::print_json(&summary)?;
    } else {
        output::print(&summary.text())?;
    }
    // Only what failed is kept there.
    let _ = std::fs::remove_dir(&root);
    Ok(interrupt::requested().map_or(found.exit(), Exit::Interrupted))
}

/// Calls `run` for each seed below `last` until `until` has come, `jobs` of them at once.
fn each_seed(
    jobs: u64,
    last: u64,
    until: Option<Instant>,
    run: impl Fn(u64) -> Result<()> + Sync,
) -> Result<()> {
    let next = AtomicU64::new(0);
    let broken = AtomicBool::new(false);
    let work = || -> Result<()> {
        loop {
            // Only that each seed is taken once matters.
            let seed = next.fetch_add(1, Ordering::Relaxed);
            let is_over = until.is_some_and(|until| Instant::now() >= until);
            let is_over = is_over || broken.load(Ordering::Relaxed);
            if seed >= last || is_over || interrupt::requested().is_some() {
                return Ok(());
            }
            if let Err(error) = run(seed) {
                broken.store(true, Ordering::Relaxed);
                return Err(error);
            }
        }
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..jobs).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| {
            let done = worker.join();
            done.unwrap_or_else(|_| bail!("a thread of the exploration panicked"))
        })
    })
}

fn cpus() -> u64 {
    thread::available_parallelism().map_or(1, |cpus| cpus.get() as u64)
}

/// Runs one seed. What it leaves is kept only if it failed.
fn one(built: &Built, seed: u64, root: &Path, found: &Mutex<Found>) -> Result<()> {
    let dir = root.join(format!("seed-{seed}"));
    let mut command = built.command(seed, &dir);
    let run = command
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .output();
    let run = run.context("failed to run the test binary")?;
    if interrupt::requested().is_some() {
        return Ok(());
    }
    let record = built
        .record_of(&run, &dir)
        .with_context(|| format!("seed {seed}"))?;
    let mut found = found
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    if found.note(seed, &record) {
        eprintln!("cargo ktstr: seed {seed} failed: {}", dir.display());
    } else {
        // What stays is a folder too many, no more.
        let _ = std::fs::remove_dir_all(&dir);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    #[test]
    fn each_seed_runs_once_and_as_many_at_once_as_asked() {
        // Two wait for each other: one at a time would never end.
        let both = Barrier::new(2);
        let seen = Mutex::new(Vec::new());
        each_seed(2, 6, None, |seed| {
            both.wait();
            seen.lock().unwrap().push(seed);
            Ok(())
        })
        .unwrap();
        let mut seen = seen.into_inner().unwrap();
        seen.sort_unstable();
        assert_eq!(seen, [0, 1, 2, 3, 4, 5]);
        let running = AtomicU64::new(0);
        each_seed(1, 4, None, |_| {
            assert_eq!(running.fetch_add(1, Ordering::SeqCst), 0);
            thread::yield_now();
            running.fetch_sub(1, Ordering::SeqCst);
            Ok(())
        })
        .unwrap();
    }

    #[test]
    fn no_seed_begins_when_the_time_is_over() {
        let count = AtomicU64::new(0);
        let run = |_| {
            count.fetch_add(1, Ordering::SeqCst);
            Ok(())
        };
        each_seed(2, u64::MAX, Some(Instant::now()), run).unwrap();
        assert_eq!(count.into_inner(), 0);
    }

    #[test]
    fn a_run_that_cannot_be_had_ends_the_exploration() {
        let run = |seed| {
            if seed == 3 {
                bail!("no kernel");
            }
            Ok(())
        };
        let error = each_seed(2, u64::MAX, None, run).unwrap_err();
        assert_eq!(error.to_string(), "no kernel");
    }

    #[test]
    fn times_have_a_unit() {
        assert_eq!(duration("10m"), Ok(Duration::from_secs(600)));
        assert_eq!(duration("2h"), Ok(Duration::from_secs(7200)));
        for wrong in [
            "",
            "10",
            "m",
            "1.5h",
            "10d",
            "10\u{b5}",
            "99999999999999999999h",
        ] {
            assert!(
                duration(wrong).unwrap_err().contains("such as 10m"),
                "{wrong}"
            );
        }
    }
}
