//! The search itself: which candidate to try next, and what is known at the end.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use anyhow::Result;

/// What a candidate turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tried {
    /// As the oldest one.
    Old,
    /// As the newest one.
    New,
    /// It could not be judged.
    Skipped,
}

/// Finds the first of `count` candidates that is as the newest, which is the last of them; the oldest lies before the first and
/// is none of them. The result is several only where those before the last of them could not be judged.
///
/// # Errors
/// That of `try_one`.
pub(crate) fn first_new(
    count: usize,
    mut try_one: impl FnMut(usize, usize) -> Result<Tried>,
) -> Result<RangeInclusive<usize>> {
    // All before `low` are old, and `high` is new.
    let (mut low, mut high) = (0, count.saturating_sub(1));
    let mut skipped = BTreeSet::new();
    loop {
        let middle = low + (high - low) / 2;
        let open = (low..high).filter(|at| !skipped.contains(at));
        let left = open.clone().count();
        let Some(at) = open.min_by_key(|at| at.abs_diff(middle)) else {
            return Ok(low..=high);
        };
        match try_one(at, left)? {
            Tried::Old => low = at + 1,
            Tried::New => high = at,
            Tried::Skipped => {
                skipped.insert(at);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn search(count: usize, first: usize, skips: &[usize]) -> (RangeInclusive<usize>, usize) {
        let mut steps = 0;
        let found = first_new(count, |at, left| {
            assert!(at < count && left > 0);
            steps += 1;
            Ok(match at {
                at if skips.contains(&at) => Tried::Skipped,
                at if at < first => Tried::Old,
                _ => Tried::New,
            })
        });
        (found.unwrap(), steps)
    }

    #[test]
    fn the_first_is_found_in_few_steps() {
        for count in 1..40 {
            for first in 0..count {
                let (found, steps) = search(count, first, &[]);
                assert_eq!(found, first..=first, "{count}");
                let most = count.next_power_of_two().ilog2() as usize;
                assert!(
                    steps <= most,
                    "{count}: {steps} steps, expected at most {most}"
                );
            }
        }
    }

    #[test]
    fn those_that_cannot_be_judged_are_left_out_or_told() {
        // Elsewhere than at the border they do not matter.
        assert_eq!(search(10, 7, &[0, 1, 4]).0, 7..=7);
        assert_eq!(search(10, 7, &[6]).0, 6..=7);
        assert_eq!(search(10, 7, &[5, 6, 7]).0, 5..=8);
        assert_eq!(search(3, 1, &[0, 1]).0, 0..=2);
    }

    #[test]
    fn an_error_ends_it() {
        let failed = first_new(8, |_, _| anyhow::bail!("the disk is full"));
        assert!(failed.unwrap_err().to_string().contains("disk"));
    }
}
