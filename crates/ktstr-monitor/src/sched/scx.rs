//! sched_ext's own state, in both layouts.
//!
//! Up to 6.15 it is global: `scx_exit_kind`, `scx_exit_info`, `scx_watchdog_timeout`, …. Later (48e12672 "sched_ext:
//! Introduce scx_sched", 6.16) it hangs off `scx_root`, a pointer to `struct scx_sched`. Which one it is, symbols say.
//! From 7.1 on there may be a tree of those, one for a cgroup each: `scx_sched_all` lists them.

use serde::Serialize;

use super::EventCounters;
use crate::btf::Kind;
use crate::{Error, Kernel, Kva, Object, Optional as _, Problems, Result};

/// `SCX_EXIT_MSG_LEN`, and eight times `SCX_EXIT_DUMP_DFL_LEN`: a scheduler may want more than that.
const MAX_MESSAGE: usize = 1024;
const MAX_DUMP: usize = 256 << 10;
/// `SCX_EXIT_BT_LEN`.
const MAX_BACKTRACE: u64 = 64;
/// One for each cgroup that wants one.
const MAX_SCHEDULERS: usize = 1024;
/// `MAX_NUMNODES`.
const MAX_NODES: u32 = 1024;

/// Where this kernel keeps its state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ScxLayout {
    /// In global variables.
    #[default]
    Globals,
    /// Behind `scx_root`.
    Root,
}

/// The layout, and where its anchor is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ScxPlaces {
    pub(crate) layout: ScxLayout,
    root: Kva,
}

impl ScxPlaces {
    /// None on a kernel without sched_ext. Newest first.
    pub(crate) fn find(kernel: &Kernel) -> Result<Option<Self>> {
        if let Some(root) = kernel.symbol("scx_root").optional()? {
            // 6.12 to 6.15 have a kobject of that name in other files' scope only, never this type.
            if kernel.type_id("scx_sched").is_ok() {
                return Ok(Some(Self {
                    layout: ScxLayout::Root,
                    root,
                }));
            }
        }
        let exit_kind = kernel.symbol("scx_exit_kind").optional()?;
        Ok(exit_kind.map(|root| Self {
            layout: ScxLayout::Globals,
            root,
        }))
    }

    /// The scheduler's object; none in the old layout, and while none was ever attached.
    pub(crate) fn sched<'k>(&self, kernel: &'k Kernel) -> Result<Option<Object<'k>>> {
        if self.layout == ScxLayout::Globals {
            return Ok(None);
        }
        let sched = Kva(kernel.read_u64(self.root)?);
        if sched.is_null() {
            return Ok(None);
        }
        kernel.object("scx_sched", sched).map(Some)
    }

    /// All schedulers, the root first; none in the old layout.
    pub(crate) fn schedulers<'k>(
        &self,
        kernel: &'k Kernel,
        problems: &mut Problems,
    ) -> Vec<Object<'k>> {
        let root = problems
            .keep("the root scheduler", self.sched(kernel))
            .flatten();
        let mut found: Vec<_> = root.into_iter().collect();
        let Ok(head) = kernel.symbol("scx_sched_all") else {
            return found;
        };
        let nodes = kernel.walk_list("sched_ext schedulers", head, MAX_SCHEDULERS, problems);
        for node in nodes {
            let sched = kernel.container_of(node, "scx_sched", "all");
            let sched = problems.keep("a sched_ext scheduler", sched);
            found.extend(sched.filter(|sched| root.is_none_or(|root| root.kva() != sched.kva())));
        }
        found
    }

    /// Address and value of `scx_root`; none in the old layout.
    pub(crate) fn root_pointer(&self, kernel: &Kernel) -> Result<Option<(Kva, u64)>> {
        match self.layout {
            ScxLayout::Root => Ok(Some((self.root, kernel.read_u64(self.root)?))),
            ScxLayout::Globals => Ok(None),
        }
    }

    /// Address and size of the number that one of these names: a global, or a member of the scheduler.
    pub(crate) fn number(
        &self,
        kernel: &Kernel,
        global: &'static str,
        (member, size): (&'static str, u64),
    ) -> Result<Option<(Kva, u64)>> {
        if let Some(sched) = self.sched(kernel)?
            && let Some(field) = sched.field(member).optional()?
        {
            return Ok(Some((sched.kva().wrapping_add(field.offset), field.size)));
        }
        Ok(kernel.symbol(global).optional()?.map(|kva| (kva, size)))
    }
}

/// The part of a scheduler that belongs to one CPU.
pub(super) fn sched_pcpu<'k>(sched: &Object<'k>, cpu: u32) -> Result<Object<'k>> {
    let kernel = sched.kernel();
    let area = kernel.per_cpu(sched.pointer("pcpu")?, cpu)?;
    kernel.object("scx_sched_pcpu", area)
}

/// One scheduler of a tree.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ScxScheduler {
    /// Address of its `struct scx_sched`.
    pub kva: Kva,
    /// Number of this instance, never used again (7.2 and later).
    pub id: Option<u64>,
    /// 0 for the root, one more than its parent's for others.
    pub level: Option<i64>,
    /// Path of the cgroup that it schedules.
    pub cgroup: Option<String>,
    /// Its name.
    pub ops_name: Option<String>,
    /// How many reasons there are to bypass it now.
    pub bypass_depth: Option<i64>,
    /// How long a runnable task of its may wait, jiffies.
    pub watchdog_timeout: Option<u64>,
    /// `enum scx_exit_kind` while and after it leaves.
    pub exit_kind: Option<u64>,
    /// The same in words: `error_stall`.
    pub exit_kind_name: Option<String>,
    /// What it left behind.
    pub exit: Option<ScxExit>,
    /// Its event counters.
    pub events: Option<EventCounters>,
}

/// sched_ext as a whole. What belongs to one scheduler is the root's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ScxState {
    /// Where the kernel keeps it.
    pub layout: ScxLayout,
    /// As `/sys/kernel/sched_ext/state` has it: disabled, enabling, enabled, disabling.
    pub state: Option<String>,
    /// Name of the scheduler, of the last one when disabled.
    pub ops_name: Option<String>,
    /// Whether all fair tasks are switched over.
    pub switch_all: Option<bool>,
    /// Schedulers enabled since boot.
    pub enable_seq: Option<u64>,
    /// Tasks that `init_task` rejected.
    pub nr_rejected: Option<u64>,
    /// How many reasons there are to bypass the scheduler now.
    pub bypass_depth: Option<i64>,
    /// `enum scx_exit_kind` while and after a scheduler leaves.
    pub exit_kind: Option<u64>,
    /// The same in words: `error_stall`.
    pub exit_kind_name: Option<String>,
    /// What it left behind.
    pub exit: Option<ScxExit>,
    /// How long a runnable task may wait, jiffies.
    pub watchdog_timeout: Option<u64>,
    /// When the watchdog last ran, jiffies.
    pub watchdog_timestamp: Option<u64>,
    /// The time now, jiffies.
    pub jiffies: Option<u64>,
    /// Event counters, where the kernel has them.
    pub events: Option<EventCounters>,
    /// All schedulers, the root first, where the kernel keeps them in objects (6.16 and later).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub schedulers: Vec<ScxScheduler>,
    /// CPUs that sched_ext takes for idle.
    pub idle: ScxIdle,
    /// What could not be read.
    #[serde(skip_serializing_if = "Problems::is_empty")]
    pub problems: Problems,
}

/// The built-in masks of idle CPUs; empty while a scheduler keeps its own (`SCX_OPS_KEEP_BUILTIN_IDLE` unset).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ScxIdle {
    /// Idle CPUs.
    pub cpus: Vec<u32>,
    /// CPUs of cores that are idle as a whole.
    pub smt: Vec<u32>,
}

/// `struct scx_exit_info`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ScxExit {
    /// `enum scx_exit_kind`.
    pub kind: u64,
    /// Its name without `SCX_EXIT_`, lower case.
    pub kind_name: String,
    /// The code that the scheduler gave, or the kernel.
    pub exit_code: Option<i64>,
    /// What the kernel's part of the code says, in its own words, lower case: `hotplug`, `restart`.
    pub exit_code_words: Vec<String>,
    /// The CPU that it was raised on, where the kernel notes it.
    pub exit_cpu: Option<i64>,
    /// The kernel's words for the kind.
    pub reason: Option<String>,
    /// The message.
    pub msg: Option<String>,
    /// The debug dump, if it was made already.
    pub dump: Option<String>,
    /// Where the error was raised.
    pub backtrace: Vec<String>,
}

impl ScxExit {
    /// `SCX_EXIT_ERROR`. This kind and all behind it mean that the kernel ejected the scheduler (kernel/sched/ext_internal.h:
    /// `enum scx_exit_kind`).
    pub const ERROR: u64 = 1024;
    /// `SCX_EXIT_ERROR_STALL`: a runnable task waited longer than the watchdog allows.
    pub const ERROR_STALL: u64 = 1026;
}

impl Kernel {
    /// The kernel's ticks (`jiffies_64`).
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn jiffies(&self) -> Result<u64> {
        self.global("jiffies_64", 8)
            .or_else(|_| self.global("jiffies", 8))
    }

    /// sched_ext's state; none on a kernel without it.
    ///
    /// # Errors
    /// When its anchor cannot be read.
    pub fn scx(&self) -> Result<Option<ScxState>> {
        let Some(places) = ScxPlaces::find(self)? else {
            return Ok(None);
        };
        let sched = places.sched(self)?;
        let mut problems = Problems::new();
        let mut number = |what: &str, global, member| {
            let read = places
                .number(self, global, member)
                .and_then(|place| place.map(|place| self.number_at(place)).transpose());
            problems.keep(what, read).flatten()
        };
        let exit_kind = number("exit kind", "scx_exit_kind", ("exit_kind", 4));
        let bypass_depth = number("bypass depth", "scx_ops_bypass_depth", ("bypass_depth", 4))
            .or_else(|| number("bypass depth", "scx_bypass_depth", ("bypass_depth", 4)));
        let watchdog_timeout = number(
            "watchdog timeout",
            "scx_watchdog_timeout",
            ("watchdog_timeout", 8),
        );
        let events = self.scx_events();
        let exit = self.scx_exit(&places, sched, &mut problems);
        let schedulers: Vec<_> = places
            .schedulers(self, &mut problems)
            .iter()
            .map(|sched| self.scx_scheduler(&places, sched, &mut problems))
            .collect();
        let idle = self.scx_idle(&mut problems);
        let mut global = |name: &str, size| problems.keep(name, self.global(name, size));
        Ok(Some(ScxState {
            layout: places.layout,
            exit_kind,
            exit_kind_name: exit_kind.map(|kind| exit_kind_name(self, kind)),
            bypass_depth: bypass_depth.map(|depth| crate::bytes::sign_extend(depth, 32)),
            watchdog_timeout,
            watchdog_timestamp: global("scx_watchdog_timestamp", 8),
            switch_all: global("scx_switching_all", 1).map(|value| value & 1 != 0),
            enable_seq: global("scx_enable_seq", 8),
            nr_rejected: global("scx_nr_rejected", 8),
            jiffies: self.jiffies().ok(),
            state: self.scx_enable_state().ok(),
            ops_name: self.scx_ops_name(sched, &mut problems),
            exit,
            events: problems.keep("event counters", events).flatten(),
            schedulers,
            idle,
            problems,
        }))
    }

    fn scx_scheduler(
        &self,
        places: &ScxPlaces,
        sched: &Object<'_>,
        problems: &mut Problems,
    ) -> ScxScheduler {
        let exit_kind = problems.keep("scx_sched.exit_kind", sched.uint("exit_kind"));
        let cgroup = sched.text_behind("cgrp_path", MAX_MESSAGE);
        let timeout = sched.uint("watchdog_timeout");
        let name = problems.keep("ops.name", sched.text("ops.name"));
        ScxScheduler {
            kva: sched.kva(),
            id: problems.keep("scx_sched.id", sched.uint("id")),
            level: problems.keep("scx_sched.level", sched.int("level")),
            cgroup: problems.keep("scx_sched.cgrp_path", cgroup).flatten(),
            ops_name: name.filter(|name| !name.is_empty()),
            bypass_depth: problems.keep("scx_sched.bypass_depth", sched.int("bypass_depth")),
            watchdog_timeout: problems.keep("scx_sched.watchdog_timeout", timeout),
            exit_kind,
            exit_kind_name: exit_kind.map(|kind| exit_kind_name(self, kind)),
            exit: self.scx_exit(places, Some(*sched), problems),
            events: problems
                .keep("event counters", self.scx_events_of(Some(sched)))
                .flatten(),
        }
    }

    /// One pair of masks for the machine, or one for each node as well.
    fn scx_idle(&self, problems: &mut Problems) -> ScxIdle {
        // 6.15: in `struct scx_idle_cpus`; before, in an anonymous struct of the same two members.
        let mut idle = ScxIdle::default();
        let mut holders = Vec::new();
        if let Ok(global) = self.symbol("scx_idle_global_masks") {
            holders.extend(problems.keep("idle masks", self.object("scx_idle_cpus", global)));
            let nodes = self.global("scx_idle_node_masks", 8).map(Kva);
            for node in self.node_pointers(nodes.unwrap_or_default(), problems) {
                holders.extend(problems.keep("idle masks", self.object("scx_idle_cpus", node)));
            }
        }
        if let Ok(masks) = self.symbol("idle_masks") {
            let [cpus, smt] = self.idle_masks_without_type(masks, problems);
            idle = ScxIdle { cpus, smt };
        }
        for holder in holders {
            let mut read = |path| problems.keep(path, holder.cpus(path)).unwrap_or_default();
            idle.cpus.extend(read("cpu"));
            idle.smt.extend(read("smt"));
        }
        for cpus in [&mut idle.cpus, &mut idle.smt] {
            cpus.sort_unstable();
            cpus.dedup();
        }
        idle
    }

    /// Two `cpumask_var_t` in a row, pointers or masks as everywhere in this kernel.
    fn idle_masks_without_type(&self, at: Kva, problems: &mut Problems) -> [Vec<u32>; 2] {
        let sample = self.field_of("scx_rq", "cpus_to_kick");
        let Some(sample) = problems.keep("cpumask_var_t", sample) else {
            return Default::default();
        };
        let is_pointer = self
            .btf()
            .resolve(sample.ty)
            .is_some_and(|ty| ty.kind() == Kind::Ptr);
        [at, at.wrapping_add(sample.size)].map(|place| {
            let mask = match is_pointer {
                true => self.read_u64(place).map(Kva),
                false => Ok(place),
            };
            let cpus = mask.and_then(|mask| self.cpus_of_mask(mask));
            problems.keep("idle masks", cpus).unwrap_or_default()
        })
    }

    /// The pointers in a table with one for each node; nodes without one are left out.
    fn node_pointers(&self, table: Kva, problems: &mut Problems) -> Vec<Kva> {
        let found = self.by_node(table, problems);
        found.into_iter().map(|(_, pointer)| pointer).collect()
    }

    /// Nodes and their pointers in a table; none without a table.
    pub(super) fn by_node(&self, table: Kva, problems: &mut Problems) -> Vec<(u32, Kva)> {
        if table.is_null() {
            return Vec::new();
        }
        let nodes = self.global("nr_node_ids", 4).unwrap_or(1);
        let nodes = u32::try_from(nodes).unwrap_or(1).clamp(1, MAX_NODES);
        (0..nodes)
            .filter_map(|node| {
                let at = table.wrapping_add(u64::from(node) * 8);
                let pointer = problems.need("a node's pointer", self.read_u64(at))?;
                (pointer != 0).then_some((node, Kva(pointer)))
            })
            .collect()
    }

    fn number_at(&self, (kva, size): (Kva, u64)) -> Result<u64> {
        let raw = self.read_bytes(kva, size, 8)?;
        Ok(crate::bytes::uint(&raw))
    }

    /// `enabled`, `disabled` and so on: the enumerator without its prefix.
    pub(crate) fn scx_enable_state(&self) -> Result<String> {
        // 6.17: 0e4b2f2b "sched_ext: Drop "ops" from scx_ops_enable_state".
        let (variable, enumeration, prefix) = match self.symbol("scx_enable_state_var") {
            Ok(variable) => (variable, "scx_enable_state", "SCX_"),
            Err(_) => (
                self.symbol("scx_ops_enable_state_var")?,
                "scx_ops_enable_state",
                "SCX_OPS_",
            ),
        };
        let value = u64::from(self.read_u32(variable)?);
        let ty = self
            .btf()
            .find_enum(enumeration)
            .ok_or_else(|| Error::NoType {
                name: enumeration.to_owned(),
            })?;
        let entry = ty.enumerators().find(|entry| entry.value == value);
        Ok(entry.map_or_else(
            || format!("unknown ({value})"),
            |entry| {
                let name = entry.name;
                name.strip_prefix(prefix)
                    .unwrap_or(name)
                    .to_ascii_lowercase()
            },
        ))
    }

    fn scx_ops_name(&self, sched: Option<Object<'_>>, problems: &mut Problems) -> Option<String> {
        let name = match sched {
            Some(sched) => sched.text("ops.name"),
            None => self
                .symbol("scx_ops")
                .and_then(|kva| self.object("sched_ext_ops", kva)?.text("name")),
        };
        problems
            .keep("ops.name", name)
            .filter(|name| !name.is_empty())
    }

    fn scx_exit(
        &self,
        places: &ScxPlaces,
        sched: Option<Object<'_>>,
        problems: &mut Problems,
    ) -> Option<ScxExit> {
        let info = match (places.layout, sched) {
            (ScxLayout::Root, Some(sched)) => sched.follow("exit_info"),
            (ScxLayout::Root, None) => return None,
            (ScxLayout::Globals, _) => self.global("scx_exit_info", 8).and_then(|pointer| {
                let object = self.object("scx_exit_info", Kva(pointer))?;
                Ok((pointer != 0).then_some(object))
            }),
        };
        let info = problems.keep("exit info", info).flatten()?;
        let kind = problems.keep("exit_info.kind", info.uint("kind"))?;
        let exit_code = problems.keep("exit_info.exit_code", info.int("exit_code"));
        Some(ScxExit {
            kind,
            kind_name: exit_kind_name(self, kind),
            exit_code_words: exit_code.map_or_else(Vec::new, |code| exit_code_words(self, code)),
            exit_code,
            exit_cpu: problems.keep("exit_info.exit_cpu", info.int("exit_cpu")),
            reason: problems
                .keep("exit_info.reason", info.text_behind("reason", MAX_MESSAGE))
                .flatten(),
            msg: problems
                .keep("exit_info.msg", info.text_behind("msg", MAX_MESSAGE))
                .flatten()
                .filter(|text| !text.is_empty()),
            dump: problems
                .keep("exit_info.dump", info.text_behind("dump", MAX_DUMP))
                .flatten()
                .filter(|text| !text.is_empty())
                .map(cut),
            backtrace: problems
                .keep("exit_info.bt", self.scx_backtrace(&info))
                .unwrap_or_default(),
        })
    }

    fn scx_backtrace(&self, info: &Object<'_>) -> Result<Vec<String>> {
        let frames = info.pointer("bt")?;
        let count = info.uint("bt_len")?;
        if count > MAX_BACKTRACE {
            return Err(Error::Implausible {
                what: "length of a backtrace",
                value: count,
            });
        }
        (0..count)
            .map(|number| {
                let address = Kva(self.read_u64(frames.wrapping_add(number * 8))?);
                // A frame is where a call returns to: the call itself is before it.
                Ok(match self.bpf_source(address.wrapping_sub(1)) {
                    Ok(Some(line)) => format!("{} ({line})", self.describe(address)),
                    _ => self.describe(address),
                })
            })
            .collect()
    }
}

/// Says so where a dump is longer than what is read of it.
fn cut(mut dump: String) -> String {
    if dump.len() >= MAX_DUMP {
        dump.push_str("\n(cut here; the kernel has more)");
    }
    dump
}

/// `SCX_EXIT_ERROR_STALL` is `error_stall`.
fn exit_kind_name(kernel: &Kernel, kind: u64) -> String {
    let name = kernel.lower_name("scx_exit_kind", "SCX_EXIT_", kind);
    match name == kind.to_string() {
        true => format!("unknown ({kind})"),
        false => name,
    }
}

/// The kernel's part of an exit code: why in bits 32 to 47, what the scheduler's program shall do in those above
/// (`enum scx_exit_code`). The bits below are the scheduler's own.
fn exit_code_words(kernel: &Kernel, code: i64) -> Vec<String> {
    const PARTS: [(&str, u64); 2] = [
        ("SCX_ECODE_RSN_", 0xffff << 32),
        ("SCX_ECODE_ACT_", 0xffff << 48),
    ];
    let parts = PARTS.map(|(prefix, mask)| {
        let value = code.cast_unsigned() & mask;
        let name = kernel.lower_name("scx_exit_code", prefix, value);
        (name != value.to_string()).then_some(name)
    });
    parts.into_iter().flatten().collect()
}
