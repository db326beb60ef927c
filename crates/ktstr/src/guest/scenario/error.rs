//! Why a scenario could not go on, and what that makes of the test.

use std::error::Error;
use std::io;

use super::bpf::PinError;
use super::program::PayloadError;
use crate::guest::cgroup::CgroupError;
use crate::guest::worker::WorkerError;
use crate::model::scenario::{CpusetError, HoldError};
use crate::model::transport::TransportError;
use crate::model::verdict::{AssertDetail, DetailKind, Outcome};
use crate::model::work::WorkersError;

/// A part of a scenario that failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ScenarioError {
    /// A cgroup operation.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// CPUs that do not exist.
    #[error(transparent)]
    Cpuset(#[from] CpusetError),
    /// A hold that cannot be.
    #[error(transparent)]
    Hold(#[from] HoldError),
    /// A number of workers that cannot be.
    #[error(transparent)]
    Workers(#[from] WorkersError),
    /// An affinity outside of the cpuset.
    #[error("affinity to cpus {asked}: the cpuset allows none of them, only {allowed}")]
    Affinity {
        /// What was asked for.
        asked: String,
        /// What there is.
        allowed: String,
    },
    /// Workers that did not start.
    #[error(transparent)]
    Worker(#[from] WorkerError),
    /// The host said no, or nothing.
    #[error(transparent)]
    Host(#[from] TransportError),
    /// The scheduler was to be changed, and what was asked for is not in charge.
    #[error(transparent)]
    Scheduler(TransportError),
    /// A program of the guest.
    #[error(transparent)]
    Payload(#[from] PayloadError),
    /// A BPF map that was not pinned.
    #[error(transparent)]
    Pin(#[from] PinError),
    /// Something that needs what this run lacks.
    #[error("{what}: not supported by this run")]
    NotSupported {
        /// The operation or option.
        what: String,
    },
    /// A cgroup with checks that are not of its workers.
    #[error(
        "cgroup {name:?} asserts {checks}, which the monitor checks for the whole guest; move it to the test's attributes or the scheduler's \
         `assert`, and keep checks of workers in CgroupDef::assert"
    )]
    NotOfCgroup {
        /// The cgroup.
        name: String,
        /// The checks.
        checks: String,
    },
    /// Two cgroups are to exchange CPUs and one has none of its own.
    #[error(
        "cgroup {name:?} has no cpuset to exchange; give it one with CgroupDef::cpuset or Op::SetCpuset"
    )]
    NoCpuset {
        /// The cgroup.
        name: String,
    },
    /// Workers of the backdrop would be left in a cgroup that ends with the step.
    #[error(
        "moving backdrop workers from {from:?} to {to:?} would strand them: {to:?} ends with this step"
    )]
    Stranded {
        /// Where they are.
        from: String,
        /// Where they should go.
        to: String,
    },
    /// A task did not get a scheduling policy.
    #[error("failed to give task {pid} the policy {policy}")]
    Policy {
        /// The task.
        pid: i32,
        /// The policy.
        policy: String,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// A task or an interrupt could not be bound to CPUs.
    #[error("failed to bind {what} to cpus {cpus}")]
    Bind {
        /// The task or interrupt.
        what: String,
        /// The CPUs.
        cpus: String,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
}

impl ScenarioError {
    /// The finding for the result; `place` says which step and operation.
    pub(super) fn detail(&self, place: &str) -> AssertDetail {
        let (outcome, kind) = match self {
            Self::NotSupported { .. } | Self::Host(TransportError::NotSupported) => {
                (Outcome::Inconclusive, DetailKind::NotSupported)
            }
            Self::Host(TransportError::SchedulerRefused(_)) => (Outcome::Fail, DetailKind::Setup),
            Self::Host(_) => (Outcome::Inconclusive, DetailKind::Other),
            // The host knows the status of its process and may know more.
            Self::Scheduler(_) => (Outcome::Fail, DetailKind::SchedulerDiedUnknownReason),
            Self::Payload(fault) => (Outcome::Fail, fault.kind()),
            Self::Worker(WorkerError::NotReady { .. }) => (Outcome::Fail, DetailKind::Starved),
            _ => (Outcome::Fail, DetailKind::Setup),
        };
        let mut message = format!("{place}: {self}");
        let mut source = self.source();
        while let Some(cause) = source {
            message.push_str(": ");
            message.push_str(&cause.to_string());
            source = cause.source();
        }
        AssertDetail::new(outcome, kind, message)
    }

    /// Whether the scenario may go on without this part.
    pub(super) fn is_bearable(&self) -> bool {
        self.detail("").outcome < Outcome::Fail || matches!(self, Self::Payload(_))
    }
}
