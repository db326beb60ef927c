//! Captures whose figures come as messages.

use super::*;

/// In virtual time the guest must go on before its scheduler answers: capture and request wait for that, up to a deadline.
#[test]
fn a_capture_waits_for_figures_that_come_as_messages() {
    let mut run = Run::new(0);
    run.world.borrow_mut().answers_later = true;
    run.step(Step::Boot);
    run.step(Step::Start);
    run.step(Step::Capture("a".into()));
    let replies = |run: &Run| run.count(|call| matches!(call, Call::Reply(..)));
    assert_eq!(replies(&run), 0);
    run.step(Step::Begin(3));
    run.message(Message::StatsReply(
        b"{\"errno\":0,\"args\":{\"resp\":5}}\n".to_vec(),
    ));
    assert_eq!(replies(&run), 1);
    run.step(Step::Capture("b".into()));
    run.step(Step::Wait(6_000));
    assert_eq!(replies(&run), 2, "a server that says nothing");
    run.step(Step::Capture("c".into()));
    run.step(Step::GuestDies { panicked: false });
    assert_eq!(replies(&run), 3);
    let entries = run.coordinator.bridge.drain_ordered_with_stats();
    let told: Vec<_> = entries
        .iter()
        .map(|entry| (entry.tag.as_str(), entry.step_index, entry.stats.clone()))
        .collect();
    assert_eq!(
        told,
        [
            ("a", Some(0), Ok(5.into())),
            ("b", Some(3), Err(MissingStatsReason::Timeout)),
            ("c", Some(3), Err(MissingStatsReason::GuestGone)),
        ]
    );
}

/// One that never answers is not asked for ever.
#[test]
fn a_server_that_says_nothing_is_given_up() {
    let mut run = Run::new(0);
    run.world.borrow_mut().answers_later = true;
    run.step(Step::Boot);
    for tag in ["a", "b", "c", "d", "e"] {
        run.step(Step::Capture(tag.into()));
        run.step(Step::Wait(6_000));
    }
    assert_eq!(run.count(|call| *call == Call::Stats), 3);
    assert_eq!(run.count(|call| matches!(call, Call::Reply(_, true))), 5);
}
