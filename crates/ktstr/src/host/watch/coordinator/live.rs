//! The machine of a running VM.

use std::cell::RefCell;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ktstr_monitor::bpf::{BpfMap, MapField, ProgVerifierStats};
use ktstr_monitor::invariants::{Ledger, Stop};
use ktstr_monitor::locate::SlideEvidence;
use ktstr_monitor::sampler::{MonitorSample, Sampler, WatchedField};
use ktstr_monitor::sched::{WatchdogHold, WatchdogOverride};
use ktstr_monitor::{
    Attach, DumpOptions, Error, FailureDumpReport, Gpa, Kernel, PhysMem, Problems, Range,
    VcpuRegisters,
};
use ktstr_vmm::{
    Clock, GuestMemory, RunOnly, RunningVm, VcpuRegs, Watch, WatchHit, WatchId, WatchMechanism,
};
use ktstr_wire::gate::UntilState;
use ktstr_wire::{KernelOpMode, KernelOpRequest, KernelValue, Message, StateTest, Task};

use super::events::Recorder;
use super::replies::Replies;
use super::state::{Condition, PLACES};
use super::{BooksSeen, Machine, Stats, WatchToken, Watches, kernel_op};
use crate::host::watch::vmcore;
use crate::model::bpf_map::{BpfMapWrite, WatchBpfMap};
use crate::model::snapshot::{MissingStatsReason, find_map};
use crate::model::stats_client::{StatsClient, request_line};

/// How long vCPUs may take to stop, and to go on.
const FREEZE_DEADLINE: Duration = Duration::from_secs(5);
/// How long the scheduler's stats server may take; scx_utils's loops look for requests every 100 ms or so.
const STATS_DEADLINE: Duration = Duration::from_secs(1);
/// Functions that take a scheduler down, at whose entry all of its state still stands: up to 6.15, and from 6.16 on
/// (`kernel/sched/ext.c`).
const EXIT_FUNCTIONS: [&str; 3] = [
    "scx_ops_disable_workfn",
    "scx_disable_workfn",
    "scx_root_disable",
];

/// Where every panic passes: from 6.16 on, and before (`kernel/panic.c`).
const PANIC_FUNCTIONS: [&str; 2] = ["vpanic", "panic"];

/// The VM's memory as the monitor reads it.
#[derive(Debug)]
struct VmMemory(GuestMemory);

impl PhysMem for VmMemory {
    fn read(&self, gpa: Gpa, buffer: &mut [u8]) -> ktstr_monitor::Result<()> {
        let len = buffer.len();
        self.0
            .read(gpa.0, buffer)
            .map_err(|_| Error::NoMemory { gpa, len })
    }

    fn ranges(&self) -> Vec<Range> {
        let ranges = self.0.ranges().into_iter();
        ranges
            .map(|range| Range {
                gpa: Gpa(range.gpa),
                len: range.len,
            })
            .collect()
    }

    fn write(&self, gpa: Gpa, bytes: &[u8]) -> ktstr_monitor::Result<()> {
        let len = bytes.len();
        self.0
            .write(gpa.0, bytes)
            .map_err(|_| Error::NoMemory { gpa, len })
    }
}

/// What a test wants done to its scheduler before it begins; see the fields of the same meaning in `KtstrTestEntry`.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::host) struct Preparation {
    pub(in crate::host) writes: &'static [&'static BpfMapWrite],
    pub(in crate::host) watches: &'static [&'static WatchBpfMap],
    pub(in crate::host) watchdog: Option<Duration>,
}

/// How to look into a guest.
#[derive(Debug, Clone, Default)]
pub(in crate::host) struct GuestView {
    pub(in crate::host) preparation: Preparation,
    /// The kernel's ELF; without it, types and symbols are found in the guest's memory.
    pub(in crate::host) vmlinux: Option<PathBuf>,
    /// Where indexed BTF is kept.
    pub(in crate::host) btf_cache: Option<PathBuf>,
    /// Rules of the kernel's own books; none where they are off.
    pub(in crate::host) invariants: Option<Stop>,
    /// Where a failure's memory goes, if it is wanted.
    pub(in crate::host) vmcore: Option<PathBuf>,
    /// Where events of the scheduler's go, if they are wanted; virtual time only.
    pub(in crate::host) events: Option<PathBuf>,
    /// What the guest is to do, where it asks for that.
    pub(in crate::host) task: Option<Task>,
    /// The scheduler's stats server, if there is a scheduler.
    pub(in crate::host) stats: Option<StatsClient>,
    /// Captures ask it in virtual time, too.
    pub(in crate::host) scx_stats: bool,
}

/// A running VM.
#[derive(Debug)]
pub(super) struct Live<'vm> {
    vm: &'vm RunningVm,
    view: GuestView,
    /// Found once; a failure is final for this guest.
    kernel: Option<Result<Arc<Kernel>, String>>,
    sampler: Option<Sampler>,
    replies: Replies,
    tokens: HashMap<WatchId, WatchToken>,
    /// The number of the last one.
    last_token: u32,
    /// From the scheduler's preparation to the scenario's end.
    watchdog: Option<WatchdogHold>,
    /// It was held once, and is held again in further scenarios.
    was_held: bool,
    /// Of the kernel's own books.
    ledger: RefCell<Option<Ledger>>,
    recorder: Option<Recorder>,
    /// How long each freeze lasted, from its request to the guest's going on.
    standstills: RefCell<Vec<Duration>>,
    /// What the guest waits for.
    condition: Option<Condition>,
}

impl<'vm> Live<'vm> {
    pub(super) fn new(vm: &'vm RunningVm, view: GuestView, replies: Replies) -> Self {
        Self {
            ledger: RefCell::new(view.invariants.clone().map(Ledger::new)),
            recorder: view.events.as_deref().and_then(recorder),
            vm,
            view,
            kernel: None,
            sampler: None,
            replies,
            tokens: HashMap::new(),
            last_token: 0,
            watchdog: None,
            was_held: false,
            standstills: RefCell::default(),
            condition: None,
        }
    }

    /// Answers for a guest that stands still at its gate.
    pub(super) fn take_answers(&mut self) -> Vec<u8> {
        self.replies.take()
    }

    /// Tells the guest what it is to do.
    pub(super) fn give_task(&mut self) {
        if let Some(task) = self.view.task.clone() {
            self.replies.send(&Message::Task(task));
        }
    }

    fn is_virtual(&self) -> bool {
        self.replies.clock() == Clock::Virtual
    }

    /// The coordinator's name for a hit.
    pub(super) fn token_of(&self, hit: &WatchHit) -> WatchToken {
        // A hit without a watch is released like any other.
        self.tokens.get(&hit.id).copied().unwrap_or(WatchToken(0))
    }

    /// Notes a hit that is an event of the scheduler's, and nothing of the test's.
    pub(super) fn records(&mut self, hit: &WatchHit, at: Duration) -> bool {
        let Some(mut recorder) = self.recorder.take_if(|recorder| recorder.knows(hit.id)) else {
            return false;
        };
        if let Ok(kernel) = self.kernel() {
            // Without registers there is no guest any more.
            let _ = self.look_frozen(|registers| {
                let vcpu = registers.iter().find(|vcpu| vcpu.vcpu == hit.vcpu);
                if let Some(vcpu) = vcpu {
                    recorder.note(&kernel, hit.id, vcpu, at);
                }
            });
        }
        self.end_watches(&mut recorder);
        self.recorder = Some(recorder);
        true
    }

    fn end_watches(&self, recorder: &mut Recorder) {
        for id in recorder.useless() {
            if let Err(error) = self.vm.unwatch(id) {
                tracing::debug!(%error, "a watch of events stays");
            }
        }
    }

    fn begin_events(&mut self, kernel: &Kernel) {
        let Some(mut recorder) = self.recorder.take() else {
            return;
        };
        recorder.begin(kernel, |gva| {
            let watch = Watch::exec(gva);
            let watched = self.vm.watch_and_hold(watch);
            watched.map_err(|error| error.to_string())
        });
        self.end_watches(&mut recorder);
        self.recorder = Some(recorder);
    }

    fn kernel(&mut self) -> Result<Arc<Kernel>, String> {
        if let Some(known) = &self.kernel {
            return known.clone();
        }
        let found = self.attach();
        self.kernel = Some(found.clone());
        found
    }

    fn attach(&self) -> Result<Arc<Kernel>, String> {
        // One moment's CR3 is enough: the kernel's half is the same in all page tables.
        let cr3 = self
            .frozen(|registers| registers.first().map_or(0, |vcpu| vcpu.cr3))
            .unwrap_or(0);
        let memory: Arc<dyn PhysMem> = Arc::new(VmMemory(self.vm.memory()));
        let mut attach = Attach::new(memory).cr3(cr3);
        if let Some(vmlinux) = &self.view.vmlinux {
            attach = attach.vmlinux(vmlinux);
        }
        if let Some(dir) = &self.view.btf_cache {
            attach = attach.btf_cache(dir);
        }
        attach
            .attach()
            .map(Arc::new)
            .map_err(|error| error.to_string())
    }

    /// Runs `look` while every vCPU stands still.
    fn frozen<T>(&self, look: impl FnOnce(&[VcpuRegs]) -> T) -> Result<T, String> {
        let began = Instant::now();
        let seen = self.look_frozen(look)?;
        self.standstills.borrow_mut().push(began.elapsed());
        Ok(seen)
    }

    fn look_frozen<T>(&self, look: impl FnOnce(&[VcpuRegs]) -> T) -> Result<T, String> {
        let guard = self
            .vm
            .freeze(FREEZE_DEADLINE)
            .map_err(|error| error.to_string())?;
        let registers = guard.registers().map_err(|error| error.to_string())?;
        let seen = look(&registers);
        guard.resume().map_err(|error| error.to_string())?;
        Ok(seen)
    }

    fn sampler(&mut self) -> Result<&mut Sampler, String> {
        if self.sampler.is_none() {
            let sampler = Sampler::new(self.kernel()?).map_err(|error| error.to_string())?;
            self.sampler = Some(sampler);
        }
        self.sampler
            .as_mut()
            .ok_or_else(|| String::from("no sampler"))
    }

    fn begin_hold(&mut self, timeout: Duration) -> Option<WatchdogOverride> {
        let kernel = self.kernel().ok()?;
        self.watchdog = WatchdogHold::new(timeout, tick_rate(&kernel).ok()?).ok();
        self.was_held = true;
        self.hold_watchdog()
    }

    /// What was done for the watchdog. Where the kernel does not allow it, the scheduler's own time-out stays.
    fn hold_watchdog(&mut self) -> Option<WatchdogOverride> {
        let kernel = self.kernel().ok()?;
        self.watchdog
            .as_mut()?
            .apply(&kernel)
            .unwrap_or_else(|error| {
                tracing::debug!(%error, "the scheduler keeps its own watchdog time-out");
                None
            })
    }

    /// Every vCPU stands still.
    fn judge_books(&self, kernel: &Kernel) {
        if let Some(ledger) = self.ledger.borrow_mut().as_mut() {
            for violation in ledger.look(kernel) {
                tracing::debug!(%violation, "the kernel's books");
            }
        }
    }

    /// A dump that cannot be written is told, and costs nothing else.
    fn keep_vmcore(&self, kernel: &Kernel, registers: &[VcpuRegs]) {
        if let Some(path) = &self.view.vmcore
            && let Err(error) = vmcore::write(path, kernel, registers)
        {
            tracing::warn!(path = %path.display(), %error, "the vmcore could not be written");
        }
    }

    /// Only where a watch more takes none from the test's own: four are all that a CPU's debug registers hold.
    fn watch_for_panic(&mut self, kernel: &Kernel) -> Option<WatchToken> {
        let costs_nothing = [WatchMechanism::GdbStub, WatchMechanism::Plugin];
        if !costs_nothing.contains(&self.vm.watch_support().exec) {
            return None;
        }
        let mut places = PANIC_FUNCTIONS.iter();
        let panic = places.find_map(|name| kernel.symbol(name).ok())?;
        match self.set_watch(Watch::exec(panic.0)) {
            Ok(token) => Some(token),
            Err(reason) => {
                tracing::debug!(reason, "a panic is seen when it is over only");
                None
            }
        }
    }

    /// Watches the places at which a state can have changed.
    fn watch_changes(&mut self, kernel: &Kernel) -> Result<Vec<WatchToken>, String> {
        let mut tokens = Vec::new();
        for (what, names) in PLACES {
            let place = names.iter().find_map(|name| kernel.function(name).ok());
            let watched = place
                .ok_or_else(|| {
                    format!(
                        "this kernel has none of {}, where {what} would be seen",
                        names.join(", ")
                    )
                })
                .and_then(|place| self.set_watch(Watch::exec(place.0)));
            match watched {
                Ok(token) => tokens.push(token),
                Err(reason) => {
                    for token in tokens {
                        self.unwatch(token);
                    }
                    return Err(reason);
                }
            }
        }
        Ok(tokens)
    }

    fn set_watch(&mut self, watch: Watch) -> Result<WatchToken, String> {
        let id = self
            .vm
            .watch_and_hold(watch)
            .map_err(|error| error.to_string())?;
        // 0 is no task's.
        self.last_token = self.last_token.saturating_add(1);
        let token = WatchToken(self.last_token);
        self.tokens.insert(id, token);
        Ok(token)
    }
}

impl Machine for Live<'_> {
    fn prepare(&mut self) -> Result<Watches, String> {
        let kernel = self.kernel()?;
        let exit = EXIT_FUNCTIONS
            .into_iter()
            .find_map(|name| kernel.symbol(name).ok());
        let exit = match exit {
            Some(exit) => Some(self.set_watch(Watch::exec(exit.0))?),
            // All else can be seen there as well.
            None if kernel.field_of("rq", "scx").is_err() => None,
            None => {
                return Err(format!(
                    "this kernel has none of {}: a scheduler's exit cannot be seen",
                    EXIT_FUNCTIONS.join(", ")
                ));
            }
        };
        let panic = self.watch_for_panic(&kernel);
        self.begin_events(&kernel);
        Ok(Watches { exit, panic })
    }

    fn exit_kind(&mut self) -> Option<u64> {
        let scx = self.kernel().ok()?.scx().ok()??;
        Some(scx.leaving().map_or(0, |leaving| leaving.kind))
    }

    fn unwatch(&mut self, token: WatchToken) {
        let known = self.tokens.iter().find(|(_, known)| **known == token);
        let Some(id) = known.map(|(id, _)| *id) else {
            return;
        };
        self.tokens.remove(&id);
        if let Err(error) = self.vm.unwatch(id) {
            tracing::debug!(%error, "a watch of a scenario that is over stays");
        }
    }

    fn capture(&mut self) -> Result<FailureDumpReport, String> {
        let kernel = self.kernel()?;
        self.frozen(|registers| {
            self.judge_books(&kernel);
            capture(&kernel, registers)
        })
    }

    fn capture_failure(
        &mut self,
        shown: &dyn Fn(&FailureDumpReport) -> bool,
    ) -> Result<FailureDumpReport, String> {
        let kernel = self.kernel()?;
        self.frozen(|registers| {
            self.judge_books(&kernel);
            let report = capture(&kernel, registers);
            if shown(&report) {
                self.keep_vmcore(&kernel, registers);
            }
            report
        })
    }

    fn capture_dead(&mut self) -> Result<FailureDumpReport, String> {
        let kernel = self.kernel()?;
        self.keep_vmcore(&kernel, &[]);
        Ok(capture(&kernel, &[]))
    }

    fn watch(&mut self, symbol: &str) -> Result<WatchToken, String> {
        let kernel = self.kernel()?;
        let kva = kernel_op::symbol(&kernel, symbol)?;
        if !kva.0.is_multiple_of(4) {
            return Err(format!(
                "'{symbol}' lies at {kva}, which is not aligned to the 4 bytes of a watch"
            ));
        }
        self.set_watch(Watch::write(kva.0, 4))
    }

    fn release(&mut self) {
        if let Err(error) = self.vm.release_hit(FREEZE_DEADLINE) {
            tracing::debug!(%error, "a hit could not be released");
        }
    }

    fn stats(&mut self) -> Option<Stats> {
        if self.is_virtual() && self.view.scx_stats {
            let line = request_line("stats", &[]);
            self.reply(&Message::StatsRequest(line.into_bytes()));
            return None;
        }
        if self.is_virtual() {
            return Some(Err(MissingStatsReason::VirtualTime));
        }
        Some(match &self.view.stats {
            Some(client) => client.with_timeout(STATS_DEADLINE).stats(),
            None => Err(MissingStatsReason::NoScheduler),
        })
    }

    fn kernel_op(&mut self, request: &KernelOpRequest) -> Result<Vec<KernelValue>, String> {
        let kernel = self.kernel()?;
        match request.mode {
            KernelOpMode::Hot => kernel_op::run(&kernel, request),
            KernelOpMode::Cold => self.frozen(|_| kernel_op::run(&kernel, request))?,
        }
    }

    fn prepare_scheduler(&mut self) -> Result<Option<WatchdogOverride>, String> {
        let Preparation {
            writes,
            watches,
            watchdog,
        } = self.view.preparation;
        for write in writes {
            let kernel = self.kernel()?;
            let field = map_field(&kernel, write.map, write.field, None)?;
            self.frozen(|_| field.write(&kernel, write.value))?
                .map_err(|error| error.to_string())?;
        }
        for watch in watches {
            let kernel = self.kernel()?;
            let cpus = match watch.agg.is_per_cpu() {
                true => kernel.possible_cpus().map_err(|error| error.to_string())?,
                false => Vec::new(),
            };
            let places: Vec<Option<u32>> = match cpus.is_empty() {
                true => vec![None],
                false => cpus.into_iter().map(Some).collect(),
            };
            for cpu in places {
                map_field(&kernel, watch.map, watch.field, cpu)?;
                let name = WatchedField {
                    label: watch.label_of(cpu),
                    counter: watch.agg.is_counter(),
                };
                // Each further scheduler has maps of its own; one without this one is told by the absence of figures.
                self.sampler()?.watch(name, move |kernel| {
                    map_field(kernel, watch.map, watch.field, cpu).ok()
                });
            }
        }
        Ok(watchdog.and_then(|timeout| self.begin_hold(timeout)))
    }

    fn hold_watchdog_again(&mut self) {
        if self.watchdog.is_none()
            && self.was_held
            && let Some(timeout) = self.view.preparation.watchdog
        {
            self.begin_hold(timeout);
        }
    }

    fn finish_events(&mut self) {
        if let Some(mut recorder) = self.recorder.take()
            && let Err(error) = recorder.finish()
        {
            tracing::warn!(%error, "the scheduler's events are lost");
        }
    }

    fn look_at_books(&mut self) {
        if self.is_virtual()
            && let Ok(kernel) = self.kernel()
        {
            self.judge_books(&kernel);
        }
    }

    fn books(&mut self) -> Option<BooksSeen> {
        let ledger = self.ledger.borrow();
        let ledger = ledger.as_ref()?;
        let (stops, judged, unjudged) = ledger.counts();
        Some(BooksSeen {
            violations: ledger.violations().to_vec(),
            stops,
            judged,
            unjudged,
        })
    }

    fn begin_until(&mut self, any: &[Vec<StateTest>]) -> Result<Vec<WatchToken>, String> {
        let kernel = self.kernel()?;
        self.condition = Some(Condition::new(&kernel, any)?);
        if self.is_virtual() {
            self.watch_changes(&kernel)
        } else {
            Ok(Vec::new())
        }
    }

    fn holds(&mut self, now: Instant) -> Result<bool, String> {
        let kernel = self.kernel()?;
        match &mut self.condition {
            Some(condition) => condition.holds(&kernel, now),
            None => Ok(false),
        }
    }

    fn end_until(&mut self) {
        self.condition = None;
    }

    fn waits_for(&mut self) -> u32 {
        self.vm.waits_for().unwrap_or(0)
    }

    fn tell_waiting(&mut self, state: UntilState) {
        if let Err(error) = self.vm.tell_waiting(state) {
            tracing::debug!(%error, "the guest is not told what became of what it waits for");
        }
    }

    fn run_only(&mut self, vcpu: Option<u32>) {
        let who = vcpu.map_or(RunOnly::All, RunOnly::Vcpu);
        if let Err(error) = self.vm.run_only(who) {
            tracing::debug!(%error, "all vCPUs go on");
        }
    }

    fn watched_fields(&self) -> Vec<WatchedField> {
        self.sampler
            .as_ref()
            .map(Sampler::watched)
            .unwrap_or_default()
    }

    fn standstill(&self) -> Duration {
        // The clock stands still with the guest.
        if self.is_virtual() {
            return Duration::ZERO;
        }
        self.standstills.borrow().iter().sum()
    }

    fn let_watchdog_go(&mut self) {
        if let (Some(mut hold), Ok(kernel)) = (self.watchdog.take(), self.kernel())
            && let Err(error) = hold.let_go(&kernel)
        {
            tracing::debug!(%error, "the scheduler's own watchdog time-out is not restored");
        }
    }

    fn sample(&mut self, elapsed_ms: u64) -> Result<MonitorSample, String> {
        self.hold_watchdog();
        // What the host gave to the emulator's threads says nothing of virtual time.
        let times = if self.is_virtual() {
            Vec::new()
        } else {
            self.vm.vcpu_cpu_times()
        };
        self.sampler()?
            .sample(elapsed_ms, &times)
            .map_err(|error| error.to_string())
    }

    fn tick_rate(&mut self) -> Option<u32> {
        tick_rate(&*self.kernel().ok()?).ok()
    }

    fn verifier_stats(&mut self) -> Vec<ProgVerifierStats> {
        let kernel = self.kernel();
        kernel.map_or_else(|_| Vec::new(), |kernel| kernel.verifier_stats(true).found)
    }

    fn longest_standstill(&self) -> Option<Duration> {
        self.standstills.borrow().iter().max().copied()
    }

    fn kaslr_offset(&mut self) -> Option<u64> {
        let slide = self.kernel().ok()?.slide();
        // From the default link address alone nothing follows: kernels are linked elsewhere, too.
        (slide.evidence != SlideEvidence::DefaultLinkAddress).then_some(slide.bytes)
    }

    fn reply(&mut self, reply: &Message) {
        self.replies.send(reply);
    }

    fn kill(&mut self) {
        self.vm.kill();
    }
}

fn recorder(path: &Path) -> Option<Recorder> {
    Recorder::new(path)
        .inspect_err(
            |error| tracing::warn!(path = %path.display(), %error, "no events are written"),
        )
        .ok()
}

/// A number in the first element of the map that this name means, in a CPU's copy of it where each has one.
fn map_field(
    kernel: &Kernel,
    name: &str,
    path: &str,
    cpu: Option<u32>,
) -> Result<MapField, String> {
    let maps = kernel.maps().found;
    let map = find_map(&maps, |map: &BpfMap| map.name.as_str(), name)
        .map_err(|error| error.to_string())?;
    let field = match cpu {
        None => map.field(kernel, 0, path),
        Some(cpu) => map.field_of_cpu(kernel, 0, cpu, path),
    };
    field.map_err(|error| error.to_string())
}

/// The tick rates that a kernel can be built with (`kernel/Kconfig.hz`).
const RATES: [u32; 4] = [100, 250, 300, 1000];

/// Ticks begin five minutes before 32 bits of them wrap (`INITIAL_JIFFIES`), and their count goes with the clock since boot.
fn tick_rate(kernel: &Kernel) -> Result<u32, String> {
    let failed = |error: Error| error.to_string();
    let ticks = kernel.jiffies().map_err(failed)?;
    let clock = kernel
        .runqueue(0, &mut Problems::new())
        .map_err(failed)?
        .clock
        .ok_or_else(|| String::from("CPU 0 has no clock"))?;
    Ok(nearest_rate(ticks, clock))
}

fn nearest_rate(ticks: u64, clock_ns: u64) -> u32 {
    let since_start = |rate: u64| (1u64 << 32) - 300 * rate + clock_ns / 1_000_000 * rate / 1000;
    RATES
        .into_iter()
        .min_by_key(|rate| since_start(u64::from(*rate)).abs_diff(ticks))
        .unwrap_or(1000)
}

fn capture(kernel: &Kernel, registers: &[VcpuRegs]) -> FailureDumpReport {
    FailureDumpReport::capture(kernel, &plain(registers), &DumpOptions::default())
}

fn plain(registers: &[VcpuRegs]) -> Vec<VcpuRegisters> {
    let plain = |vcpu: &VcpuRegs| VcpuRegisters {
        vcpu: vcpu.vcpu,
        rip: vcpu.rip,
        rsp: vcpu.rsp,
        rflags: vcpu.rflags,
        cr3: vcpu.cr3,
    };
    registers.iter().map(plain).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tick_rate_is_told_by_the_count_since_boot() {
        let second = 1_000_000_000;
        for rate in RATES {
            let start = (1u64 << 32) - 300 * u64::from(rate);
            for uptime in [1, 2, 100] {
                let ticks = start + uptime * u64::from(rate) + 3;
                assert_eq!(nearest_rate(ticks, uptime * second), rate);
            }
        }
    }
}
