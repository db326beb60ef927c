//! `AluHot`: spins with several independent chains, so that the CPU's pipelines are full. Exercises tick preemption under the
//! most heat and the most contention between hardware threads.
//!
//! One iteration is [`TURNS`] multiplications over all chains, one work unit each. It never sleeps.

use super::super::meter::Meter;
use super::spin_wait::{CHUNK, TURNS};
use crate::model::work::AluWidth;

pub(super) fn run(width: AluWidth, meter: &mut Meter<'_>) {
    while !meter.stopping() {
        multiply(width, CHUNK);
        meter.tick_many(CHUNK / TURNS, CHUNK);
    }
}

/// This many multiplications in as many chains as the width says.
pub(super) fn multiply(width: AluWidth, turns: u64) {
    match width {
        AluWidth::Scalar => chains::<1>(turns),
        AluWidth::Medium => chains::<4>(turns / 4),
        AluWidth::Widest => chains::<8>(turns / 8),
    }
}

/// `steps` multiplications in each of `N` chains.
fn chains<const N: usize>(steps: u64) {
    let mut values = [1u64; N];
    for step in 0..steps {
        for value in &mut values {
            *value = value.wrapping_mul(6_364_136_223_846_793_005) ^ step;
        }
    }
    std::hint::black_box(values);
}
