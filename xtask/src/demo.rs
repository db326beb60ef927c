//! `cargo xtask demo`

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use comfy_table::Table;
use ktstr::host::evidence::sidecar::{Sidecar, collect_pool};
use ktstr::model::verdict::Outcome;

use crate::{kernel, setup, sh};

/// Runs the demo tests and shows a table.
pub(crate) fn run(scheduler: Option<&str>) -> Result<()> {
    setup::run()?;
    // A crate that does not exist is told before the long builds.
    let third_party = scheduler.map(setup::scheduler).transpose()?;
    kernel::run(&kernel::Options::default())?;
    sh::logged(
        "build-demo",
        &mut sh::cargo(&["build", "-p", "ktstr-tests", "-p", "scx-fixture", "--bins"]),
    )?;
    // Another demo of this checkout would clear this one's results.
    let _one_at_a_time = sh::lock("demo")?;
    let dir = sh::target().join("ktstr/demo");
    // Only this run's results belong into the table.
    if dir.exists() {
        fs::remove_dir_all(&dir).with_context(|| format!("failed to clear {}", dir.display()))?;
    }
    let mut wrong = Vec::new();
    for (test, expected) in [
        ("demo_eevdf", Outcome::Pass),
        ("demo_fixture", Outcome::Pass),
        ("demo_starving", Outcome::Fail),
    ] {
        run_one(test, &dir, None)?;
        check(&dir, test, expected, &mut wrong)?;
    }
    if let Some(path) = &third_party {
        run_one("demo_third_party", &dir, Some(path))?;
        check(&dir, "demo_third_party", Outcome::Pass, &mut wrong)?;
    }
    print_table(&dir)?;
    println!("{}", last_word(&wrong)?);
    Ok(())
}

/// No failure is called wanted beside one that is not.
fn last_word(wrong: &[String]) -> Result<&'static str> {
    if !wrong.is_empty() {
        bail!("{}", wrong.join("; "));
    }
    Ok("The one failure above is wanted: demo_starving shows what one looks like.")
}

fn run_one(test: &str, dir: &Path, scheduler: Option<&PathBuf>) -> Result<()> {
    eprintln!("== {test}");
    let mut command = Command::new(sh::target().join("debug/demo"));
    command
        .args(["--exact", test, "--include-ignored"])
        .env("KTSTR_SIDECAR_DIR", dir)
        .current_dir(sh::root());
    if let Some(path) = scheduler {
        command.env("KTSTR_SCHEDULER", path);
    }
    // The verdict is read from the sidecar; some of these tests fail on purpose.
    command
        .status()
        .map(drop)
        .with_context(|| format!("failed to run {command:?}"))
}

fn check(dir: &Path, test: &str, expected: Outcome, wrong: &mut Vec<String>) -> Result<()> {
    let path = dir.join(format!("{test}.json"));
    let bytes =
        fs::read(&path).with_context(|| format!("{test} left no sidecar at {}", path.display()))?;
    let found = serde_json::from_slice::<Sidecar>(&bytes)?.verdict;
    if found != expected {
        wrong.push(format!("{test} ended as {found}, expected {expected}"));
    }
    Ok(())
}

fn print_table(dir: &Path) -> Result<()> {
    let mut table = Table::new();
    table.set_header(["test", "engine", "verdict", "boot ms", "total ms"]);
    for sidecar in collect_pool(dir)?.sidecars {
        table.add_row([
            sidecar.test,
            sidecar.engine.unwrap_or_else(|| "none".into()),
            sidecar.verdict.to_string(),
            sidecar
                .boot_ms
                .map_or_else(|| "-".into(), |ms| ms.to_string()),
            sidecar.total_ms.to_string(),
        ]);
    }
    println!("{table}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_wanted_failure_is_called_wanted() {
        assert!(last_word(&[]).unwrap().contains("wanted"));
        let wrong = [String::from("demo_eevdf ended as fail, expected pass")];
        let said = last_word(&wrong).unwrap_err().to_string();
        assert!(
            said.contains("demo_eevdf") && !said.contains("wanted"),
            "{said}"
        );
    }
}
