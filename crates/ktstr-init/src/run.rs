//! Init's life, in order.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ktstr_wire::{
    Assembler, Event, FrameWriter, Message, SchedulerReply, SchedulerRequest, SendError, Stage,
    SysReady,
};
use rustix::event::{PollFd, PollFlags};

use crate::child::{LINK_FD_ENV, SCHED_PID_ENV, SCHED_SEQ_ENV};
use crate::fork::{self, Inheritance, TestMain};
use crate::gate::{Gate, Port};
use crate::manage::{Managed, Means};
use crate::outbox::{MAX_DMESG, Outbox, now_ns};
use crate::plan::{INIT_PATH, PLAN_PATH, Plan};
use crate::probes::ProbeReport;
use crate::process::{Ended, Output, Process, Reaper, inheritable, ready, sleep_on};
use crate::scheduler::{Scheduler, StartFault};
use crate::stats::Target;
use crate::{FRAME_PORT, mount, panic, ports, power, probes, setup, stats, task, watch};

/// How long the frame port may take to appear; the driver makes it within milliseconds of boot.
const PORT_DEADLINE: Duration = Duration::from_secs(20);
/// How long the host may take to find the kernel in the guest's memory.
const WATCH_DEADLINE: Duration = Duration::from_secs(20);
/// How long the host may take to give a task; at a gate no time passes.
const TASK_DEADLINE: Duration = Duration::from_secs(20);
/// How long the host may take to capture a failure.
const CAPTURE_DEADLINE: Duration = Duration::from_secs(30);
/// How long output of the test's process is read after its end: a worker of it may still hold the pipe.
const OUTPUT_GRACE: Duration = Duration::from_millis(500);
/// A wake-up to reap orphans, which no descriptor announces.
const REAP_EVERY_MS: u32 = 1000;
/// The same while the test's end is waited for.
const ENDING_EVERY_MS: u32 = 20;
/// The same where the host's requests are looked for.
const LOOK_EVERY_MS: u32 = 50;
/// What the kernel counts on request only, and the host's monitor reads: wake-ups and calls of the scheduler per CPU, and the
/// runs of BPF programs.
const COUNTING: [&str; 2] = ["kernel.sched_schedstats", "kernel.bpf_stats_enabled"];

/// True in a ktstr guest: this is PID 1, and there is a plan.
#[must_use]
pub fn is_pid1() -> bool {
    std::process::id() == 1 && Path::new(PLAN_PATH).is_file()
}

/// Why the guest ends early.
#[derive(Debug)]
enum Fault {
    /// Nothing can be told by frame; COM2 is left.
    Mute(String),
    /// It was told by frames.
    Told,
}

impl From<SendError> for Fault {
    fn from(error: SendError) -> Self {
        Self::Mute(format!("the frame port broke: {error}"))
    }
}

impl From<StartFault> for Fault {
    fn from(fault: StartFault) -> Self {
        match fault {
            StartFault::NotAttached(_) => Self::Told,
            StartFault::Port(error) => error.into(),
        }
    }
}

/// The guest's whole life as PID 1. Always ends with the guest powered off.
///
/// `test_main` is what the plan's test does when its program is init's own: it runs in a copy of init.
pub fn run(test_main: TestMain) -> ! {
    panic::install_hook(true);
    if let Err(Fault::Mute(text)) = live(test_main) {
        panic::last_words(&text);
    }
    power::off()
}

fn live(test_main: TestMain) -> Result<(), Fault> {
    let mounts = mount::mount_all();
    panic::install_signal_handlers();
    if !mounts.fatal.is_empty() {
        return Err(Fault::Mute(mounts.fatal.join("; ")));
    }
    let (port, replies) =
        open_port().map_err(|error| Fault::Mute(format!("{FRAME_PORT}: {error}")))?;
    let has_relay = matches!(port, Port::File(_));
    let mut outbox = Outbox::new(port);
    for stage in [Stage::KernelUp, Stage::InitUp] {
        outbox.stage(stage, "")?;
    }
    outbox.stage(Stage::Filesystems, mounts.notes.join("; "))?;
    outbox.stage(Stage::Ports, "")?;
    outbox.send(&Message::SysReady(sys_ready()))?;
    let outcome = follow_plan(&mut outbox, replies, has_relay, test_main);
    if let Err(Fault::Told) = outcome {
        outbox.send(&Message::Exit(1))?;
    }
    outbox.stage(Stage::Done, "")?;
    // The port delivers in order, and close waits for nothing: the host reads to the end of the VM.
    outcome
}

/// The way to the host and the way back.
fn open_port() -> io::Result<(Port, File)> {
    if let Some((gate, answers)) = Gate::find()? {
        return Ok((Port::Gate(gate), answers));
    }
    let port = ports::open(FRAME_PORT, PORT_DEADLINE)?;
    let replies = port.try_clone()?;
    Ok((port.into(), replies))
}

fn follow_plan(
    outbox: &mut Outbox,
    mut replies: File,
    has_relay: bool,
    test_main: TestMain,
) -> Result<(), Fault> {
    // A kernel without them has nothing to count; the plan's own come later and win.
    let counting = COUNTING.map(|name| (name.to_owned(), String::from("1")));
    let _ = mount::apply_sysctls(Path::new("/proc/sys"), &counting);
    let plan = match Plan::load(Path::new(PLAN_PATH)) {
        Ok(plan) if plan.at_gate => task::ask(outbox, &mut replies, TASK_DEADLINE)?,
        Ok(plan) => Ok(plan),
        Err(error) => Err(error.to_string()),
    };
    let plan = match plan {
        Ok(plan) => plan,
        Err(error) => {
            outbox.send(&Message::Stderr(
                format!("ktstr-init: {error}\n").into_bytes(),
            ))?;
            return Err(Fault::Told);
        }
    };
    let lacks = setup::apply(&plan);
    if !lacks.notes.is_empty() {
        let text = format!("ktstr-init: {}\n", lacks.notes.join("; "));
        outbox.send(&Message::Stderr(text.into_bytes()))?;
    }
    if !lacks.faults.is_empty() {
        outbox.stage(Stage::SetupFailed, lacks.faults.join("; "))?;
        outbox.dmesg(MAX_DMESG)?;
        return Err(Fault::Told);
    }
    let mut reaper = Reaper::default();
    let stats = Target::default();
    let tracing = Path::new(probes::TRACING);
    let probed = plan.probes.as_ref().map(|plan| probes::arm(tracing, plan));
    if plan.await_watch && plan.scheduler.is_some() {
        watch::wait_for_host(outbox, &mut replies, WATCH_DEADLINE)?;
    }
    let mut managed = Managed::default();
    if let Some(scheduler) = &plan.scheduler {
        let mut means = Means {
            plan: &plan,
            stats: &stats,
            outbox,
            reaper: &mut reaper,
        };
        managed.start(scheduler, &mut means)?;
    }
    outbox.stage(Stage::PayloadStarting, plan.test.join(" "))?;
    let mut test = match Test::start(&plan, &managed, stats.clone(), test_main) {
        Ok(test) => test,
        Err(error) => {
            let text = format!("ktstr-init: starting {}: {error}\n", plan.test.join(" "));
            outbox.send(&Message::Stderr(text.into_bytes()))?;
            return Err(Fault::Told);
        }
    };
    // Only now: a process with a second thread could not have been copied.
    if has_relay {
        stats::start(stats.clone());
    }
    test.looks_for_requests = plan.look_for_requests && !has_relay;
    let ended = test.follow(&plan, outbox, &mut reaper, &mut managed, &mut replies)?;
    if ended.signal.is_some() && plan.await_watch {
        // While everything is as it was: the scheduler in charge, what the test left running.
        watch::capture_failure(outbox, &mut replies, CAPTURE_DEADLINE)?;
    }
    // Before the scheduler is stopped, which would end the record as well.
    if let Some(report) = probed {
        send_record(outbox, report)?;
    }
    managed.stop(&mut Means {
        plan: &plan,
        stats: &stats,
        outbox,
        reaper: &mut reaper,
    })?;
    outbox.dmesg(MAX_DMESG)?;
    send_taint(outbox)?;
    send_profiles(outbox)?;
    outbox.send(&Message::Exit(ended.shell_code()))?;
    Ok(())
}

/// Programs that were built for coverage leave their counters in the working directory when they end: here, the root.
fn send_profiles(outbox: &mut Outbox) -> Result<(), SendError> {
    let entries = std::fs::read_dir("/").into_iter().flatten().flatten();
    for path in entries.map(|entry| entry.path()) {
        if path
            .extension()
            .is_none_or(|extension| extension != "profraw")
        {
            continue;
        }
        let sent = match std::fs::read(&path) {
            Ok(counters) => outbox.send(&Message::Profraw(counters)),
            Err(error) => {
                let text = format!("ktstr-init: {}: {error}\n", path.display());
                outbox.send(&Message::Stderr(text.into_bytes()))
            }
        };
        match sent {
            // Counters that are too large for a frame are lost, the test's verdict is not.
            Err(SendError::Encode(error)) => {
                let text = format!("ktstr-init: {} is lost: {error}\n", path.display());
                outbox.send(&Message::Stderr(text.into_bytes()))?;
            }
            other => other?,
        }
    }
    Ok(())
}

fn sys_ready() -> SysReady {
    let uname = rustix::system::uname();
    let symbols = File::open("/proc/kallsyms").ok();
    SysReady {
        kernel_release: uname.release().to_string_lossy().into_owned(),
        page_size: u32::try_from(rustix::param::page_size()).unwrap_or(0),
        text_addr: symbols.and_then(text_addr),
    }
}

/// `_text` is among the first symbols; zero means that addresses are hidden.
fn text_addr(symbols: File) -> Option<u64> {
    let mut head = String::new();
    symbols.take(64 * 1024).read_to_string(&mut head).ok()?;
    let line = head.lines().find(|line| line.ends_with(" _text"))?;
    u64::from_str_radix(line.split(' ').next()?, 16)
        .ok()
        .filter(|address| *address != 0)
}

/// What the probes saw, and what they were.
fn send_record(outbox: &mut Outbox, mut report: ProbeReport) -> Result<(), SendError> {
    let record = probes::collect(Path::new(probes::TRACING), &mut report);
    let report = serde_json::to_vec(&report).unwrap_or_default();
    outbox.send(&Message::ProbeOutput(report))?;
    outbox.send(&Message::Trace(record))
}

/// What the kernel's log may have lost: whether the kernel found a fault of its own.
fn send_taint(outbox: &mut Outbox) -> Result<(), SendError> {
    let text = std::fs::read_to_string("/proc/sys/kernel/tainted").unwrap_or_default();
    match text.trim().parse() {
        Ok(flags) => outbox.send(&Message::Taint(flags)),
        Err(_) => Ok(()),
    }
}

/// The test's process and everything that comes out of it.
#[derive(Debug)]
struct Test {
    process: Process,
    stdout: Output,
    stderr: Output,
    link: UnixStream,
    link_open: bool,
    assembler: Assembler,
    /// Replies of host and init go to the test under one numbering.
    to_test: FrameWriter<UnixStream>,
    from_host: Assembler,
    /// What the test wants of init itself, in order.
    requests: VecDeque<SchedulerRequest>,
    /// Where the relay finds the running scheduler's socket.
    stats: Target,
    /// In virtual time, once the host has asked: the way to the relay.
    relay: Option<UnixStream>,
    /// The host's requests come only when they are looked for.
    looks_for_requests: bool,
}

impl Test {
    fn start(
        plan: &Plan,
        scheduler: &Managed,
        stats: Target,
        test_main: TestMain,
    ) -> io::Result<Self> {
        let (program, args) = plan.test.split_first().ok_or(io::ErrorKind::InvalidInput)?;
        let (stdout, stdout_write) = Output::new()?;
        let (stderr, stderr_write) = Output::new()?;
        let (link, theirs) = UnixStream::pair()?;
        link.set_nonblocking(true)?;
        let to_test = FrameWriter::new(link.try_clone()?);
        let theirs = OwnedFd::from(theirs);
        let mut env = plan.env.clone();
        if let Some(pid) = scheduler.pid() {
            env.push((SCHED_PID_ENV.to_owned(), pid.to_string()));
        }
        // Of the attach: the test may find another one in charge, or none, when it comes to look.
        if let Some(seq) = &scheduler.enable_seq {
            env.push((SCHED_SEQ_ENV.to_owned(), seq.clone()));
        }
        let process = if program == INIT_PATH {
            let inheritance = Inheritance {
                stdout: stdout_write,
                stderr: stderr_write,
                kept: (LINK_FD_ENV, theirs),
                env,
            };
            fork::fork(test_main, args, &inheritance)?
        } else {
            let mut command = Command::new(program);
            command.args(args).envs(env);
            command
                .stdin(Stdio::null())
                .stdout(stdout_write)
                .stderr(stderr_write);
            command.env(LINK_FD_ENV, inheritable(&theirs)?.to_string());
            Process::spawn(&mut command)?
        };
        Ok(Self {
            process,
            stdout,
            stderr,
            link,
            link_open: true,
            assembler: Assembler::new(),
            to_test,
            from_host: Assembler::new(),
            requests: VecDeque::new(),
            stats,
            relay: None,
            looks_for_requests: false,
        })
    }

    /// Relays until the process has ended and its output is through.
    fn follow(
        &mut self,
        plan: &Plan,
        outbox: &mut Outbox,
        reaper: &mut Reaper,
        managed: &mut Managed,
        replies: &mut File,
    ) -> Result<Ended, SendError> {
        let mut until: Option<Instant> = None;
        let mut port_open = true;
        loop {
            let from_host = self.sleep(
                managed.program.as_ref(),
                port_open.then_some(&*replies),
                until.is_some(),
            );
            if from_host {
                port_open = self.pass_replies(replies);
            }
            self.pass_output(outbox)?;
            self.pass_figures(outbox)?;
            self.pass_link(outbox)?;
            if self.looks_for_requests {
                outbox.look_for_requests()?;
            }
            outbox.pass_answers()?;
            while let Some(SchedulerRequest { id, action }) = self.requests.pop_front() {
                let mut means = Means {
                    plan,
                    stats: &self.stats,
                    outbox,
                    reaper,
                };
                let result = managed.change(&action, &mut means)?;
                self.answer(&Message::SchedulerReply(SchedulerReply { id, result }));
            }
            reaper.reap();
            if let Some(scheduler) = &mut managed.program {
                scheduler.pass_log(outbox)?;
                scheduler.note_end(outbox, reaper)?;
            }
            let Some(ended) = reaper.end_of(&self.process) else {
                continue;
            };
            let until = *until.get_or_insert_with(|| Instant::now() + OUTPUT_GRACE);
            if !(self.stdout.open || self.stderr.open || self.link_open) || Instant::now() >= until
            {
                return Ok(ended);
            }
        }
    }

    /// Sleeps until anything is ready; tells whether the host sent something.
    fn sleep(&self, scheduler: Option<&Scheduler>, replies: Option<&File>, ending: bool) -> bool {
        let mut fds = Vec::with_capacity(8);
        let mut add = |fd| fds.push(PollFd::from_borrowed_fd(fd, PollFlags::IN));
        use std::os::fd::AsFd as _;
        if let Some(replies) = replies {
            add(replies.as_fd());
        }
        if !ending {
            add(self.process.pidfd.as_fd());
        }
        for output in [&self.stdout, &self.stderr] {
            if output.open {
                add(output.pipe.as_fd());
            }
        }
        if self.link_open {
            add(self.link.as_fd());
        }
        if let Some(relay) = &self.relay {
            add(relay.as_fd());
        }
        if let Some(scheduler) = scheduler {
            if scheduler.log.open {
                add(scheduler.log.pipe.as_fd());
            }
            if !scheduler.has_ended() {
                add(scheduler.process.pidfd.as_fd());
            }
        }
        let most = match (ending, self.looks_for_requests) {
            (true, _) => ENDING_EVERY_MS,
            (false, true) => LOOK_EVERY_MS,
            (false, false) => REAP_EVERY_MS,
        };
        let _ = sleep_on(&mut fds, most);
        replies.is_some() && fds.first().is_some_and(ready)
    }

    fn pass_output(&mut self, outbox: &mut Outbox) -> Result<(), SendError> {
        let mut buffer = [0; 4096];
        for (output, wrap) in [
            (&mut self.stdout, Message::Stdout as fn(Vec<u8>) -> Message),
            (&mut self.stderr, Message::Stderr),
        ] {
            loop {
                let len = output.read(&mut buffer);
                if len == 0 {
                    break;
                }
                outbox.send(&wrap(buffer.get(..len).unwrap_or_default().to_vec()))?;
            }
        }
        Ok(())
    }

    fn pass_link(&mut self, outbox: &mut Outbox) -> Result<(), SendError> {
        let mut buffer = [0; 16 * 1024];
        while self.link_open {
            match self.link.read(&mut buffer) {
                Ok(0) => self.link_open = false,
                Ok(len) => self.assembler.push(buffer.get(..len).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => self.link_open = false,
            }
        }
        while let Some(event) = self.assembler.next_event() {
            let Event::Frame(frame) = event else { continue };
            match frame.decode() {
                Ok(Message::SchedulerRequest(request)) => self.requests.push_back(request),
                _ if frame.crc_ok => outbox.forward(&frame)?,
                _ => {}
            }
        }
        Ok(())
    }

    /// Hands the host's bytes to the relay. What it cannot take is a request without an answer, which the host does not wait for
    /// long.
    fn ask_scheduler(&mut self, bytes: &[u8]) {
        if self.relay.is_none() {
            self.relay = stats::start_beside(self.stats.clone()).ok();
        }
        if let Some(relay) = &mut self.relay
            && relay.write_all(bytes).is_err()
        {
            self.relay = None;
        }
    }

    /// Passes on what the scheduler's stats server has said.
    fn pass_figures(&mut self, outbox: &mut Outbox) -> Result<(), SendError> {
        let mut buffer = [0; 16 * 1024];
        while let Some(relay) = &mut self.relay {
            match relay.read(&mut buffer) {
                Ok(len @ 1..) => {
                    let bytes = buffer.get(..len).unwrap_or_default().to_vec();
                    outbox.send(&Message::StatsReply(bytes))?;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // A stream that is broken off within an answer; the next request has a new one.
                Ok(_) | Err(_) => self.relay = None,
            }
        }
        Ok(())
    }

    /// Sends a reply of init's own.
    fn answer(&mut self, reply: &Message) {
        // A test that does not read its replies loses them, not the guest.
        let _ = self.to_test.send(reply, now_ns());
    }

    /// Hands the host's replies to the test; false once the host closed its end.
    fn pass_replies(&mut self, replies: &mut File) -> bool {
        let mut buffer = [0; 16 * 1024];
        match replies.read(&mut buffer) {
            Ok(0) => false,
            Ok(len) => {
                self.from_host.push(buffer.get(..len).unwrap_or_default());
                while let Some(event) = self.from_host.next_event() {
                    let Event::Frame(frame) = event else { continue };
                    if let Ok(Message::StatsRequest(bytes)) = frame.decode() {
                        self.ask_scheduler(&bytes);
                    } else if frame.crc_ok {
                        // A test that does not read its replies loses them, not the guest.
                        let _ = self.to_test.send_raw(
                            frame.msg_type,
                            frame.flags,
                            frame.guest_ns,
                            &frame.payload,
                        );
                    }
                }
                true
            }
            Err(error) => error.kind() == io::ErrorKind::Interrupted,
        }
    }
}
