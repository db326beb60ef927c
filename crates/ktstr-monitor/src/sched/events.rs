//! `struct scx_event_stats`: what sched_ext had to do on its own, summed over CPUs (6.14 and later).

use std::collections::BTreeMap;

use super::ScxPlaces;
use crate::{Kernel, Kva, Object, Result};

/// Event counters by name without `SCX_EV_`, lower case.
pub type EventCounters = BTreeMap<String, i64>;

impl Kernel {
    /// The root scheduler's counters, summed over all possible CPUs; none on a kernel without counters.
    ///
    /// # Errors
    /// When they are there and cannot be read.
    pub fn scx_events(&self) -> Result<Option<EventCounters>> {
        let root = self.root_scheduler()?;
        self.scx_events_of(root.as_ref())
    }

    /// The same of one scheduler; the machine's where the kernel keeps them in one place.
    pub(super) fn scx_events_of(
        &self,
        sched: Option<&Object<'_>>,
    ) -> Result<Option<EventCounters>> {
        let Some(ty) = self.btf().find_struct("scx_event_stats") else {
            return Ok(None);
        };
        let Some(pointer) = self.event_pointer_of(sched)? else {
            return Ok(None);
        };
        let mut sums = EventCounters::new();
        for cpu in self.possible_cpus()? {
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

    fn root_scheduler(&self) -> Result<Option<Object<'_>>> {
        match ScxPlaces::find(self)? {
            Some(places) => places.sched(self),
            None => Ok(None),
        }
    }

    /// The per-CPU pointer to the root scheduler's counters.
    pub(crate) fn event_pointer(&self) -> Result<Option<Kva>> {
        let root = self.root_scheduler()?;
        self.event_pointer_of(root.as_ref())
    }

    fn event_pointer_of(&self, sched: Option<&Object<'_>>) -> Result<Option<Kva>> {
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
