//! `AluHot`: spins with several independent chains, so that the CPU's pipelines are full. Exercises tick preemption under the
//! most heat and the most contention between hardware threads.
//!
//! One iteration is [`TURNS`] multiplications over all chains, one work unit each. It never sleeps.

use super::super::meter::{FACTOR, Meter, spin};
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
        AluWidth::Scalar => spin(turns),
        AluWidth::Medium => four_chains(turns),
        AluWidth::Widest => eight_chains(turns),
    }
}

/// Multiplications of one pass of a loop, over all chains.
const PASS: u64 = 64;

/// As [`spin`], in four chains that wait for themselves alone. What is left of whole passes is one chain.
fn four_chains(turns: u64) {
    if turns >= PASS {
        // SAFETY: writes to the named registers alone; the loop counts down from 1 or more to 0.
        unsafe {
            std::arch::asm!(
                "2:",
                ".rept {rounds}",
                "imul {a}, {factor}",
                "imul {b}, {factor}",
                "imul {c}, {factor}",
                "imul {d}, {factor}",
                ".endr",
                "dec {passes}",
                "jnz 2b",
                rounds = const PASS / 4,
                passes = inout(reg) turns / PASS => _,
                factor = in(reg) FACTOR,
                a = inout(reg) 1_u64 => _,
                b = inout(reg) 3_u64 => _,
                c = inout(reg) 5_u64 => _,
                d = inout(reg) 7_u64 => _,
                options(nomem, nostack),
            );
        }
    }
    spin(turns % PASS);
}

/// As [`four_chains`], in eight.
fn eight_chains(turns: u64) {
    if turns >= PASS {
        // SAFETY: as above.
        unsafe {
            std::arch::asm!(
                "2:",
                ".rept {rounds}",
                "imul {a}, {factor}",
                "imul {b}, {factor}",
                "imul {c}, {factor}",
                "imul {d}, {factor}",
                "imul {e}, {factor}",
                "imul {f}, {factor}",
                "imul {g}, {factor}",
                "imul {h}, {factor}",
                ".endr",
                "dec {passes}",
                "jnz 2b",
                rounds = const PASS / 8,
                passes = inout(reg) turns / PASS => _,
                factor = in(reg) FACTOR,
                a = inout(reg) 1_u64 => _,
                b = inout(reg) 3_u64 => _,
                c = inout(reg) 5_u64 => _,
                d = inout(reg) 7_u64 => _,
                e = inout(reg) 9_u64 => _,
                f = inout(reg) 11_u64 => _,
                g = inout(reg) 13_u64 => _,
                h = inout(reg) 15_u64 => _,
                options(nomem, nostack),
            );
        }
    }
    spin(turns % PASS);
}
