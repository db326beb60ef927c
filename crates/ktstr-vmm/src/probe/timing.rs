//! Times supervisor code under /dev/kvm: a counted loop in a tiny guest.

use std::thread;
use std::time::{Duration, Instant};

use kvm_ioctls::VcpuExit;

use super::tiny::{CODE, Tiny};

/// Turns of the loop per long round; two instructions each. A host that emulates takes milliseconds for a round, and it ends
/// by itself.
const TURNS: u32 = 1000;
/// Turns of the rounds that tell the time of a host which does not emulate: short enough for a CPU within an emulator.
const MANY_TURNS: u32 = 100_000;
/// Rounds of each length that are always run, and those that a host which looks slow is given beyond: an engine is not ruled
/// out because the host was busy for a moment.
const ROUNDS: std::ops::Range<u32> = 3..24;

/// `mov ecx, turns; 1: dec ecx; jnz 1b; hlt` (Intel SDM, volume 2).
fn code(turns: u32) -> Vec<u8> {
    let mut code = vec![0xb9];
    code.extend(turns.to_le_bytes());
    code.extend([0xff, 0xc9, 0x75, 0xfc, 0xf4]);
    code
}

/// What a host's KVM takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Times {
    /// Per guest instruction, without entry and exit of the guest.
    pub(super) instruction: Duration,
    /// Into the guest and out again.
    pub(super) round_trip: Duration,
}

/// Measures. More rounds are run while an instruction looks longer than `enough`.
///
/// # Errors
/// What /dev/kvm refused, in words.
pub(super) fn measure(enough: Duration) -> Result<Times, String> {
    let mut guest = Tiny::new(&code(1), 0)?;
    let found = fastest(enough, |turns| {
        guest.load(&code(turns))?;
        round(&mut guest)
    });
    // The kernel waits for a grace period to take a VM down, and nobody need wait for that.
    thread::spawn(move || drop(guest));
    found
}

/// Runs rounds of one turn and of [`TURNS`]; what the fastest of the long ones took beyond the fastest of the short ones, by
/// instruction. What disturbs a round only ever makes it longer.
fn fastest(
    enough: Duration,
    mut round: impl FnMut(u32) -> Result<Duration, String>,
) -> Result<Times, String> {
    let (mut short, mut long) = (Duration::MAX, Duration::MAX);
    let mut per_instruction = Duration::MAX;
    for done in 1..=ROUNDS.end {
        short = short.min(round(1)?);
        long = long.min(round(TURNS)?);
        per_instruction = long.saturating_sub(short) / ((TURNS - 1) * 2);
        if done >= ROUNDS.start && per_instruction <= enough {
            break;
        }
    }
    if per_instruction > enough {
        return Ok(Times {
            instruction: per_instruction,
            round_trip: short,
        });
    }
    let mut many = Duration::MAX;
    for _ in 0..ROUNDS.start {
        many = many.min(round(MANY_TURNS)?);
    }
    Ok(Times {
        instruction: many.saturating_sub(short) / ((MANY_TURNS - 1) * 2),
        round_trip: short,
    })
}

/// One run of the loop from its start.
fn round(guest: &mut Tiny) -> Result<Duration, String> {
    guest.reset(CODE)?;
    let started = Instant::now();
    let exit = guest.vcpu.run();
    let took = started.elapsed();
    match exit {
        Ok(VcpuExit::Hlt) => Ok(took),
        Ok(other) => Err(format!(
            "/dev/kvm does not run a ten-byte guest: it left with {other:?}"
        )),
        Err(error) => Err(format!("/dev/kvm does not run a ten-byte guest: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loop_is_what_the_manual_says() {
        assert_eq!(
            code(1000),
            [0xb9, 0xe8, 0x03, 0, 0, 0xff, 0xc9, 0x75, 0xfc, 0xf4]
        );
    }

    /// A machine of `per_instruction_ns` that is held up for a while in all rounds but `quiet`.
    #[track_caller]
    fn check(per_instruction_ns: u64, quiet: u32, expected_ns: std::ops::RangeInclusive<u128>) {
        let mut rounds = 0;
        let found = fastest(Duration::from_nanos(200), |turns| {
            rounds += 1;
            let held_up = if rounds / 2 == quiet { 0 } else { 5_000_000 };
            let code = u64::from(turns) * 2 * per_instruction_ns;
            Ok(Duration::from_nanos(
                90_000 + code + held_up * u64::from(turns == TURNS),
            ))
        });
        let found = found.unwrap();
        assert!(found.round_trip >= Duration::from_micros(90), "{found:?}");
        let found = found.instruction.as_nanos();
        assert!(expected_ns.contains(&found), "{found} ns");
    }

    #[test]
    fn a_busy_host_is_not_taken_for_an_emulating_one() {
        check(20, 17, 20..=20);
        check(20, 2, 20..=20);
        check(1900, 3, 1900..=1900);
    }

    /// On any machine: a time, or words that name what is missing.
    #[test]
    fn the_probe_ends_with_a_time_or_a_reason() {
        match measure(Duration::from_nanos(200)) {
            Ok(times) => assert!(times.instruction < Duration::from_millis(1), "{times:?}"),
            Err(why) => assert!(why.contains("/dev/kvm"), "{why}"),
        }
    }
}
