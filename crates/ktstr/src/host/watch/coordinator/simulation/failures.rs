//! Which exit of a scheduler is a failure's, and which state is shown.

use super::*;

#[test]
fn a_schedulers_exit_is_kept_and_the_guests_own_end_is_not() {
    let mut run = Run::new(0);
    run.step(Step::Boot);
    run.step(Step::ExitHit);
    assert_eq!(
        run.coordinator.failure.as_ref().unwrap().trigger,
        "the scheduler's exit"
    );
    // What the test itself asks for later is looked at, and does not replace it: no scheduler is in charge there.
    run.step(Step::Capture(FAILURE_TAG.into()));
    assert_eq!(run.count(|call| *call == Call::Capture), 2);
    assert_eq!(
        run.coordinator.failure.as_ref().unwrap().trigger,
        "the scheduler's exit"
    );

    let mut run = Run::new(0);
    run.step(Step::Boot);
    run.step(Step::Result);
    run.step(Step::ExitHit);
    assert!(run.coordinator.failure.is_none());
}

/// `SCX_EXIT_UNREG`.
const LEFT: u64 = 64;
const STALLED: u64 = ScxExit::ERROR_STALL;

fn exit_of_kind(run: &mut Run, kind: u64) {
    run.world.borrow_mut().exit_kind = kind;
    run.step(Step::ExitHit);
}

/// What left by itself and is in charge again was no failure; what the kernel ejected was one, whatever came after.
#[test]
fn a_failure_after_the_schedulers_own_restart_shows_its_own_state() {
    let shown = |kind: u64| {
        let mut run = Run::new(0);
        run.step(Step::Boot);
        let scx = |state: &str, exit_kind| ScxState {
            state: Some(state.to_owned()),
            exit_kind,
            ..ScxState::default()
        };
        run.world.borrow_mut().scx = Some(scx("disabling", Some(kind)));
        exit_of_kind(&mut run, kind);
        run.world.borrow_mut().scx = Some(scx("enabled", Some(0)));
        run.step(Step::Capture(FAILURE_TAG.into()));
        run.coordinator.failure.as_ref().unwrap().trigger.clone()
    };
    assert_eq!(shown(LEFT), "the test's own verdict");
    assert_eq!(shown(STALLED), "the scheduler's exit");
}

/// A scheduler that the test replaces costs no capture, and none of what a later failure shows.
#[test]
fn a_planned_exit_is_no_failure_and_hides_none() {
    let mut run = Run::new(0);
    run.step(Step::Boot);
    run.step(Step::Planned);
    exit_of_kind(&mut run, LEFT);
    assert_eq!(run.count(|call| *call == Call::Capture), 0);
    assert!(run.coordinator.failure.is_none());
    run.step(Step::Attached);
    run.step(Step::Capture(FAILURE_TAG.into()));
    let failure = run.coordinator.failure.as_ref().unwrap();
    assert_eq!(failure.trigger, "the test's own verdict");

    // The same with a guest that panics later.
    let mut run = Run::new(0);
    run.step(Step::Boot);
    run.step(Step::Planned);
    exit_of_kind(&mut run, LEFT);
    run.step(Step::GuestDies { panicked: true });
    let failure = run.coordinator.finish().failure.unwrap();
    assert_eq!(failure.trigger, "the guest's kernel panic");
}

#[test]
fn a_plan_covers_one_exit_and_no_error() {
    // The kernel ejects it while it is asked to leave.
    let mut run = Run::new(0);
    run.step(Step::Boot);
    run.step(Step::Planned);
    exit_of_kind(&mut run, STALLED);
    assert!(run.coordinator.failure.is_some());
    // The one that came instead leaves by itself.
    let mut run = Run::new(0);
    run.step(Step::Boot);
    for step in [Step::Planned, Step::ExitHit, Step::Attached] {
        run.step(step);
    }
    exit_of_kind(&mut run, LEFT);
    assert!(run.coordinator.failure.is_some());
    // An error at the very end is one, and replaces nothing that failed before.
    let mut run = Run::new(0);
    run.step(Step::Boot);
    run.step(Step::Result);
    exit_of_kind(&mut run, STALLED);
    assert!(run.coordinator.failure.is_some());
    let mut run = Run::new(0);
    run.step(Step::Boot);
    run.step(Step::Capture(FAILURE_TAG.into()));
    exit_of_kind(&mut run, STALLED);
    let failure = run.coordinator.failure.as_ref().unwrap();
    assert_eq!(failure.trigger, "the test's own verdict");
}
