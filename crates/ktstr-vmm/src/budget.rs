//! Which host CPUs a VM may use that has no CPUs of its own: a budget, out of those that this process may use.

use std::io;

use rustix::thread::{CpuSet, sched_getaffinity};

/// The CPUs of a budget; `None` where it does not confine.
///
/// CPUs with neighbouring numbers mostly share a cache. Each process begins elsewhere, so that VMs spread over the host.
pub(crate) fn host_cpus(budget: Option<u32>) -> io::Result<Option<CpuSet>> {
    let Some(budget) = budget.and_then(|budget| usize::try_from(budget).ok()) else {
        return Ok(None);
    };
    let allowed = sched_getaffinity(None)?;
    let allowed: Vec<usize> = (0..CpuSet::MAX_CPU)
        .filter(|cpu| allowed.is_set(*cpu))
        .collect();
    let seed = usize::try_from(std::process::id()).unwrap_or(0);
    let Some(chosen) = choose(&allowed, budget, seed) else {
        return Ok(None);
    };
    let mut set = CpuSet::new();
    for cpu in chosen {
        set.set(cpu);
    }
    Ok(Some(set))
}

fn choose(allowed: &[usize], budget: usize, seed: usize) -> Option<Vec<usize>> {
    if budget >= allowed.len() {
        return None;
    }
    // In steps of the budget, so that two VMs share all of their CPUs or, where these suffice, none.
    let start = seed.checked_mul(budget)?.checked_rem(allowed.len())?;
    let around = allowed.iter().cycle().skip(start);
    Some(around.copied().take(budget).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_takes_so_many_of_the_allowed() {
        assert_eq!(choose(&[0, 2, 4, 6], 2, 0), Some(vec![0, 2]));
        assert_eq!(choose(&[0, 2, 4, 6], 2, 1), Some(vec![4, 6]));
        assert_eq!(choose(&[0, 2, 4], 2, 1), Some(vec![4, 0]));
        assert_eq!(choose(&[0, 2], 2, 7), None);
        assert_eq!(choose(&[0, 2], 9, 7), None);
    }

    #[test]
    fn no_budget_confines_nothing() {
        assert!(host_cpus(None).unwrap().is_none());
        assert!(host_cpus(Some(100_000)).unwrap().is_none());
    }
}
