//! All runs in one SQLite file, `target/ktstr/index.sqlite`.
//!
//! A cache of the sidecars that outlives them: a directory that changed is read again, one that is gone keeps its rows.
//! Workspaces that share a target directory share the file, and each sees its own rows.
//! Another layout than ours, or a damaged file, is put aside and the index made anew.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use ktstr::host::evidence::sidecar::Sidecar;
use rusqlite::{Connection, OptionalExtension as _, Transaction, TransactionBehavior, params};

use super::metrics_of;
use crate::project::Project;
use crate::runs::{self, RunDir};

/// The layout of [`SCHEMA`].
const VERSION: i64 = 2;
const SCHEMA: &str = "
    CREATE TABLE runs (
        id INTEGER PRIMARY KEY, workspace TEXT NOT NULL, dir TEXT NOT NULL, run TEXT NOT NULL, fingerprint TEXT NOT NULL,
        kernel TEXT, revision TEXT, dirty INTEGER NOT NULL, host TEXT, started_at INTEGER NOT NULL, exit_code INTEGER,
        UNIQUE (workspace, dir));
    CREATE TABLE results (
        id INTEGER PRIMARY KEY, run_id INTEGER NOT NULL REFERENCES runs(id) ON DELETE CASCADE, test TEXT NOT NULL,
        verdict TEXT NOT NULL, scheduler TEXT, topology TEXT NOT NULL, engine TEXT);
    CREATE TABLE metrics (
        result_id INTEGER NOT NULL REFERENCES results(id) ON DELETE CASCADE, name TEXT NOT NULL, value REAL NOT NULL,
        PRIMARY KEY (result_id, name)) WITHOUT ROWID;
    CREATE INDEX results_by_test ON results(test);
    CREATE INDEX metrics_by_name ON metrics(name);
";
/// How long one `cargo ktstr` waits for another to finish its update.
const BUSY: Duration = Duration::from_secs(30);

/// The index, up to date as of its opening.
#[derive(Debug)]
pub(crate) struct Index {
    db: Connection,
    /// Whose rows are seen.
    workspace: String,
}

/// One value of a metric, of one test in one run.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub(crate) struct Point {
    pub(crate) test: String,
    pub(crate) kernel: Option<String>,
    pub(crate) run: String,
    pub(crate) revision: Option<String>,
    pub(crate) dirty: bool,
    /// Seconds since the epoch.
    pub(crate) at: u64,
    pub(crate) verdict: String,
    pub(crate) value: f64,
}

impl Index {
    /// Opens the workspace's index and takes in what is new.
    ///
    /// # Errors
    /// When the file cannot be written or read.
    pub(crate) fn open(project: &Project) -> Result<Self> {
        let root = project.runs_root();
        let path = root.join("index.sqlite");
        fs::create_dir_all(&root)
            .with_context(|| format!("failed to create {}", root.display()))?;
        let workspace = project.workspace_root.display().to_string();
        let mut index = match Self::connect(&path, &workspace) {
            Ok(index) => index,
            Err(error) if is_damage(&error) => {
                let aside = path.with_extension("sqlite.damaged");
                eprintln!(
                    "cargo ktstr: {} cannot be read ({error}); moved to {}; rebuilding it from the existing runs",
                    path.display(),
                    aside.display()
                );
                fs::rename(&path, &aside)
                    .with_context(|| format!("failed to put {} aside", path.display()))?;
                Self::connect(&path, &workspace)
                    .with_context(|| format!("failed to open {}", path.display()))?
            }
            Err(error) => {
                return Err(error).with_context(|| format!("failed to open {}", path.display()));
            }
        };
        index
            .update(project)
            .with_context(|| format!("failed to update {}", path.display()))?;
        Ok(index)
    }

    fn connect(path: &PathBuf, workspace: &str) -> rusqlite::Result<Self> {
        let mut db = Connection::open(path)?;
        db.busy_timeout(BUSY)?;
        db.pragma_update(None, "foreign_keys", true)?;
        let changes = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let version: i64 = changes.pragma_query_value(None, "user_version", |row| row.get(0))?;
        if version == 0 {
            changes.execute_batch(SCHEMA)?;
            changes.pragma_update(None, "user_version", VERSION)?;
        } else if version != VERSION {
            return Err(rusqlite::Error::InvalidQuery);
        }
        changes.commit()?;
        Ok(Self {
            db,
            workspace: workspace.to_owned(),
        })
    }

    fn update(&mut self, project: &Project) -> Result<()> {
        let changes = self
            .db
            .transaction_with_behavior(TransactionBehavior::Immediate)?;
        for dir in runs::all(project) {
            let fingerprint = fingerprint(&dir.path);
            let known: Option<String> = changes
                .query_row(
                    "SELECT fingerprint FROM runs WHERE dir = ?1 AND workspace = ?2",
                    [&dir.name(), &self.workspace],
                    |row| row.get(0),
                )
                .optional()?;
            if known.as_ref() != Some(&fingerprint) {
                changes.execute(
                    "DELETE FROM runs WHERE dir = ?1 AND workspace = ?2",
                    [&dir.name(), &self.workspace],
                )?;
                insert(&changes, &dir, &fingerprint, &self.workspace)?;
            }
        }
        changes.commit()?;
        Ok(())
    }

    /// Every value of a metric, oldest first; of one test, or of all.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub(crate) fn points(&self, metric: &str, test: Option<&str>) -> Result<Vec<Point>> {
        let mut query = self.db.prepare(
            "SELECT test, kernel, run, revision, dirty, started_at, verdict, value FROM metrics
             JOIN results ON results.id = result_id JOIN runs ON runs.id = run_id
             WHERE name = ?1 AND (?2 IS NULL OR test = ?2) AND workspace = ?3 ORDER BY test, kernel, started_at, runs.id",
        )?;
        let rows = query.query_map(params![metric, test, self.workspace], |row| {
            Ok(Point {
                test: row.get(0)?,
                kernel: row.get(1)?,
                run: row.get(2)?,
                revision: row.get(3)?,
                dirty: row.get(4)?,
                at: row.get(5)?,
                verdict: row.get(6)?,
                value: row.get(7)?,
            })
        })?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// Every metric with the number of its values and of the tests that have it.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub(crate) fn metrics(&self) -> Result<Vec<(String, u64, u64)>> {
        let mut query = self.db.prepare(
            "SELECT name, count(*), count(DISTINCT test) FROM metrics JOIN results ON results.id = result_id
             JOIN runs ON runs.id = run_id WHERE workspace = ?1 GROUP BY name ORDER BY name",
        )?;
        let rows = query.query_map([&self.workspace], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        })?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// The verdict of a test on a kernel in the run before the given one.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub(crate) fn verdict_before(
        &self,
        test: &str,
        kernel: &str,
        run: &str,
    ) -> Result<Option<String>> {
        let found = self.db.query_row(
            "SELECT verdict FROM results JOIN runs ON runs.id = run_id
             WHERE test = ?1 AND kernel IS ?2 AND run <> ?3 AND workspace = ?4
               AND started_at <= (SELECT max(started_at) FROM runs WHERE run = ?3 AND workspace = ?4)
             ORDER BY started_at DESC, runs.id DESC LIMIT 1",
            params![test, kernel, run, self.workspace],
            |row| row.get(0),
        );
        Ok(found.optional()?)
    }
}

fn is_damage(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
    matches!(
        error.sqlite_error_code(),
        Some(DatabaseCorrupt | NotADatabase)
    ) || matches!(error, rusqlite::Error::InvalidQuery)
}

/// Changes whenever a file of the directory appears, goes, or is replaced.
fn fingerprint(dir: &Path) -> String {
    let mut files = 0u64;
    let mut newest = Duration::ZERO;
    let list = |dir: &Path| {
        fs::read_dir(dir)
            .into_iter()
            .flatten()
            .filter_map(Result::ok)
    };
    // Each test binary's records lie in a folder of their own.
    let inside = list(dir).flat_map(|entry| list(&entry.path()));
    for entry in list(dir).chain(inside) {
        files += 1;
        let modified = entry.metadata().and_then(|meta| meta.modified());
        if let Ok(Ok(since)) = modified.map(|time| time.duration_since(UNIX_EPOCH)) {
            newest = newest.max(since);
        }
    }
    format!("{files} {}", newest.as_nanos())
}

fn insert(
    changes: &Transaction<'_>,
    dir: &RunDir,
    fingerprint: &str,
    workspace: &str,
) -> Result<()> {
    let manifest = dir.manifest.as_ref();
    changes.execute(
        "INSERT INTO runs (dir, run, fingerprint, kernel, revision, dirty, host, started_at, exit_code, workspace)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
        params![
            dir.name(),
            dir.run(),
            fingerprint,
            manifest.map_or_else(|| dir.name(), |manifest| manifest.kernel_label.clone()),
            manifest.and_then(|manifest| manifest.commit.clone()),
            manifest.is_some_and(|manifest| manifest.dirty),
            manifest.map(|manifest| format!("{}, {} CPUs", manifest.host.cpu, manifest.host.cpus)),
            i64::try_from(dir.at).unwrap_or(i64::MAX),
            manifest.and_then(|manifest| manifest.exit_code),
            workspace,
        ],
    )?;
    let run_id = changes.last_insert_rowid();
    let pool = dir.pool()?;
    for sidecar in &pool.sidecars {
        insert_result(changes, run_id, &pool.title(sidecar), sidecar)?;
    }
    Ok(())
}

fn insert_result(
    changes: &Transaction<'_>,
    run_id: i64,
    title: &str,
    sidecar: &Sidecar,
) -> Result<()> {
    changes.execute(
        "INSERT INTO results (run_id, test, verdict, scheduler, topology, engine) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        params![
            run_id,
            title,
            sidecar.verdict.as_str(),
            sidecar.scheduler,
            sidecar.topology,
            sidecar.engine
        ],
    )?;
    let result_id = changes.last_insert_rowid();
    let mut insert = changes
        .prepare_cached("INSERT INTO metrics (result_id, name, value) VALUES (?1, ?2, ?3)")?;
    for (name, value) in metrics_of(sidecar) {
        insert.execute(params![result_id, name, value])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runs::Manifest;

    /// A record with one metric, as its file would hold it.
    fn sidecar(test: &str, verdict: &str, value: f64) -> serde_json::Value {
        serde_json::json!({
            "schema": "ktstr.sidecar/1", "test": test, "verdict": verdict, "topology": "1n1l2c1t", "total_ms": 5,
            "timed_out": false, "started_at": 1,
            "result": {"floor": "Pass", "details": [], "info_notes": [],
                       "stats": {"cgroups": [], "phases": [], "ext_metrics": {"m": value}}},
        })
    }

    fn project(target: &tempfile::TempDir) -> Project {
        Project::at(Path::new("/mine"), target.path(), "mine")
    }

    fn add(project: &Project, run: &str, at: u64, verdict: &str, value: f64) {
        let dir = project.runs_root().join(run);
        fs::create_dir_all(&dir).unwrap();
        let manifest = Manifest {
            started_at: at,
            kernel_label: "k".into(),
            ..Manifest::begin(run, &project.workspace_root)
        };
        manifest.write(&dir).unwrap();
        fs::write(dir.join("t.json"), sidecar("t", verdict, value).to_string()).unwrap();
    }

    #[test]
    fn what_is_new_is_taken_in_and_what_is_gone_is_kept() {
        let target = tempfile::tempdir().unwrap();
        let mine = project(&target);
        add(&mine, "one", 1, "Pass", 10.0);
        assert_eq!(
            Index::open(&mine).unwrap().points("m", None).unwrap().len(),
            1
        );
        add(&mine, "two", 2, "Fail", 20.0);
        fs::remove_dir_all(mine.runs_root().join("one")).unwrap();
        let index = Index::open(&mine).unwrap();
        let values: Vec<f64> = index
            .points("m", Some("t"))
            .unwrap()
            .iter()
            .map(|point| point.value)
            .collect();
        assert_eq!(values, [10.0, 20.0]);
        assert_eq!(
            index.verdict_before("t", "k", "two").unwrap().as_deref(),
            Some("pass")
        );
        assert_eq!(index.verdict_before("t", "k", "one").unwrap(), None);
        assert!(index.metrics().unwrap().contains(&("m".into(), 2, 1)));
    }

    #[test]
    fn a_replaced_sidecar_is_read_again() {
        let target = tempfile::tempdir().unwrap();
        let mine = project(&target);
        add(&mine, "one", 1, "Pass", 10.0);
        Index::open(&mine).unwrap();
        add(&mine, "one", 1, "Pass", 11.0);
        let points = Index::open(&mine).unwrap().points("m", None).unwrap();
        assert_eq!(
            points.iter().map(|point| point.value).collect::<Vec<_>>(),
            [11.0]
        );
    }

    #[test]
    fn a_damaged_index_is_made_anew() {
        let target = tempfile::tempdir().unwrap();
        let mine = project(&target);
        add(&mine, "one", 1, "Pass", 10.0);
        fs::write(
            mine.runs_root().join("index.sqlite"),
            "no database, and long enough to be looked at ".repeat(99),
        )
        .unwrap();
        assert_eq!(
            Index::open(&mine).unwrap().points("m", None).unwrap().len(),
            1
        );
        assert!(mine.runs_root().join("index.sqlite.damaged").is_file());
    }

    #[test]
    fn workspaces_that_share_a_target_directory_see_their_own_values() {
        let target = tempfile::tempdir().unwrap();
        let mine = project(&target);
        let other = Project::at(Path::new("/other"), target.path(), "other");
        add(&mine, "one", 1, "Pass", 10.0);
        add(&other, "two", 2, "Fail", 20.0);
        for (project, value, before) in [(&mine, 10.0, None), (&other, 20.0, None::<String>)] {
            let index = Index::open(project).unwrap();
            let points = index.points("m", None).unwrap();
            assert_eq!(
                points.iter().map(|point| point.value).collect::<Vec<_>>(),
                [value]
            );
            assert_eq!(index.verdict_before("t", "k", "two").unwrap(), before);
            assert!(index.metrics().unwrap().contains(&("m".into(), 1, 1)));
        }
    }
}
