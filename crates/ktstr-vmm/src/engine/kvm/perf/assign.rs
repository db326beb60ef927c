//! Which host CPU runs which vCPU: each guest LLC on a host LLC of its own. Pure.

use crate::topology::Topology;

/// What the host lacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unavailable {
    pub(super) what: &'static str,
    pub(super) needed: u32,
    pub(super) found: u32,
}

/// The host LLCs of which any may take one of the guest's; enough of them for all. Larger ones are kept for larger needs: they
/// come last.
pub(super) fn candidates<'h>(
    topology: &Topology,
    host_llcs: &'h [Vec<u32>],
) -> Result<Vec<&'h [u32]>, Unavailable> {
    let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    let all: usize = host_llcs.iter().map(Vec::len).sum();
    if count(all) < topology.total_cpus() {
        return Err(Unavailable {
            what: "host CPUs",
            needed: topology.total_cpus(),
            found: count(all),
        });
    }
    let wanted = cpus_per_llc(topology);
    let mut fitting: Vec<&[u32]> = host_llcs
        .iter()
        .map(Vec::as_slice)
        .filter(|llc| llc.len() >= wanted)
        .collect();
    fitting.sort_by_key(|llc| llc.len());
    let llcs = usize::try_from(topology.llcs()).unwrap_or(usize::MAX);
    if fitting.len() < llcs {
        return Err(Unavailable {
            what: "host LLCs with enough CPUs for one of the guest's",
            needed: topology.llcs(),
            found: count(fitting.len()),
        });
    }
    Ok(fitting)
}

/// A host CPU for each vCPU, in order, on these LLCs.
pub(super) fn assign(topology: &Topology, chosen: &[&[u32]]) -> Vec<u32> {
    let wanted = cpus_per_llc(topology);
    let of_llc = |llc: &&[u32]| llc.iter().copied().take(wanted).collect::<Vec<_>>();
    chosen.iter().flat_map(of_llc).collect()
}

fn cpus_per_llc(topology: &Topology) -> usize {
    let per_llc = topology.cores_per_llc() * topology.threads_per_core();
    usize::try_from(per_llc).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// On a host of which nobody else uses anything.
    fn first_choice(topology: &Topology, host: &[Vec<u32>]) -> Result<Vec<u32>, Unavailable> {
        let llcs = usize::try_from(topology.llcs()).unwrap();
        let candidates = candidates(topology, host)?;
        Ok(assign(topology, &candidates[..llcs]))
    }

    #[track_caller]
    fn check(shape: &str, host: &[&[u32]], expected: Result<&[u32], (u32, u32)>) {
        let host: Vec<Vec<u32>> = host.iter().map(|llc| llc.to_vec()).collect();
        let found = first_choice(&shape.parse().unwrap(), &host);
        match expected {
            Ok(cpus) => assert_eq!(found.unwrap(), cpus),
            Err((needed, had)) => {
                let error = found.unwrap_err();
                assert_eq!((error.needed, error.found), (needed, had), "{error:?}");
            }
        }
    }

    #[test]
    fn llcs_go_to_llcs() {
        check(
            "1n2l2c1t",
            &[&[0, 1, 2, 3], &[4, 5], &[6, 7]],
            Ok(&[4, 5, 6, 7]),
        );
        check("1n1l3c1t", &[&[0, 1, 2, 3], &[4, 5]], Ok(&[0, 1, 2]));
        check("1n1l4c2t", &[&[0, 1, 2, 3]], Err((8, 4)));
        check("1n2l2c1t", &[&[0, 1, 2, 3]], Err((2, 1)));
        check("1n2l2c1t", &[&[0, 1, 2], &[3]], Err((2, 1)));
    }

    proptest! {
        #[test]
        fn no_cpu_is_given_twice_and_llcs_are_not_mixed(
            sizes in proptest::collection::vec(1u32..9, 1..6),
            llcs in 1u32..4, cores in 1u32..5,
        ) {
            let mut next = 0;
            let host: Vec<Vec<u32>> = sizes
                .iter()
                .map(|size| { let llc = (next..next + size).collect(); next += size; llc })
                .collect();
            let topology = Topology::new(1, llcs, cores, 1).unwrap();
            if let Ok(cpus) = first_choice(&topology, &host) {
                let mut sorted = cpus.clone();
                sorted.sort_unstable();
                sorted.dedup();
                prop_assert_eq!(sorted.len(), cpus.len());
                prop_assert_eq!(cpus.len(), topology.total_cpus() as usize);
                for guest in cpus.chunks(cores as usize) {
                    prop_assert!(host.iter().any(|llc| guest.iter().all(|cpu| llc.contains(cpu))));
                }
            }
        }
    }
}
