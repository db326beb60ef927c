//! Where everything that a sample reads lies.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::sample::{CpuSnapshot, MonitorSample, ProgramStats, SchedStatSnapshot, WatchedField};
use crate::bpf::MapField;
use crate::btf::Field;
use crate::sched::{ScxLayout, ScxPlaces};
use crate::{Error, Gpa, Kernel, Kva, Object, Optional as _, PhysMem, Result, bytes};

/// A number in physical memory.
#[derive(Debug, Clone, Copy)]
struct Place {
    gpa: Gpa,
    size: usize,
    field: Field,
}

impl Place {
    /// None when this kernel lacks the member.
    fn find(object: &Object<'_>, path: &'static str) -> Result<Option<Self>> {
        let Some(field) = object.field(path).optional()? else {
            return Ok(None);
        };
        Self::at(object.kernel(), object.kva(), field).map(Some)
    }

    fn at(kernel: &Kernel, base: Kva, field: Field) -> Result<Self> {
        let size = bytes::size(field.size);
        let (gpa, run) = kernel.translate(base.wrapping_add(field.offset))?;
        if size > 8 || run < field.size {
            return Err(Error::Implausible {
                what: "size of a sampled number",
                value: field.size,
            });
        }
        Ok(Self { gpa, size, field })
    }

    fn read(&self, memory: &dyn PhysMem) -> Result<u64> {
        let mut raw = [0; 8];
        let part = raw.get_mut(..self.size).unwrap_or_default();
        memory.read(self.gpa, part)?;
        Ok(self.field.decode(part))
    }

    fn read_u32(place: Option<&Self>, memory: &dyn PhysMem) -> Result<Option<u32>> {
        place
            .map(|place| place.read(memory).map(bytes::low32))
            .transpose()
    }
}

/// One CPU's places.
#[derive(Debug)]
struct CpuPlan {
    cpu: u32,
    nr_running: Place,
    clock: Place,
    curr: Place,
    idle: Place,
    scx_nr_running: Option<Place>,
    local_dsq_depth: Option<Place>,
    scx_flags: Option<Place>,
    avg_irq: Option<Place>,
    schedstat: Option<[Place; 7]>,
}

/// Where a watched member lies now, by the maps that are loaded; None when it is nowhere.
type Resolve = Box<dyn Fn(&Kernel) -> Option<MapField> + Send + Sync>;

/// A map member that is sampled too.
struct Watched {
    name: WatchedField,
    resolve: Resolve,
    /// None while no scheduler is there that has it.
    field: Option<MapField>,
}

impl std::fmt::Debug for Watched {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watched")
            .field("name", &self.name)
            .field("field", &self.field)
            .finish_non_exhaustive()
    }
}

/// Places that move when another scheduler attaches.
#[derive(Debug, Default)]
struct ScxPlan {
    /// `scx_root`'s place and the value for which the rest holds; none in the layout of globals.
    root: Option<(Kva, u64)>,
    exit_kind: Option<Kva>,
    /// Whether a scheduler is in charge or on its way: when none is, nothing of one may be read, for it is freed.
    attached: bool,
    /// `scx_enable_seq`'s place and the value for which the programs hold.
    seq: Option<(Kva, u64)>,
    /// Per event: name and each CPU's counter.
    events: Vec<(String, Vec<Gpa>)>,
    /// Per program: name and each CPU's statistics.
    programs: Vec<(String, Vec<StatsPlace>)>,
}

/// One CPU's `struct bpf_prog_stats`.
#[derive(Debug, Clone, Copy)]
struct StatsPlace {
    runs: Gpa,
    time: Gpa,
    misses: Gpa,
}

/// Takes samples of a kernel.
#[derive(Debug)]
pub struct Sampler {
    kernel: Arc<Kernel>,
    cpus: Vec<CpuPlan>,
    scx: ScxPlan,
    watched: Vec<Watched>,
}

impl Sampler {
    /// Resolves the plan for all CPUs that are online now.
    ///
    /// # Errors
    /// When runqueues cannot be found, as before the guest has set its per-CPU areas up: try again later.
    pub fn new(kernel: Arc<Kernel>) -> Result<Self> {
        let cpus = plans_of(&kernel, &kernel.online_cpus()?)?;
        let scx = ScxPlan::resolve(&kernel)?;
        Ok(Self {
            kernel,
            cpus,
            scx,
            watched: Vec::new(),
        })
    }

    /// The kernel that it samples.
    #[must_use]
    pub fn kernel(&self) -> &Arc<Kernel> {
        &self.kernel
    }

    /// Samples a map's member too, under this name. The member is looked for by `resolve` now, and again whenever another scheduler
    /// has attached, since each one has maps of its own.
    pub fn watch(
        &mut self,
        name: WatchedField,
        resolve: impl Fn(&Kernel) -> Option<MapField> + Send + Sync + 'static,
    ) {
        self.watched.push(Watched {
            name,
            field: resolve(&self.kernel),
            resolve: Box::new(resolve),
        });
    }

    /// Names of the members that are watched.
    #[must_use]
    pub fn watched(&self) -> Vec<WatchedField> {
        self.watched
            .iter()
            .map(|watched| watched.name.clone())
            .collect()
    }

    /// Takes a sample. `vcpu_cpu_time_ns` is what the host gave each vCPU so far, by CPU number; empty when unknown.
    ///
    /// # Errors
    /// When memory that the plan names is gone. A scheduler that is being replaced costs its counters, not the sample.
    pub fn sample(&mut self, elapsed_ms: u64, vcpu_cpu_time_ns: &[u64]) -> Result<MonitorSample> {
        self.follow_scheduler();
        self.follow_cpus()?;
        let memory = &**self.kernel.memory();
        let counts_schedstats = self.kernel.counts_schedstats();
        let counts_runs = self.kernel.counts_bpf_stats();
        let cpus = self
            .cpus
            .iter()
            .map(|plan| {
                let mut snapshot = plan.read(memory)?;
                if !counts_schedstats {
                    snapshot.schedstat = snapshot.schedstat.map(uncounted);
                }
                snapshot.vcpu_cpu_time_ns = vcpu_cpu_time_ns.get(plan.cpu as usize).copied();
                Ok(snapshot)
            })
            .collect::<Result<Vec<_>>>()?;
        Ok(MonitorSample {
            elapsed_ms,
            cpus,
            events: self.scx.read_events(memory),
            programs: if counts_runs {
                self.scx.read_programs(memory)
            } else {
                BTreeMap::new()
            },
            enable_seq: self.scx.seq.map(|(_, seq)| seq),
            exit_kind: self
                .scx
                .exit_kind
                .and_then(|kva| self.kernel.read_u32(kva).ok()),
            watched: self
                .watched
                .iter()
                .map(|watched| watched.field?.read(&self.kernel).ok())
                .collect(),
        })
    }

    /// Resolves sched_ext's places anew when `scx_root` points elsewhere, when another scheduler was enabled, and when one
    /// left: its counters and maps are freed then.
    fn follow_scheduler(&mut self) {
        let changed = |place: Option<(Kva, u64)>| {
            place.is_some_and(|(at, known)| self.kernel.read_u64(at).unwrap_or(0) != known)
        };
        let attached = is_attached(&self.kernel);
        if !changed(self.scx.root) && !changed(self.scx.seq) && attached == self.scx.attached {
            return;
        }
        // While a scheduler is half there, try again at the next sample.
        let forget = |place: Option<(Kva, u64)>| place.map(|(at, _)| (at, u64::MAX));
        self.scx = ScxPlan::resolve(&self.kernel).unwrap_or(ScxPlan {
            root: forget(self.scx.root),
            seq: forget(self.scx.seq),
            ..ScxPlan::default()
        });
        for watched in &mut self.watched {
            watched.field = attached.then(|| (watched.resolve)(&self.kernel)).flatten();
        }
    }

    /// Samples the CPUs that are online now: one that was switched on later is seen from then on.
    fn follow_cpus(&mut self) -> Result<()> {
        let online = self.kernel.online_cpus()?;
        if !self
            .cpus
            .iter()
            .map(|plan| plan.cpu)
            .eq(online.iter().copied())
        {
            self.cpus = plans_of(&self.kernel, &online)?;
        }
        Ok(())
    }
}

fn plans_of(kernel: &Kernel, cpus: &[u32]) -> Result<Vec<CpuPlan>> {
    cpus.iter()
        .map(|cpu| CpuPlan::resolve(kernel, *cpu))
        .collect()
}

/// Whether a scheduler is enabled, or on its way in or out. Where the kernel does not tell, one may be.
fn is_attached(kernel: &Kernel) -> bool {
    kernel
        .scx_enable_state()
        .map_or(true, |state| state != "disabled")
}

impl CpuPlan {
    fn resolve(kernel: &Kernel, cpu: u32) -> Result<Self> {
        let rq = kernel.object("rq", kernel.per_cpu_symbol("runqueues", cpu)?)?;
        let find = |path| Place::find(&rq, path);
        let need = |path: &'static str| {
            find(path)?.ok_or_else(|| Error::NoField {
                ty: "struct rq".to_owned(),
                path: path.to_owned(),
            })
        };
        const SCHEDSTAT: [&str; 7] = [
            "rq_sched_info.run_delay",
            "rq_sched_info.pcount",
            "sched_count",
            "yld_count",
            "sched_goidle",
            "ttwu_count",
            "ttwu_local",
        ];
        let schedstat = SCHEDSTAT
            .into_iter()
            .map(find)
            .collect::<Result<Option<Vec<_>>>>()?;
        Ok(Self {
            cpu,
            nr_running: need("nr_running")?,
            clock: need("clock")?,
            curr: need("curr")?,
            idle: need("idle")?,
            scx_nr_running: find("scx.nr_running")?,
            local_dsq_depth: find("scx.local_dsq.nr")?,
            scx_flags: find("scx.flags")?,
            avg_irq: find("avg_irq.util_avg")?,
            schedstat: schedstat.and_then(|places| places.try_into().ok()),
        })
    }

    fn read(&self, memory: &dyn PhysMem) -> Result<CpuSnapshot> {
        let optional = |place: &Option<Place>| Place::read_u32(place.as_ref(), memory);
        Ok(CpuSnapshot {
            cpu: self.cpu,
            nr_running: bytes::low32(self.nr_running.read(memory)?),
            rq_clock: self.clock.read(memory)?,
            is_idle: self.curr.read(memory)? == self.idle.read(memory)?,
            scx_nr_running: optional(&self.scx_nr_running)?,
            local_dsq_depth: optional(&self.local_dsq_depth)?,
            scx_flags: optional(&self.scx_flags)?,
            avg_irq_util: optional(&self.avg_irq)?,
            schedstat: match &self.schedstat {
                Some(places) => Some(read_schedstat(places, memory)?),
                None => None,
            },
            vcpu_cpu_time_ns: None,
        })
    }
}

fn read_schedstat(places: &[Place; 7], memory: &dyn PhysMem) -> Result<SchedStatSnapshot> {
    let mut values = [0; 7];
    for (value, place) in values.iter_mut().zip(places) {
        *value = place.read(memory)?;
    }
    let [
        run_delay,
        pcount,
        sched_count,
        yld_count,
        sched_goidle,
        ttwu_count,
        ttwu_local,
    ] = values;
    Ok(SchedStatSnapshot {
        run_delay,
        pcount,
        sched_count: Some(sched_count),
        yld_count: Some(yld_count),
        sched_goidle: Some(sched_goidle),
        ttwu_count: Some(ttwu_count),
        ttwu_local: Some(ttwu_local),
    })
}

/// Without what `kernel.sched_schedstats`, which is off, would count.
fn uncounted(stat: SchedStatSnapshot) -> SchedStatSnapshot {
    SchedStatSnapshot {
        run_delay: stat.run_delay,
        pcount: stat.pcount,
        ..SchedStatSnapshot::default()
    }
}

impl ScxPlan {
    fn resolve(kernel: &Kernel) -> Result<Self> {
        let Some(places) = ScxPlaces::find(kernel)? else {
            return Ok(Self::default());
        };
        let exit_kind = places.number(kernel, "scx_exit_kind", ("exit_kind", 4))?;
        let attached = is_attached(kernel);
        let mut plan = Self {
            attached,
            root: places.root_pointer(kernel)?,
            seq: sequence(kernel),
            exit_kind: exit_kind.map(|(kva, _)| kva),
            events: Vec::new(),
            // A program that is being loaded or freed costs the programs' figures, no more.
            programs: if attached {
                programs(kernel).unwrap_or_default()
            } else {
                Vec::new()
            },
        };
        // The counters of a scheduler that is gone are freed, where they are its own.
        if !attached && places.layout == ScxLayout::Root {
            return Ok(plan);
        }
        let (Some(pointer), Some(ty)) = (
            kernel.event_pointer()?,
            kernel.btf().find_struct("scx_event_stats"),
        ) else {
            return Ok(plan);
        };
        let cpus = kernel.possible_cpus()?;
        for member in ty.members() {
            let places = cpus
                .iter()
                .map(|&cpu| {
                    let at = kernel.per_cpu(pointer, cpu)?;
                    let at = at.wrapping_add(u64::from(member.bit_offset / 8));
                    Ok(kernel.translate(at)?.0)
                })
                .collect::<Result<Vec<_>>>()?;
            let name = member.name.strip_prefix("SCX_EV_").unwrap_or(member.name);
            plan.events.push((name.to_ascii_lowercase(), places));
        }
        Ok(plan)
    }

    /// What cannot be read is left out: 0 would be taken for a count.
    fn read_programs(&self, memory: &dyn PhysMem) -> BTreeMap<String, ProgramStats> {
        let sum = |places: &[StatsPlace], of: fn(&StatsPlace) -> Gpa| {
            places.iter().try_fold(0_u64, |sum, place| {
                Some(sum.wrapping_add(memory.read_u64(of(place)).ok()?))
            })
        };
        let mut found: BTreeMap<String, ProgramStats> = BTreeMap::new();
        for (name, places) in &self.programs {
            let (Some(runs), Some(time), Some(misses)) = (
                sum(places, |place| place.runs),
                sum(places, |place| place.time),
                sum(places, |place| place.misses),
            ) else {
                continue;
            };
            // Two loaded programs may have one name: an old one on its way out, or a scheduler below another.
            let stats = found.entry(name.clone()).or_default();
            stats.run_cnt = stats.run_cnt.wrapping_add(runs);
            stats.run_time_ns = stats.run_time_ns.wrapping_add(time);
            stats.recursion_misses = stats.recursion_misses.wrapping_add(misses);
        }
        found
    }

    fn read_events(&self, memory: &dyn PhysMem) -> BTreeMap<String, i64> {
        self.events
            .iter()
            .filter_map(|(name, places)| {
                let sum = places.iter().try_fold(0_i64, |sum, &gpa| {
                    let value = memory.read_u64(gpa).ok()?;
                    Some(sum.wrapping_add(value.cast_signed()))
                });
                Some((name.clone(), sum?))
            })
            .collect()
    }
}

/// `scx_enable_seq` counts schedulers that were enabled.
fn sequence(kernel: &Kernel) -> Option<(Kva, u64)> {
    let at = kernel.symbol("scx_enable_seq").ok()?;
    Some((at, kernel.read_u64(at).ok()?))
}

fn programs(kernel: &Kernel) -> Result<Vec<(String, Vec<StatsPlace>)>> {
    let offset = |path| {
        kernel
            .field_of("bpf_prog_stats", path)
            .map(|field| field.offset)
    };
    let (runs, time, misses) = (offset("cnt")?, offset("nsecs")?, offset("misses")?);
    kernel
        .struct_ops_stats()?
        .into_iter()
        .map(|(name, places)| {
            let places = places
                .into_iter()
                .map(|base| {
                    let at = |offset| Ok(kernel.translate(base.wrapping_add(offset))?.0);
                    Ok(StatsPlace {
                        runs: at(runs)?,
                        time: at(time)?,
                        misses: at(misses)?,
                    })
                })
                .collect::<Result<_>>()?;
            Ok((name, places))
        })
        .collect()
}
