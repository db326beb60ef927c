//! `AluHot`: spins with several independent chains, so that the CPU's pipelines are full. Presses tick preemption under the
//! most heat and the most contention between hardware threads.
//!
//! One iteration is [`CHUNK`] multiplications over all chains, one work unit each. It never sleeps.

use super::super::meter::Meter;
use super::spin_wait::CHUNK;
use crate::model::work::AluWidth;

pub(super) fn run(width: AluWidth, meter: &mut Meter<'_>) {
    while !meter.stopping() {
        match width {
            AluWidth::Narrow => chains::<1>(CHUNK),
            AluWidth::Medium => chains::<4>(CHUNK / 4),
            AluWidth::Widest => chains::<8>(CHUNK / 8),
        }
        meter.tick(u64::from(CHUNK));
    }
}

/// `steps` multiplications in each of `N` chains.
pub(super) fn chains<const N: usize>(steps: u32) {
    let mut values = [1u64; N];
    for step in 0..steps {
        for value in &mut values {
            *value = value.wrapping_mul(6_364_136_223_846_793_005) ^ u64::from(step);
        }
    }
    std::hint::black_box(values);
}
