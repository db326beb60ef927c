//! `IpcVariance`: stretches of full pipelines and stretches that wait for memory. Exercises whatever takes CPU time for work done.
//!
//! One iteration is one hot and one cold stretch; work units are their steps. It never sleeps.

use rustix::io::Errno;

use super::super::meter::{Meter, xorshift};
use super::alu_hot::multiply;
use super::{Body, body};
use crate::model::work::AluWidth;

/// Memory of the dependent loads.
const BYTES: usize = 1 << 20;

pub(super) fn prepare<'a>(hot: u64, cold: u64, period: u64) -> Result<Body<'a>, Errno> {
    let next = cycle(BYTES / size_of::<u32>());
    body(move |meter: &mut Meter<'_>| {
        let mut place = 0;
        while !meter.stopping() {
            for _ in 0..period.max(1) {
                multiply(AluWidth::Widest, hot);
                place = chase(&next, place, cold);
                meter.progress();
                if meter.stopping() {
                    return;
                }
            }
            meter.tick(hot.saturating_add(cold).saturating_mul(period.max(1)));
        }
    })
}

/// Where `steps` loads lead, each of which says where the next one is; from `place`, which is one of `next`'s, as are all that it
/// holds. In assembly, so that a step is one load in every build.
fn chase(next: &[u32], place: usize, steps: u64) -> usize {
    assert!(place < next.len(), "a place outside of the cycle");
    let mut at = place;
    // SAFETY: reads `next` alone, at `at`, which is below its length at first by the assertion and then as an element of it.
    unsafe {
        std::arch::asm!(
            "test {steps}, {steps}",
            "jz 3f",
            "2:",
            "mov {at:e}, dword ptr [{base} + 4*{at}]",
            "dec {steps}",
            "jnz 2b",
            "3:",
            steps = inout(reg) steps => _,
            base = in(reg) next.as_ptr(),
            at = inout(reg) at,
            options(readonly, nostack),
        );
    }
    at
}

/// One cycle through all places in an order that no prefetcher guesses (Sattolo).
fn cycle(len: usize) -> Vec<u32> {
    let mut next: Vec<u32> = (0..u32::try_from(len).unwrap_or(u32::MAX)).collect();
    let mut state = 0x9e37_79b9_7f4a_7c15;
    for last in (1..next.len()).rev() {
        state = xorshift(state);
        let other = usize::try_from(state % last as u64).unwrap_or(0);
        next.swap(last, other);
    }
    next
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cycle_visits_every_place() {
        let next = cycle(100);
        let mut place = 0;
        for step in 1..=100 {
            place = chase(&next, place, 1);
            assert_eq!(place == 0, step == 100);
        }
        assert_eq!(chase(&next, 0, 100), 0);
        assert_eq!(chase(&next, 7, 0), 7);
    }
}
