//! Waiting for a state of the kernel.

use ktstr_wire::{Ahead, Until, UntilRequest};

use super::*;

const ID: u32 = 900;

fn wait(run: &mut Run, is_exact: bool) {
    run.world.borrow_mut().is_exact = is_exact;
    run.step(Step::Boot);
    run.step(Step::Start);
    let capture = SnapshotRequest {
        id: 0,
        kind: SnapshotKind::Capture,
        tag: String::from("then"),
    };
    run.message(Message::UntilRequest(UntilRequest {
        id: ID,
        any: vec![vec![StateTest::CpuIdle(0)]],
        at_most_ns: 5_000_000_000,
        cpu: 3,
        ahead: vec![Ahead::Snapshot(capture)],
    }));
}

fn until(run: &Run) -> Vec<Call> {
    let calls = &run.world.borrow().calls;
    let of_it = |call: &&Call| {
        matches!(
            call,
            Call::Until(_) | Call::Told(_) | Call::RunOnly(_) | Call::Capture
        )
    };
    calls.iter().filter(of_it).cloned().collect()
}

fn look(run: &mut Run) {
    run.event(Event::Hit(UNTIL_TOKEN));
}

#[test]
fn a_state_is_looked_at_where_it_changes_and_acted_on_alone() {
    let mut run = Run::new(0);
    wait(&mut run, true);
    // The state holds, and the guest is not asleep yet.
    run.world.borrow_mut().holds = true;
    look(&mut run);
    run.world.borrow_mut().holds = false;
    run.world.borrow_mut().waits_for = ID;
    look(&mut run);
    assert_eq!(until(&run), [Call::Until(Ok(Until::Watched))]);
    run.world.borrow_mut().holds = true;
    look(&mut run);
    run.event(Event::Mark);
    run.event(Event::Mark);
    run.event(Event::Mark);
    let expected = [
        Call::Until(Ok(Until::Watched)),
        Call::Told(UntilState::Reached),
        Call::Capture,
        Call::RunOnly(Some(3)),
        Call::Told(UntilState::Held),
        Call::RunOnly(None),
    ];
    assert_eq!(until(&run), expected);
    // Asked for it, the host gives what it made.
    run.step(Step::Capture("then".into()));
    assert_eq!(until(&run), expected);
    assert_eq!(run.count(|call| matches!(call, Call::Reply(_, true))), 1);
    let entries = run.coordinator.bridge.drain_ordered_with_stats();
    let steps: Vec<_> = entries.iter().map(|entry| entry.step_index).collect();
    assert_eq!(steps, [Some(1)], "the next step's");
    // Asked again, it makes another one.
    run.step(Step::Capture("then".into()));
    assert_eq!(run.count(|call| *call == Call::Capture), 2);
}

#[test]
fn a_state_that_is_gone_when_the_guest_acts_is_told() {
    let mut run = Run::new(0);
    wait(&mut run, true);
    run.world.borrow_mut().waits_for = ID;
    run.world.borrow_mut().holds = true;
    look(&mut run);
    run.world.borrow_mut().holds = false;
    run.event(Event::Mark);
    assert!(until(&run).contains(&Call::Told(UntilState::Lost)));
}

#[test]
fn a_state_that_does_not_come_is_over() {
    let mut run = Run::new(0);
    wait(&mut run, true);
    run.world.borrow_mut().waits_for = ID;
    run.step(Step::Wait(4_999));
    look(&mut run);
    run.step(Step::Wait(1));
    look(&mut run);
    look(&mut run);
    let expected = [
        Call::Until(Ok(Until::Watched)),
        Call::Told(UntilState::Over),
    ];
    assert_eq!(until(&run), expected);
}

#[test]
fn without_a_gate_the_host_looks_now_and_then() {
    for comes in [true, false] {
        let mut run = Run::new(0);
        wait(&mut run, false);
        run.step(Step::Wait(100));
        assert_eq!(until(&run), []);
        run.world.borrow_mut().holds = comes;
        run.step(Step::Wait(6_000));
        let expected = match comes {
            true => vec![Call::Capture, Call::Until(Ok(Until::Reached))],
            false => vec![Call::Until(Ok(Until::NotReached))],
        };
        assert_eq!(until(&run), expected);
    }
}

#[test]
fn a_condition_that_cannot_be_looked_at_is_refused() {
    let mut run = Run::new(0);
    run.world.borrow_mut().lacks = true;
    wait(&mut run, true);
    let expected = Call::Until(Err(String::from("this kernel has no sched_delayed")));
    assert_eq!(until(&run), [expected]);
}
