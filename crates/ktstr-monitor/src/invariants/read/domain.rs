//! Sched domains.

use super::super::books::Domain;
use super::Reader;
use crate::{Error, Result};

/// Levels of sched domains, and groups of one.
const MAX_LEVELS: usize = 16;
const MAX_DOMAIN_GROUPS: usize = 1024;

impl Reader<'_> {
    /// None while domains are being built anew.
    pub(super) fn domains(&mut self, cpus: &[u32]) -> Option<Vec<Domain>> {
        let mutex = self.kernel.symbol("sched_domains_mutex").ok()?;
        let mutex = self.kernel.object("mutex", mutex).ok()?;
        if self.uint(&mutex, "owner.counter") != Some(0) {
            return None;
        }
        let mut found = Vec::new();
        for &cpu in cpus {
            let levels = self.domains_of(cpu);
            found.extend(self.problems.keep("sched domains", levels)?);
        }
        Some(found)
    }

    pub(super) fn domains_of(&mut self, cpu: u32) -> Result<Vec<Domain>> {
        let kernel = self.kernel;
        let rq = kernel.object("rq", kernel.per_cpu_symbol("runqueues", cpu)?)?;
        let mut levels = Vec::new();
        let mut next = rq.follow("sd")?;
        while let Some(domain) = next {
            if levels.len() == MAX_LEVELS {
                let limit = MAX_LEVELS;
                let what = "a sched domain tree";
                return Err(Error::TooLong { what, limit });
            }
            let mut groups = Vec::new();
            let first = domain.pointer("groups")?;
            let mut at = domain.follow("groups")?;
            while let Some(group) = at {
                self.room = self.room.saturating_sub(1);
                if groups.len() == MAX_DOMAIN_GROUPS || self.room == 0 {
                    let limit = MAX_DOMAIN_GROUPS;
                    let what = "a sched domain's groups";
                    return Err(Error::TooLong { what, limit });
                }
                let cpus = kernel.cpus_of_mask(group.address_of("cpumask")?)?;
                groups.push((cpus, self.uint(&group, "group_weight")));
                at = group.follow("next")?.filter(|next| next.kva() != first);
            }
            levels.push(Domain {
                cpu,
                depth: levels.len(),
                span: kernel.domain_span(&domain)?,
                weight: self.uint(&domain, "span_weight"),
                groups,
            });
            next = domain.follow("parent")?;
        }
        Ok(levels)
    }
}
