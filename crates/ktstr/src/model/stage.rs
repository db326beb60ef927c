//! How far a guest got, told from its lifecycle frames.

use ktstr_wire::Stage;

/// The furthest point of a guest's life, and what it said about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StageSummary {
    /// One of a fixed set of labels, for messages and tools.
    pub label: &'static str,
    /// The furthest stage; `None` when no lifecycle frame arrived.
    pub last: Option<Stage>,
    /// The guest's own words at the deciding stage; may be empty.
    pub detail: String,
    /// The test's own process was about to start.
    pub reached_payload: bool,
}

/// Classifies the frames of one run. A guest tells its end also when the test never began: what kept it from that says more.
/// `PayloadStarting` anywhere wins over a later scheduler death: the test had begun.
#[must_use]
pub fn summarize_stages(stages: &[(Stage, String)]) -> StageSummary {
    let find = |wanted: Stage| stages.iter().find(|(stage, _)| *stage == wanted);
    let summary = |label, stage: Option<&(Stage, String)>, reached_payload| StageSummary {
        label,
        last: stage.map(|(stage, _)| *stage),
        detail: stage.map(|(_, detail)| detail.clone()).unwrap_or_default(),
        reached_payload,
    };
    let payload = find(Stage::PayloadStarting);
    if let Some(done) = find(Stage::Done).filter(|_| payload.is_some()) {
        return summary("the guest ran to its end", Some(done), true);
    }
    if let Some(payload) = payload {
        return summary("the test started but sent no result", Some(payload), true);
    }
    if let Some(failed) = find(Stage::SetupFailed) {
        return summary("the guest could not be set up", Some(failed), false);
    }
    if let Some(died) = find(Stage::SchedulerDied) {
        return summary("the scheduler died before it attached", Some(died), false);
    }
    if let Some(not_attached) = find(Stage::SchedulerNotAttached) {
        return summary("the scheduler never attached", Some(not_attached), false);
    }
    if let Some(done) = find(Stage::Done) {
        return summary("the guest ended before the test", Some(done), false);
    }
    match stages.last() {
        Some(last) => summary("init started, the test never ran", Some(last), false),
        None => summary("init never started", None, false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(stages: &[Stage], label: &str, reached_payload: bool) {
        let stages: Vec<_> = stages.iter().map(|s| (*s, String::new())).collect();
        let summary = summarize_stages(&stages);
        assert_eq!(
            (summary.label, summary.reached_payload),
            (label, reached_payload)
        );
    }

    #[test]
    fn every_label() {
        check(&[], "init never started", false);
        check(
            &[Stage::InitUp, Stage::Ports],
            "init started, the test never ran",
            false,
        );
        check(
            &[Stage::InitUp, Stage::SetupFailed, Stage::Done],
            "the guest could not be set up",
            false,
        );
        check(
            &[Stage::InitUp, Stage::SchedulerDied],
            "the scheduler died before it attached",
            false,
        );
        check(
            &[Stage::InitUp, Stage::SchedulerNotAttached],
            "the scheduler never attached",
            false,
        );
        check(
            &[Stage::PayloadStarting, Stage::SchedulerDied],
            "the test started but sent no result",
            true,
        );
        check(
            &[Stage::InitUp, Stage::SchedulerNotAttached, Stage::Done],
            "the scheduler never attached",
            false,
        );
        check(
            &[Stage::InitUp, Stage::Done],
            "the guest ended before the test",
            false,
        );
        check(
            &[Stage::PayloadStarting, Stage::Done],
            "the guest ran to its end",
            true,
        );
    }
}
