//! QEMU's TCG as the guest's CPU.
//!
//! ```text
//!   RunningVm --commands--> Qmp ---socket pair---> QEMU <---memfd--- GuestMemory (mapped here)
//!       ^                                           | |  \--vhost-user--> disk and network threads (our models)
//!       |   exit, events <-- watcher thread <--QMP--+ +--COM1, COM2--> console threads
//!       +--------------------------------------------- ports (socket pairs handed to the caller)
//! ```
//!
//! Every connection is an inherited socket pair and memory is a memfd, so nothing of a VM is ever on disk.

mod args;
mod cards;
mod debugger;
mod gate;
mod gdb;
mod parts;
mod process;
mod qmp;
mod regs;
mod save;
mod version;
mod virtual_time;

use std::fs::File;
use std::io::{Read as _, Seek as _};
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use ktstr_plugin::End;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde_json::Value;

use self::args::Fds;
use self::cards::Cards;
use self::gate::Gate;
use self::gdb::Gdb;
use self::parts::Parts;
use self::process::{Emulator, Inherited};
use self::qmp::{Qmp, QmpReader};
use self::save::Sources;
pub(crate) use self::save::saved_machine;
pub(crate) use self::version::{on_path, told_by};
use self::virtual_time::Files;
pub(crate) use self::virtual_time::check_qemu;
use crate::budget;
use crate::clock::{Clock, VirtualRun};
use crate::config::Config;
use crate::console::{ConsoleLog, kernel_panic};
use crate::devices::virtio::cards::CardCounters;
use crate::error::{BuildFault, Error, Result};
use crate::exit::{ExitReason, VcpuRegs, VmExit};
use crate::gate::{Stop, no_gate};
use crate::initrd::Initrd;
use crate::initrd::memory_file;
use crate::memory::{Backing, GuestMemory, map, q35_ranges};
use crate::port::PortStream;
use crate::probe::Engine;
use crate::saved::{STATE, Saved};
use crate::standstill::StandStill;
use crate::time::after;
use crate::topology::Topology;
use crate::vcpu_time::VcpuClocks;
use crate::watch::{Watch, WatchHit, WatchId};

/// The emulator, found on `PATH`.
pub(crate) const DEFAULT_QEMU: &str = "qemu-system-x86_64";
/// TCG of QEMU 7.2 has no x2APIC, and 255 is the broadcast id.
const MAX_APIC_ID: u32 = 254;
/// How long QEMU may take to answer its first command; it maps and loads the kernel before.
const START_DEADLINE: Duration = Duration::from_secs(30);
/// How long the emulator's streams may stay open once it has ended.
const LINES_DEADLINE: Duration = Duration::from_secs(5);
/// How long what a guest wrote last may take to arrive once the emulator is gone.
const CONSOLE_DEADLINE: Duration = Duration::from_secs(2);
/// Bytes of QEMU's error output that a report keeps.
const STDERR_TAIL: usize = 4096;

/// Refuses what TCG cannot show to a guest.
pub(crate) fn check_topology(topology: &Topology, faults: &mut Vec<BuildFault>) {
    let found = topology.max_apic_id();
    if found > MAX_APIC_ID {
        let what = format!(
            "topology {topology} needs APIC ids up to {found}, and without x2APIC {MAX_APIC_ID} is the last one; \
             use fewer LLCs or cores, or the kvm engine"
        );
        faults.push(BuildFault::Engine {
            engine: Engine::Tcg,
            what,
        });
    }
}

/// The emulator's path, searched for on `PATH` when it is a bare name.
pub(crate) fn find_qemu(
    program: &Path,
    why: &str,
    faults: &mut Vec<BuildFault>,
) -> Option<PathBuf> {
    let found = if program.components().count() > 1 {
        Some(program.to_owned()).filter(|path| path.is_file())
    } else {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path)
            .map(|dir| dir.join(program))
            .find(|path| path.is_file())
    };
    if found.is_none() {
        faults.push(BuildFault::NoQemu {
            why: why.to_owned(),
            program: program.display().to_string(),
        });
    }
    found
}

/// A guest under QEMU.
#[derive(Debug)]
pub(crate) struct TcgVm {
    shared: Arc<Shared>,
    qmp: Arc<Qmp>,
    gdb: Gdb,
    memory: GuestMemory,
    consoles: [ConsoleLog; 2],
    ports: Vec<(String, Option<PortStream>)>,
    counters: CardCounters,
    threads: Vec<JoinHandle<()>>,
    started: Instant,
    vcpus: usize,
    /// A guest in virtual time is not interfered with.
    is_virtual: bool,
    gate: Option<Gate>,
    /// What a save needs; a guest with a gate has them, unless it was saved itself.
    sources: Option<Sources>,
}

/// What the watcher thread tells the others.
#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    exit_event: OwnedFd,
    pidfd: OwnedFd,
    pid: u32,
    /// Everything that came of the emulator; valid until `state.ended`.
    group: Pid,
    lines: Lines,
    deadline: Instant,
    /// Locked for no longer than a look.
    still: Mutex<StandStill>,
    com1: ConsoleLog,
}

#[derive(Debug, Default)]
struct State {
    /// Why the VM was told to end, if it was.
    told: Option<ExitReason>,
    /// The guest's own reason, from QMP's SHUTDOWN event.
    shutdown: Option<String>,
    /// Set once QEMU is reaped.
    ended: Option<(ExitReason, Instant)>,
    /// Set with `ended` in virtual time, unless QEMU was killed.
    virtual_run: Option<VirtualRun>,
}

impl TcgVm {
    pub(crate) fn start(config: &Config) -> Result<Self> {
        let backings = backings(config)?;
        let (vm, _) = Self::launch(config, &backings, None)?;
        vm.handshake(&config.qemu, None)?;
        Ok(vm)
    }

    /// A copy of a saved guest, which stands still where that one did.
    pub(crate) fn start_saved(config: &Config, saved: &Saved) -> Result<Self> {
        let memory = saved.memory()?;
        let backings: Vec<Backing> = memory
            .into_iter()
            .map(|file| {
                let len = file.metadata()?.len();
                Ok(Backing { file, len })
            })
            .collect::<std::io::Result<_>>()
            .map_err(Error::system("look at a saved guest's memory"))?;
        let state = saved.open_file(STATE)?;
        let (mut vm, mailbox) = Self::launch(config, &backings, Some((saved, &state)))?;
        vm.handshake(&config.qemu, Some(&state))?;
        let mailbox = mailbox.ok_or_else(no_gate)?;
        let files: Vec<File> = backings.into_iter().map(|backing| backing.file).collect();
        vm.take_place(saved, &files, &mailbox)?;
        Ok(vm)
    }

    /// Starts the emulator; its mailbox comes with it.
    fn launch(
        config: &Config,
        backings: &[Backing],
        saved: Option<(&Saved, &File)>,
    ) -> Result<(Self, Option<File>)> {
        let started = Instant::now();
        // A copy's memory is found once the emulator has it.
        let memory = match saved {
            None => map(backings, &q35_ranges(u64::from(config.memory_mib) << 20))?,
            Some(_) => GuestMemory::nowhere()?,
        };
        let initrd = initrd(config, saved.is_some())?;
        let mut pairs = Pairs::default();
        let (qmp_host, com1_host, com2_host, gdb_host) =
            (pairs.add()?, pairs.add()?, pairs.add()?, pairs.add()?);
        let mut ports = Vec::new();
        for name in &config.ports {
            ports.push((name.clone(), Some(PortStream::new(pairs.add()?))));
        }
        let own = Cards::serve(config, &memory, &mut pairs)?;
        let Parts {
            files,
            gate,
            ends,
            mailbox,
            sources,
            inherited,
        } = Parts::new(config, backings, saved)?;
        let mut fds = pairs.fds(config.ports.len(), backings, initrd.as_ref());
        fds.virtual_time = files.as_ref().map(|files| files.arguments(ends.as_ref()));
        let mut threads = own.threads;
        let stderr = memfd("ktstr-qemu-stderr")?;
        let emulator = spawn(config, &fds, &own.names, inherited, &stderr)?;
        // QEMU's ends must be its alone, so that its end is seen as the end of every stream.
        drop((pairs, ends));
        // A port is its owner's to close, which the guest must see.
        let streams = [&qmp_host, &com1_host, &com2_host, &gdb_host];
        let lines = Lines::of(streams.into_iter().chain(&own.lines))?;
        let (limit, past_limit) = limit(config);
        let shared = Arc::new(Shared::new(&emulator, after(started, limit), lines)?);
        let (qmp, reader) =
            qmp::connect(qmp_host).map_err(Error::system("share the monitor's socket"))?;
        let qmp = Arc::new(qmp);
        let consoles = [shared.com1.clone(), ConsoleLog::default()];
        if let Some((saved, _)) = saved {
            saved.tell_consoles(&consoles)?;
        }
        let is_virtual = files.is_some();
        let files = files.map(|files| (files, consoles[1].clone()));
        // In virtual time the consoles come out of files at the end; the streams' other ends are not held.
        if !is_virtual {
            threads.extend(follow([com1_host, com2_host], &consoles)?);
        }
        let deadline_keeper = Arc::clone(&shared);
        threads.push(named("ktstr-deadline", move || {
            deadline_keeper.keep_deadline(past_limit);
        })?);
        let gdb = Gdb::new(gdb_host, Arc::clone(&qmp));
        let (watcher, hits_end) = (Arc::clone(&shared), gdb.hits_end());
        threads.push(named("ktstr-qemu", move || {
            watcher.watch(emulator, reader, stderr, files);
            hits_end.end();
        })?);
        let vm = Self {
            shared,
            qmp,
            gdb,
            memory,
            consoles,
            ports,
            counters: own.counters,
            threads,
            started,
            vcpus: usize::try_from(config.topology.total_cpus()).unwrap_or(usize::MAX),
            is_virtual,
            gate,
            sources,
        };
        Ok((vm, mailbox))
    }

    /// Negotiates with QMP and lets the vCPUs go; those of a copy go as far as to its gate. QEMU that died meanwhile is reported
    /// with its own words.
    fn handshake(&self, program: &Path, state: Option<&File>) -> Result<()> {
        let go = self
            .qmp
            .execute("qmp_capabilities", &Value::Null, START_DEADLINE)
            .and_then(|_| state.map_or(Ok(()), |state| self.load(state)))
            .and_then(|()| self.qmp.execute("cont", &Value::Null, START_DEADLINE));
        let Err(error) = go else { return Ok(()) };
        if !matches!(error, Error::Gone { .. }) || !self.wait_until(Instant::now() + START_DEADLINE)
        {
            return Err(error);
        }
        match self.shared.ended() {
            Some((ExitReason::EngineDied { status, stderr }, _)) => {
                Err(version::explain(program, status, stderr))
            }
            // A deadline that passed this early is how the VM ended, not a failure to start it.
            Some((ExitReason::Deadline | ExitReason::NotFinished, _)) => Ok(()),
            _ => Err(error),
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

    pub(crate) fn pid(&self) -> u32 {
        self.shared.pid
    }

    pub(crate) fn vcpus(&self) -> usize {
        self.vcpus
    }

    pub(crate) fn vcpu_clocks(&self) -> VcpuClocks {
        VcpuClocks::of(self.pid(), self.vcpus)
    }

    pub(crate) fn exit_fd(&self) -> BorrowedFd<'_> {
        self.shared.exit_event.as_fd()
    }

    /// A stop at a moment of the host's would change the run.
    fn refuse_in_virtual_time(&self, what: &str) -> Result<()> {
        if !self.is_virtual {
            return Ok(());
        }
        Err(Error::Refused {
            what: what.to_owned(),
            reason: String::from(
                "in virtual time nothing enters a running guest; it can be looked into where it stands still at its gate",
            ),
        })
    }

    pub(crate) fn is_virtual(&self) -> bool {
        self.is_virtual
    }

    pub(crate) fn next_stop(&self) -> Result<Option<Stop>> {
        self.gate()?.next_stop()
    }

    pub(crate) fn go_on(&self, answer: &[u8], wake: Option<Duration>) -> Result<()> {
        self.gate()?.go_on(answer, wake)
    }

    pub(in crate::engine) fn gate(&self) -> Result<&Gate> {
        self.gate.as_ref().ok_or_else(no_gate)
    }

    /// The registers of a guest that stands still at its gate.
    fn at_gate(&self) -> Option<Vec<VcpuRegs>> {
        self.gate.as_ref()?.registers()
    }

    pub(crate) fn stop(&self, deadline: Duration) -> Result<()> {
        if self.at_gate().is_some() {
            return Ok(());
        }
        self.refuse_in_virtual_time("freeze the guest")?;
        let began = Instant::now();
        self.gdb.stop(deadline)?;
        self.shared.still().begin(began);
        Ok(())
    }

    pub(crate) fn cont(&self, deadline: Duration) -> Result<()> {
        if self.is_virtual {
            return Ok(());
        }
        self.shared.still().end(Instant::now());
        self.gdb.cont(deadline)
    }

    pub(crate) fn registers(&self, deadline: Duration) -> Result<Vec<VcpuRegs>> {
        if let Some(registers) = self.at_gate() {
            return Ok(registers);
        }
        self.refuse_in_virtual_time("show registers")?;
        let text = self.qmp.human("info registers -a", deadline)?;
        let regs = regs::parse(&text);
        if regs.is_empty() {
            return Err(Error::Refused {
                what: String::from("show registers"),
                reason: text,
            });
        }
        Ok(regs)
    }

    pub(crate) fn watch(&self, watch: Watch, hold: bool) -> Result<WatchId> {
        if let Some(gate) = &self.gate {
            return gate.watch(watch);
        }
        self.refuse_in_virtual_time("set a watch")?;
        self.gdb.watch(watch, hold)
    }

    pub(crate) fn unwatch(&self, id: WatchId) -> Result<()> {
        match &self.gate {
            Some(gate) => gate.unwatch(id),
            None => self.gdb.unwatch(id),
        }
    }

    pub(crate) fn release_hit(&self, deadline: Duration) -> Result<()> {
        // At a gate it is `go_on` that lets the guest go.
        if self.gate.is_some() {
            return Ok(());
        }
        self.gdb.release_hit(deadline)
    }

    pub(crate) fn next_watch_hit(&self, deadline: Duration) -> Option<WatchHit> {
        self.gdb.next_hit(deadline)
    }

    pub(crate) fn card_counters(&self) -> &CardCounters {
        &self.counters
    }

    pub(crate) fn kill(&self) {
        // One that stands still at its gate ends there, and leaves its report.
        if let Some(gate) = &self.gate
            && gate.registers().is_some()
        {
            self.shared.lock().told.get_or_insert(ExitReason::Killed);
            gate.close();
            return;
        }
        self.shared.kill(ExitReason::Killed);
    }

    /// How it ended, once it has.
    pub(crate) fn ended_by(&self) -> Option<ExitReason> {
        self.shared.ended().map(|(reason, _)| reason)
    }

    /// Waits for the end until `until`; tells whether it came.
    pub(crate) fn wait_until(&self, until: Instant) -> bool {
        let mut state = self.shared.lock();
        while state.ended.is_none() {
            let Some(left) = until
                .checked_duration_since(Instant::now())
                .filter(|left| !left.is_zero())
            else {
                return false;
            };
            state = self
                .shared
                .changed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        true
    }

    pub(crate) fn wait(&mut self) -> Result<VmExit> {
        // The deadline thread ends the VM; the grace is for reaping it.
        let last = || {
            let still = self.shared.still().total(Instant::now());
            self.shared.deadline + still + START_DEADLINE
        };
        let mut until = last();
        while !self.wait_until(until) {
            let moved = last();
            if moved <= until {
                return Err(Error::Timeout {
                    what: String::from("end"),
                    waited: until - self.started,
                });
            }
            until = moved;
        }
        self.join();
        let Some((reason, at)) = self.shared.ended() else {
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
            engine: Engine::Tcg,
            engine_why: String::new(),
            kvm_stats: None,
            blk_counters: self.counters.disks(),
            net_counters: self.counters.nets(),
            clock: if self.is_virtual {
                Clock::Virtual
            } else {
                Clock::Host
            },
            virtual_run: self.shared.lock().virtual_run.clone(),
        })
    }

    fn join(&mut self) {
        for thread in self.threads.drain(..) {
            // A panic there was printed there; what it had logged until then is kept.
            let _ = thread.join();
        }
    }
}

impl Drop for TcgVm {
    fn drop(&mut self) {
        self.kill();
        self.join();
    }
}

impl Shared {
    fn new(emulator: &Emulator, deadline: Instant, lines: Lines) -> Result<Self> {
        let pid = emulator.pid();
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).map_err(|errno| Error::System {
            what: "open a pidfd of QEMU",
            source: errno.into(),
        })?;
        let exit_event = eventfd(0, EventfdFlags::CLOEXEC).map_err(|errno| Error::System {
            what: "create an eventfd",
            source: errno.into(),
        })?;
        Ok(Self {
            state: Mutex::default(),
            changed: Condvar::new(),
            exit_event,
            pidfd,
            pid: pid.as_raw_nonzero().get().unsigned_abs(),
            group: emulator.group(),
            lines,
            deadline,
            still: Mutex::default(),
            com1: ConsoleLog::default(),
        })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ended(&self) -> Option<(ExitReason, Instant)> {
        self.lock().ended.clone()
    }

    /// Ends QEMU; the first reason given is the one reported.
    fn kill(&self, reason: ExitReason) {
        let mut state = self.lock();
        if state.ended.is_none() {
            state.told.get_or_insert(reason);
            process::kill_group(self.group);
        }
    }

    /// Once the emulator itself has ended: whatever else it left is ended, too, and whoever hides from that does not keep the
    /// streams open.
    fn clean_up(&self) {
        let mut state = self.lock();
        if state.ended.is_none() {
            process::kill_group(self.group);
        }
        let until = Instant::now() + LINES_DEADLINE;
        while state.ended.is_none() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let waited = self.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        drop(state);
        self.lines.close();
    }

    fn still(&self) -> MutexGuard<'_, StandStill> {
        self.still.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sleeps until the VM ended or its deadline passed, and sees to it that nothing of it stays.
    fn keep_deadline(&self, past: ExitReason) {
        loop {
            let left = self.still().left(self.deadline, Instant::now());
            let Some(left) = left else {
                self.kill(past);
                break;
            };
            let timeout = Timespec::try_from(left).ok();
            let mut fds = [PollFd::new(&self.pidfd, PollFlags::IN)];
            match poll(&mut fds, timeout.as_ref()) {
                Ok(0) | Err(rustix::io::Errno::INTR) => {}
                Ok(_) | Err(_) => break,
            }
        }
        self.clean_up();
    }

    /// Follows QMP's events to the end of QEMU, reaps it, and says how it ended.
    fn watch(
        &self,
        mut emulator: Emulator,
        mut events: QmpReader,
        stderr: File,
        files: Option<(Files, ConsoleLog)>,
    ) {
        while let Some(event) = events.next_event() {
            if event["event"] == "SHUTDOWN" {
                self.lock().shutdown = event["data"]["reason"].as_str().map(str::to_owned);
            }
        }
        drop(events);
        let status = emulator.wait();
        let ended = Instant::now();
        let virtual_run = files.and_then(|(mut files, com2)| {
            files.consoles_into(&self.com1, &com2);
            let report = files.report()?;
            Some((files.run(&report), report.end))
        });
        // What the guest wrote last may still be on its way; the process that held the other end is gone.
        self.com1.wait_closed(CONSOLE_DEADLINE);
        let mut state = self.lock();
        let mut past_deadline = false;
        match virtual_run.as_ref().map(|(_, end)| *end) {
            None | Some(End::Emulator) => {}
            Some(End::Deadline) => past_deadline = true,
            // The emulator was ended at this very instruction, before it could say so itself.
            Some(end) => state.shutdown = Some(end.name().to_owned()),
        }
        let reason = match (state.told.take(), &state.shutdown, status) {
            (Some(told), _, _) => told,
            (None, _, Ok(status)) if past_deadline && status.success() => ExitReason::Deadline,
            (None, Some(shutdown), Ok(status)) if status.success() => {
                classify(shutdown, &self.com1.snapshot())
            }
            (None, _, Ok(status)) => ExitReason::EngineDied {
                status: words(status),
                stderr: tail(stderr),
            },
            (None, _, Err(error)) => ExitReason::EngineDied {
                status: error.to_string(),
                stderr: tail(stderr),
            },
        };
        state.virtual_run = virtual_run.map(|(run, _)| run);
        state.ended = Some((reason, ended));
        drop(state);
        self.changed.notify_all();
        // The counter cannot overflow: this is its only writer.
        let _ = rustix::io::write(&self.exit_event, &1u64.to_ne_bytes());
    }
}

/// A guest's reason for the end, told by QEMU and by its own console.
fn classify(shutdown: &str, com1: &[u8]) -> ExitReason {
    let console = String::from_utf8_lossy(com1);
    match shutdown {
        "guest-panic" => ExitReason::Panic,
        _ if kernel_panic(&console).is_some() => ExitReason::Panic,
        "guest-shutdown" => ExitReason::PowerOff,
        "guest-reset" if console.contains("reboot: ") => ExitReason::Reboot,
        "guest-reset" => ExitReason::TripleFault,
        "host-qmp-quit" | "host-signal" | "host-ui" => ExitReason::Killed,
        other => ExitReason::EngineDied {
            status: format!("an unknown shutdown reason '{other}'"),
            stderr: String::new(),
        },
    }
}

fn words(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => status.to_string(),
    }
}

fn tail(mut stderr: File) -> String {
    let mut text = Vec::new();
    if stderr
        .rewind()
        .and_then(|()| stderr.read_to_end(&mut text))
        .is_err()
    {
        return String::from("(its error output cannot be read)");
    }
    let text = String::from_utf8_lossy(&text);
    // One such line per vCPU, of what is forced on purpose.
    let lines: Vec<&str> = text.lines().filter(|line| !line.contains(FORCED)).collect();
    let text = lines.join("\n");
    let start = text.ceil_char_boundary(text.len().saturating_sub(STDERR_TAIL));
    text.get(start..).unwrap_or_default().trim().to_owned()
}

/// QEMU's warning of the feature that [`args`] forces.
const FORCED: &str = "TCG doesn't support requested feature: CPUID.80000001H:ECX.topoext";

/// What boots from it: not a copy, which has unpacked it.
fn initrd(config: &Config, is_copy: bool) -> Result<Option<File>> {
    let initrd = config.initrd.as_ref().filter(|_| !is_copy);
    initrd
        .map(Initrd::open)
        .transpose()
        .map_err(Error::system("open the initrd"))
}

/// Memory of each node.
fn backings(config: &Config) -> Result<Vec<Backing>> {
    let sizes = config.node_mib.iter().map(|mib| u64::from(*mib) << 20);
    sizes.map(Backing::new).collect()
}

/// A thread for each console.
fn follow(streams: [UnixStream; 2], logs: &[ConsoleLog; 2]) -> Result<Vec<JoinHandle<()>>> {
    let each = streams.into_iter().zip(logs.clone());
    each.map(|(stream, log)| named("ktstr-console", move || log.follow(stream)))
        .collect()
}

fn memfd(name: &str) -> Result<File> {
    memory_file(name).map_err(Error::system("create a memory file"))
}

fn named(name: &str, body: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    thread::Builder::new()
        .name(name.to_owned())
        .spawn(body)
        .map_err(Error::system("start a thread"))
}

/// Our ends of the emulator's streams, to close them where the other end stays open.
#[derive(Debug)]
struct Lines(Vec<UnixStream>);

impl Lines {
    fn of<'s>(streams: impl Iterator<Item = &'s UnixStream>) -> Result<Self> {
        let lines = streams.map(UnixStream::try_clone);
        let lines = lines.collect::<std::io::Result<_>>().map(Self);
        lines.map_err(Error::system("share a descriptor"))
    }

    fn close(&self) {
        for line in &self.0 {
            // What has arrived can still be read. An error means that the other end is closed, as it should be.
            let _ = line.shutdown(Shutdown::Both);
        }
    }
}

/// How long the host waits, and how the VM has ended then. In virtual time the deadline is the plugin's.
fn limit(config: &Config) -> (Duration, ExitReason) {
    match &config.virtual_time {
        None => (config.deadline, ExitReason::Deadline),
        Some(time) => (time.wall_limit, ExitReason::NotFinished),
    }
}

/// Starts QEMU with what it inherits. Dropped on any way out of here, it is killed.
fn spawn(
    config: &Config,
    fds: &Fds,
    names: &[String],
    further: Vec<RawFd>,
    stderr: &File,
) -> Result<Emulator> {
    let stderr = stderr
        .try_clone()
        .map_err(Error::system("share a descriptor"))?;
    let mut command = Command::new(&config.qemu);
    command
        .args(args::arguments(config, fds, names))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(stderr);
    let mut inherited = all(fds);
    inherited.extend(further);
    let inherited = Inherited {
        fds: inherited,
        cpus: budget::host_cpus(config.cpu_budget)
            .map_err(Error::system("read the host's CPUs"))?,
    };
    process::spawn(command, inherited).map_err(Error::system("start QEMU"))
}

/// QEMU's ends of the socket pairs.
#[derive(Debug, Default)]
struct Pairs(Vec<UnixStream>);

impl Pairs {
    /// A new pair; QEMU's end is kept, the host's returned.
    fn add(&mut self) -> Result<UnixStream> {
        let (host, guest) = UnixStream::pair().map_err(Error::system("create a socket pair"))?;
        self.0.push(guest);
        Ok(host)
    }

    /// What was added, in the order of `start`: four streams of QEMU's own, `ports` ports, the cards.
    fn fds(&self, ports: usize, backings: &[Backing], initrd: Option<&File>) -> Fds {
        let mut raw = self.0.iter().map(AsRawFd::as_raw_fd);
        let [qmp, com1, com2, gdb] = std::array::from_fn(|_| raw.next().unwrap_or(-1));
        Fds {
            qmp,
            com1,
            com2,
            gdb,
            ports: raw.by_ref().take(ports).collect(),
            cards: raw.collect(),
            memory: backings
                .iter()
                .map(|backing| backing.file.as_raw_fd())
                .collect(),
            initrd: initrd.map(AsRawFd::as_raw_fd),
            virtual_time: None,
        }
    }
}

fn all(fds: &Fds) -> Vec<RawFd> {
    let mut all = vec![fds.qmp, fds.com1, fds.com2, fds.gdb];
    all.extend(&fds.ports);
    all.extend(&fds.cards);
    all.extend(&fds.memory);
    all.extend(fds.initrd);
    all
}

/// The command that hands the gdb stub its connection.
fn start_gdb_stub(qmp: &Qmp, deadline: Duration) -> Result<()> {
    let reply = qmp.human("gdbserver chardev:gdb", deadline)?;
    if reply.contains("Could not") || reply.contains("rror") {
        return Err(Error::Refused {
            what: String::from("start the gdb stub"),
            reason: reply,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_told_apart() {
        assert_eq!(classify("guest-shutdown", b""), ExitReason::PowerOff);
        assert_eq!(
            classify("guest-reset", b"[1.0] reboot: Restarting system"),
            ExitReason::Reboot
        );
        assert_eq!(
            classify(
                "guest-reset",
                b"... Kernel panic - not syncing: x\nreboot: "
            ),
            ExitReason::Panic
        );
        assert_eq!(classify("guest-reset", b"early"), ExitReason::TripleFault);
        assert!(matches!(
            classify("new-reason", b""),
            ExitReason::EngineDied { .. }
        ));
    }

    #[test]
    fn apic_ids_beyond_the_last_are_refused_with_the_reason() {
        let mut faults = Vec::new();
        check_topology(&"1n14l9c2t".parse().unwrap(), &mut faults);
        assert!(faults[0].to_string().contains("x2APIC"), "{}", faults[0]);
    }
}
