//! Runs on disk: one directory per run and kernel, with a manifest beside the sidecars.
//!
//! `target/ktstr/<run>[.<kernel>]/.run.json` says what was asked for; the sidecars say what came. A directory without a
//! manifest comes from a plain `cargo test` and is a run, too.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use chrono::DateTime;
use ktstr::host::evidence::artifacts::write_atomic;
use ktstr::host::evidence::sidecar::{Pool, collect_pool};
use serde::{Deserialize, Serialize};

use crate::project::{Project, git};
use crate::seen::Seen;

/// The manifest's file name; hidden, so that it is not taken for a sidecar.
const MANIFEST: &str = ".run.json";
const SCHEMA: &str = "ktstr.run/1";

/// What was asked for.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Manifest {
    pub(crate) schema: String,
    /// Shared by the directories of one `cargo ktstr test`, one per kernel.
    pub(crate) run: String,
    /// Root of the workspace that was tested: several may share a target directory. Absent in runs of earlier versions.
    #[serde(default)]
    pub(crate) workspace: Option<PathBuf>,
    /// What `--kernel` resolved to, as `KTSTR_KERNEL` takes it; absent when tests chose by themselves.
    pub(crate) kernel: Option<String>,
    pub(crate) kernel_label: String,
    pub(crate) engine: Option<String>,
    /// The clock that was asked for.
    #[serde(default)]
    pub(crate) time: Option<String>,
    /// The seed that was asked for.
    #[serde(default)]
    pub(crate) seed: Option<u64>,
    /// The binary in place of every scheduler that tests name.
    #[serde(default)]
    pub(crate) scheduler: Option<PathBuf>,
    /// Arguments that select packages and binaries, for reruns.
    pub(crate) selection: Vec<String>,
    pub(crate) commit: Option<String>,
    pub(crate) dirty: bool,
    pub(crate) host: Host,
    /// Seconds since the epoch.
    pub(crate) started_at: u64,
    pub(crate) ended_at: Option<u64>,
    pub(crate) exit_code: Option<u8>,
    /// What the runner saw of each test's process: a test that died before its record is only here.
    #[serde(default)]
    pub(crate) tests: Vec<Seen>,
    /// Why the runner could not run tests.
    #[serde(default)]
    pub(crate) broken: Option<String>,
}

/// Where it ran.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Host {
    pub(crate) cpu: String,
    pub(crate) cpus: usize,
    pub(crate) kernel: String,
}

impl Host {
    /// This host.
    pub(crate) fn here() -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let cpu = cpuinfo
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split_once(':'))
            .map(|(_, name)| name.trim().to_owned());
        Self {
            cpu: cpu.unwrap_or_default(),
            cpus: crate::kernel::cpus(),
            kernel: rustix::system::uname()
                .release()
                .to_string_lossy()
                .into_owned(),
        }
    }
}

impl Manifest {
    /// A run that begins now in this repository.
    pub(crate) fn begin(run: &str, workspace: &Path) -> Self {
        Self {
            schema: SCHEMA.to_owned(),
            run: run.to_owned(),
            workspace: Some(workspace.to_owned()),
            kernel: None,
            kernel_label: String::new(),
            engine: None,
            time: None,
            seed: None,
            scheduler: None,
            selection: Vec::new(),
            commit: git(workspace, &["rev-parse", "HEAD"]),
            dirty: git(
                workspace,
                &["status", "--porcelain", "--untracked-files=no"],
            )
            .is_some_and(|changes| !changes.is_empty()),
            host: Host::here(),
            started_at: now(),
            ended_at: None,
            exit_code: None,
            tests: Vec::new(),
            broken: None,
        }
    }

    /// Writes it into its directory.
    ///
    /// # Errors
    /// When the directory or the file cannot be written.
    pub(crate) fn write(&self, dir: &Path) -> Result<()> {
        let json = serde_json::to_vec_pretty(self).context("failed to serialise the manifest")?;
        write_atomic(&dir.join(MANIFEST), &json).with_context(|| {
            format!(
                "the run's directory {} cannot be written; is the disk full?",
                dir.display()
            )
        })
    }
}

/// Seconds since the epoch.
pub(crate) fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// A new run's name: time, then who, so that two at once differ and names sort by time.
pub(crate) fn new_run_id() -> String {
    format!("{}-{}", stamp(now()), std::process::id())
}

/// `20260131-235959`, UTC.
pub(crate) fn stamp(seconds: u64) -> String {
    date(seconds).replace(['-', ':'], "").replace(' ', "-")
}

/// `2026-01-31 23:59:59`, UTC.
pub(crate) fn date(seconds: u64) -> String {
    let since = i64::try_from(seconds).ok();
    let at = since.and_then(|since| DateTime::from_timestamp(since, 0));
    at.unwrap_or_default()
        .format("%Y-%m-%d %H:%M:%S")
        .to_string()
}

/// One directory of results.
#[derive(Debug, Clone)]
pub(crate) struct RunDir {
    pub(crate) path: PathBuf,
    /// Absent for a plain `cargo test`.
    pub(crate) manifest: Option<Manifest>,
    /// Seconds since the epoch.
    pub(crate) at: u64,
    /// Whose records count, where that is not recorded.
    owner: Option<Project>,
}

impl RunDir {
    /// Arguments that build and run on what this run did: packages, kernel, engine, scheduler.
    pub(crate) fn rerun_arguments(&self) -> Vec<String> {
        let Some(manifest) = &self.manifest else {
            return Vec::new();
        };
        let mut args = manifest.selection.clone();
        let scheduler = manifest.scheduler.as_ref();
        for (flag, value) in [
            ("--kernel", manifest.kernel.clone()),
            ("--engine", manifest.engine.clone()),
            ("--time", manifest.time.clone()),
            ("--seed", manifest.seed.map(|seed| seed.to_string())),
            (
                "--scheduler",
                scheduler.map(|path| path.display().to_string()),
            ),
        ] {
            args.extend(value.into_iter().flat_map(|value| [flag.to_owned(), value]));
        }
        args
    }

    /// Reads a directory's manifest, if it has a good one.
    pub(crate) fn open(path: PathBuf) -> Self {
        let manifest = fs::read(path.join(MANIFEST))
            .ok()
            .and_then(|bytes| serde_json::from_slice::<Manifest>(&bytes).ok())
            .filter(|manifest| manifest.schema == SCHEMA);
        let modified = || {
            let time = path.metadata().and_then(|meta| meta.modified()).ok()?;
            Some(time.duration_since(UNIX_EPOCH).ok()?.as_secs())
        };
        let at = manifest
            .as_ref()
            .map(|manifest| manifest.started_at)
            .or_else(modified);
        Self {
            at: at.unwrap_or(0),
            path,
            manifest,
            owner: None,
        }
    }

    /// The same, without records of other workspaces: a plain `cargo test` of each writes to a directory of one name.
    fn of_project(path: PathBuf, project: &Project) -> Self {
        let mut dir = Self::open(path);
        dir.owner = dir.manifest.is_none().then(|| project.clone());
        dir
    }

    /// Whether it can hold a run of this workspace.
    fn is_of(&self, project: &Project) -> bool {
        let workspace = self.manifest.as_ref().map(|manifest| &manifest.workspace);
        match workspace {
            Some(Some(workspace)) => *workspace == project.workspace_root,
            Some(None) => true,
            None => self.pool().is_ok_and(|pool| !pool.sidecars.is_empty()),
        }
    }

    /// The directory's name.
    pub(crate) fn name(&self) -> String {
        self.path
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default()
    }

    /// The run that it belongs to.
    pub(crate) fn run(&self) -> String {
        self.manifest
            .as_ref()
            .map_or_else(|| self.name(), |manifest| manifest.run.clone())
    }

    /// Its sidecars.
    ///
    /// # Errors
    /// When the directory cannot be listed.
    pub(crate) fn pool(&self) -> Result<Pool> {
        let mut pool = collect_pool(&self.path)
            .with_context(|| format!("failed to list {}", self.path.display()))?;
        if let Some(project) = &self.owner {
            pool.sidecars
                .retain(|sidecar| project.owns(&sidecar.binary));
        }
        Ok(pool)
    }
}

/// Every run of the workspace, oldest first. A directory counts when it holds a manifest or a sidecar, and not when it holds the
/// records of a comparison, which earlier versions of `perf-delta` put here.
pub(crate) fn all(project: &Project) -> Vec<RunDir> {
    let mut dirs: Vec<RunDir> = fs::read_dir(project.runs_root())
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.is_dir() && !path.join(".order.json").exists())
        .map(|path| RunDir::of_project(path, project))
        .filter(|dir| dir.is_of(project))
        .collect();
    dirs.sort_by_key(|dir| (dir.at, dir.name()));
    dirs
}

/// The directories of one run: the named one, else the last.
///
/// # Errors
/// When there is none.
pub(crate) fn select(project: &Project, run: Option<&str>) -> Result<Vec<RunDir>> {
    let all = all(project);
    let root = project.runs_root();
    let wanted = match run {
        Some(run) => run.to_owned(),
        None => all.last().map(RunDir::run).with_context(|| {
            format!(
                "there are no results in {} yet; run `cargo ktstr test`",
                root.display()
            )
        })?,
    };
    let chosen: Vec<RunDir> = all
        .iter()
        .filter(|dir| dir.run() == wanted || dir.name() == wanted)
        .cloned()
        .collect();
    if chosen.is_empty() {
        let mut names: Vec<String> = all.iter().rev().map(RunDir::run).collect();
        names.dedup();
        names.truncate(8);
        anyhow::bail!(
            "there is no run '{wanted}' in {}; the latest are: {}",
            root.display(),
            names.join(", ")
        );
    }
    Ok(chosen)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_are_calendar_time() {
        assert_eq!(stamp(0), "19700101-000000");
        assert_eq!(stamp(951_827_696), "20000229-123456");
        assert_eq!(stamp(1_767_225_599), "20251231-235959");
    }

    #[test]
    fn the_last_run_has_all_its_kernels() {
        let target = tempfile::tempdir().unwrap();
        let project = Project::at(Path::new("/mine"), target.path(), "mine");
        let root = project.runs_root();
        for (dir, run, at) in [("a", "a", 1), ("b.k1", "b", 2), ("b.k2", "b", 2)] {
            let manifest = Manifest {
                started_at: at,
                ..Manifest::begin(run, Path::new("/mine"))
            };
            manifest.write(&root.join(dir)).unwrap();
        }
        fs::create_dir(root.join("no-run")).unwrap();
        let last: Vec<_> = select(&project, None)
            .unwrap()
            .iter()
            .map(RunDir::name)
            .collect();
        assert_eq!(last, ["b.k1", "b.k2"]);
        assert_eq!(select(&project, Some("a")).unwrap().len(), 1);
        let error = select(&project, Some("c")).unwrap_err().to_string();
        assert!(
            error.contains("no run 'c'") && error.contains("b, a"),
            "{error}"
        );
    }

    fn record(dir: &Path, binary: &str) {
        let record = serde_json::json!({
            "schema": "ktstr.sidecar/1", "test": "t", "binary": binary, "verdict": "Pass", "topology": "1n1l2c1t",
            "total_ms": 5, "timed_out": false, "started_at": 1,
            "result": {"floor": "Pass", "details": [], "info_notes": [],
                       "stats": {"cgroups": [], "phases": [], "ext_metrics": {}}},
        });
        fs::create_dir_all(dir).unwrap();
        fs::write(dir.join("t.json"), record.to_string()).unwrap();
    }

    #[test]
    fn other_workspaces_runs_and_comparisons_are_not_ours() {
        let target = tempfile::tempdir().unwrap();
        let project = |name: &str| Project::at(&Path::new("/").join(name), target.path(), name);
        let (mine, other) = (project("mine"), project("other"));
        let root = mine.runs_root();
        for (run, at) in [("mine", 1), ("other", 2)] {
            let manifest = Manifest {
                started_at: at,
                ..Manifest::begin(run, &Path::new("/").join(run))
            };
            manifest.write(&root.join(run)).unwrap();
        }
        // A plain `cargo test` of both, and a comparison as earlier versions left it.
        record(&root.join("k-nogit"), "mine.it");
        record(&root.join("k-nogit/other.it"), "other.it");
        record(&root.join("perf-1/pair-001-a"), "mine.it");
        fs::write(root.join("perf-1/.order.json"), "{}").unwrap();
        let names =
            |project: &Project| -> Vec<String> { all(project).iter().map(RunDir::name).collect() };
        assert_eq!(names(&mine), ["mine", "k-nogit"]);
        assert_eq!(names(&other), ["other", "k-nogit"]);
        let shared = select(&other, Some("k-nogit")).unwrap().remove(0);
        let tests = shared.pool().unwrap().sidecars;
        assert_eq!(tests.len(), 1);
        assert_eq!(tests[0].binary, "other.it");
    }
}
