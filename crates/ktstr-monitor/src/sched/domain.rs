//! `struct sched_domain`: each CPU's tree from the innermost domain outwards. Read without RCU.

use serde::Serialize;

use super::Walk;
use crate::{Error, Kernel, Object, Optional as _, Problems, Result};

/// SMT, cluster, MC, PKG and NUMA levels; a real machine has at most eight.
const MAX_LEVELS: usize = 16;

/// One level of one CPU's tree.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct SchedDomain {
    /// The CPU whose tree it is in.
    pub cpu: u32,
    /// 0 for the innermost.
    pub depth: u32,
    /// Name of the topology level (`CONFIG_SCHED_DEBUG` up to 6.14).
    pub name: Option<String>,
    /// Number of the topology level.
    pub level: Option<i64>,
    /// CPUs that it spans.
    pub span: Vec<u32>,
    /// `SD_*` flags.
    pub flags: Option<u64>,
    /// Names of the flags.
    pub flag_names: Vec<String>,
    /// Shortest balance interval, milliseconds.
    pub min_interval: Option<u64>,
    /// Longest balance interval, milliseconds.
    pub max_interval: Option<u64>,
    /// How much busier, in percent, before balancing starts.
    pub imbalance_pct: Option<u64>,
    /// Present balance interval, milliseconds.
    pub balance_interval: Option<u64>,
    /// Consecutive failures to balance.
    pub nr_balance_failed: Option<u64>,
}

impl Kernel {
    /// The trees of all online CPUs, innermost level first.
    #[must_use]
    pub fn sched_domains(&self) -> Walk<Vec<SchedDomain>> {
        let mut problems = Problems::new();
        let mut found = Vec::new();
        let flags = self.domain_flag_names();
        let cpus = problems.need("the online CPUs", self.online_cpus());
        for cpu in cpus.unwrap_or_default() {
            let tree = self.sched_domains_of(cpu, &flags, &mut problems);
            found.extend(problems.need("sched domains", tree).unwrap_or_default());
        }
        Walk { found, problems }
    }

    fn sched_domains_of(
        &self,
        cpu: u32,
        flags: &[(u64, String)],
        problems: &mut Problems,
    ) -> Result<Vec<SchedDomain>> {
        let rq = self.object("rq", self.per_cpu_symbol("runqueues", cpu)?)?;
        let mut levels = Vec::new();
        let mut next = rq.follow("sd")?;
        while let Some(domain) = next {
            if levels.len() == MAX_LEVELS {
                let error = Error::TooLong {
                    what: "a sched domain tree",
                    limit: MAX_LEVELS,
                };
                problems.note("sched domains", &error);
                break;
            }
            let depth = u32::try_from(levels.len()).unwrap_or(0);
            let mut level = self.sched_domain(&domain, (cpu, depth), problems);
            let set = level.flags.unwrap_or(0);
            level.flag_names = flags
                .iter()
                .filter(|(bit, _)| set & bit != 0)
                .map(|(_, name)| name.clone())
                .collect();
            levels.push(level);
            next = problems
                .keep("sched_domain.parent", domain.follow("parent"))
                .flatten();
        }
        Ok(levels)
    }

    fn sched_domain(
        &self,
        domain: &Object<'_>,
        (cpu, depth): (u32, u32),
        problems: &mut Problems,
    ) -> SchedDomain {
        let span = problems
            .keep("sched_domain.span", self.domain_span(domain))
            .unwrap_or_default();
        let mut read = |path| problems.keep(path, domain.uint(path));
        SchedDomain {
            cpu,
            depth,
            span,
            min_interval: read("min_interval"),
            max_interval: read("max_interval"),
            imbalance_pct: read("imbalance_pct"),
            balance_interval: read("balance_interval"),
            nr_balance_failed: read("nr_balance_failed"),
            name: problems
                .keep("sched_domain.name", domain.text_behind("name", 64))
                .flatten(),
            level: problems.keep("sched_domain.level", domain.int("level")),
            flags: problems.keep("sched_domain.flags", domain.uint("flags")),
            flag_names: Vec::new(),
        }
    }

    /// CPUs of `sched_domain_span()`: a member up to 7.0; later the mask lies behind the structure, without a name.
    pub(crate) fn domain_span(&self, domain: &Object<'_>) -> Result<Vec<u32>> {
        let mask = match domain.address_of("span").optional()? {
            Some(mask) => mask,
            None => domain.behind()?,
        };
        self.cpus_of_mask(mask)
    }

    /// The flags' names: `enum` of `include/linux/sched/topology.h`, which has no name of its own.
    fn domain_flag_names(&self) -> Vec<(u64, String)> {
        let holder = self
            .btf()
            .types()
            .find(|ty| ty.enumerators().any(|e| e.name == "SD_BALANCE_NEWIDLE"));
        holder.map_or_else(Vec::new, |ty| {
            ty.enumerators()
                .filter(|entry| entry.value.is_power_of_two())
                .map(|entry| (entry.value, entry.name.to_owned()))
                .collect()
        })
    }
}
