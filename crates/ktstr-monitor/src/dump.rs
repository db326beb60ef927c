//! The failure dump: everything that the readers know, in one report.
//!
//! A report is real or a placeholder. A placeholder says why nothing was captured; tools tell the two apart by
//! `is_placeholder` alone. Every part that could not be read is named in `problems`, and the rest stands.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::bpf::{BpfMap, BpfProgram, MapContents, SourceLine};
use crate::render::Limits;
use crate::sched::{DispatchQueue, Runqueue, SchedDomain, ScxState, Task, TaskGroup};
use crate::{Kernel, Kva, LogRecord, Problems};

/// Names the form of the JSON; a change that breaks readers changes it.
pub const DUMP_SCHEMA: &str = "ktstr.failure-dump/1";

/// How long a capture takes at most by default; the guest stands still meanwhile.
const PATIENCE: Duration = Duration::from_secs(20);

/// One vCPU's registers at the moment of capture, as the machine's owner reads them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct VcpuRegisters {
    /// Its number.
    pub vcpu: u32,
    /// Instruction pointer.
    pub rip: u64,
    /// Stack pointer.
    pub rsp: u64,
    /// Flags.
    pub rflags: u64,
    /// Page table root.
    pub cr3: u64,
}

/// What to capture, and how much of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DumpOptions {
    /// Entries of each map.
    pub map_entries: usize,
    /// Tasks.
    pub tasks: usize,
    /// Lines of the log, the newest.
    pub log_lines: usize,
    /// Bounds on each map's rendered values.
    pub limits: Limits,
    /// When to stop: sections and maps that are not begun by then are left out and named. Without one, twenty
    /// seconds after the capture began.
    pub deadline: Option<Instant>,
}

impl Default for DumpOptions {
    fn default() -> Self {
        Self {
            map_entries: 256,
            tasks: 4096,
            log_lines: 200,
            limits: Limits::default(),
            deadline: None,
        }
    }
}

/// The report.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct FailureDumpReport {
    /// [`DUMP_SCHEMA`].
    pub schema: String,
    /// Whether nothing was captured.
    pub is_placeholder: bool,
    /// Why nothing was captured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Which kernel it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel: Option<KernelSection>,
    /// Each vCPU: where it was, and its CPU's runqueue.
    pub vcpus: Vec<VcpuSection>,
    /// sched_ext.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scx: Option<ScxState>,
    /// Dispatch queues.
    pub dispatch_queues: Vec<DispatchQueue>,
    /// Runqueues of CPUs that are online.
    pub runqueues: Vec<Runqueue>,
    /// Scheduling domains.
    pub sched_domains: Vec<SchedDomain>,
    /// Threads.
    pub tasks: Vec<Task>,
    /// cgroups with a `cpu` controller.
    pub task_groups: Vec<TaskGroup>,
    /// BPF maps with contents.
    pub maps: Vec<MapSection>,
    /// BPF programs.
    pub programs: Vec<BpfProgram>,
    /// The newest lines of the log.
    pub log: Vec<LogRecord>,
    /// Parts that are there in larger number than shown.
    pub truncated: Vec<String>,
    /// What could not be read, and why.
    pub problems: Problems,
    /// Types, members and symbols that were looked for and that this kernel does not have: what was renamed or left out
    /// is absent from the sections without being wrong.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub absent: BTreeSet<String>,
}

/// Which kernel.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct KernelSection {
    /// `Linux version …`.
    pub banner: Option<String>,
    /// Build id, hex.
    pub build_id: Option<String>,
    /// KASLR's move, bytes.
    pub slide: u64,
}

/// One vCPU.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct VcpuSection {
    /// Its registers.
    #[serde(flatten)]
    pub registers: VcpuRegisters,
    /// The function that it was in, of the kernel or of a BPF program.
    pub symbol: Option<String>,
    /// The line of the BPF program's source that it was at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<SourceLine>,
    /// The task that it ran.
    pub task: Option<String>,
}

/// One map.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MapSection {
    /// What it is.
    #[serde(flatten)]
    pub map: BpfMap,
    /// What it holds.
    pub contents: MapContents,
}

impl FailureDumpReport {
    /// A report that says why there is none.
    #[must_use]
    pub fn placeholder(reason: impl Into<String>) -> Self {
        Self {
            schema: DUMP_SCHEMA.to_owned(),
            is_placeholder: true,
            reason: Some(reason.into()),
            ..Self::default()
        }
    }

    /// Reads everything; the guest should be stopped meanwhile.
    #[must_use]
    pub fn capture(kernel: &Kernel, registers: &[VcpuRegisters], options: &DumpOptions) -> Self {
        let options = &DumpOptions {
            deadline: options.deadline.or(Instant::now().checked_add(PATIENCE)),
            ..*options
        };
        let mut report = Self {
            schema: DUMP_SCHEMA.to_owned(),
            kernel: Some(kernel_section(kernel)),
            ..Self::default()
        };
        report.capture_scheduler(kernel, registers);
        if report.has_time("the log", options) {
            report.capture_log(kernel, options);
        }
        if report.has_time("tasks", options) {
            report.capture_tasks(kernel, options);
        }
        if report.has_time("maps and programs", options) {
            report.capture_bpf(kernel, options);
        }
        report.absent.extend(report.problems.absent().clone());
        report
    }

    /// Whether there is time for a section; names it where there is none.
    fn has_time(&mut self, what: &str, options: &DumpOptions) -> bool {
        let late = options
            .deadline
            .is_some_and(|deadline| Instant::now() >= deadline);
        if late {
            self.truncated.push(format!("{what} (out of time)"));
        }
        !late
    }

    fn capture_scheduler(&mut self, kernel: &Kernel, registers: &[VcpuRegisters]) {
        self.runqueues = self.take(kernel.runqueues());
        self.sched_domains = self.take(kernel.sched_domains());
        self.dispatch_queues = self.take(kernel.dispatch_queues());
        let scx = kernel.scx();
        self.scx = self.problems.keep("sched_ext", scx).flatten();
        if let Some(scx) = &self.scx {
            self.absent.extend(scx.problems.absent().clone());
        }
        self.vcpus = registers
            .iter()
            .map(|&registers| VcpuSection {
                symbol: (registers.rip != 0).then(|| kernel.describe(Kva(registers.rip))),
                source: kernel.bpf_source(Kva(registers.rip)).ok().flatten(),
                task: self
                    .runqueues
                    .iter()
                    .find(|rq| rq.cpu == registers.vcpu)
                    .and_then(|rq| rq.curr.as_ref())
                    .map(|task| format!("{} ({})", task.comm, task.pid)),
                registers,
            })
            .collect();
    }

    fn capture_tasks(&mut self, kernel: &Kernel, options: &DumpOptions) {
        self.task_groups = self.take(kernel.task_groups());
        self.tasks = self.take(kernel.tasks());
        if self.tasks.len() > options.tasks {
            self.note_cut("tasks", self.tasks.len());
            self.tasks.truncate(options.tasks);
        }
    }

    fn capture_bpf(&mut self, kernel: &Kernel, options: &DumpOptions) {
        self.programs = self.take(kernel.programs());
        let maps = self.take(kernel.maps());
        let mut problems = Problems::new();
        for map in maps {
            if !self.has_time(&format!("map {}", map.name), options) {
                break;
            }
            // One more than is shown, to know whether there are more.
            let walk = map.contents(kernel, options.map_entries + 1, options.limits);
            problems.extend(walk.problems);
            let mut contents = walk.found;
            if let MapContents::Entries(entries) = &mut contents
                && entries.len() > options.map_entries
            {
                entries.truncate(options.map_entries);
                self.truncated.push(format!("map {}", map.name));
            }
            self.maps.push(MapSection { map, contents });
        }
        self.problems.append(problems);
    }

    fn capture_log(&mut self, kernel: &Kernel, options: &DumpOptions) {
        let mut records = self.take(kernel.dmesg()).records;
        let surplus = records.len().saturating_sub(options.log_lines);
        if surplus > 0 {
            self.note_cut("log", records.len());
        }
        self.log = records.split_off(surplus);
    }

    fn note_cut(&mut self, what: &str, count: usize) {
        self.truncated.push(format!("{what} (of {count})"));
    }

    fn take<T>(&mut self, walk: crate::Walk<T>) -> T {
        self.problems.append(walk.problems);
        walk.found
    }
}

fn kernel_section(kernel: &Kernel) -> KernelSection {
    let banner = kernel
        .symbol("linux_banner")
        .and_then(|kva| kernel.read_text(kva, 512))
        .ok();
    KernelSection {
        banner: banner.map(|banner| banner.trim_end().to_owned()),
        build_id: kernel.build_id().map(crate::bytes::hex),
        slide: kernel.slide().bytes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_placeholder_says_that_it_is_one() {
        let report = FailureDumpReport::placeholder("the guest never reached init");
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["schema"], DUMP_SCHEMA);
        assert_eq!(json["is_placeholder"], true);
        assert_eq!(json["reason"], "the guest never reached init");
        assert!(json.get("kernel").is_none());
    }
}
