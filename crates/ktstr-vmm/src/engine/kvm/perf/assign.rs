//! Which host CPU runs which vCPU: each guest LLC on a host LLC of its own, each guest core on a host core of its own. Pure.
//!
//! ```text
//!   host LLC:   core 0        core 1        core 2
//!               cpu 0, cpu 4  cpu 1, cpu 5  cpu 2, cpu 6
//!   2c2t:       v0,    v1     v2,    v3
//!   2c1t:       v0            v1
//! ```
//!
//! Where the host's cores have one CPU each, a guest core of two threads takes two of them.

use super::hostcpu::{HostCpus, Llc};
use crate::topology::Topology;

/// What the host lacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unavailable {
    pub(super) what: &'static str,
    pub(super) needed: u32,
    pub(super) found: u32,
}

/// A host LLC that may take one of the guest's, and the CPUs for its vCPUs, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Candidate {
    /// The LLC's lowest CPU, which names it.
    pub(super) first: u32,
    pub(super) cpus: Vec<u32>,
}

/// The host LLCs of which any may take one of the guest's; enough of them for all. Larger ones are kept for larger needs: they
/// come last.
pub(super) fn candidates(
    topology: &Topology,
    host: &HostCpus,
) -> Result<Vec<Candidate>, Unavailable> {
    let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    let all = count(host.all().count());
    let needed = topology.total_cpus().saturating_add(1);
    if all < needed {
        return Err(Unavailable {
            what: "host CPUs, one of them for the host itself",
            needed,
            found: all,
        });
    }
    let mut llcs: Vec<&Llc> = host.llcs.iter().collect();
    llcs.sort_by_key(|llc| llc.iter().map(Vec::len).sum::<usize>());
    let fitting: Vec<Candidate> = llcs
        .into_iter()
        .filter_map(|llc| {
            Some(Candidate {
                first: llc.iter().flatten().copied().min()?,
                cpus: place(topology, llc)?,
            })
        })
        .collect();
    let wanted = usize::try_from(topology.llcs()).unwrap_or(usize::MAX);
    if fitting.len() < wanted {
        return Err(Unavailable {
            what: "host LLCs with enough cores for one of the guest's",
            needed: topology.llcs(),
            found: count(fitting.len()),
        });
    }
    Ok(fitting)
}

/// The CPUs of a host LLC for the vCPUs of one of the guest's.
fn place(topology: &Topology, llc: &Llc) -> Option<Vec<u32>> {
    let size = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
    let (cores, threads) = (
        size(topology.cores_per_llc()),
        size(topology.threads_per_core()),
    );
    let whole = || llc.iter().filter(|core| core.len() >= threads);
    if whole().count() >= cores {
        let of_core = |core: &Vec<u32>| core.iter().copied().take(threads).collect::<Vec<_>>();
        return Some(whole().take(cores).flat_map(of_core).collect());
    }
    let no_smt = llc.iter().all(|core| core.len() == 1);
    let wanted = cores.saturating_mul(threads);
    (no_smt && llc.len() >= wanted).then(|| llc.iter().flatten().copied().take(wanted).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// On a host without other users.
    fn first_choice(topology: &Topology, host: &HostCpus) -> Result<Vec<u32>, Unavailable> {
        let llcs = usize::try_from(topology.llcs()).unwrap();
        let candidates = candidates(topology, host)?;
        Ok(candidates
            .into_iter()
            .take(llcs)
            .flat_map(|llc| llc.cpus)
            .collect())
    }

    #[track_caller]
    fn check(shape: &str, llcs: Vec<Llc>, expected: Result<&[u32], (u32, u32)>) {
        let found = first_choice(&shape.parse().unwrap(), &HostCpus { llcs });
        match expected {
            Ok(cpus) => assert_eq!(found.unwrap(), cpus),
            Err((needed, had)) => {
                let error = found.unwrap_err();
                assert_eq!((error.needed, error.found), (needed, had), "{error:?}");
            }
        }
    }

    /// Cores of one CPU each.
    fn plain(cpus: &[u32]) -> Llc {
        cpus.iter().map(|cpu| vec![*cpu]).collect()
    }

    #[test]
    fn llcs_go_to_llcs_and_a_cpu_is_left_to_the_host() {
        let host = || vec![plain(&[0, 1, 2, 3]), plain(&[4, 5]), plain(&[6, 7])];
        check("1n2l2c1t", host(), Ok(&[4, 5, 6, 7]));
        check("1n1l3c1t", host(), Ok(&[0, 1, 2]));
        check("1n1l4c2t", host(), Err((9, 8)));
        check("1n2l4c1t", host(), Err((9, 8)));
        check("1n1l4c1t", vec![plain(&[0, 1, 2, 3])], Err((5, 4)));
        check("1n2l1c1t", vec![plain(&[0, 1, 2, 3])], Err((2, 1)));
        check(
            "1n2l2c1t",
            vec![plain(&[0, 1, 2]), plain(&[3, 4, 5])],
            Ok(&[0, 1, 3, 4]),
        );
    }

    #[test]
    fn guest_cores_are_host_cores() {
        // Siblings side by side, as on client CPUs, and far apart, as on servers.
        let near = || vec![vec![vec![0, 1], vec![2, 3], vec![4], vec![5]]];
        let far = || vec![vec![vec![0, 4], vec![1, 5], vec![2, 6], vec![3, 7]]];
        check("1n1l2c1t", near(), Ok(&[0, 2]));
        check("1n1l2c2t", near(), Ok(&[0, 1, 2, 3]));
        check("1n1l4c1t", near(), Ok(&[0, 2, 4, 5]));
        check("1n1l2c2t", far(), Ok(&[0, 4, 1, 5]));
        check("1n1l3c1t", far(), Ok(&[0, 1, 2]));
        // Four CPUs of two cores are not four cores.
        check("1n1l3c1t", vec![vec![vec![0, 1], vec![2, 3]]], Err((1, 0)));
        // Without SMT two cores stand for one of two threads.
        check("1n1l1c2t", vec![plain(&[0, 1, 2])], Ok(&[0, 1]));
    }

    proptest! {
        #[test]
        fn no_cpu_is_given_twice_and_llcs_are_not_mixed(
            sizes in proptest::collection::vec(1u32..9, 1..6), smt in 1u32..3,
            llcs in 1u32..4, cores in 1u32..5, threads in 1u32..3,
        ) {
            let mut next = 0;
            let mut core = || { let core = (next..next + smt).collect::<Vec<u32>>(); next += smt; core };
            let host = HostCpus {
                llcs: sizes.iter().map(|size| (0..*size).map(|_| core()).collect()).collect(),
            };
            let topology = Topology::new(1, llcs, cores, threads).unwrap();
            if let Ok(cpus) = first_choice(&topology, &host) {
                let mut sorted = cpus.clone();
                sorted.sort_unstable();
                sorted.dedup();
                prop_assert_eq!(sorted.len(), cpus.len());
                prop_assert_eq!(cpus.len(), topology.total_cpus() as usize);
                prop_assert!(cpus.len() < host.all().count());
                for guest in cpus.chunks((cores * threads) as usize) {
                    let within = |llc: &Llc| guest.iter().all(|cpu| llc.iter().flatten().any(|host| host == cpu));
                    prop_assert!(host.llcs.iter().any(within));
                    // Cores of the guest share no core of the host.
                    let core_of = |cpu: &u32| cpu / smt;
                    for (index, one) in guest.chunks(threads as usize).enumerate() {
                        for other in guest.chunks(threads as usize).skip(index + 1) {
                            prop_assert!(one.iter().all(|cpu| other.iter().all(|next| core_of(cpu) != core_of(next))));
                        }
                    }
                }
            }
        }
    }
}
