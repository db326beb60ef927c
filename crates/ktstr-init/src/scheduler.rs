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
    command: Command,
    attach_timeout: Duration,
) -> Result<Scheduler, StartFault> {
    start_on(
        Path::new(SCHED_EXT),
        outbox,
        reaper,
        command,
        attach_timeout,
    )
}

fn start_on(
    root: &Path,
    outbox: &mut Outbox,
    reaper: &mut Reaper,
    mut command: Command,
    attach_timeout: Duration,
) -> Result<Scheduler, StartFault> {
    if !root.is_dir() {
        let text = format!(
            "this kernel has no sched_ext ({} is missing); use one with CONFIG_SCHED_CLASS_EXT=y \
             (`cargo ktstr kernel build` builds one)",
            root.display()
        );
        outbox.stage(Stage::SchedulerNotAttached, text)?;
        return Err(StartFault::Told);
    }
    // The one before may still be on its way out.
    let before = enable_seq(root);
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
        let state = state(root);
        if state == "enabled" && (before.is_none() || enable_seq(root) != before) {
            outbox.stage(Stage::SchedulerAttached, ops(root))?;
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

/// How many schedulers were enabled since boot; `None` where the kernel does not tell.
fn enable_seq(root: &Path) -> Option<String> {
    std::fs::read_to_string(root.join("enable_seq")).ok()
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
            stop: None,
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

#[cfg(test)]
mod tests {
    use super::*;
    use ktstr_wire::{Assembler, Event};
    use std::io::{Read as _, Seek as _};

    /// Starts `script` on a made-up sched_ext directory and returns every message that the host would get.
    fn messages(root: &Path, script: &str, attach_timeout: Duration) -> Vec<Message> {
        let mut port = tempfile::tempfile().unwrap();
        let mut outbox = Outbox::new(port.try_clone().unwrap());
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        let mut reaper = Reaper::default();
        if let Ok(mut scheduler) = start_on(root, &mut outbox, &mut reaper, command, attach_timeout)
        {
            scheduler.stop(&mut outbox, &mut reaper).unwrap();
        }
        let mut bytes = Vec::new();
        port.rewind().unwrap();
        port.read_to_end(&mut bytes).unwrap();
        let mut assembler = Assembler::new();
        assembler.push(&bytes);
        let frames = std::iter::from_fn(|| assembler.next_event());
        frames
            .map(|event| match event {
                Event::Frame(frame) => frame.decode().unwrap(),
                other => panic!("{other:?}"),
            })
            .collect()
    }

    fn last_stage(messages: &[Message]) -> (Stage, &str) {
        let stage = messages.iter().rev().find_map(|message| match message {
            Message::Lifecycle(life) => Some((life.stage, life.detail.as_str())),
            _ => None,
        });
        stage.expect("some stage is told")
    }

    fn sched_ext(state: &str) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("state"), state).unwrap();
        root
    }

    #[test]
    fn a_kernel_without_sched_ext_is_told_with_the_option_and_the_next_step() {
        let root = tempfile::tempdir().unwrap();
        let missing = root.path().join("sched_ext");
        let messages = messages(&missing, "exit 0", Duration::from_secs(30));
        let (stage, detail) = last_stage(&messages);
        assert_eq!(stage, Stage::SchedulerNotAttached);
        for needle in [
            "no sched_ext",
            "CONFIG_SCHED_CLASS_EXT=y",
            "cargo ktstr kernel build",
        ] {
            assert!(detail.contains(needle), "{detail}");
        }
        assert_eq!(messages.len(), 1, "nothing was started: {messages:?}");
    }

    #[test]
    fn an_early_death_is_told_with_its_status_and_its_words() {
        let root = sched_ext("disabled\n");
        let messages = messages(root.path(), "echo no BTF; exit 7", Duration::from_secs(30));
        assert_eq!(last_stage(&messages).0, Stage::SchedulerDied);
        assert!(messages.contains(&Message::SchedLog(SchedLog::Chunk(b"no BTF\n".to_vec()))));
        let exit = SchedExit {
            code: Some(7),
            signal: None,
            reason: String::new(),
            stop: None,
        };
        assert!(messages.contains(&Message::SchedExit(exit)), "{messages:?}");
    }

    #[test]
    fn a_scheduler_that_never_attaches_is_told_with_the_kernels_state() {
        let root = sched_ext("enabling\n");
        let messages = messages(
            root.path(),
            "exec cat /dev/zero > /dev/null",
            Duration::from_millis(50),
        );
        let (stage, detail) = last_stage(&messages);
        assert_eq!(stage, Stage::SchedulerNotAttached);
        assert!(
            detail.contains("'enabling'") && detail.contains("50 ms"),
            "{detail}"
        );
    }

    #[test]
    fn the_scheduler_before_is_not_taken_for_this_one() {
        let root = sched_ext("enabled\n");
        std::fs::write(root.path().join("enable_seq"), "1\n").unwrap();
        let messages = messages(
            root.path(),
            "exec cat /dev/zero > /dev/null",
            Duration::from_millis(50),
        );
        assert_eq!(last_stage(&messages).0, Stage::SchedulerNotAttached);
    }

    #[test]
    fn an_attached_one_is_told_with_the_name_of_its_ops() {
        let root = sched_ext("enabled\n");
        std::fs::create_dir(root.path().join("root")).unwrap();
        std::fs::write(root.path().join("root/ops"), "fixture\n").unwrap();
        let messages = messages(
            root.path(),
            "exec cat /dev/zero > /dev/null",
            Duration::from_secs(30),
        );
        assert_eq!(last_stage(&messages), (Stage::SchedulerAttached, "fixture"));
        assert_eq!(messages.last(), Some(&Message::SchedLog(SchedLog::End)));
    }
}
