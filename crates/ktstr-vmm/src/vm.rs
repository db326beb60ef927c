//! The VM as its user sees it: builder, running VM, end.

use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::clock::VirtualTime;
use crate::config::Config;
use crate::console::ConsoleLog;
use crate::devices::virtio::blk::{BlkCounters, Disk};
use crate::devices::virtio::net::{Net, NetCounters};
use crate::engine::kvm::elf_len;
use crate::engine::{EngineVm, tcg};
use crate::error::{BuildError, BuildFault, Result};
use crate::exit::{ExitReason, VcpuRegs, VmExit};
use crate::gate::{RunOnly, Stop, no_gate};
use crate::initrd::Initrd;
use crate::memory::GuestMemory;
use crate::port::PortStream;
use crate::probe::{Engine, EngineChoice};
use crate::saved::Saved;
use crate::topology::Topology;
use crate::vcpu_time::VcpuClocks;
use crate::watch::{Watch, WatchHit, WatchId, WatchSupport};
use ktstr_wire::gate::UntilState;

/// Longest command line that x86 takes (arch/x86/include/asm/setup.h: COMMAND_LINE_SIZE), with its terminator.
const MAX_CMDLINE: usize = 2047;
const ELF: &[u8] = b"\x7fELF";
/// The least memory a kernel of ours boots in, beside kernel image and initrd.
const MIN_SPARE_MIB: u64 = 32;

/// Collects what a VM is made of; [`build`](Self::build) checks it.
#[derive(Debug, Clone)]
pub struct VmBuilder {
    kernel: Option<PathBuf>,
    initrd: Option<Initrd>,
    cmdline: String,
    topology: Option<Topology>,
    memory_mib: u32,
    ports: Vec<String>,
    disks: Vec<Disk>,
    nets: Vec<Net>,
    deadline: Duration,
    engine: EngineChoice,
    performance_mode: bool,
    cpu_budget: Option<u32>,
    lock_dir: PathBuf,
    nested: bool,
    invariant_tsc: bool,
    qemu: PathBuf,
    virtual_time: Option<VirtualTime>,
}

/// A VM that passed every check and has not started.
#[derive(Debug)]
pub struct Vm {
    pub(crate) config: Config,
    engine: Engine,
    why: String,
}

impl Vm {
    /// Starts collecting.
    #[must_use]
    pub fn builder() -> VmBuilder {
        VmBuilder {
            kernel: None,
            initrd: None,
            cmdline: String::from("console=ttyS0"),
            topology: None,
            memory_mib: 256,
            ports: Vec::new(),
            disks: Vec::new(),
            nets: Vec::new(),
            deadline: Duration::from_secs(60),
            engine: EngineChoice::Auto,
            performance_mode: false,
            cpu_budget: None,
            lock_dir: std::env::temp_dir(),
            nested: false,
            invariant_tsc: false,
            qemu: PathBuf::from(tcg::DEFAULT_QEMU),
            virtual_time: None,
        }
    }

    /// The engine that will run it.
    #[must_use]
    pub fn engine(&self) -> Engine {
        self.engine
    }

    /// Why this engine, in one line.
    #[must_use]
    pub fn engine_why(&self) -> &str {
        &self.why
    }

    /// Starts the VM; its deadline begins to run.
    ///
    /// # Errors
    /// When the engine cannot be started.
    pub fn start(self) -> Result<RunningVm> {
        Ok(RunningVm {
            vm: EngineVm::start(self.engine, &self.config)?,
            why: self.why,
            clocks: Mutex::default(),
        })
    }

    /// What a saved guest's machine and this one must have in common: emulator, kernel, command line, shape, memory, and how time
    /// passes. Without virtual time, nothing.
    #[must_use]
    pub fn saved_machine(&self) -> String {
        tcg::saved_machine(&self.config).unwrap_or_default()
    }

    /// Starts a copy of a saved guest on this machine, which must be as the saved one's was; seed and deadline are its own. The
    /// copy stands still at its gate: the first [`next_stop`](RunningVm::next_stop) says what was said when it was saved, and
    /// [`go_on`](RunningVm::go_on) lets it go. Copies of one saved guest with equal seeds and answers are equal runs.
    ///
    /// # Errors
    /// When this machine is another one, has no gate, or cannot be started.
    pub fn start_saved(self, saved: &Saved) -> Result<RunningVm> {
        let has_gate = self
            .config
            .virtual_time
            .as_ref()
            .is_some_and(|time| time.gate);
        if !has_gate {
            return Err(no_gate());
        }
        Ok(RunningVm {
            vm: EngineVm::start_saved(self.engine, &self.config, saved)?,
            why: self.why,
            clocks: Mutex::default(),
        })
    }

    /// Starts the VM and waits for its end, at most until its deadline.
    ///
    /// # Errors
    /// When the engine cannot be started or waited for.
    pub fn run(self) -> Result<VmExit> {
        self.start()?.wait()
    }
}

impl VmBuilder {
    /// The kernel: a bzImage, or on kvm an ELF vmlinux.
    #[must_use]
    pub fn kernel(mut self, path: impl Into<PathBuf>) -> Self {
        self.kernel = Some(path.into());
        self
    }

    /// The initial RAM file system.
    #[must_use]
    pub fn initrd(mut self, initrd: Initrd) -> Self {
        self.initrd = Some(initrd);
        self
    }

    /// The kernel command line; `console=ttyS0` unless set.
    #[must_use]
    pub fn cmdline(mut self, cmdline: impl Into<String>) -> Self {
        self.cmdline = cmdline.into();
        self
    }

    /// CPUs and nodes; one CPU unless set.
    #[must_use]
    pub fn topology(mut self, topology: Topology) -> Self {
        self.topology = Some(topology);
        self
    }

    /// Memory of all nodes together; 256 MiB unless set.
    #[must_use]
    pub fn memory_mib(mut self, memory_mib: u32) -> Self {
        self.memory_mib = memory_mib;
        self
    }

    /// Adds a named byte stream; the guest finds it in `/sys/class/virtio-ports/*/name`.
    #[must_use]
    pub fn port(mut self, name: impl Into<String>) -> Self {
        self.ports.push(name.into());
        self
    }

    /// Adds a disk.
    #[must_use]
    pub fn disk(mut self, disk: Disk) -> Self {
        self.disks.push(disk);
        self
    }

    /// Adds a loopback network card. Without a fixed address the guest makes one up on kvm, and QEMU does on tcg.
    #[must_use]
    pub fn net(mut self, net: Net) -> Self {
        self.nets.push(net);
        self
    }

    /// After this time from its start the VM is ended; 60 s unless set.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// The engine; the fastest that works here unless set.
    #[must_use]
    pub fn engine(mut self, engine: EngineChoice) -> Self {
        self.engine = engine;
        self
    }

    /// Asks for CPUs of the host's own, huge pages and no halt exits; kvm only.
    #[must_use]
    pub fn performance_mode(mut self, on: bool) -> Self {
        self.performance_mode = on;
        self
    }

    /// Confines the vCPUs to so many of the host CPUs that this process may use; performance mode, which gives each its own,
    /// goes before.
    #[must_use]
    pub fn cpu_budget(mut self, cpus: u32) -> Self {
        self.cpu_budget = Some(cpus);
        self
    }

    /// Where performance mode has its lock files, which processes that share a host must agree on; the directory for temporary
    /// files unless set.
    #[must_use]
    pub fn lock_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.lock_dir = dir.into();
        self
    }

    /// Lets the guest run guests of its own: on tcg its CPU has SVM with nested paging, on kvm what the host passes on.
    #[must_use]
    pub fn nested(mut self, on: bool) -> Self {
        self.nested = on;
        self
    }

    /// Shows the guest an invariant TSC, whatever the host has, so that Linux takes the TSC for its clock instead of kvm-clock; kvm
    /// only. A freeze sets it back like kvm-clock.
    #[must_use]
    pub fn invariant_tsc(mut self, on: bool) -> Self {
        self.invariant_tsc = on;
        self
    }

    /// The emulator of the tcg engine; `qemu-system-x86_64` unless set.
    #[must_use]
    pub fn qemu(mut self, program: impl Into<PathBuf>) -> Self {
        self.qemu = program.into();
        self
    }

    /// Runs the guest in virtual time, which only tcg has: `auto` chooses it then. The deadline becomes virtual too.
    #[must_use]
    pub fn virtual_time(mut self, time: VirtualTime) -> Self {
        self.virtual_time = Some(time);
        self
    }

    /// Checks everything.
    ///
    /// # Errors
    /// With every fault that was found, not only the first.
    pub fn build(self) -> std::result::Result<Vm, BuildError> {
        let mut faults = Vec::new();
        let topology = self.topology.clone().unwrap_or_default();
        let (engine, why) = match &self.virtual_time {
            Some(time) => self.in_virtual_time(time, &topology, &mut faults),
            None => choose(self.engine, &mut faults),
        };
        self.check_kvms_own(engine, &mut faults);
        if engine == Engine::Tcg {
            tcg::check_topology(&topology, &mut faults);
        }
        let kernel_len = check_kernel(self.kernel.as_deref(), engine, &mut faults);
        let initrd_len = check_initrd(self.initrd.as_ref(), &mut faults);
        // The kernel holds image, archive and unpacked files at once while it boots.
        let needed_mib = (kernel_len + 2 * initrd_len).div_ceil(1 << 20) + MIN_SPARE_MIB;
        if u64::from(self.memory_mib) < needed_mib {
            faults.push(BuildFault::Memory {
                memory_mib: self.memory_mib,
                needed_mib,
            });
        }
        let node_mib = deal_memory(&topology, self.memory_mib, &mut faults);
        if self.cmdline.len() > MAX_CMDLINE {
            faults.push(BuildFault::Cmdline {
                len: self.cmdline.len(),
                max: MAX_CMDLINE,
            });
        }
        if self.cmdline.contains('\0') {
            faults.push(BuildFault::CmdlineNul);
        }
        for (index, name) in self.ports.iter().enumerate() {
            if self.ports.iter().take(index).any(|earlier| earlier == name) {
                faults.push(BuildFault::DuplicatePort { name: name.clone() });
            }
        }
        let qemu = match engine {
            Engine::Tcg => tcg::find_qemu(&self.qemu, &why, &mut faults),
            Engine::Kvm => Some(self.qemu),
        };
        if self.virtual_time.is_some()
            && let Some(qemu) = &qemu
        {
            tcg::check_qemu(qemu, &mut faults);
        }
        match (self.kernel, qemu) {
            (Some(kernel), Some(qemu)) if faults.is_empty() => Ok(Vm {
                config: Config {
                    kernel,
                    initrd: self.initrd,
                    cmdline: self.cmdline,
                    topology,
                    memory_mib: self.memory_mib,
                    node_mib,
                    ports: self.ports,
                    disks: self.disks,
                    nets: self.nets,
                    deadline: self.deadline,
                    performance_mode: self.performance_mode,
                    cpu_budget: self.cpu_budget,
                    lock_dir: self.lock_dir,
                    nested: self.nested,
                    invariant_tsc: self.invariant_tsc,
                    qemu,
                    virtual_time: self.virtual_time,
                },
                engine,
                why,
            }),
            _ => Err(BuildError { faults }),
        }
    }
}

impl VmBuilder {
    /// What kvm has alone, and what it asks of that.
    fn check_kvms_own(&self, engine: Engine, faults: &mut Vec<BuildFault>) {
        let refused = [
            (
                self.performance_mode,
                "has no performance mode; it needs kvm",
            ),
            (self.invariant_tsc, "shows no invariant TSC; it needs kvm"),
        ];
        for (_, what) in refused.into_iter().filter(|(wanted, _)| *wanted) {
            if engine == Engine::Tcg {
                let what = what.to_owned();
                faults.push(BuildFault::Engine { engine, what });
            }
        }
        if self.performance_mode && !self.memory_mib.is_multiple_of(2) {
            faults.push(BuildFault::OddMemory {
                memory_mib: self.memory_mib,
            });
        }
    }

    /// Only tcg counts instructions, and what answers at a time of the host's is refused.
    fn in_virtual_time(
        &self,
        time: &VirtualTime,
        topology: &Topology,
        faults: &mut Vec<BuildFault>,
    ) -> (Engine, String) {
        let mut refuse = |engine, what: &str| {
            faults.push(BuildFault::Engine {
                engine,
                what: what.to_owned(),
            });
        };
        if self.engine == EngineChoice::Kvm {
            refuse(Engine::Kvm, "has no virtual time; use auto or tcg");
        }
        if !self.ports.is_empty() {
            refuse(
                Engine::Tcg,
                "does not support ports in virtual time, because the host's replies would not be repeatable; use the consoles, or host time",
            );
        }
        if !self.disks.is_empty() || !self.nets.is_empty() {
            refuse(
                Engine::Tcg,
                "has no disks and network cards in virtual time, which answer at a time of the host's; use host time",
            );
        }
        time.check(topology, faults);
        let by_itself = self.engine.resolve();
        let why = match by_itself.engine {
            Engine::Tcg => by_itself.why,
            Engine::Kvm => String::from("virtual time is tcg's"),
        };
        (Engine::Tcg, why)
    }
}

/// Whether an emulator can give virtual time: `qemu-system-x86_64` on `PATH` unless one is named. It is asked for its version,
/// once in a process.
///
/// # Errors
/// [`BuildFault::NoQemu`], and [`BuildFault::Engine`] with the versions that fit.
pub fn check_virtual_time(qemu: Option<&Path>) -> std::result::Result<(), BuildError> {
    let mut faults = Vec::new();
    let program = qemu.unwrap_or(Path::new(tcg::DEFAULT_QEMU));
    if let Some(found) = tcg::find_qemu(program, "virtual time is tcg's", &mut faults) {
        tcg::check_qemu(&found, &mut faults);
    }
    if faults.is_empty() {
        Ok(())
    } else {
        Err(BuildError { faults })
    }
}

fn choose(choice: EngineChoice, faults: &mut Vec<BuildFault>) -> (Engine, String) {
    if choice == EngineChoice::Kvm
        && let Err(error) = std::fs::File::options()
            .read(true)
            .write(true)
            .open("/dev/kvm")
    {
        let what = format!("/dev/kvm does not open: {error}; use auto or tcg");
        faults.push(BuildFault::Engine {
            engine: Engine::Kvm,
            what,
        });
    }
    let chosen = choice.resolve();
    (chosen.engine, chosen.why)
}

/// The image's length; a fault when it is no bzImage (Documentation/arch/x86/boot.rst: "HdrS" at 0x202).
fn check_kernel(path: Option<&Path>, engine: Engine, faults: &mut Vec<BuildFault>) -> u64 {
    use std::io::Read as _;
    let Some(path) = path else {
        faults.push(BuildFault::NoKernel);
        return 0;
    };
    let mut head = [0; 0x206];
    let read = std::fs::File::open(path).and_then(|mut file| {
        let len = file.metadata()?.len();
        let short = u64::try_from(head.len()).is_ok_and(|head| len < head);
        if !short {
            file.read_exact(&mut head)?;
        }
        // An ELF file is long by what is not loaded; one that is malformed is refused when it is.
        let len = match head.starts_with(ELF) {
            true => elf_len(&mut file).unwrap_or(len),
            false => len,
        };
        Ok((len, short))
    });
    match read {
        Err(source) => {
            faults.push(BuildFault::Unreadable {
                what: "kernel",
                path: path.to_owned(),
                source,
            });
            0
        }
        Ok((_, true)) => {
            faults.push(BuildFault::NotAKernel {
                path: path.to_owned(),
                why: "it is shorter than a boot header",
            });
            0
        }
        Ok((len, false)) => {
            let elf = engine == Engine::Kvm && head.starts_with(ELF);
            if !elf && !head.ends_with(b"HdrS") {
                let why = "it lacks the boot header's HdrS mark (an ELF vmlinux needs its bzImage)";
                faults.push(BuildFault::NotAKernel {
                    path: path.to_owned(),
                    why,
                });
            }
            len
        }
    }
}

fn check_initrd(initrd: Option<&Initrd>, faults: &mut Vec<BuildFault>) -> u64 {
    let Some(initrd) = initrd else { return 0 };
    initrd.size().unwrap_or_else(|source| {
        let path = match initrd {
            Initrd::File(path) => path.clone(),
            Initrd::Bytes(_) | Initrd::Opened(_) => PathBuf::from("in memory"),
        };
        faults.push(BuildFault::Unreadable {
            what: "initrd",
            path,
            source,
        });
        0
    })
}

/// Gives each node its declared memory and an even share of the rest to the others.
fn deal_memory(topology: &Topology, memory_mib: u32, faults: &mut Vec<BuildFault>) -> Vec<u32> {
    let nodes = topology.nodes();
    let declared: u64 = nodes
        .iter()
        .filter_map(|node| node.memory_mib)
        .map(u64::from)
        .sum();
    let open = nodes
        .iter()
        .filter(|node| node.memory_mib.is_none())
        .count();
    let open = u32::try_from(open).unwrap_or(u32::MAX);
    let rest = u64::from(memory_mib)
        .checked_sub(declared)
        .and_then(|rest| u32::try_from(rest).ok());
    let fits = match rest {
        Some(0) => open == 0,
        Some(rest) => open > 0 && rest / open > 0,
        None => false,
    };
    let Some(rest) = rest.filter(|_| fits) else {
        faults.push(BuildFault::NodeMemory {
            nodes_mib: declared,
            memory_mib,
        });
        return Vec::new();
    };
    let share = rest.checked_div(open).unwrap_or(0);
    let mut spare = rest.checked_rem(open).unwrap_or(0);
    let mut of_open = || share + std::mem::take(&mut spare);
    nodes
        .iter()
        .map(|node| node.memory_mib.unwrap_or_else(&mut of_open))
        .collect()
}

/// A VM that was started. Dropping it ends it.
#[derive(Debug)]
pub struct RunningVm {
    vm: EngineVm,
    why: String,
    clocks: Mutex<VcpuClocks>,
}

impl RunningVm {
    /// The host's end of a port, once.
    pub fn take_port(&mut self, name: &str) -> Option<PortStream> {
        self.vm.take_port(name)
    }

    /// The kernel console.
    #[must_use]
    pub fn com1(&self) -> ConsoleLog {
        self.vm.com1()
    }

    /// The crash console.
    #[must_use]
    pub fn com2(&self) -> ConsoleLog {
        self.vm.com2()
    }

    /// The guest's physical memory, which stays readable after the end.
    #[must_use]
    pub fn memory(&self) -> GuestMemory {
        self.vm.memory()
    }

    /// Stops all vCPUs. The guard's drop lets them run again. In virtual time the guest must stand still at its gate already, and
    /// stays there.
    ///
    /// # Errors
    /// When the engine does not answer within `deadline`, or the VM is gone.
    pub fn freeze(&self, deadline: Duration) -> Result<FreezeGuard<'_>> {
        self.vm.stop(deadline)?;
        Ok(FreezeGuard {
            vm: &self.vm,
            deadline,
            resumed: false,
        })
    }

    /// What each disk has done so far.
    #[must_use]
    pub fn blk_counters(&self) -> Vec<BlkCounters> {
        self.vm.card_counters().disks()
    }

    /// What each network card has done so far.
    #[must_use]
    pub fn net_counters(&self) -> Vec<NetCounters> {
        self.vm.card_counters().nets()
    }

    /// Reports each write to, or execution of, a guest virtual address.
    ///
    /// # Errors
    /// When the engine has no slot left, or the VM is gone.
    pub fn watch(&self, watch: Watch) -> Result<WatchId> {
        self.vm.watch(watch, false)
    }

    /// What this VM's watches are made of, found out at the first question.
    #[must_use]
    pub fn watch_support(&self) -> WatchSupport {
        self.vm.watch_support()
    }

    /// As [`watch`](Self::watch), but a hit stops the guest, and it stands still until [`release_hit`](Self::release_hit): for
    /// a look at the very moment. Freeze it to be sure that every vCPU has stopped, and for registers.
    ///
    /// # Errors
    /// When the engine has no slot left, or the VM is gone.
    pub fn watch_and_hold(&self, watch: Watch) -> Result<WatchId> {
        self.vm.watch(watch, true)
    }

    /// Lets the guest run on after a hit of [`watch_and_hold`](Self::watch_and_hold).
    ///
    /// # Errors
    /// When no hit is held, the engine does not answer within `deadline`, or the VM is gone.
    pub fn release_hit(&self, deadline: Duration) -> Result<()> {
        self.vm.release_hit(deadline)
    }

    /// Ends a watch.
    ///
    /// # Errors
    /// When there is no such watch, or the VM is gone.
    pub fn unwatch(&self, id: WatchId) -> Result<()> {
        self.vm.unwatch(id)
    }

    /// The next hit of any watch; `None` when none came within `deadline` or the VM ended.
    #[must_use]
    pub fn next_watch_hit(&self, deadline: Duration) -> Option<WatchHit> {
        self.vm.next_watch_hit(deadline)
    }

    /// Waits until the guest stands still at its gate; `None` once it has ended, which the host's time limit bounds.
    ///
    /// # Errors
    /// Where the guest has no gate ([`VirtualTime::gate`]), or the emulator is not understood.
    pub fn next_stop(&self) -> Result<Option<Stop>> {
        self.vm.next_stop()
    }

    /// Lets a guest go on that stands still at its gate. One that knocked reads `answer`; at `wake`, in virtual time since
    /// power-on, it stands still again.
    ///
    /// # Errors
    /// When it does not stand still, or did not knock and is given an answer.
    pub fn go_on(&self, answer: &[u8], wake: Option<Duration>) -> Result<()> {
        self.vm.go_on(answer, wake)
    }

    /// Says in the mailbox what became of what the guest waits for; the guest reads it without a knock.
    ///
    /// # Errors
    /// When the guest has no gate.
    pub fn tell_waiting(&self, state: UntilState) -> Result<()> {
        self.vm.tell_waiting(state)
    }

    /// The number of the request that the guest says it waits for; 0 for none.
    ///
    /// # Errors
    /// When the guest has no gate.
    pub fn waits_for(&self) -> Result<u32> {
        self.vm.waits_for()
    }

    /// Which vCPUs the next [`go_on`](Self::go_on) lets go.
    ///
    /// # Errors
    /// When the guest has no gate.
    pub fn run_only(&self, who: RunOnly) -> Result<()> {
        self.vm.run_only(who)
    }

    /// Shows a guest that stands still at its gate to a debugger: gives the connection to QEMU's gdb stub (GDB manual, appendix
    /// E), and the virtual time at which the guest stands, which is later than that of its stop where all of it was idle. It goes on
    /// when the debugger says so, and must then be answered at its gate as before; one that knocked last reads `answer`. The
    /// host's time limit does not count from now on.
    ///
    /// # Errors
    /// When it does not stand still at a gate, or the stub does not start.
    pub fn debug(&self, answer: &[u8]) -> Result<(UnixStream, Duration)> {
        self.vm.debug(answer)
    }

    /// Saves a guest that stands still because it knocked, as files in a directory that is there and empty. The guest ends. `said`
    /// is what the first stop of each copy says.
    ///
    /// # Errors
    /// When the guest has no gate, stands still for another reason or is itself a copy, or a file cannot be written.
    pub fn save(&self, dir: &Path, said: &[u8]) -> Result<Saved> {
        self.vm.save(dir, said)
    }

    /// Waits for the end, which the VM's deadline bounds.
    ///
    /// # Errors
    /// When the engine cannot be waited for.
    pub fn wait(&mut self) -> Result<VmExit> {
        let mut exit = self.vm.wait()?;
        exit.engine_why.clone_from(&self.why);
        Ok(exit)
    }

    /// Waits for the end until `until`; `None` when the VM still runs then.
    ///
    /// # Errors
    /// When the engine cannot be waited for.
    pub fn wait_until(&mut self, until: Instant) -> Result<Option<VmExit>> {
        if self.vm.wait_until(until) {
            self.wait().map(Some)
        } else {
            Ok(None)
        }
    }

    /// How the VM ended, once it has.
    #[must_use]
    pub fn ended_by(&self) -> Option<ExitReason> {
        self.vm.ended_by()
    }

    /// Ends the VM now; [`wait`](Self::wait) then gives what is left.
    pub fn kill(&self) {
        self.vm.kill();
    }

    /// Nanoseconds of CPU time that the host gave each vCPU so far, by its number; empty when that cannot be told.
    #[must_use]
    pub fn vcpu_cpu_times(&self) -> Vec<u64> {
        let mut clocks = self.clocks.lock().unwrap_or_else(PoisonError::into_inner);
        // Threads come into being some time after the start.
        if clocks.is_empty() {
            *clocks = self.vcpu_clocks();
        }
        clocks.read()
    }

    /// How many vCPUs it has.
    #[must_use]
    pub fn vcpus(&self) -> usize {
        self.vm.vcpus()
    }

    /// The clocks of its vCPUs, for a reader in a thread of its own; empty as long as not all vCPUs have started.
    #[must_use]
    pub fn vcpu_clocks(&self) -> VcpuClocks {
        self.vm.vcpu_clocks()
    }

    /// Process id of the engine, for tests.
    #[must_use]
    pub fn engine_pid(&self) -> u32 {
        self.vm.pid()
    }
}

impl AsFd for RunningVm {
    /// Becomes readable when the VM ends.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.vm.exit_fd()
    }
}

/// All vCPUs stand still while this lives.
#[derive(Debug)]
pub struct FreezeGuard<'vm> {
    vm: &'vm EngineVm,
    deadline: Duration,
    resumed: bool,
}

impl FreezeGuard<'_> {
    /// The registers of every vCPU, in order.
    ///
    /// # Errors
    /// When the engine does not answer in time.
    pub fn registers(&self) -> Result<Vec<VcpuRegs>> {
        self.vm.registers(self.deadline)
    }

    /// Lets the vCPUs run again, and tells whether they do; a drop cannot.
    ///
    /// # Errors
    /// When the engine does not answer in time, or the VM is gone.
    pub fn resume(mut self) -> Result<()> {
        self.resumed = true;
        self.vm.cont(self.deadline)
    }
}

impl Drop for FreezeGuard<'_> {
    fn drop(&mut self) {
        if !self.resumed
            && let Err(error) = self.vm.cont(self.deadline)
        {
            tracing::warn!(%error, "a frozen VM could not be resumed");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn faults(builder: VmBuilder) -> Vec<BuildFault> {
        builder
            .build()
            .map_or_else(|error| error.faults, |_| Vec::new())
    }

    #[test]
    fn what_would_fail_later_is_told_at_once() {
        let found = faults(Vm::builder().cmdline("console=ttyS0\0quiet"));
        assert!(
            found
                .iter()
                .any(|fault| matches!(fault, BuildFault::CmdlineNul)),
            "{found:?}"
        );
        let odd = |memory_mib| {
            let builder = Vm::builder()
                .engine(EngineChoice::Kvm)
                .performance_mode(true);
            faults(builder.memory_mib(memory_mib))
                .iter()
                .any(|fault| matches!(fault, BuildFault::OddMemory { .. }))
        };
        assert!(odd(257) && !odd(256));
        let tcg = Vm::builder().engine(EngineChoice::Tcg).invariant_tsc(true);
        let found = faults(tcg);
        assert!(
            found
                .iter()
                .any(|fault| fault.to_string().contains("invariant TSC")),
            "{found:?}"
        );
    }

    /// A vmlinux has its debugging information, which no guest loads.
    #[test]
    fn an_elf_kernel_is_charged_by_what_it_loads() {
        let mut elf = b"\x7fELF\x02\x01\x01".to_vec();
        elf.resize(16, 0);
        elf.extend(2u16.to_le_bytes());
        elf.extend(62u16.to_le_bytes());
        elf.extend(1u32.to_le_bytes());
        for value in [0x10_0000u64, 64, 0] {
            elf.extend(value.to_le_bytes());
        }
        elf.extend(0u32.to_le_bytes());
        for value in [64u16, 56, 1, 0, 0, 0] {
            elf.extend(value.to_le_bytes());
        }
        elf.extend(1u32.to_le_bytes());
        elf.extend(7u32.to_le_bytes());
        for value in [0x1000u64, 0x10_0000, 0x10_0000, 0x1000, 0x1000, 0x1000] {
            elf.extend(value.to_le_bytes());
        }
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&elf).unwrap();
        file.as_file().set_len(900 << 20).unwrap();
        let vm = Vm::builder().kernel(file.path()).engine(EngineChoice::Kvm);
        let found = faults(vm.memory_mib(64));
        assert!(
            !found
                .iter()
                .any(|fault| matches!(fault, BuildFault::Memory { .. })),
            "{found:?}"
        );
    }
}
