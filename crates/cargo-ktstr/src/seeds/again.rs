//! `cargo ktstr replay TEST --seed N`: one run of a test, again.

use anyhow::{Context as _, Result};
use ktstr::host::evidence::clock::{ClockFigures, Identity, Part};

use super::{Built, RunOptions};
use crate::exit::Exit;
use crate::project::Project;
use crate::{interrupt, runs};

/// The exit code of a replay that was not the same run.
const NOT_THE_SAME: u8 = 3;

/// Which run it must be.
#[derive(Debug)]
pub(crate) struct Wanted<'a> {
    pub(crate) identity: Option<Identity>,
    pub(crate) fingerprint: Option<&'a str>,
}

/// Runs `test` under `seed` and tells whether it was the run that was wanted.
pub(crate) fn run(
    test: &str,
    seed: u64,
    wanted: &Wanted<'_>,
    options: &RunOptions,
) -> Result<Exit> {
    let project = Project::find(options.build.manifest_path.as_deref())?;
    let built = Built::new(test, options)?;
    let dir = project.runs_root().join(runs::new_run_id());
    std::fs::create_dir_all(&dir).with_context(|| format!("failed to create {}", dir.display()))?;
    let mut command = built.command(seed, &dir);
    interrupt::run(command.arg("--nocapture").env("KTSTR_VERBOSE", "1"))?;
    if let Some(signal) = interrupt::requested() {
        return Ok(Exit::Interrupted(signal));
    }
    let record = built.record(&dir)?;
    if let Some(difference) = wanted.difference(&record.clock) {
        eprintln!("cargo ktstr: not the same run: {difference}");
        return Ok(Exit::Command(NOT_THE_SAME));
    }
    Ok(record.verdict.into())
}

impl Wanted<'_> {
    /// Why the run with this clock is another one.
    fn difference(&self, clock: &ClockFigures) -> Option<String> {
        let absent = "absent: it was not finished";
        let found = clock.identity.as_deref();
        if let Some(wanted) = self.identity {
            let Some(found) = found.and_then(|found| found.parse::<Identity>().ok()) else {
                return Some(format!("its identity is {absent}"));
            };
            let parts = wanted.differing(&found);
            if !parts.is_empty() {
                let parts: Vec<String> = parts.iter().map(Part::to_string).collect();
                return Some(format!(
                    "what it is made of has changed: {}. Its identity is {found}, expected {wanted}",
                    parts.join(", ")
                ));
            }
        }
        let found = clock.fingerprint.as_deref();
        let wanted = self.fingerprint.filter(|wanted| found != Some(*wanted))?;
        let found = found.unwrap_or(absent);
        let hint = if self.identity.is_some() {
            "All inputs are identical, so the emulator was not deterministic; please report this"
        } else {
            "Equal are only runs of one test binary, scheduler, kernel and emulator"
        };
        Some(format!(
            "its fingerprint is {found}, expected {wanted}. {hint}"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_run_is_told_by_what_differs() {
        let mut identity = Identity::default();
        let clock = |identity: Identity| ClockFigures {
            identity: Some(identity.to_string()),
            fingerprint: Some(String::from("ab")),
            ..ClockFigures::default()
        };
        let wanted = |fingerprint| Wanted {
            identity: Some(Identity::default()),
            fingerprint,
        };
        assert_eq!(wanted(Some("ab")).difference(&clock(identity)), None);
        let other = wanted(Some("cd")).difference(&clock(identity)).unwrap();
        assert!(other.contains("is ab, expected cd"), "{other}");
        identity.set(Part::Kernel, b"another");
        let other = wanted(Some("ab")).difference(&clock(identity)).unwrap();
        assert!(other.contains("has changed: kernel."), "{other}");
        let unfinished = wanted(None).difference(&ClockFigures::default()).unwrap();
        assert!(unfinished.contains("not finished"), "{unfinished}");
    }
}
