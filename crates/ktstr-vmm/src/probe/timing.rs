//! Times supervisor code under /dev/kvm: a counted loop in a tiny guest.

use std::thread;
use std::time::Duration;

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
        guest.leave(CODE, |exit, took| {
            matches!(exit, VcpuExit::Hlt).then_some(took)
        })
    });
    // The kernel waits for a grace period to take a VM down, and there is no need to wait for that.
    thread::spawn(move || drop(guest));
    found
}

/// Runs rounds of one turn and of [`TURNS`]; what the fastest of the long ones took beyond the fastest of the short ones, by
/// instruction. What disturbs a round only ever makes it longer. A host that looks fast is timed again with [`MANY_TURNS`].
fn fastest(
    enough: Duration,
    mut round: impl FnMut(u32) -> Result<Duration, String>,
) -> Result<Times, String> {
    let mut short = Duration::MAX;
    let mut settle = |turns: u32| {
        let mut long = Duration::MAX;
        let mut per_instruction = Duration::MAX;
        for done in 1..=ROUNDS.end {
            short = short.min(round(1)?);
            long = long.min(round(turns)?);
            per_instruction = long.saturating_sub(short) / ((turns - 1) * 2);
            if done >= ROUNDS.start && per_instruction <= enough {
                break;
            }
        }
        Ok::<_, String>(per_instruction)
    };
    let mut instruction = settle(TURNS)?;
    if instruction <= enough {
        instruction = settle(MANY_TURNS)?;
    }
    Ok(Times {
        instruction,
        round_trip: short,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::mpsc::{self, RecvTimeoutError};

    use vmm_sys_util::signal::{Killable as _, register_signal_handler};

    use super::*;

    #[test]
    fn the_loop_is_what_the_manual_says() {
        assert_eq!(
            code(1000),
            [0xb9, 0xe8, 0x03, 0, 0, 0xff, 0xc9, 0x75, 0xfc, 0xf4]
        );
    }

    /// A machine of `per_instruction_ns` that is held up for long in all long rounds but the `quiet`th of each length.
    #[track_caller]
    fn check(per_instruction_ns: u64, quiet: u32, expected_ns: std::ops::RangeInclusive<u128>) {
        let mut rounds = HashMap::new();
        let found = fastest(Duration::from_nanos(200), |turns| {
            let number = rounds.entry(turns).or_insert(0);
            *number += 1;
            let held_up = if turns == 1 || *number == quiet {
                0
            } else {
                5_000
            };
            Ok(Duration::from_nanos(
                90_000 + u64::from(turns) * (2 * per_instruction_ns + held_up),
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

    /// A profiler or a shell's job control sends signals; none of them says anything about this machine.
    #[test]
    fn a_signal_does_not_change_what_is_found() {
        extern "C" fn ignore(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}
        register_signal_handler(libc::SIGUSR2, ignore).unwrap();
        let (report, reported) = mpsc::channel();
        let measuring = thread::spawn(move || {
            let found: Vec<_> = (0..10)
                .map(|_| measure(Duration::from_nanos(200)))
                .collect();
            report.send(found).unwrap();
        });
        let found = loop {
            // Longer than a round of a host that emulates, else it never ends one.
            match reported.recv_timeout(Duration::from_millis(7)) {
                Err(RecvTimeoutError::Timeout) => measuring.kill(libc::SIGUSR2).unwrap(),
                other => break other.unwrap(),
            }
        };
        measuring.join().unwrap();
        for found in found {
            assert!(
                found
                    .as_ref()
                    .map_or_else(|why| why.contains("does not open"), |_| true),
                "{found:?}"
            );
        }
    }
}
