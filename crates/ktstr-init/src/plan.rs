//! What the host tells init to do.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::probes::ProbePlan;

/// Where init itself lies: a plan whose test is this program has it run in a copy of init.
pub const INIT_PATH: &str = "/init";

/// Where the plan lies in the guest, as JSON.
pub const PLAN_PATH: &str = "/ktstr/plan.json";

/// Name under which init asks for the capture of a failure: a signal has ended the test's process, which cannot ask itself.
pub const ENDED_TAG: &str = "ktstr.ended";

/// Tag of init's request before a scheduler's start, when [`Plan::await_watch`] is set. The host answers it when its watch over
/// the kernel stands, or when it knows that there can be none.
pub const WATCHED_TAG: &str = "ktstr.watched";

/// The guest's whole task.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The scheduler to start before the test.
    #[serde(default)]
    pub scheduler: Option<SchedulerPlan>,
    /// Schedulers that the test may put in its place, by their declared names.
    #[serde(default)]
    pub staged: Vec<SchedulerPlan>,
    /// This is no plan yet: it comes from the host, which is asked for it ([`Message::TaskRequest`](ktstr_wire::Message)) once all
    /// that is the same for each test is set up.
    #[serde(default)]
    pub at_gate: bool,
    /// Program and arguments of the test's process.
    pub test: Vec<String>,
    /// Variables of the test's and the scheduler's environment.
    #[serde(default)]
    pub env: Vec<(String, String)>,
    /// Kernel settings to write below `/proc/sys`, names with dots.
    #[serde(default)]
    pub sysctls: Vec<(String, String)>,
    /// CPUs that the machine must have online; `None`: any number will do.
    #[serde(default)]
    pub cpus: Option<u32>,
    /// Parameters of the kernel's command line that the test asked for: one that the kernel does not know is a fault.
    #[serde(default)]
    pub kargs: Vec<String>,
    /// Cgroups that exist before the scheduler starts, as paths below the cgroup root.
    #[serde(default)]
    pub cgroups: Vec<String>,
    /// What to record of the kernel, from before the scheduler's start on.
    #[serde(default)]
    pub probes: Option<ProbePlan>,
    /// A host follows this guest and answers [`WATCHED_TAG`].
    #[serde(default)]
    pub await_watch: bool,
    /// The host may ask something at any time. In virtual time it can do so only when init looks, every 50 ms.
    #[serde(default)]
    pub look_for_requests: bool,
}

/// How the scheduler is started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SchedulerPlan {
    /// A program that attaches a BPF scheduler and stays.
    Binary {
        /// Its declared name.
        name: String,
        /// Its path in the guest.
        path: String,
        /// Its arguments.
        args: Vec<String>,
        /// Variables of its environment beside [`Plan::env`].
        #[serde(default)]
        env: Vec<(String, String)>,
        /// How long it may take until the kernel says that it is enabled.
        attach_timeout_ms: u64,
        /// Its stats socket, relayed to the stats port; [`DEFAULT_STATS_SOCKET`](crate::DEFAULT_STATS_SOCKET) without one.
        #[serde(default)]
        stats_socket: Option<String>,
    },
    /// A scheduler that is part of the kernel.
    Builtin {
        /// Its declared name.
        name: String,
        /// Shell commands that turn it on.
        enable: Vec<String>,
        /// Shell commands that turn it off.
        disable: Vec<String>,
    },
}

/// A plan that cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// The file cannot be read.
    #[error("failed to read the plan {path}")]
    Read {
        /// Its path.
        path: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// It does not parse.
    #[error("the plan {path} does not parse: {source}")]
    Parse {
        /// Its path.
        path: String,
        /// The parser's complaint.
        source: serde_json::Error,
    },
    /// It names no test.
    #[error("the plan {path} names no program for the test")]
    NoTest {
        /// Its path.
        path: String,
    },
}

impl Plan {
    /// Reads a plan.
    ///
    /// # Errors
    /// When it cannot be read, does not parse, or names no test.
    pub fn load(path: &Path) -> Result<Self, PlanError> {
        let name = path.display().to_string();
        match std::fs::read(path) {
            Ok(bytes) => Self::parse(&bytes, name),
            Err(source) => Err(PlanError::Read { path: name, source }),
        }
    }

    /// Reads a plan that came from `name`.
    ///
    /// # Errors
    /// When it does not parse, or names no test.
    pub(crate) fn parse(bytes: &[u8], name: String) -> Result<Self, PlanError> {
        match serde_json::from_slice::<Self>(bytes) {
            Ok(plan) if plan.test.is_empty() && !plan.at_gate => {
                Err(PlanError::NoTest { path: name })
            }
            Ok(plan) => Ok(plan),
            Err(source) => Err(PlanError::Parse { path: name, source }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_error(json: &str, needle: &str) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("plan.json");
        std::fs::write(&path, json).unwrap();
        let error = Plan::load(&path).unwrap_err().to_string();
        assert!(error.contains(needle), "{error}");
    }

    #[test]
    fn wrong_plans_are_told_apart() {
        check_error("{", "does not parse");
        check_error(r#"{"test": []}"#, "names no program");
        assert!(
            Plan::load(Path::new("/no/such"))
                .unwrap_err()
                .to_string()
                .contains("/no/such")
        );
    }

    #[test]
    fn a_plan_travels() {
        let plan = Plan {
            scheduler: Some(SchedulerPlan::Binary {
                name: "s".into(),
                path: "/bin/s".into(),
                args: vec!["-v".into()],
                env: vec![("RUST_LOG".into(), "debug".into())],
                attach_timeout_ms: 10,
                stats_socket: None,
            }),
            test: vec!["/init".into()],
            ..Plan::default()
        };
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("plan.json");
        std::fs::write(&path, serde_json::to_vec(&plan).unwrap()).unwrap();
        assert_eq!(Plan::load(&path).unwrap(), plan);
    }
}
