//! The kernel's own books: clean at many stops of a busy guest, and every rule seen to fire where bytes of a dump are changed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use ktstr_monitor::invariants::{self, Examined, Ledger, Stop, TABLE, Valid};
use ktstr_monitor::phys::Vmcore;
use ktstr_monitor::{Attach, Gpa, Kernel, Kva, Object, PhysMem, Problems, Range, Result};

use crate::initrd::{Initrd, tool};
use crate::lab::{lab, scratch};
use crate::qemu::{Machine, Qemu};

/// Stops of the busy guest that are judged.
const STOPS: usize = 40;

/// A dump, or a guest that stands still, that may be written: what is written stays here.
#[derive(Debug)]
struct Overlay {
    below: Arc<dyn PhysMem>,
    bytes: Mutex<BTreeMap<u64, u8>>,
}

impl Overlay {
    fn open(path: &Path) -> Arc<Self> {
        Self::over(Arc::new(Vmcore::open(path).unwrap()))
    }

    fn over(below: Arc<dyn PhysMem>) -> Arc<Self> {
        Arc::new(Self {
            below,
            bytes: Mutex::default(),
        })
    }

    fn forget(&self) {
        self.bytes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }
}

impl PhysMem for Overlay {
    fn read(&self, gpa: Gpa, buffer: &mut [u8]) -> Result<()> {
        self.below.read(gpa, buffer)?;
        let bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        for (at, byte) in bytes.range(gpa.0..gpa.0 + buffer.len() as u64) {
            buffer[usize::try_from(at - gpa.0).unwrap()] = *byte;
        }
        Ok(())
    }

    fn ranges(&self) -> Vec<Range> {
        self.below.ranges()
    }

    fn write(&self, gpa: Gpa, new: &[u8]) -> Result<()> {
        let mut bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        bytes.extend((gpa.0..).zip(new.iter().copied()));
        Ok(())
    }

    fn hints(&self) -> ktstr_monitor::phys::Hints {
        self.below.hints()
    }
}

/// What the busy guest left.
struct Busy {
    /// Violations at its stops.
    broken: Vec<String>,
    judged: usize,
    /// Rules that fired at one of its stops, with that stop's bytes changed.
    fired: BTreeSet<&'static str>,
    /// Of a stop at which all runqueues' locks were free.
    vmcore: PathBuf,
}

fn busy() -> &'static Busy {
    static BUSY: OnceLock<Busy> = OnceLock::new();
    BUSY.get_or_init(boot)
}

fn boot() -> Busy {
    let dir = scratch("books");
    let load = dir.join("load");
    let guest = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/guest");
    let built = Command::new("cc")
        .args(["-O1", "-static", "-o"])
        .arg(&load)
        .arg(guest.join("load.c"))
        .status()
        .unwrap();
    assert!(built.success());
    let image = dir.join("initrd");
    let mut initrd = Initrd::default();
    for empty in ["proc", "sys", "dev"] {
        initrd.dir(empty);
    }
    initrd
        .file("/init", include_bytes!("guest/books.sh"))
        .program("/bin/busybox", &tool("busybox"))
        .program("/bin/load", &load)
        .write(&image);
    let machine = Machine {
        smp: "4,sockets=2,cores=2",
        memory_mib: 512,
        cmdline: "psi=1",
    };
    let mut qemu = Qemu::boot(&dir, &image, &machine);
    qemu.wait_for("@@READY");
    let vmcore = dir.join("vmcore");
    let kernel = Attach::new(Arc::new(qemu.memory())).attach().unwrap();
    let mut ledger = Ledger::new(Stop::default());
    let (_keep, never) = std::sync::mpsc::channel::<()>();
    let changed = Changed::of(&qemu);
    let (mut broken, mut judged, mut dumped) = (Vec::new(), 0, false);
    let mut fired = BTreeSet::new();
    for stop in 0..STOPS * 4 {
        if stop >= STOPS && dumped {
            break;
        }
        // An odd pace, so that no period of the guest's is met.
        let _ = never.recv_timeout(Duration::from_micros(37_300));
        qemu.stop();
        let examined = invariants::examine(&kernel, &Stop::default());
        assert!(examined.problems.is_empty(), "{:?}", examined.problems);
        judged += examined.judged;
        broken.extend(examined.violations.iter().map(ToString::to_string));
        broken.extend(ledger.look(&kernel).iter().map(ToString::to_string));
        if examined.unjudged.is_empty() {
            changed.break_rules(&mut fired, |_| true);
        }
        if !dumped && examined.unjudged.is_empty() && waits(&kernel) {
            qemu.dump(&vmcore);
            dumped = true;
        }
        qemu.resume();
    }
    assert!(dumped, "at every stop a runqueue's lock was held");
    broken.sort();
    broken.dedup();
    Busy {
        broken,
        judged,
        fired,
        vmcore,
    }
}

/// A guest that stands still, with bytes that are changed here alone.
struct Changed {
    kernel: Kernel,
    overlay: Arc<Overlay>,
}

impl Changed {
    fn of(qemu: &Qemu) -> Self {
        let overlay = Overlay::over(Arc::new(qemu.memory()));
        let kernel = Attach::new(Arc::clone(&overlay) as _).attach().unwrap();
        Self { kernel, overlay }
    }

    /// Breaks each rule that has not fired, and notes those that do. No one moment has all that the rules are about.
    fn break_rules(&self, fired: &mut BTreeSet<&'static str>, which: impl Fn(&str) -> bool) {
        for rule in TABLE.iter().filter(|rule| which(rule.name)) {
            if fired.contains(rule.name) {
                continue;
            }
            if breaker(rule.name)(&self.kernel).is_ok() && fires(&self.kernel, rule) {
                fired.insert(rule.name);
            }
            self.overlay.forget();
        }
    }
}

/// Rules of sched_ext that fired at one of many stops of a guest with a BPF scheduler.
pub(crate) fn ext_rules_fired(qemu: &mut Qemu) -> BTreeSet<&'static str> {
    let changed = Changed::of(qemu);
    let (_keep, never) = std::sync::mpsc::channel::<()>();
    let mut fired = BTreeSet::new();
    for _ in 0..STOPS {
        let _ = never.recv_timeout(Duration::from_micros(37_300));
        qemu.stop();
        changed.break_rules(&mut fired, |name| name.starts_with("ext-"));
        qemu.resume();
    }
    fired
}

/// Whether a fair task runs somewhere where another waits, which several rules need.
fn waits(kernel: &Kernel) -> bool {
    (0..2).any(|cpu| {
        let rq = rq_of(kernel, cpu);
        let Ok(Some(curr)) = rq.follow("curr") else {
            return false;
        };
        class_of(kernel, &curr) == "fair" && tree(&rq) != 0
    })
}

#[test]
fn a_busy_guest_breaks_no_rule() {
    let busy = busy();
    assert!(busy.broken.is_empty(), "{:#?}", busy.broken);
    assert!(busy.judged > STOPS, "{} runqueues judged", busy.judged);
}

#[test]
fn dumps_break_no_rule() {
    for path in [&lab().vmcore, &busy().vmcore] {
        let kernel = Attach::new(Overlay::open(path)).attach().unwrap();
        let examined = invariants::examine(&kernel, &Stop::default());
        assert!(examined.problems.is_empty(), "{:?}", examined.problems);
        assert!(examined.violations.is_empty(), "{:#?}", examined.violations);
        assert!(examined.judged > 0);
    }
}

/// Nothing of a runqueue whose lock is held is judged.
#[test]
fn a_held_lock_leaves_a_runqueue_unjudged() {
    let memory = Overlay::open(&busy().vmcore);
    let kernel = Attach::new(Arc::clone(&memory) as _).attach().unwrap();
    let rq = rq_of(&kernel, 1);
    bump(&rq, "nr_running");
    let of = |examined: &Examined| (examined.violations.len(), examined.unjudged.len());
    assert_eq!(of(&examine(&kernel, "rq-nr-running")), (1, 0));
    write(&rq, "__lock.raw_lock.val.counter", 1);
    assert_eq!(of(&examine(&kernel, "rq-nr-running")), (0, 1));
}

/// Rules of sched_ext for which no stop of its guest may have anything that can be changed.
const MOST_WITHOUT: usize = 5;

/// Each rule, with a change of bytes that breaks it.
#[test]
fn every_rule_fires() {
    let memory = Overlay::open(&lab().vmcore);
    let kernel = Attach::new(Arc::clone(&memory) as _).attach().unwrap();
    let (mut silent, mut without) = (Vec::new(), Vec::new());
    for rule in TABLE {
        // Of sched_ext only the other guest has something.
        let here = breaker(rule.name)(&kernel).map(|()| fires(&kernel, rule));
        memory.forget();
        let elsewhere = [&busy().fired, &lab().fired];
        let fired = here == Ok(true) || elsewhere.iter().any(|fired| fired.contains(rule.name));
        match here {
            _ if known_absent(&kernel).contains(&rule.name) => assert!(!fired, "{}", rule.name),
            _ if fired => {}
            Ok(_) => silent.push(rule.name),
            Err(_) => without.push(rule.name),
        }
    }
    assert!(silent.is_empty(), "{silent:?}");
    // A queue may be empty at each of the stops.
    let of_ext = without.iter().all(|name| name.starts_with("ext-"));
    assert!(of_ext && without.len() <= MOST_WITHOUT, "{without:?}");
}

/// Rules about what this kernel does not have.
fn known_absent(kernel: &Kernel) -> &'static [&'static str] {
    match kernel.field_of("cfs_rq", "h_curr") {
        Ok(_) => &[
            "cfs-h-nr-runnable",
            "cfs-group-slice",
            "group-throttled-entity",
            "group-weight",
        ],
        Err(_) => &["ext-dsq-first"],
    }
}

fn examine(kernel: &Kernel, name: &str) -> Examined {
    let only = Some(vec![name.to_owned()]);
    invariants::examine(kernel, &Stop { only })
}

fn fires(kernel: &Kernel, rule: &invariants::Invariant) -> bool {
    let stop = Stop {
        only: Some(vec![rule.name.to_owned()]),
    };
    let mut ledger = Ledger::new(stop);
    let mut found = ledger.look(kernel);
    if let Valid::TwoStops(_) = rule.valid {
        assert!(found.is_empty(), "{found:?}");
        for cpu in kernel.online_cpus().unwrap() {
            let rq = rq_of(kernel, cpu);
            let later = rq.uint("clock").unwrap() + 5_000_000_000;
            write(&rq, "clock", later);
        }
        found = ledger.look(kernel);
    }
    found
        .iter()
        .any(|violation| violation.invariant == rule.name)
}

type Breaker = fn(&Kernel) -> std::result::Result<(), String>;

fn none(what: &str) -> std::result::Result<(), String> {
    Err(format!("this dump has no {what}"))
}

fn rq_of(kernel: &Kernel, cpu: u32) -> Object<'_> {
    let at = kernel.per_cpu_symbol("runqueues", cpu).unwrap();
    kernel.object("rq", at).unwrap()
}

fn write(object: &Object<'_>, path: &'static str, value: u64) {
    object.write_uint(path, value).unwrap();
}

/// One more than it was, or one less where that is a signed count's -1.
fn bump(object: &Object<'_>, path: &'static str) {
    let value = object.uint(path).unwrap();
    let is_last = matches!(value, 0xffff_ffff | u64::MAX);
    write(object, path, if is_last { value - 1 } else { value + 1 });
}

/// The first of these members that this kernel has.
fn bump_any(object: &Object<'_>, paths: &[&'static str]) -> std::result::Result<(), String> {
    let has = paths.iter().find(|path| object.field(path).is_ok());
    let Some(path) = has else {
        return none("such member");
    };
    bump(object, path);
    Ok(())
}

fn is_free(rq: &Object<'_>) -> bool {
    let lock = rq.uint("__lock.raw_lock.val.counter").ok();
    let curr = rq.follow("curr").unwrap().unwrap();
    lock == Some(0)
        && curr.uint("on_rq").ok() == Some(1)
        && curr.uint("se.sched_delayed").ok() == Some(0)
        || lock == Some(0) && Some(curr.kva()) == rq.pointer("idle").ok()
}

/// Runqueues that are judged.
fn free(kernel: &Kernel) -> Vec<Object<'_>> {
    let cpus = kernel.online_cpus().unwrap();
    let all = cpus.into_iter().map(|cpu| rq_of(kernel, cpu));
    all.filter(is_free).collect()
}

fn any_rq(
    kernel: &Kernel,
    change: impl FnOnce(&Object<'_>) -> std::result::Result<(), String>,
) -> std::result::Result<(), String> {
    match free(kernel).first() {
        Some(rq) => change(rq),
        None => none("free runqueue"),
    }
}

fn class_of(kernel: &Kernel, task: &Object<'_>) -> &'static str {
    let class = task.uint("sched_class").unwrap();
    ["fair", "ext", "rt", "dl", "idle", "stop"]
        .into_iter()
        .find(|name| kernel.symbols().find(&format!("{name}_sched_class")) == Some(class))
        .unwrap_or("unknown")
}

fn tasks(kernel: &Kernel) -> Vec<Object<'_>> {
    let threads = kernel.threads(&mut Problems::new()).unwrap();
    threads
        .into_iter()
        .map(|kva| kernel.object("task_struct", kva).unwrap())
        .collect()
}

fn cpu_of(task: &Object<'_>) -> u32 {
    task.u32("thread_info.cpu")
        .or_else(|_| task.u32("cpu"))
        .unwrap()
}

/// A task of a judged runqueue that is like this.
fn a_task<'k>(
    kernel: &'k Kernel,
    what: &str,
    is_it: impl Fn(&Object<'k>, &Object<'k>) -> bool,
) -> std::result::Result<Object<'k>, String> {
    let free = free(kernel);
    tasks(kernel)
        .into_iter()
        .find(|task| {
            let rq = rq_of(kernel, cpu_of(task));
            free.iter().any(|one| one.kva() == rq.kva()) && is_it(task, &rq)
        })
        .ok_or_else(|| format!("this dump has no {what}"))
}

fn tree(rq: &Object<'_>) -> u64 {
    rq.uint("cfs.tasks_timeline.rb_root.rb_node").unwrap()
}

/// A fair task that waits, in the root's own queue.
fn waiting(kernel: &Kernel) -> std::result::Result<Object<'_>, String> {
    a_task(kernel, "waiting fair task", |task, rq| {
        class_of(kernel, task) == "fair"
            && task.uint("se.on_rq").ok() == Some(1)
            && task.uint("on_rq").ok() == Some(1)
            && task.uint("se.sched_delayed").ok() == Some(0)
            && task.uint("on_cpu").ok() == Some(0)
            && task.uint("se.depth").ok() == Some(0)
            && task.kva() != rq.pointer("curr").unwrap()
    })
}

/// A queued group: the entity's address is that of `struct sched_entity`, the second is its queue.
fn group(
    kernel: &Kernel,
    throttled: bool,
) -> std::result::Result<(Object<'_>, Object<'_>), String> {
    let task = a_task(kernel, "task in a queued group", |task, _| {
        let parent = task.follow("se.parent").unwrap();
        parent.is_some_and(|parent| {
            let queue = task.follow_some("se.cfs_rq").unwrap();
            class_of(kernel, task) == "fair"
                && task.uint("se.on_rq").ok() == Some(1)
                && (queue.uint("throttle_count").unwrap() > 0) == throttled
                && (throttled || parent.uint("on_rq").ok() == Some(1))
        })
    })?;
    let entity = task.follow_some("se.parent").unwrap();
    let queue = task.follow_some("se.cfs_rq").unwrap();
    Ok((entity, queue))
}

fn dsq_task(kernel: &Kernel) -> std::result::Result<Object<'_>, String> {
    a_task(kernel, "task in a DSQ", |task, rq| {
        class_of(kernel, task) == "ext"
            && task.uint("on_rq").ok() == Some(1)
            && task.kva() != rq.pointer("curr").unwrap()
            && task.pointer("scx.dsq").is_ok_and(|dsq| !dsq.is_null())
    })
}

fn enabled(kernel: &Kernel) -> bool {
    tasks(kernel)
        .iter()
        .any(|task| class_of(kernel, task) == "ext")
}

fn put(kernel: &Kernel, at: Kva, value: u64) {
    kernel.write(at, &value.to_le_bytes()).unwrap();
}

#[expect(clippy::too_many_lines, reason = "one arm for each rule")]
fn breaker(name: &str) -> Breaker {
    match name {
        "rq-nr-running" => |kernel| any_rq(kernel, |rq| bump_any(rq, &["nr_running"])),
        "rq-clocks" => |kernel| {
            any_rq(kernel, |rq| {
                write(rq, "clock_task", rq.uint("clock").unwrap() + 1);
                Ok(())
            })
        },
        "rq-curr" => |kernel| {
            let task = a_task(kernel, "running task", |task, rq| {
                task.kva() == rq.pointer("curr").unwrap()
            })?;
            write(&task, "on_cpu", 0);
            Ok(())
        },
        "rq-on-cpu" => |kernel| {
            write(&waiting(kernel)?, "on_cpu", 1);
            Ok(())
        },
        "rq-own-classes" => |kernel| {
            let idle = rq_of(kernel, 0).follow_some("idle").unwrap();
            let fair = kernel.symbol("fair_sched_class").unwrap();
            write(&idle, "sched_class", fair.0);
            Ok(())
        },
        "rq-nr-uninterruptible" => |kernel| match free(kernel).len() {
            all if all == kernel.online_cpus().unwrap().len() => {
                bump_any(&rq_of(kernel, 0), &["nr_uninterruptible"])
            }
            _ => none("free runqueues"),
        },
        "rq-online" => |kernel| {
            any_rq(kernel, |rq| {
                write(rq, "online", 0);
                Ok(())
            })
        },
        "cfs-nr" => |kernel| {
            any_rq(kernel, |rq| {
                bump_any(rq, &["cfs.nr_queued", "cfs.nr_running"])
            })
        },
        "cfs-load" => |kernel| any_rq(kernel, |rq| bump_any(rq, &["cfs.load.weight"])),
        "cfs-h-nr-queued" => |kernel| any_rq(kernel, |rq| bump_any(rq, &["cfs.h_nr_queued"])),
        "cfs-h-nr-delayed" => |kernel| {
            any_rq(kernel, |rq| {
                bump_any(rq, &["cfs.h_nr_delayed", "cfs.h_nr_runnable"])
            })
        },
        "cfs-h-nr-runnable" => |kernel| {
            any_rq(kernel, |rq| match rq.field("cfs.h_nr_delayed") {
                Ok(_) => bump_any(rq, &["cfs.h_nr_runnable"]),
                Err(_) => none("h_nr_delayed"),
            })
        },
        "cfs-h-nr-idle" => |kernel| {
            any_rq(kernel, |rq| {
                bump_any(rq, &["cfs.h_nr_idle", "cfs.idle_h_nr_running"])
            })
        },
        "cfs-tree-order" => |kernel| {
            let rq = rq_of(kernel, cpu_of(&waiting(kernel)?));
            write(&rq, "cfs.tasks_timeline.rb_leftmost", 8);
            Ok(())
        },
        "cfs-tree-heap" => |kernel| bump_any(&waiting(kernel)?, &["se.min_slice"]),
        "cfs-tree-sum" => |kernel| {
            any_rq(kernel, |rq| {
                bump_any(rq, &["cfs.sum_w_vruntime", "cfs.avg_vruntime"])
            })
        },
        "cfs-curr" => |kernel| {
            let task = a_task(kernel, "running fair task", |task, rq| {
                task.kva() == rq.pointer("curr").unwrap() && class_of(kernel, task) == "fair"
            })?;
            let queue = task.follow_some("se.cfs_rq").unwrap();
            let has = ["h_curr", "curr"]
                .into_iter()
                .find(|path| queue.field(path).is_ok());
            write(&queue, has.unwrap(), 0);
            Ok(())
        },
        "cfs-group-entity" => |kernel| {
            write(&group(kernel, false)?.0, "on_rq", 0);
            Ok(())
        },
        "cfs-slice" => |kernel| {
            write(&waiting(kernel)?, "se.slice", 1);
            Ok(())
        },
        "cfs-group-slice" => |kernel| {
            if kernel.field_of("cfs_rq", "h_curr").is_ok() {
                return none("group in a tree");
            }
            write(&group(kernel, false)?.0, "slice", 1 << 40);
            Ok(())
        },
        "cfs-next" => |kernel| {
            any_rq(kernel, |rq| {
                write(rq, "cfs.next", rq.uint("idle").unwrap());
                Ok(())
            })
        },
        "cfs-tasks" => |kernel| {
            let rt = kernel.symbol("rt_sched_class").unwrap();
            write(&waiting(kernel)?, "sched_class", rt.0);
            Ok(())
        },
        "pelt-sums" => |kernel| {
            let task = a_task(kernel, "task with utilisation", |task, _| {
                task.uint("se.avg.util_avg").unwrap() > 0
                    && task.uint("se.avg.last_update_time").unwrap() > 0
            })?;
            write(&task, "se.avg.util_sum", 0);
            Ok(())
        },
        "pelt-clock" => |kernel| {
            any_rq(kernel, |rq| {
                write(rq, "cfs.avg.last_update_time", u64::MAX >> 2);
                Ok(())
            })
        },
        "task-delayed" => |kernel| {
            write(&waiting(kernel)?, "se.sched_delayed", 1);
            Ok(())
        },
        "task-queued" => |kernel| {
            write(&waiting(kernel)?, "se.on_rq", 0);
            Ok(())
        },
        "task-unqueued" => |kernel| {
            write(&waiting(kernel)?, "on_rq", 0);
            Ok(())
        },
        "task-place" => |kernel| bump_any(&waiting(kernel)?, &["se.depth"]),
        "task-allowed-cpu" => |kernel| {
            let task = waiting(kernel)?;
            write_mask(kernel, &task, 1 << (cpu_of(&task) ^ 1));
            Ok(())
        },
        "task-affinity-count" => |kernel| {
            let task = a_task(kernel, "pinned task", |task, _| {
                task.uint("nr_cpus_allowed").ok() == Some(1)
            })?;
            bump_any(&task, &["nr_cpus_allowed"])
        },
        "task-cpus-ptr" => |kernel| {
            let mask = kernel.symbol("__cpu_online_mask").unwrap();
            let task = a_task(kernel, "task that may migrate", |task, _| {
                task.uint("migration_disabled").ok() == Some(0)
            })?;
            write(&task, "cpus_ptr", mask.0);
            Ok(())
        },
        "task-weight" => |kernel| {
            if enabled(kernel) {
                return none("kernel without an attached scheduler");
            }
            bump_any(&waiting(kernel)?, &["se.load.weight"])
        },
        "psi-flags" => |kernel| {
            if kernel.global("psi_disabled", 4).ok() != Some(0) {
                return none("PSI");
            }
            let task = a_task(kernel, "running task", |task, rq| {
                task.kva() == rq.pointer("curr").unwrap()
            })?;
            write(&task, "psi_flags", 0);
            Ok(())
        },
        "group-load" => |kernel| {
            let (_, queue) = group(kernel, false)?;
            bump_any(&queue.follow_some("tg").unwrap(), &["load_avg.counter"])
        },
        "group-offline-load" => |kernel| {
            let possible = kernel.symbol("__cpu_possible_mask").unwrap();
            let count = kernel.read_u64(possible).unwrap().count_ones();
            if kernel.online_cpus().unwrap().len() == count as usize {
                return none("CPU that is offline");
            }
            let (_, queue) = group(kernel, false)?;
            let group = queue.follow_some("tg").unwrap();
            let table = group.pointer("cfs_rq").unwrap();
            let offline = match kernel.type_id("cfs_tg_state") {
                Ok(_) => kernel.per_cpu(table, 3).unwrap(),
                Err(_) => Kva(kernel.read_u64(table.wrapping_add(24)).unwrap()),
            };
            let offline = kernel.object("cfs_rq", offline).unwrap();
            write(&offline, "tg_load_avg_contrib", 77);
            Ok(())
        },
        "group-throttle-count" => |kernel| bump_any(&group(kernel, false)?.1, &["throttle_count"]),
        "group-throttled-list" => |kernel| {
            let (_, queue) = group(kernel, false)?;
            let group = queue.follow_some("tg").unwrap();
            let head = group.address_of("cfs_bandwidth.throttled_cfs_rq").unwrap();
            let link = queue.address_of("throttled_list").unwrap();
            put(kernel, head, link.0);
            put(kernel, link, head.0);
            Ok(())
        },
        "group-throttled-entity" => |kernel| {
            let (_, queue) = group(kernel, false)?;
            match queue.field("h_curr") {
                Ok(_) => none("group in a tree"),
                Err(_) => {
                    write(&queue, "throttled", 1);
                    Ok(())
                }
            }
        },
        "group-leaf-branch" => |kernel| {
            any_rq(kernel, |rq| {
                write(rq, "tmp_alone_branch", 0);
                Ok(())
            })
        },
        "group-on-leaf-list" => |kernel| {
            write(&group(kernel, false)?.1, "on_list", 0);
            Ok(())
        },
        "group-idle" => |kernel| {
            let (_, queue) = group(kernel, false)?;
            let was = queue.uint("idle").unwrap();
            write(&queue, "idle", u64::from(was == 0));
            Ok(())
        },
        "group-weight" => |kernel| {
            if kernel.field_of("cfs_rq", "h_curr").is_ok() {
                return none("group in a tree");
            }
            write(&group(kernel, false)?.0, "load.weight", 1);
            Ok(())
        },
        "rt-bitmap" => |kernel| {
            any_rq(kernel, |rq| {
                let at = rq.address_of("rt.active.bitmap").unwrap();
                put(kernel, at, kernel.read_u64(at).unwrap() ^ 1 << 50);
                Ok(())
            })
        },
        "rt-nr-running" => |kernel| any_rq(kernel, |rq| bump_any(rq, &["rt.rt_nr_running"])),
        "rt-highest" => |kernel| {
            any_rq(kernel, |rq| {
                write(rq, "rt.highest_prio.curr", 3);
                Ok(())
            })
        },
        "rt-queued" => |kernel| {
            any_rq(kernel, |rq| {
                let was = rq.uint("rt.rt_queued").unwrap();
                write(rq, "rt.rt_queued", was ^ 1);
                Ok(())
            })
        },
        "rt-pushable" => |kernel| {
            any_rq(kernel, |rq| {
                let was = rq.uint("rt.overloaded").unwrap();
                write(rq, "rt.overloaded", was ^ 1);
                Ok(())
            })
        },
        "dl-nr-running" => |kernel| any_rq(kernel, |rq| bump_any(rq, &["dl.dl_nr_running"])),
        "dl-earliest" => |kernel| any_rq(kernel, |rq| bump_any(rq, &["dl.earliest_dl.curr"])),
        "dl-bandwidth" => |kernel| {
            any_rq(kernel, |rq| {
                let most = rq.uint("dl.this_bw").unwrap();
                write(rq, "dl.running_bw", most + 1);
                Ok(())
            })
        },
        "dl-server-queued" => |kernel| {
            let idle = free(kernel)
                .into_iter()
                .find(|rq| rq.uint("fair_server.dl_server_active").ok() == Some(0));
            let Some(rq) = idle else {
                return none("server that is not active");
            };
            write(&rq, "fair_server.rb_node.__rb_parent_color", 0);
            Ok(())
        },
        "dl-server-active" => |kernel| {
            let active = free(kernel).into_iter().find(|rq| {
                let node = rq.address_of("fair_server.rb_node").unwrap();
                rq.uint("fair_server.dl_server_active").ok() == Some(1)
                    && kernel.read_u64(node).ok() == Some(node.0)
            });
            let Some(rq) = active else {
                return none("active server that waits");
            };
            for path in [
                "fair_server.dl_timer.is_queued",
                "fair_server.dl_timer.state",
            ] {
                if rq.field(path).is_ok() {
                    write(&rq, path, 0);
                }
            }
            Ok(())
        },
        "ext-dsq-nr" => |kernel| any_rq(kernel, |rq| bump_any(rq, &["scx.local_dsq.nr"])),
        "ext-dsq-link" => |kernel| {
            if free(kernel).len() != kernel.online_cpus().unwrap().len() {
                return none("stop at which all runqueues are free");
            }
            let task = dsq_task(kernel)?;
            write(&task, "scx.dsq", task.uint("scx.dsq").unwrap() + 8);
            Ok(())
        },
        "ext-dsq-priq" => |kernel| {
            let dsq = dsq_task(kernel)?.follow_some("scx.dsq").unwrap();
            if dsq.uint("priq.rb_node").ok() == Some(0) {
                return none("task in a priority queue");
            }
            let head = dsq.address_of("list").unwrap();
            put(kernel, head, head.0);
            Ok(())
        },
        "ext-dsq-first" => |kernel| {
            any_rq(kernel, |rq| match rq.field("scx.local_dsq.first_task") {
                Ok(_) => {
                    write(rq, "scx.local_dsq.first_task", 8);
                    Ok(())
                }
                Err(_) => none("first_task"),
            })
        },
        "ext-nr-running" => |kernel| any_rq(kernel, |rq| bump_any(rq, &["scx.nr_running"])),
        "ext-runnable" => |kernel| {
            let task = dsq_task(kernel)?;
            let flags = task.uint("scx.flags").unwrap();
            write(&task, "scx.flags", flags & !1);
            Ok(())
        },
        "ext-ops-state" => |kernel| {
            write(&dsq_task(kernel)?, "scx.ops_state.counter", 2);
            Ok(())
        },
        "ext-lost" => |kernel| {
            let task = dsq_task(kernel)?;
            let node = task.address_of("scx.dsq_list.node").unwrap();
            put(kernel, node, node.0);
            Ok(())
        },
        "ext-local-cpu" => |kernel| {
            let task = dsq_task(kernel)?;
            let other = free(kernel)
                .into_iter()
                .find(|rq| rq.uint("cpu").unwrap() != u64::from(cpu_of(&task)));
            let Some(rq) = other else {
                return none("second free runqueue");
            };
            let head = rq.address_of("scx.local_dsq.list").unwrap();
            let node = task.address_of("scx.dsq_list.node").unwrap();
            put(kernel, head, node.0);
            put(kernel, node, head.0);
            Ok(())
        },
        "ext-weight" => |kernel| {
            write(&dsq_task(kernel)?, "scx.weight", 7777);
            Ok(())
        },
        "ext-disabled" => |kernel| {
            if !enabled(kernel) {
                return none("attached scheduler");
            }
            let names = ["scx_enable_state_var", "scx_ops_enable_state_var"];
            let at = names.iter().find_map(|name| kernel.symbol(name).ok());
            let disabled = kernel
                .btf()
                .enumerator("scx_enable_state", "SCX_DISABLED")
                .or_else(|| {
                    kernel
                        .btf()
                        .enumerator("scx_ops_enable_state", "SCX_OPS_DISABLED")
                });
            let value = u32::try_from(disabled.unwrap()).unwrap();
            kernel.write(at.unwrap(), &value.to_le_bytes()).unwrap();
            Ok(())
        },
        "ext-transfer" => |kernel| {
            write(&dsq_task(kernel)?, "scx.sticky_cpu", 1);
            Ok(())
        },
        "domain-span" => |kernel| {
            let sd = rq_of(kernel, 0).follow_some("sd").unwrap();
            bump_any(&sd, &["span_weight"])
        },
        "domain-nesting" => |kernel| {
            let (own, other) = (rq_of(kernel, 0), rq_of(kernel, 2));
            let own = own.follow_some("sd").unwrap();
            let Ok(Some(other)) = other.follow("sd") else {
                return none("domains of CPU 2");
            };
            write(&own, "parent", other.kva().0);
            // Of CPUs 0 and 1, and of 2 and 3.
            match kernel.online_cpus().unwrap().len() {
                4 => Ok(()),
                _ => none("two levels of domains everywhere"),
            }
        },
        "domain-groups" => |kernel| {
            let sd = rq_of(kernel, 0).follow_some("sd").unwrap();
            bump_any(&sd.follow_some("groups").unwrap(), &["group_weight"])
        },
        other => panic!("no change breaks {other}: a new rule needs one here"),
    }
}

fn write_mask(kernel: &Kernel, task: &Object<'_>, mask: u64) {
    put(kernel, task.pointer("cpus_ptr").unwrap(), mask);
}
