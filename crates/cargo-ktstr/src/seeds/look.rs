//! `cargo ktstr look`: the state of a run at a moment of virtual time.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use ktstr::host::plan::config::{LOOK_AT_ENV, LOOK_GDB_ENV};
use ktstr::model::gdb::GdbOffer;
use ktstr::model::verdict::DetailKind;

use super::{Built, RunOptions, differ};
use crate::exit::Exit;
use crate::output::{self, shell_word};
use crate::project::Project;
use crate::{interrupt, runs};

/// Which run, and when.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The run is the one of `cargo ktstr replay` with this seed, up to that moment, where it ends.\n\n\
    With --gdb, gdb sees what a debugger of a real machine would: registers of each CPU (a thread each), memory, stacks with the \
    kernel's symbols. Reading changes nothing. It may also set breakpoints, step and continue: the guest then goes on from this \
    very moment, but it is another run from there on, since breakpoints end turns. Its deadline still holds. The guest ends when \
    gdb leaves it (detach, kill or quit).\n\n\
    Exit codes: 0 the state was shown, 1 the run was over before or could not be had, or no event differs."
)]
pub(crate) struct Options {
    /// The test, by its whole name.
    test: String,
    /// The seed of virtual time: the same seed is the same run.
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// The moment, in virtual time since power-on, as 1.2345s or 1234.5ms.
    #[arg(long, value_name = "TIME", value_parser = moment, required_unless_present = "until_differs")]
    at: Option<Duration>,
    /// The moment of the first event (a task is woken, moved, run or stopped) that is not the same in the run of seed M.
    #[arg(long, value_name = "M", conflicts_with = "at")]
    until_differs: Option<u64>,
    /// Keep the guest's memory there as an ELF vmcore, too.
    #[arg(long)]
    vmcore: bool,
    /// Keep the guest standing there for gdb, and print the command that attaches.
    #[arg(long)]
    gdb: bool,
    #[command(flatten)]
    how: RunOptions,
}

fn moment(text: &str) -> Result<Duration, String> {
    let expected = || {
        format!(
            "invalid time '{text}'; expected seconds or milliseconds, such as 1.2345s or 1234.5ms"
        )
    };
    let (number, digits) = match (text.strip_suffix("ms"), text.strip_suffix('s')) {
        (Some(number), _) => (number, 6),
        (None, Some(number)) => (number, 9),
        (None, None) => return Err(expected()),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number(whole) || !is_number(fraction) || fraction.len() > digits {
        return Err(expected());
    }
    // In nanoseconds: a moment between two numbers of a float would be another one.
    let ns = format!("{whole}{fraction:0<digits$}");
    ns.parse().map(Duration::from_nanos).map_err(|_| expected())
}

/// Runs the test to that moment and shows the guest's state.
pub(crate) fn run(options: &Options) -> Result<Exit> {
    let project = Project::find(options.how.build.manifest_path.as_deref())?;
    let built = Built::new(&options.test, &options.how)?;
    let dir = project.runs_root().with_file_name("ktstr-look");
    let dir = dir.join(runs::new_run_id());
    std::fs::create_dir_all(&dir).with_context(|| format!("failed to create {}", dir.display()))?;
    let _unwinding = interrupt::Unwinding::begin();
    let at = match (options.at, options.until_differs) {
        (Some(at), _) => Some(at),
        (None, Some(other)) => first_difference(&built, [options.seed, other], &dir)?,
        (None, None) => None,
    };
    if let Some(signal) = interrupt::requested() {
        return Ok(Exit::Interrupted(signal));
    }
    match at {
        Some(at) => show(&built, options, at, &dir),
        None => Ok(Exit::Fail),
    }
}

/// Tells where both runs begin to differ, and gives the moment in the first; `None` where they do not.
fn first_difference(built: &Built, seeds: [u64; 2], dir: &Path) -> Result<Option<Duration>> {
    let told = differ::run_both(built, seeds, dir)?;
    let found = differ::differences(&told[0].events, &told[1].events);
    output::print(&differ::text(built.name(), &told, &found))?;
    Ok(found
        .first()
        .map(|first| Duration::from_nanos(first.at_ns())))
}

fn show(built: &Built, options: &Options, at: Duration, dir: &Path) -> Result<Exit> {
    let at_ns = u64::try_from(at.as_nanos()).unwrap_or(u64::MAX);
    let mut command = built.command(options.seed, dir);
    command.env(LOOK_AT_ENV, at_ns.to_string());
    if options.vmcore {
        command.env("KTSTR_VMCORE", "1");
    }
    // What the test binary makes of it is no verdict.
    let run = if options.gdb {
        serve_gdb(command.env(LOOK_GDB_ENV, "1"))?
    } else {
        command.output().context("failed to run the test binary")?
    };
    if let Some(signal) = interrupt::requested() {
        return Ok(Exit::Interrupted(signal));
    }
    let record = built.record_of(&run, dir)?;
    let mut looks = record.result.details_of_kind(DetailKind::Looked);
    let has_looked = looks.next().is_some();
    if !has_looked {
        eprintln!(
            "cargo ktstr: the run was over before {at:?}: it took {} ms, and its verdict is {}",
            record.vm_ms.unwrap_or(0),
            record.verdict
        );
    }
    output::print(record.message.as_deref().unwrap_or_default())?;
    Ok(if has_looked { Exit::Pass } else { Exit::Fail })
}

/// Runs the test binary to its end, and tells how gdb attaches once it can.
fn serve_gdb(command: &mut Command) -> Result<Output> {
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("failed to run the test binary")?;
    let out = child
        .stdout
        .take()
        .context("the test binary has no output")?;
    let mut err = child
        .stderr
        .take()
        .context("the test binary has no output")?;
    let (stdout, stderr) = thread::scope(|scope| -> Result<_> {
        let stderr = scope.spawn(move || {
            let mut bytes = Vec::new();
            // What was read until an error is all that there is.
            let _ = err.read_to_end(&mut bytes);
            bytes
        });
        let mut stdout = Vec::new();
        for line in BufReader::new(out).lines() {
            let line = line.context("failed to read the test binary's output")?;
            match GdbOffer::of_line(&line) {
                Some(offer) => tell(&offer)?,
                None => stdout.extend(line.into_bytes()),
            }
        }
        Ok((stdout, stderr.join().unwrap_or_default()))
    })?;
    let status = child.wait().context("failed to wait for the test binary")?;
    Ok(Output {
        status,
        stdout,
        stderr,
    })
}

fn tell(offer: &GdbOffer) -> Result<()> {
    let words: Vec<String> = offer
        .arguments()
        .iter()
        .map(|word| shell_word(word))
        .collect();
    output::print(&format!(
        "the guest stands still at {} of virtual time; attach with\n  gdb {}\nthe run ends when gdb leaves it\n",
        differ::moment(offer.at_ns),
        words.join(" ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_exact() {
        for (text, ns) in [
            ("1s", 1_000_000_000),
            ("1.2345s", 1_234_500_000),
            ("1234.5ms", 1_234_500_000),
            ("0.000000001s", 1),
        ] {
            assert_eq!(moment(text), Ok(Duration::from_nanos(ns)), "{text}");
        }
        for wrong in [
            "",
            "1",
            "s",
            "1.s",
            ".5s",
            "1.0000000001s",
            "1.2.3s",
            "-1s",
            "1m",
        ] {
            let error = moment(wrong).unwrap_err();
            assert!(error.contains("1.2345s or 1234.5ms"), "{error}");
        }
    }
}
