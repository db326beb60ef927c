//! The scheduler's life in the guest: started, attached, stopped.

use std::io;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use ktstr_wire::{Message, SchedExit, SchedLog, SendError, Stage};
use rustix::event::{PollFd, PollFlags};
use rustix::process::Signal;

use crate::outbox::Outbox;
use crate::process::{Ended, Output, Process, Reaper, ready, sleep_on, with_output};

/// Where sched_ext tells its state (kernel/sched/ext.c: scx_attr_state_show).
const SCHED_EXT: &str = "/sys/kernel/sched_ext";
/// The state file sends no events, so it is looked at this often.
const STATE_POLL_MS: u32 = 20;
/// Time between a request to stop and SIGKILL.
const STOP_GRACE: Duration = Duration::from_secs(3);
/// How long the log may stay open after the scheduler's end: a helper of it may still hold the pipe.
const LOG_GRACE: Duration = Duration::from_millis(500);

/// A scheduler that was started.
#[derive(Debug)]
pub(crate) struct Scheduler {
    pub(crate) process: Process,
    pub(crate) log: Output,
    ended: Option<Ended>,
}

/// Why the test cannot begin.
#[derive(Debug)]
pub(crate) enum StartFault {
    /// It was told to the host already.
    Told,
    /// The frame port broke.
    Port(SendError),
}

impl From<SendError> for StartFault {
    fn from(error: SendError) -> Self {
        Self::Port(error)
    }
}

/// Starts the program and waits until the kernel says that its scheduler is in charge.
pub(crate) fn start(
    outbox: &mut Outbox,
    reaper: &mut Reaper,
    mut command: Command,
    attach_timeout: Duration,
) -> Result<Scheduler, StartFault> {
    if !Path::new(SCHED_EXT).is_dir() {
        let text = format!(
            "this kernel has no sched_ext ({SCHED_EXT} is missing); use one with CONFIG_SCHED_CLASS_EXT=y \
             (`cargo xtask kernel` builds one)"
        );
        outbox.stage(Stage::SchedulerNotAttached, text)?;
        return Err(StartFault::Told);
    }
    outbox.stage(Stage::SchedulerStarting, format!("{command:?}"))?;
    outbox.send(&Message::SchedLog(SchedLog::Start))?;
    let mut scheduler = match spawn(&mut command) {
        Ok(scheduler) => scheduler,
        Err(error) => {
            outbox.stage(
                Stage::SchedulerNotAttached,
                format!("starting {command:?}: {error}"),
            )?;
            return Err(StartFault::Told);
        }
    };
    let until = Instant::now() + attach_timeout;
    loop {
        scheduler.serve(outbox, reaper, STATE_POLL_MS)?;
        if let Some(ended) = scheduler.ended {
            scheduler.finish_log(outbox)?;
            outbox.stage(
                Stage::SchedulerDied,
                format!("{} before it attached", ended.words()),
            )?;
            return Err(StartFault::Told);
        }
        let state = state(Path::new(SCHED_EXT));
        if state == "enabled" {
            outbox.stage(Stage::SchedulerAttached, ops(Path::new(SCHED_EXT)))?;
            return Ok(scheduler);
        }
        if Instant::now() >= until {
            let text = format!(
                "state is still '{state}' after {} ms",
                attach_timeout.as_millis()
            );
            scheduler.stop(outbox, reaper)?;
            outbox.stage(Stage::SchedulerNotAttached, text)?;
            return Err(StartFault::Told);
        }
    }
}

fn spawn(command: &mut Command) -> io::Result<Scheduler> {
    let (log, write) = Output::new()?;
    with_output(command, write)?;
    let process = Process::spawn(command)?;
    // The command still holds the pipe's writing end, and with it the log's end.
    command
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null());
    Ok(Scheduler {
        process,
        log,
        ended: None,
    })
}

fn state(root: &Path) -> String {
    std::fs::read_to_string(root.join("state"))
        .map_or_else(|error| error.to_string(), |text| text.trim().to_owned())
}

fn ops(root: &Path) -> String {
    std::fs::read_to_string(root.join("root/ops"))
        .unwrap_or_default()
        .trim()
        .to_owned()
}

impl Scheduler {
    /// Sleeps until something happens to the scheduler, and passes it on. Tells its end once.
    pub(crate) fn serve(
        &mut self,
        outbox: &mut Outbox,
        reaper: &mut Reaper,
        timeout_ms: u32,
    ) -> Result<(), SendError> {
        if self.log.open {
            let mut fds = [
                PollFd::new(&self.log.pipe, PollFlags::IN),
                PollFd::new(&self.process.pidfd, PollFlags::IN),
            ];
            let _ = sleep_on(&mut fds, timeout_ms);
        } else {
            let _ = sleep_on(
                &mut [PollFd::new(&self.process.pidfd, PollFlags::IN)],
                timeout_ms,
            );
        }
        self.pass_log(outbox)?;
        reaper.reap();
        self.note_end(outbox, reaper)
    }

    /// Passes on what the log holds now.
    pub(crate) fn pass_log(&mut self, outbox: &mut Outbox) -> Result<(), SendError> {
        let mut buffer = [0; 16 * 1024];
        loop {
            let len = self.log.read(&mut buffer);
            if len == 0 {
                return Ok(());
            }
            let chunk = buffer.get(..len).unwrap_or_default().to_vec();
            outbox.send(&Message::SchedLog(SchedLog::Chunk(chunk)))?;
        }
    }

    /// Tells the host, once, that the scheduler's process has ended.
    pub(crate) fn note_end(
        &mut self,
        outbox: &mut Outbox,
        reaper: &Reaper,
    ) -> Result<(), SendError> {
        if self.ended.is_some() {
            return Ok(());
        }
        let Some(ended) = reaper.end_of(&self.process) else {
            return Ok(());
        };
        self.ended = Some(ended);
        self.pass_log(outbox)?;
        let exit = SchedExit {
            code: ended.code,
            signal: ended.signal,
            reason: String::new(),
        };
        outbox.send(&Message::SchedExit(exit))
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.ended.is_some()
    }

    /// Asks the scheduler to leave, and ends it if it does not; its last words are passed on. An end that was asked for
    /// is not told as an exit.
    pub(crate) fn stop(
        &mut self,
        outbox: &mut Outbox,
        reaper: &mut Reaper,
    ) -> Result<(), SendError> {
        for (signal, grace) in [(Signal::INT, STOP_GRACE), (Signal::KILL, STOP_GRACE)] {
            if self.ended.is_some() {
                break;
            }
            self.process.signal(signal);
            let until = Instant::now() + grace;
            while self.ended.is_none() && Instant::now() < until {
                let mut fds = [PollFd::new(&self.process.pidfd, PollFlags::IN)];
                let _ = sleep_on(&mut fds, STATE_POLL_MS);
                self.pass_log(outbox)?;
                reaper.reap();
                self.ended = reaper.end_of(&self.process);
            }
        }
        self.finish_log(outbox)
    }

    fn finish_log(&mut self, outbox: &mut Outbox) -> Result<(), SendError> {
        let until = Instant::now() + LOG_GRACE;
        self.pass_log(outbox)?;
        while self.log.open && Instant::now() < until {
            let mut fds = [PollFd::new(&self.log.pipe, PollFlags::IN)];
            let _ = sleep_on(&mut fds, STATE_POLL_MS);
            if fds.iter().any(ready) {
                self.pass_log(outbox)?;
            }
        }
        outbox.send(&Message::SchedLog(SchedLog::End))
    }
}
