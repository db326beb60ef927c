//! Running commands, with a log and a line of progress each.

use std::fs::{self, File, TryLockError};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use ktstr::host::plan::config::cache_dir;
use ktstr::host::plan::program;

/// The workspace's root.
pub(crate) fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}

/// Where cargo builds to.
pub(crate) fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// A log file below the target directory.
pub(crate) fn log_path(name: &str) -> Result<PathBuf> {
    let dir = target().join("xtask-logs");
    fs::create_dir_all(&dir).with_context(|| format!("failed to create {}", dir.display()))?;
    Ok(dir.join(format!("{name}.log")))
}

/// Makes sure that only one process of this machine does this at a time, as long as the lock lives; says so if it has to wait.
/// All checkouts and users' own caches share packages, so the lock lies where all of them find it.
pub(crate) fn lock(what: &str) -> Result<File> {
    lock_in(&cache_dir(), what, LONGEST_WAIT, |holder| {
        eprintln!("  waiting for another {what} to end{holder} …");
    })
}

/// How long another one may take: a first set-up builds schedulers, on a busy machine for half an hour.
const LONGEST_WAIT: Duration = Duration::from_hours(1);

fn lock_in(dir: &Path, what: &str, longest: Duration, on_wait: impl FnOnce(&str)) -> Result<File> {
    fs::create_dir_all(dir).with_context(|| format!("failed to create {}", dir.display()))?;
    let path = dir.join(format!(".{what}.lock"));
    let mut file = File::options()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(&path)
        .with_context(|| format!("failed to open {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let holder = fs::read_to_string(&path).unwrap_or_default();
            let holder = match holder.trim() {
                "" => String::new(),
                pid => format!(" (pid {pid})"),
            };
            on_wait(&holder);
            let locked = locked_within(file, longest)
                .with_context(|| format!("failed to lock {}", path.display()))?;
            let Some(locked) = locked else {
                bail!(
                    "another {what}{holder} has not ended for {} s; end it and run this again",
                    longest.as_secs()
                )
            };
            file = locked;
        }
        Err(TryLockError::Error(error)) => {
            return Err(error).with_context(|| format!("failed to lock {}", path.display()));
        }
    }
    // Only for people who wait.
    let _ = file.set_len(0);
    let _ = writeln!(file, "{}", std::process::id());
    Ok(file)
}

/// The file, locked; `None` at the deadline.
fn locked_within(file: File, longest: Duration) -> std::io::Result<Option<File>> {
    let (sender, locked) = mpsc::channel();
    let blocked = move || {
        let result = file.lock().map(|()| file);
        // Dropped, and with it the lock, where nobody listens any more.
        let _ = sender.send(result);
    };
    thread::Builder::new()
        .name(String::from("wait-for-lock"))
        .spawn(blocked)?;
    locked.recv_timeout(longest).ok().transpose()
}

/// Cargo, in the workspace.
pub(crate) fn cargo(args: &[&str]) -> Command {
    let mut command = program::cargo();
    command.args(args).current_dir(root());
    command
}

/// A spinner with the elapsed time on a terminal, one plain line in a pipe.
fn spinner(name: &str, log: &Path) -> ProgressBar {
    let spinner = ProgressBar::new_spinner();
    if spinner.is_hidden() {
        eprintln!("  {name} …");
        return spinner;
    }
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} {elapsed}") {
        spinner.set_style(style);
    }
    spinner.set_message(format!("{name} (log {})", log.display()));
    spinner.enable_steady_tick(Duration::from_millis(200));
    spinner
}

/// Runs `command` with its output in a log; the error shows the end of the log and where it is.
pub(crate) fn logged(name: &str, command: &mut Command) -> Result<()> {
    let path = log_path(name)?;
    let log =
        File::create(&path).with_context(|| format!("failed to create {}", path.display()))?;
    let errors = log.try_clone().context("failed to share the log")?;
    let started = Instant::now();
    let spinner = spinner(name, &path);
    let status = command
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(errors)
        .status();
    spinner.finish_and_clear();
    let status = status.with_context(|| format!("failed to run {command:?}"))?;
    let seconds = started.elapsed().as_secs_f64();
    if status.success() {
        eprintln!("  {name} ok ({seconds:.1} s)");
        return Ok(());
    }
    let text = fs::read_to_string(&path).unwrap_or_default();
    bail!(
        "{name} failed ({status}, {seconds:.1} s); run {command:?}; log {}:\n{}",
        path.display(),
        telling(&text)
    )
}

/// What a log says of a failure: the tests that failed, wherever they are in it, and its end.
fn telling(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    let (head, tail) = lines.split_at(lines.len().saturating_sub(TAIL));
    let has_panicked = |line: &str| line.contains(") panicked at ");
    // A panic's first words are in the lines behind it.
    let tells = |at: usize| {
        let since = at.saturating_sub(WORDS);
        let before = head.get(since..=at).unwrap_or_default();
        before.iter().any(|line| has_panicked(line))
    };
    let mut shown: Vec<&str> = head
        .iter()
        .enumerate()
        .filter(|(at, line)| line.ends_with("FAILED") || tells(*at))
        .map(|(_, line)| *line)
        .take(MOST_FAILURES)
        .collect();
    if !shown.is_empty() {
        shown.push("…");
    }
    shown.extend(tail);
    shown.join("\n")
}

/// Lines at the end of a log that a failure shows.
const TAIL: usize = 40;
/// Lines about failed tests that it shows before them.
const MOST_FAILURES: usize = 60;
/// Lines behind a panic's place that it shows.
const WORDS: usize = 2;

#[cfg(test)]
mod tests {
    use super::*;

    /// Two set-ups at once: the second says for whom it waits, and begins when the first has ended.
    #[test]
    fn two_of_a_kind_run_one_after_the_other() {
        let dir = tempfile::tempdir().unwrap();
        let first = lock_in(dir.path(), "set-up", LONGEST_WAIT, |_| {
            panic!("nobody is there")
        })
        .unwrap();
        let _other_kind = lock_in(dir.path(), "demo", LONGEST_WAIT, |_| {
            panic!("nobody is there")
        })
        .unwrap();
        let (says, said) = mpsc::channel();
        let path = dir.path().to_owned();
        let second = thread::spawn(move || {
            let told = says.clone();
            let _lock = lock_in(&path, "set-up", LONGEST_WAIT, |holder| {
                told.send(holder.to_owned()).unwrap()
            });
            says.send("has it".into()).unwrap();
        });
        let long = Duration::from_secs(30);
        let holder = format!(" (pid {})", std::process::id());
        assert_eq!(said.recv_timeout(long).unwrap(), holder);
        assert!(said.try_recv().is_err(), "it did not wait");
        drop(first);
        assert_eq!(said.recv_timeout(long).unwrap(), "has it");
        second.join().unwrap();
    }

    #[test]
    fn one_that_never_ends_is_told_of_at_the_deadline() {
        let dir = tempfile::tempdir().unwrap();
        let _first = lock_in(dir.path(), "set-up", LONGEST_WAIT, |_| {}).unwrap();
        let second = lock_in(dir.path(), "set-up", Duration::ZERO, |_| {});
        let error = second.unwrap_err().to_string();
        let holder = format!("another set-up (pid {}) has not ended", std::process::id());
        assert!(error.starts_with(&holder), "{error}");
    }

    #[test]
    fn a_test_that_failed_early_is_named() {
        let mut log = String::from("test a::fine ... ok\ntest a::wrong ... FAILED\n");
        log.push_str("thread 'a::wrong' (7) panicked at src/a.rs:3:5:\n");
        log.push_str("left is not\nright\n");
        log.push_str(&"Doc-tests\n".repeat(100));
        let told = telling(&log);
        assert!(
            told.starts_with("test a::wrong ... FAILED\nthread 'a::wrong'"),
            "{told}"
        );
        assert!(told.contains("left is not\nright\n…\n"), "{told}");
        assert!(
            !told.contains("fine") && told.lines().count() == TAIL + 3 + WORDS,
            "{told}"
        );
    }
}
