//! A guest under KVM, as the public `Vm` drives it.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use kvm_bindings::kvm_clock_data;
use kvm_ioctls::VcpuFd;
use rustix::event::{EventfdFlags, eventfd};
use rustix::thread::{CpuSet, sched_setaffinity};

use super::attach::{self, Models, Ports};
use super::boot::{self, Plan};
use super::bus::Bus;
use super::control::{Control, End, Parts};
use super::kick::KickSignal;
use super::machine::{LAST_XAPIC_ID, Machine, Wanted};
use super::mechanism::mechanism;
use super::perf::{self, Grant};
use super::stats::Stats;
use super::threads::{Joined, join_until};
use super::tsc::Tsc;
use super::vcpu;
use crate::acpi;
use crate::budget;
use crate::clock::Clock;
use crate::config::Config;
use crate::console::ConsoleLog;
use crate::cpuid::ApicLayout;
use crate::devices::power::Power;
use crate::devices::serial::Uart;
use crate::devices::virtio::cards::CardCounters;
use crate::devices::virtio::{Worker, stay_on};
use crate::error::{Error, Result};
use crate::exit::{ExitReason, VcpuRegs, VmExit};
use crate::initrd::Initrd;
use crate::layout;
use crate::memory::{GuestMemory, MemoryRange, anonymous, map};
use crate::port::PortStream;
use crate::probe::Engine;
use crate::time::{after, from_now};
use crate::topology::Topology;
use crate::vcpu_time::VcpuClocks;
use crate::watch::{Watch, WatchHit, WatchId, WatchMechanism};

/// How long the threads may take to end after the VM's deadline.
const END_GRACE: Duration = Duration::from_secs(30);
/// How long a thread may take to end once the VM has.
const JOIN_DEADLINE: Duration = Duration::from_secs(10);

/// A VM whose vCPUs run.
///
/// Ends in this order: vCPU threads with their vCPUs, keeper, KVM's VM, guest memory. Nothing of it is waited for without a bound.
#[derive(Debug)]
pub(crate) struct KvmVm {
    threads: Vec<JoinHandle<()>>,
    pub(super) control: Arc<Control>,
    machine: Machine,
    /// Host CPUs of the vCPUs, in performance mode.
    grant: Option<Grant>,
    stats: Option<Vec<Stats>>,
    /// KVM's clock as of each of the nested freezes.
    frozen: Mutex<Vec<Option<kvm_clock_data>>>,
    memory: GuestMemory,
    consoles: [ConsoleLog; 2],
    ports: Ports,
    counters: CardCounters,
    started: Instant,
    deadline: Instant,
    /// Ours as long as a thread of this VM may be kicked.
    signal: Option<KickSignal>,
}

impl KvmVm {
    pub(crate) fn start(config: &Config) -> Result<Self> {
        let started = Instant::now();
        let deadline = after(started, config.deadline);
        let total = u64::from(config.memory_mib) << 20;
        let ranges = layout::ranges(total);
        let grant = config
            .performance_mode
            .then(|| perf::reserve(&config.topology, &config.lock_dir))
            .transpose()?;
        let memory = memory(total, &ranges, grant.is_some())?;
        let node_bytes: Vec<u64> = config
            .node_mib
            .iter()
            .map(|mib| u64::from(*mib) << 20)
            .collect();
        let node_memory = layout::deal(&ranges, &node_bytes);
        let Models {
            models,
            ports,
            counters,
        } = attach::models(config)?;
        let places = attach::places(&models)?;
        let entry = load(config, &memory, &node_memory, &places)?;
        let machine = Machine::new(&memory)?;
        let attached = attach::attach(models, &places, &machine, &memory)?;
        let [line1, line2] = machine.serial_lines()?;
        let consoles = [ConsoleLog::default(), ConsoleLog::default()];
        let bus = Bus {
            com1: Uart::new(consoles[0].clone(), line1),
            com2: Uart::new(consoles[1].clone(), line2),
            power: Power::default(),
            virtio: attached.registers,
        };
        if grant.is_some() {
            machine.keep_idle_in_guest();
        }
        let vcpus = machine.vcpus(&config.topology, entry, wanted(config))?;
        // Absent on kernels before 5.14.
        let stats = vcpus
            .iter()
            .map(Stats::open)
            .collect::<std::io::Result<_>>()
            .ok();
        let exit_event = exit_event()?;
        let signal = KickSignal::install().map_err(Error::system("take the kick signal"))?;
        let parts = Parts {
            bus,
            slots: Arc::clone(&machine.slots),
            memory: memory.clone(),
            workers: attached.workers,
            com1: consoles[0].clone(),
            exit_event,
            deadline,
            tsc: config.invariant_tsc.then(Tsc::default),
        };
        let control = Arc::new(Control::new(vcpus.len(), parts));
        let mut vm = Self {
            threads: Vec::new(),
            control,
            machine,
            grant,
            stats,
            frozen: Mutex::default(),
            memory,
            consoles,
            ports,
            counters,
            started,
            deadline,
            signal: Some(signal),
        };
        vm.start_keeper()?;
        let budget = budget::host_cpus(config.cpu_budget.filter(|_| !config.performance_mode))
            .map_err(Error::system("read the host's CPUs"))?;
        match vm.start_threads(attached.threads, vcpus, budget) {
            Ok(()) => Ok(vm),
            Err((first, error)) => {
                vm.leave_from(first);
                Err(error)
            }
        }
    }

    /// Starts the keeper, which is first, since it ends the others.
    fn start_keeper(&mut self) -> Result<()> {
        let control = Arc::clone(&self.control);
        let rest = self.grant.as_ref().map(|grant| grant.rest);
        self.threads
            .push(named(String::from("ktstr-keeper"), move || {
                stay_on(rest.as_ref());
                control.keep();
            })?);
        Ok(())
    }

    /// Starts devices, then vCPUs; an error names the first vCPU that has no thread.
    fn start_threads(
        &mut self,
        workers: Vec<Worker>,
        vcpus: Vec<VcpuFd>,
        budget: Option<CpuSet>,
    ) -> std::result::Result<(), (usize, Error)> {
        for mut worker in workers {
            worker.cpus = self.grant.as_ref().map(|grant| grant.rest);
            self.threads
                .push(worker.spawn().map_err(|error| (0, error))?);
        }
        for (place, (index, vcpu)) in (0u32..).zip(vcpus).enumerate() {
            let control = Arc::clone(&self.control);
            let own = self.grant.as_ref().and_then(|grant| {
                let cpu = grant.reservation.cpu_of(place)?;
                Some((cpu, grant.policy))
            });
            let body = move || {
                let confined = budget.map(|cpus| sched_setaffinity(None, &cpus));
                if let Some(Err(error)) = confined {
                    tracing::warn!(%error, vcpu = index, "a vCPU is not confined to its budget");
                }
                if let Some(Err(error)) = own.map(|(cpu, policy)| perf::take_cpu(cpu, policy)) {
                    tracing::warn!(%error, vcpu = index, "a vCPU runs without its CPU or priority");
                }
                vcpu::run(&control, index, vcpu);
            };
            let thread = named(format!("ktstr-vcpu{index}"), body);
            self.threads.push(thread.map_err(|error| (place, error))?);
        }
        Ok(())
    }

    /// vCPUs from `first` on have no thread, and never will.
    fn leave_from(&self, first: usize) {
        for vcpu in first..self.control.gate.len() {
            self.control.gate.leave(vcpu);
        }
    }

    pub(crate) fn take_port(&mut self, name: &str) -> Option<PortStream> {
        self.ports
            .iter_mut()
            .find(|(port, _)| port == name)?
            .1
            .take()
    }

    pub(crate) fn com1(&self) -> ConsoleLog {
        self.consoles[0].clone()
    }

    pub(crate) fn com2(&self) -> ConsoleLog {
        self.consoles[1].clone()
    }

    pub(crate) fn memory(&self) -> GuestMemory {
        self.memory.clone()
    }

    /// The engine is part of this process.
    #[expect(clippy::unused_self, reason = "both engines have this method")]
    pub(crate) fn pid(&self) -> u32 {
        std::process::id()
    }

    pub(crate) fn vcpus(&self) -> usize {
        self.control.gate.len()
    }

    pub(crate) fn vcpu_clocks(&self) -> VcpuClocks {
        let threads = self.control.kicker.threads();
        VcpuClocks::of_threads(self.pid(), &threads)
    }

    pub(crate) fn exit_fd(&self) -> BorrowedFd<'_> {
        self.control.exit_event.as_fd()
    }

    fn gone(&self, what: &str) -> Result<()> {
        if self.control.gate.is_stopped() {
            return Err(Error::Gone {
                what: what.to_owned(),
            });
        }
        Ok(())
    }

    /// Parks every vCPU; an error names those that did not park, and lets the others go on.
    pub(crate) fn stop(&self, deadline: Duration) -> Result<()> {
        self.gone("freeze")?;
        let began = Instant::now();
        let missing = self.control.park(after(began, deadline));
        if !missing.is_empty() {
            self.control.unpark();
            return Err(Error::Timeout {
                what: format!("park {}", missing.join(", ")),
                waited: deadline,
            });
        }
        if let Err(error) = self.gone("freeze") {
            self.control.unpark();
            return Err(error);
        }
        let clock = self.machine.vm.get_clock().ok();
        let mut frozen = self.frozen.lock().unwrap_or_else(PoisonError::into_inner);
        self.control.begin_frozen(began);
        if let Some(tsc) = self.control.tsc.as_ref().filter(|_| frozen.is_empty()) {
            tsc.begin();
        }
        frozen.push(clock);
        Ok(())
    }

    /// Takes one [`stop`](Self::stop) back; the guest's clock goes on where it stood.
    pub(crate) fn cont(&self, _deadline: Duration) -> Result<()> {
        let mut frozen = self.frozen.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(clock) = frozen.pop() else {
            return Ok(());
        };
        if let Some(clock) = clock.filter(|_| frozen.is_empty()) {
            let clock = kvm_clock_data {
                clock: clock.clock,
                ..Default::default()
            };
            if let Err(error) = self.machine.vm.set_clock(&clock) {
                tracing::debug!(%error, "the guest's clock cannot be set");
            }
        }
        if let Some(tsc) = self.control.tsc.as_ref().filter(|_| frozen.is_empty()) {
            tsc.end();
        }
        self.control.end_frozen();
        drop(frozen);
        // Looked at first: a guest that goes on may end at once.
        let gone = self.gone("resume");
        self.control.unpark();
        gone
    }

    pub(crate) fn registers(&self, _deadline: Duration) -> Result<Vec<VcpuRegs>> {
        self.gone("show registers")?;
        Ok(self.control.gate.registers())
    }

    pub(crate) fn release_hit(&self, _deadline: Duration) -> Result<()> {
        self.control.watches.release()?;
        // Looked at first: a guest that goes on may end at once.
        let gone = self.gone("release a hit");
        self.control.gate.open();
        gone
    }

    pub(crate) fn watch(&self, watch: Watch, hold: bool) -> Result<WatchId> {
        self.gone("watch")?;
        let used = mechanism();
        match used.of(watch.kind) {
            WatchMechanism::DebugRegisters => {
                let id = self.control.watches.add(watch, hold)?;
                self.control.kicker.kick_all();
                Ok(id)
            }
            WatchMechanism::GuestMemory => self.still(|| self.set_in_memory(watch, hold)),
            WatchMechanism::GdbStub | WatchMechanism::Plugin | WatchMechanism::Unavailable => {
                Err(Error::Refused {
                    what: format!("watch {:#x}", watch.gva),
                    reason: used.why,
                })
            }
        }
    }

    pub(crate) fn unwatch(&self, id: WatchId) -> Result<()> {
        self.gone("end a watch")?;
        let in_memory = self.control.watches.in_memory();
        if in_memory.iter().any(|watch| watch.id == id) {
            return self.still(|| self.unset_in_memory(id));
        }
        self.control.watches.remove(id)?;
        self.control.kicker.kick_all();
        Ok(())
    }

    pub(crate) fn next_watch_hit(&self, deadline: Duration) -> Option<WatchHit> {
        self.control.watches.next(deadline)
    }

    fn kvm_stats(&self) -> Option<Vec<HashMap<String, u64>>> {
        let stats = self.stats.as_ref()?;
        stats.iter().map(|stats| stats.read().ok()).collect()
    }

    pub(crate) fn card_counters(&self) -> &CardCounters {
        &self.counters
    }

    pub(crate) fn kill(&self) {
        self.control.end(End::Killed);
    }

    pub(crate) fn ended_by(&self) -> Option<ExitReason> {
        self.control.ended().map(|(reason, _)| reason)
    }

    pub(crate) fn wait_until(&self, until: Instant) -> bool {
        self.control.wait_ended(until)
    }

    pub(crate) fn wait(&mut self) -> Result<VmExit> {
        loop {
            let until = self.deadline + self.control.frozen() + END_GRACE;
            if self.wait_until(until) {
                break;
            }
            // A freeze meanwhile has moved the deadline.
            if self.deadline + self.control.frozen() + END_GRACE <= until {
                return Err(Error::Timeout {
                    what: String::from("end"),
                    waited: until - self.started,
                });
            }
        }
        self.join();
        let Some((reason, at)) = self.control.ended() else {
            return Err(Error::Gone {
                what: String::from("tell how it ended"),
            });
        };
        Ok(VmExit {
            reason,
            duration: at - self.started,
            cleanup_duration: at.elapsed(),
            com1: self.consoles[0].snapshot(),
            com2: self.consoles[1].snapshot(),
            engine: Engine::Kvm,
            engine_why: String::new(),
            kvm_stats: self.kvm_stats(),
            blk_counters: self.counters.disks(),
            net_counters: self.counters.nets(),
            clock: Clock::Host,
            virtual_run: None,
        })
    }

    /// Joins the threads. One that the host's kernel keeps, in a vCPU or at a disk that does not answer, is left to it with
    /// everything that it uses, until this process ends.
    fn join(&mut self) {
        let threads = std::mem::take(&mut self.threads);
        if threads.is_empty() {
            return;
        }
        let Joined::Left(name) = join_until(threads, from_now(JOIN_DEADLINE)) else {
            return;
        };
        tracing::error!(
            name,
            "a VM's thread does not end; it and the guest's memory stay until this process ends"
        );
        // Its shared parts are its own: it holds `Control` or its device, and these hold the guest's memory. These two are not.
        std::mem::forget(self.grant.take());
        std::mem::forget(self.signal.take());
    }
}

impl Drop for KvmVm {
    fn drop(&mut self) {
        self.kill();
        if !self.threads.is_empty() {
            self.wait_until(from_now(END_GRACE));
        }
        self.join();
    }
}

fn named(name: String, body: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    thread::Builder::new()
        .name(name)
        .spawn(body)
        .map_err(Error::system("start a thread"))
}

/// Readable once the VM has ended.
fn exit_event() -> Result<OwnedFd> {
    eventfd(0, EventfdFlags::CLOEXEC).map_err(|errno| Error::System {
        what: "create an eventfd",
        source: errno.into(),
    })
}

/// One mapping of all memory: touched lazily, or huge and there at once.
fn memory(total: u64, ranges: &[MemoryRange], huge: bool) -> Result<GuestMemory> {
    if huge {
        return map(&[perf::huge_memory(total)?], ranges);
    }
    anonymous(ranges)
}

fn wanted(config: &Config) -> Wanted {
    Wanted {
        realtime: config.performance_mode,
        invariant_tsc: config.invariant_tsc,
    }
}

/// The command line, which keeps interrupts off the CPUs that KVM's IOAPIC cannot name: its destinations have eight bits
/// (arch/x86/kvm/ioapic.h: `dest_id`), of which all ones are a broadcast.
fn cmdline(topology: &Topology, given: &str) -> String {
    let layout = ApicLayout::new(topology);
    let total = topology.total_cpus();
    let within = (0..total).take_while(|vcpu| layout.id(*vcpu) <= LAST_XAPIC_ID);
    let within = u32::try_from(within.count()).unwrap_or(total);
    let declared = given
        .split_whitespace()
        .any(|word| word.starts_with("irqaffinity="));
    if within == total || declared {
        return given.to_owned();
    }
    let last = within.saturating_sub(1);
    format!("{given} irqaffinity=0-{last}")
}

/// Puts kernel, initrd and tables into memory.
fn load(
    config: &Config,
    memory: &GuestMemory,
    node_memory: &[Vec<MemoryRange>],
    virtio: &[acpi::VirtioPlace],
) -> Result<boot::Entry> {
    let mut kernel = File::open(&config.kernel).map_err(Error::system("open the kernel"))?;
    let mut initrd = config
        .initrd
        .as_ref()
        .map(Initrd::open)
        .transpose()
        .map_err(Error::system("open the initrd"))?;
    let plan = Plan {
        kernel: &mut kernel,
        initrd: initrd.as_mut(),
        cmdline: &cmdline(&config.topology, &config.cmdline),
        machine: acpi::Machine {
            topology: &config.topology,
            node_memory,
            virtio,
        },
    };
    boot::prepare(memory, plan).map_err(Error::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(shape: &str, given: &str, expected: &str) {
        assert_eq!(cmdline(&shape.parse().unwrap(), given), expected);
    }

    #[test]
    fn interrupts_stay_on_cpus_that_the_ioapic_can_name() {
        check("1n2l4c2t", "quiet", "quiet");
        // Nine cores take sixteen places: LLC n begins at APIC id 32 n, and CPU 143 is the last of LLC 7, whose ids end at 241.
        check("1n14l9c2t", "quiet", "quiet irqaffinity=0-143");
        check("1n14l9c2t", "irqaffinity=0", "irqaffinity=0");
    }
}
