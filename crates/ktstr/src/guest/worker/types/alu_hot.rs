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
        AluWidth::Scalar => {}
        AluWidth::Medium => {
            four_chains(turns / PASS);
        }
        AluWidth::Widest => {
            eight_chains(turns / PASS);
        }
    }
    spin(match width {
        AluWidth::Scalar => turns,
        _ => turns % PASS,
    });
}

/// Multiplications of one pass of a loop, over all chains.
const PASS: u64 = 64;

/// As [`spin`], in chains that wait for themselves alone, each in a register; where they end.
macro_rules! chains {
    ($name:ident, $count:literal, $($chain:ident from $first:literal),*) => {
        fn $name(passes: u64) -> [u64; $count] {
            $(let mut $chain = $first;)*
            // SAFETY: writes to the named registers alone; the loop counts down from 1 or more to 0.
            unsafe {
                std::arch::asm!(
                    "test {passes}, {passes}",
                    "jz 3f",
                    "2:",
                    ".rept {rounds}",
                    $(concat!("imul {", stringify!($chain), "}, {factor}"),)*
                    ".endr",
                    "dec {passes}",
                    "jnz 2b",
                    "3:",
                    rounds = const PASS / $count,
                    passes = inout(reg) passes => _,
                    factor = in(reg) FACTOR,
                    $($chain = inout(reg) $chain,)*
                    options(nomem, nostack),
                );
            }
            [$($chain),*]
        }
    };
}

chains!(four_chains, 4, a from 1_u64, b from 3_u64, c from 5_u64, d from 7_u64);
chains!(
    eight_chains, 8, a from 1_u64, b from 3_u64, c from 5_u64, d from 7_u64,
    e from 9_u64, f from 11_u64, g from 13_u64, h from 15_u64
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_multiplications_of_a_pass_are_shared_by_its_chains() {
        let ends = |first: u64, chains: u32, passes: u32| {
            let each = passes * u32::try_from(PASS).unwrap() / chains;
            first.wrapping_mul(FACTOR.wrapping_pow(each))
        };
        for passes in [0, 1, 5] {
            let four = [1, 3, 5, 7].map(|first| ends(first, 4, passes));
            assert_eq!(four_chains(passes.into()), four, "{passes} passes");
            let eight = [1, 3, 5, 7, 9, 11, 13, 15].map(|first| ends(first, 8, passes));
            assert_eq!(eight_chains(passes.into()), eight, "{passes} passes");
        }
    }
}
