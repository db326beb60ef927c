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
mod gdb;
mod process;
mod qmp;
mod regs;
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

use self::args::{Fds, VirtualArguments};
use self::gdb::Gdb;
use self::process::{Emulator, Inherited};
use self::qmp::{Qmp, QmpReader};
use self::virtual_time::Files;
pub(crate) use self::virtual_time::check_qemu;
use crate::budget;
use crate::clock::{Clock, VirtualRun};
use crate::console::{ConsoleLog, kernel_panic};
use crate::devices::virtio::cards::{CardCounters, cards};
use crate::devices::virtio::vhost_user::{self, Socket};
use crate::error::{BuildFault, Error, Result};
use crate::initrd::Initrd;
use crate::initrd::memory_file;
use crate::memory::{Backing, GuestMemory, map, q35_ranges};
use crate::port::PortStream;
use crate::probe::Engine;
use crate::standstill::StandStill;
use crate::topology::Topology;
use crate::vm::{Config, ExitReason, VcpuRegs, VmExit};
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
    /// A guest in virtual time is not interfered with.
    is_virtual: bool,
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
        let started = Instant::now();
        let backings: Vec<Backing> = config
            .node_mib
            .iter()
            .map(|mib| Backing::new(u64::from(*mib) << 20))
            .collect::<Result<_>>()?;
        let memory = map(&backings, &q35_ranges(u64::from(config.memory_mib) << 20))?;
        let initrd = config
            .initrd
            .as_ref()
            .map(Initrd::open)
            .transpose()
            .map_err(Error::system("open the initrd"))?;
        let mut pairs = Pairs::default();
        let (qmp_host, com1_host, com2_host, gdb_host) =
            (pairs.add()?, pairs.add()?, pairs.add()?, pairs.add()?);
        let mut ports = Vec::new();
        for name in &config.ports {
            ports.push((name.clone(), Some(PortStream::new(pairs.add()?))));
        }
        let own = Cards::serve(config, &memory, &mut pairs)?;
        let files = config
            .virtual_time
            .as_ref()
            .map(|time| Files::new(time, config))
            .transpose()?;
        let mut fds = pairs.fds(config.ports.len(), &backings, initrd.as_ref());
        fds.virtual_time = files.as_ref().map(|files| VirtualArguments {
            serials: files.serials(),
            plugin: files.plugin(),
        });
        let mut threads = own.threads;
        let stderr = memfd("ktstr-qemu-stderr")?;
        let emulator = spawn(config, &fds, &own.names, files.as_ref(), &stderr)?;
        // QEMU's ends must be its alone, so that its end is seen as the end of every stream.
        drop(pairs);
        // A port is its owner's to close, which the guest must see.
        let mut lines = Lines::default();
        for line in [&qmp_host, &com1_host, &com2_host, &gdb_host]
            .into_iter()
            .chain(&own.lines)
        {
            lines.add(line)?;
        }
        let (limit, past_limit) = limit(config);
        let shared = Arc::new(Shared::new(&emulator, started + limit, lines)?);
        let (qmp, reader) =
            qmp::connect(qmp_host).map_err(Error::system("share the monitor's socket"))?;
        let qmp = Arc::new(qmp);
        let consoles = [shared.com1.clone(), ConsoleLog::default()];
        let is_virtual = files.is_some();
        let files = files.map(|files| (files, consoles[1].clone()));
        // In virtual time the consoles come out of files at the end; nobody holds the streams' other ends.
        if !is_virtual {
            let logs = consoles.clone().into_iter();
            for (stream, log) in [com1_host, com2_host].into_iter().zip(logs) {
                threads.push(named("ktstr-console", move || log.follow(stream))?);
            }
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
            is_virtual,
        };
        vm.handshake()?;
        Ok(vm)
    }

    /// Negotiates with QMP and lets the vCPUs go. QEMU that died meanwhile is reported with its own words.
    fn handshake(&self) -> Result<()> {
        let go = self
            .qmp
            .execute("qmp_capabilities", &Value::Null, START_DEADLINE)
            .and_then(|_| self.qmp.execute("cont", &Value::Null, START_DEADLINE));
        let Err(error) = go else { return Ok(()) };
        if !matches!(error, Error::Gone { .. }) || !self.wait_until(Instant::now() + START_DEADLINE)
        {
            return Err(error);
        }
        match self.shared.ended() {
            Some((ExitReason::EngineDied { status, stderr }, _)) => {
                Err(Error::EarlyDeath { status, stderr })
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
                "in virtual time nothing enters a running guest; use host time to look into it",
            ),
        })
    }

    pub(crate) fn stop(&self, deadline: Duration) -> Result<()> {
        self.refuse_in_virtual_time("freeze the guest")?;
        let began = Instant::now();
        self.gdb.stop(deadline)?;
        self.shared.still().begin(began);
        Ok(())
    }

    pub(crate) fn cont(&self, deadline: Duration) -> Result<()> {
        self.shared.still().end(Instant::now());
        self.gdb.cont(deadline)
    }

    pub(crate) fn registers(&self, deadline: Duration) -> Result<Vec<VcpuRegs>> {
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
        self.refuse_in_virtual_time("set a watch")?;
        self.gdb.watch(watch, hold)
    }

    pub(crate) fn unwatch(&self, id: WatchId) -> Result<()> {
        self.gdb.unwatch(id)
    }

    pub(crate) fn release_hit(&self, deadline: Duration) -> Result<()> {
        self.gdb.release_hit(deadline)
    }

    pub(crate) fn next_watch_hit(&self, deadline: Duration) -> Option<WatchHit> {
        self.gdb.next_hit(deadline)
    }

    pub(crate) fn card_counters(&self) -> &CardCounters {
        &self.counters
    }

    pub(crate) fn kill(&self) {
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
#[derive(Debug, Default)]
struct Lines(Vec<UnixStream>);

impl Lines {
    fn add(&mut self, line: &UnixStream) -> Result<()> {
        let line = line.try_clone();
        self.0
            .push(line.map_err(Error::system("share a descriptor"))?);
        Ok(())
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
    files: Option<&Files>,
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
    inherited.extend(files.into_iter().flat_map(Files::fds));
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

/// Our own device models and QEMU's way to each.
#[derive(Debug)]
struct Cards {
    threads: Vec<JoinHandle<()>>,
    counters: CardCounters,
    /// Names of those that QEMU connects to.
    names: Vec<String>,
    /// Our ends of their sockets; of a named one, of its guard.
    lines: Vec<UnixStream>,
}

impl Cards {
    /// Starts their threads, which end with QEMU's end of their sockets.
    fn serve(config: &Config, memory: &GuestMemory, pairs: &mut Pairs) -> Result<Self> {
        let (cards, counters) = cards(&config.disks, &config.nets)?;
        let (mut threads, mut names, mut lines) = (Vec::new(), Vec::new(), Vec::new());
        for (index, card) in cards.into_iter().enumerate() {
            let ours = pairs.add()?;
            lines.push(
                ours.try_clone()
                    .map_err(Error::system("share a descriptor"))?,
            );
            let socket = if index < config.disks.len() {
                Socket::Connected(ours)
            } else {
                let (socket, name) = Socket::listen(ours)?;
                names.push(name);
                socket
            };
            threads.push(vhost_user::serve(card, memory.inner().clone(), socket)?);
        }
        Ok(Self {
            threads,
            counters,
            names,
            lines,
        })
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
