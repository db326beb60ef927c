//! The scheduler's life in the guest: started, attached, stopped.

use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use ktstr_wire::{Message, SchedExit, SchedLog, SchedStop, SendError, Stage};
use rustix::event::{PollFd, PollFlags};
use rustix::process::Signal;

use crate::outbox::Outbox;
use crate::process::{Ended, Output, Process, Reaper, ready, sleep_on, with_output};

/// Where sched_ext tells its state (kernel/sched/ext.c: scx_attr_state_show).
const SCHED_EXT: &str = "/sys/kernel/sched_ext";
/// The state file sends no events, so it is looked at this often.
const STATE_POLL_MS: u32 = 20;
/// What asks a scheduler to stop, as a terminal would.
const STOP_SIGNAL: Signal = Signal::INT;
/// Left processes that are named.
const MAX_LEFT: usize = 16;
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
    /// How long it may take to leave when it is asked to.
    grace: Duration,
}

/// Why a scheduler does not run.
#[derive(Debug)]
pub(crate) enum StartFault {
    /// Why it is not in charge; the host was told already.
    NotAttached(String),
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
        return not_attached(outbox, Stage::SchedulerNotAttached, text);
    }
    // The one before may still be on its way out.
    let before = enable_seq(root);
    outbox.stage(Stage::SchedulerStarting, format!("{command:?}"))?;
    outbox.send(&Message::SchedLog(SchedLog::Start))?;
    let mut scheduler = match spawn(&mut command) {
        Ok(scheduler) => scheduler,
        Err(error) => {
            let text = format!("starting {command:?}: {error}");
            return not_attached(outbox, Stage::SchedulerNotAttached, text);
        }
    };
    let until = Instant::now() + attach_timeout;
    loop {
        scheduler.serve(outbox, reaper, STATE_POLL_MS)?;
        if let Some(ended) = scheduler.ended {
            scheduler.finish_log(outbox)?;
            let text = format!("{} before it attached", ended.words());
            return not_attached(outbox, Stage::SchedulerDied, text);
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
            scheduler.end(outbox, reaper)?;
            return not_attached(outbox, Stage::SchedulerNotAttached, text);
        }
    }
}

/// Tells the host why the scheduler is not in charge.
fn not_attached(outbox: &mut Outbox, stage: Stage, text: String) -> Result<Scheduler, StartFault> {
    outbox.stage(stage, text.clone())?;
    Err(StartFault::NotAttached(text))
}

/// An ignored signal stays ignored across exec, so the parent of this process could have made the scheduler deaf to
/// [`STOP_SIGNAL`].
fn hear_the_request(command: &mut Command) {
    let reset = || {
        // SAFETY: signal has no preconditions, and SIG_DFL is no handler of ours.
        match unsafe { libc::signal(STOP_SIGNAL.as_raw(), libc::SIG_DFL) } {
            libc::SIG_ERR => Err(io::Error::last_os_error()),
            _ => Ok(()),
        }
    };
    // SAFETY: `reset` runs between fork and exec and makes one system call, which is async-signal-safe.
    unsafe { command.pre_exec(reset) };
}

fn spawn(command: &mut Command) -> io::Result<Scheduler> {
    let (log, write) = Output::new()?;
    with_output(command, write)?;
    hear_the_request(command);
    // Its helpers are known by its group, also when they have lost their parent.
    let process = Process::spawn(command.process_group(0))?;
    // The command still holds the pipe's writing end, and with it the log's end.
    command
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null());
    Ok(Scheduler {
        process,
        log,
        ended: None,
        grace: STOP_GRACE,
    })
}

fn state(root: &Path) -> String {
    std::fs::read_to_string(root.join("state"))
        .map_or_else(|error| error.to_string(), |text| text.trim().to_owned())
}

/// How many schedulers were enabled since boot; `None` where the kernel does not tell.
fn enable_seq(root: &Path) -> Option<String> {
    let text = std::fs::read_to_string(root.join("enable_seq")).ok()?;
    Some(text.trim().to_owned())
}

fn ops(root: &Path) -> String {
    std::fs::read_to_string(root.join("root/ops"))
        .unwrap_or_default()
        .trim()
        .to_owned()
}

/// What sched_ext says of itself at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SchedExt {
    pub(crate) state: String,
    pub(crate) enable_seq: Option<String>,
    pub(crate) ops: String,
}

impl SchedExt {
    pub(crate) fn now() -> Self {
        let root = Path::new(SCHED_EXT);
        Self {
            state: state(root),
            enable_seq: enable_seq(root),
            ops: ops(root),
        }
    }

    pub(crate) fn is_enabled(&self) -> bool {
        self.state == "enabled"
    }

    /// The count as text; empty where the kernel does not tell.
    pub(crate) fn seq(&self) -> String {
        self.enable_seq.clone().unwrap_or_default()
    }
}

/// Processes of group `group` that run, by number and name. A zombie does not.
pub(crate) fn members_of(group: i32) -> Vec<(i32, String)> {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    let member = |entry: std::fs::DirEntry| {
        let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
        let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
        let (head, tail) = stat.rsplit_once(") ")?;
        let mut fields = tail.split(' ');
        let (state, pgrp) = (fields.next()?, fields.nth(1)?);
        let name = head.split_once('(')?.1.to_owned();
        (pgrp.parse() == Ok(group) && !matches!(state, "Z" | "X")).then_some((pid, name))
    };
    entries.flatten().filter_map(member).collect()
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

    /// Asks the scheduler to leave, and ends it if it does not; how that went is told to the host. Nothing happens to one that
    /// has ended before.
    pub(crate) fn stop(
        &mut self,
        outbox: &mut Outbox,
        reaper: &mut Reaper,
    ) -> Result<(), SendError> {
        if self.ended.is_some() {
            return self.finish_log(outbox);
        }
        outbox.stage(Stage::SchedulerStopping, "")?;
        let killed = self.end(outbox, reaper)?;
        let ended = self.ended;
        let group = self.process.pid.as_raw_nonzero().get();
        let left = members_of(group);
        if !left.is_empty() {
            // They would hold the sockets and maps of the next one.
            let _ = rustix::process::kill_process_group(self.process.pid, Signal::KILL);
        }
        outbox.send(&Message::SchedExit(SchedExit {
            code: ended.and_then(|ended| ended.code),
            signal: ended.and_then(|ended| ended.signal),
            reason: String::new(),
            stop: Some(SchedStop {
                killed,
                left_behind: left
                    .into_iter()
                    .take(MAX_LEFT)
                    .map(|(pid, name)| format!("{pid} {name}"))
                    .collect(),
                failed_commands: Vec::new(),
            }),
        }))
    }

    /// Ends the process, by force if it must be; whether it had to be. Its last words are passed on.
    fn end(&mut self, outbox: &mut Outbox, reaper: &mut Reaper) -> Result<bool, SendError> {
        let mut killed = false;
        for signal in [STOP_SIGNAL, Signal::KILL] {
            if self.ended.is_some() {
                break;
            }
            killed = signal == Signal::KILL;
            self.process.signal(signal);
            let grace = if killed { STOP_GRACE } else { self.grace };
            let until = Instant::now() + grace;
            while self.ended.is_none() && Instant::now() < until {
                let mut fds = [PollFd::new(&self.process.pidfd, PollFlags::IN)];
                let _ = sleep_on(&mut fds, STATE_POLL_MS);
                self.pass_log(outbox)?;
                reaper.reap();
                self.ended = reaper.end_of(&self.process);
            }
        }
        self.finish_log(outbox)?;
        Ok(killed)
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

    /// More than a shell on a busy machine needs.
    const LONG: Duration = Duration::from_secs(30);

    /// Starts `script` on a made-up sched_ext directory and returns every message that the host would get.
    fn messages(root: &Path, script: &str, attach_timeout: Duration) -> Vec<Message> {
        messages_of(root, script, attach_timeout, LONG)
    }

    /// The same where it has `grace` to leave when it is asked to.
    fn messages_of(
        root: &Path,
        script: &str,
        attach_timeout: Duration,
        grace: Duration,
    ) -> Vec<Message> {
        let mut port = tempfile::tempfile().unwrap();
        let mut outbox = Outbox::new(port.try_clone().unwrap());
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        let mut reaper = Reaper::default();
        if let Ok(mut scheduler) = start_on(root, &mut outbox, &mut reaper, command, attach_timeout)
        {
            scheduler.grace = grace;
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
        let messages = messages(&missing, "exit 0", LONG);
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
        let messages = messages(root.path(), "echo no BTF; exit 7", LONG);
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
        let messages = messages(root.path(), "exec cat /dev/zero > /dev/null", LONG);
        assert!(told_attached(&messages, "fixture"), "{messages:?}");
        let exit = stop_of(&messages);
        assert_eq!(exit.signal, Some(Signal::INT.as_raw()));
        assert_eq!(exit.stop, Some(SchedStop::default()));
    }

    fn told_attached(messages: &[Message], ops: &str) -> bool {
        messages.iter().any(|message| {
            matches!(message, Message::Lifecycle(life) if life.stage == Stage::SchedulerAttached && life.detail == ops)
        })
    }

    #[track_caller]
    fn stop_of(messages: &[Message]) -> SchedExit {
        assert!(
            messages.iter().any(|message| matches!(message, Message::Lifecycle(life) if life.stage == Stage::SchedulerStopping)),
            "{messages:?}"
        );
        match messages.last() {
            Some(Message::SchedExit(exit)) => exit.clone(),
            other => panic!("{other:?}"),
        }
    }

    /// Runs `script` as a scheduler that attaches when it says that it is ready, and stops it, with so much time to leave.
    #[track_caller]
    fn stopped_within(grace: Duration, script: &str) -> SchedExit {
        let root = sched_ext("disabled\n");
        let state = root.path().join("state");
        // A loop of builtins: a shell would handle no trap while it waits for a program.
        let script = format!(
            "{script}\necho enabled > {}; while :; do :; done",
            state.display()
        );
        stop_of(&messages_of(root.path(), &script, LONG, grace))
    }

    #[track_caller]
    fn stopped(script: &str) -> SchedExit {
        stopped_within(LONG, script)
    }

    #[test]
    fn a_status_at_the_stop_is_told() {
        assert_eq!(stopped("trap 'exit 3' INT").code, Some(3));
        let orderly = stopped("trap 'exit 0' INT");
        assert_eq!(
            (orderly.code, orderly.stop),
            (Some(0), Some(SchedStop::default()))
        );
    }

    #[test]
    fn one_that_ignores_the_request_is_killed_and_that_is_told() {
        let exit = stopped_within(Duration::from_millis(50), "trap '' INT");
        assert!(exit.stop.unwrap().killed);
        assert_eq!(exit.signal, Some(Signal::KILL.as_raw()));
    }

    #[test]
    fn processes_that_it_leaves_are_named_and_ended() {
        // It is not ready before what it leaves is no shell any more.
        let exit = stopped(
            "trap 'exit 0' INT; (trap '' INT; exec cat /dev/zero > /dev/null) &
            until read name < /proc/$!/comm && [ \"$name\" = cat ]; do :; done",
        );
        let left = exit.stop.unwrap().left_behind;
        assert!(left.len() == 1 && left[0].ends_with(" cat"), "{left:?}");
    }
}
