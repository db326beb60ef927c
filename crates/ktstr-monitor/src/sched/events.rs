//! `struct scx_event_stats`: what sched_ext had to do on its own, summed over CPUs (6.14 and later).

use std::collections::BTreeMap;

use super::ScxPlaces;
use crate::{Kernel, Kva, Result};

/// Event counters by name without `SCX_EV_`, lower case.
pub type EventCounters = BTreeMap<String, i64>;

impl Kernel {
    /// Sums over all possible CPUs; none on a kernel without counters.
    ///
    /// # Errors
    /// When they are there and cannot be read.
    pub fn scx_events(&self) -> Result<Option<EventCounters>> {
        let Some(ty) = self.btf().find_struct("scx_event_stats") else {
            return Ok(None);
        };
        let Some(pointer) = self.event_pointer()? else {
            return Ok(None);
        };
        let mut sums = EventCounters::new();
        for cpu in self.possible_cpus() {
            let stats = self.per_cpu(pointer, cpu)?;
            for member in ty.members() {
                let at = stats.wrapping_add(u64::from(member.bit_offset / 8));
                let name = member.name.strip_prefix("SCX_EV_").unwrap_or(member.name);
                let sum = sums.entry(name.to_ascii_lowercase()).or_default();
                *sum = sum.wrapping_add(self.read_u64(at)?.cast_signed());
            }
        }
        Ok(Some(sums))
    }

    /// The per-CPU pointer to the counters.
    pub(crate) fn event_pointer(&self) -> Result<Option<Kva>> {
        let sched = match ScxPlaces::find(self)? {
            Some(places) => places.sched(self)?,
            None => None,
        };
        if let Some(sched) = sched {
            // 6.18: in struct scx_sched_pcpu; before, a per-CPU pointer of the scheduler's.
            if let Ok(pcpu) = sched.pointer("pcpu") {
                let offset = self.field_of("scx_sched_pcpu", "event_stats")?.offset;
                return Ok((!pcpu.is_null()).then(|| pcpu.wrapping_add(offset)));
            }
            if let Ok(pointer) = sched.pointer("event_stats_cpu") {
                return Ok((!pointer.is_null()).then_some(pointer));
            }
        }
        Ok(self.symbol("event_stats_cpu").ok())
    }
}
