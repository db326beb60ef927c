//! What the scheduler does to tasks, event by event, in virtual time: the guest stands still before each of a few functions of
//! the kernel, whose arguments say what happens. That changes nothing of what the guest does next.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufWriter};
use std::path::Path;
use std::time::Duration;

use ktstr_monitor::{Error, Kernel, Kva, Object, Result};
use ktstr_vmm::{VcpuRegs, WatchId};

use crate::model::events::{Event, EventWriter, Stopped, What};

/// Functions at whose entry something happens to a task. Each is called by address or by name from several places, so that none is
/// inlined into all of them.
const PLACES: [(&str, Place); 6] = [
    // arch/x86/entry/entry_64.S: (prev, next), for every switch but one to the same task.
    ("__switch_to_asm", Place::Switch),
    // kernel/sched/{fair,rt,deadline,ext}.c: (rq, p, flags), by pointer from the class's table.
    ("enqueue_task_fair", Place::Enqueue),
    ("enqueue_task_rt", Place::Enqueue),
    ("enqueue_task_dl", Place::Enqueue),
    ("enqueue_task_scx", Place::Enqueue),
    // kernel/sched/core.c: (p, new_cpu), also where that is the same CPU.
    ("set_task_cpu", Place::SetCpu),
];
/// Those without which there is no story to tell; classes may be missing from a kernel.
const NEEDED: [&str; 3] = ["__switch_to_asm", "enqueue_task_fair", "set_task_cpu"];

/// `ENQUEUE_WAKEUP` and `ENQUEUE_RESTORE` (kernel/sched/sched.h).
const ENQUEUE_WAKEUP: u64 = 1;
const ENQUEUE_RESTORE: u64 = 2;
/// `TASK_ON_RQ_QUEUED` (kernel/sched/sched.h).
const ON_RQ_QUEUED: i32 = 1;
/// `TASK_DEAD` (include/linux/sched.h).
const TASK_DEAD: u64 = 0x80;

/// What a place's arguments mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Switch,
    Enqueue,
    SetCpu,
}

/// Writes a run's events.
#[derive(Debug)]
pub(super) struct Recorder {
    file: Option<EventWriter<BufWriter<File>>>,
    places: HashMap<WatchId, Place>,
    /// Why there are no more.
    cut: Option<String>,
}

impl Recorder {
    /// Begins a file.
    pub(super) fn new(path: &Path) -> io::Result<Self> {
        let file = EventWriter::new(BufWriter::new(File::create(path)?))?;
        Ok(Self {
            file: Some(file),
            places: HashMap::new(),
            cut: None,
        })
    }

    /// Watches the places, by `watch`.
    pub(super) fn begin(
        &mut self,
        kernel: &Kernel,
        mut watch: impl FnMut(u64) -> std::result::Result<WatchId, String>,
    ) {
        for (name, place) in PLACES {
            let found = kernel.symbol(name);
            let is_needed = NEEDED.contains(&name);
            let watched = match found {
                Ok(kva) => watch(kva.0),
                Err(_) if !is_needed => continue,
                Err(error) => Err(error.to_string()),
            };
            match watched {
                Ok(id) => {
                    self.places.insert(id, place);
                }
                Err(reason) => {
                    self.cut(format!("{name} cannot be watched: {reason}"));
                    return;
                }
            }
        }
    }

    /// Whether a hit of this watch is an event of the scheduler's.
    pub(super) fn knows(&self, id: WatchId) -> bool {
        self.places.contains_key(&id)
    }

    /// Notes what happens at a hit. Every vCPU stands still.
    pub(super) fn note(&mut self, kernel: &Kernel, id: WatchId, vcpu: &VcpuRegs, at: Duration) {
        let Some(place) = self.places.get(&id) else {
            return;
        };
        let happening = match place {
            Place::Switch => switch(kernel, vcpu),
            Place::Enqueue => enqueue(kernel, vcpu),
            Place::SetCpu => set_cpu(kernel, vcpu),
        };
        let found = match happening {
            Ok(found) => found,
            Err(error) => {
                self.cut(format!("a task cannot be read: {error}"));
                return;
            }
        };
        let at_ns = u64::try_from(at.as_nanos()).unwrap_or(u64::MAX);
        for (task, what) in found.into_iter().flatten() {
            let event = Event {
                at_ns,
                cpu: vcpu.vcpu,
                pid: task.pid,
                comm: task.comm,
                what,
            };
            let Some(file) = &mut self.file else { return };
            match file.push(&event) {
                Ok(true) => {}
                Ok(false) => self.cut(String::from("there are too many")),
                Err(error) => self.cut(format!("they cannot be written: {error}")),
            }
        }
    }

    fn cut(&mut self, reason: String) {
        tracing::debug!(reason, "no more events");
        self.cut.get_or_insert(reason);
    }

    /// Watches that are of no use any more.
    pub(super) fn useless(&mut self) -> Vec<WatchId> {
        if self.cut.is_none() {
            return Vec::new();
        }
        self.places.drain().map(|(id, _)| id).collect()
    }

    /// The run is over.
    pub(super) fn finish(&mut self) -> io::Result<()> {
        let cut = self.cut.as_deref();
        self.file.take().map_or(Ok(()), |file| file.finish(cut))
    }
}

/// Which task, and what is done to it. A switch is two events.
type Happening = [Option<(Named, What)>; 2];

struct Named {
    pid: i32,
    comm: String,
}

/// Idle tasks are none.
fn named(task: &Object<'_>) -> Result<Option<Named>> {
    let pid = task.i32("pid")?;
    if pid == 0 {
        return Ok(None);
    }
    let comm = task.text("comm")?;
    Ok(Some(Named { pid, comm }))
}

fn switch(kernel: &Kernel, vcpu: &VcpuRegs) -> Result<Happening> {
    let previous = kernel.object("task_struct", Kva(vcpu.rdi))?;
    let next = kernel.object("task_struct", Kva(vcpu.rsi))?;
    let stopped = match named(&previous)? {
        Some(task) => Some((task, What::Stop(stopped(&previous)?))),
        None => None,
    };
    Ok([stopped, named(&next)?.map(|task| (task, What::Run))])
}

fn stopped(task: &Object<'_>) -> Result<Stopped> {
    // Linux 5.14 renamed `state` (2f064a59a11f).
    let state = task.uint("__state").or_else(|_| task.uint("state"))?;
    Ok(if task.i32("on_rq")? != 0 && !is_delayed(task) {
        Stopped::Runnable
    } else if state & TASK_DEAD != 0 {
        Stopped::Dead
    } else {
        Stopped::Asleep
    })
}

/// Asleep, and still in its queue (`sched_delayed`, 152e11f6df29, Linux 6.12).
fn is_delayed(task: &Object<'_>) -> bool {
    task.uint("se.sched_delayed")
        .is_ok_and(|delayed| delayed != 0)
}

fn enqueue(kernel: &Kernel, vcpu: &VcpuRegs) -> Result<Happening> {
    let queue = kernel.object("rq", Kva(vcpu.rdi))?;
    let task = kernel.object("task_struct", Kva(vcpu.rsi))?;
    let flags = vcpu.rdx;
    let wakes = flags & ENQUEUE_WAKEUP != 0
        || (is_delayed(&task)
            && flags & ENQUEUE_RESTORE == 0
            && task.i32("on_rq")? == ON_RQ_QUEUED);
    if !wakes {
        return Ok([None, None]);
    }
    let on = cpu(queue.int("cpu")?)?;
    Ok([named(&task)?.map(|task| (task, What::Wake { on })), None])
}

fn set_cpu(kernel: &Kernel, vcpu: &VcpuRegs) -> Result<Happening> {
    let task = kernel.object("task_struct", Kva(vcpu.rdi))?;
    let from = cpu(task.int("thread_info.cpu")?)?;
    // The argument is 32 bits wide.
    let to = u32::try_from(vcpu.rsi & u64::from(u32::MAX)).unwrap_or(u32::MAX);
    if from == to {
        return Ok([None, None]);
    }
    let what = What::Migrate { from, to };
    Ok([named(&task)?.map(|task| (task, what)), None])
}

fn cpu(number: i64) -> Result<u32> {
    u32::try_from(number).map_err(|_| Error::Implausible {
        what: "number of a CPU",
        value: number.cast_unsigned(),
    })
}
