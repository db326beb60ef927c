//! The scheduler that the guest is under now: a program, or what commands have turned on.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use ktstr_wire::{Message, SchedExit, SchedulerAction, SchedulerFault, SendError, Stage};

use crate::commands::{self, Done};
use crate::outbox::{MAX_DMESG, Outbox};
use crate::plan::{Plan, SchedulerPlan};
use crate::process::{Reaper, sleep_on};
use crate::scheduler::{self, SchedExt, Scheduler, StartFault};
use crate::stats::{DEFAULT_STATS_SOCKET, Target};

/// How long a program that commands have started may take to attach.
const ATTACH_TIME: Duration = Duration::from_secs(30);
/// sysfs sends no event when the state changes: it is read this often.
const STATE_POLL_MS: u32 = 20;

/// What starts and stops schedulers, and what runs.
#[derive(Debug, Default)]
pub(crate) struct Managed {
    /// The program, also when it has ended.
    pub(crate) program: Option<Scheduler>,
    /// Commands that turn off what other commands have turned on.
    off: Option<Vec<String>>,
    /// The kernel's count of enabled schedulers at the attach; `None` where sched_ext has nothing to do with it.
    pub(crate) enable_seq: Option<String>,
}

/// What starting and stopping needs.
#[derive(Debug)]
pub(crate) struct Means<'a> {
    pub(crate) plan: &'a Plan,
    /// Where the relay finds the running scheduler's socket.
    pub(crate) stats: &'a Target,
    pub(crate) outbox: &'a mut Outbox,
    pub(crate) reaper: &'a mut Reaper,
}

impl Means<'_> {
    fn path(&self) -> Option<&str> {
        let path = self.plan.env.iter().find(|(name, _)| name == "PATH");
        path.map(|(_, value)| value.as_str())
    }
}

impl Managed {
    /// The program's process, if one runs.
    pub(crate) fn pid(&self) -> Option<i32> {
        let running = self.program.as_ref().filter(|program| !program.has_ended());
        running.map(|program| program.process.pid.as_raw_nonzero().get())
    }

    fn is_running(&self) -> bool {
        self.pid().is_some() || self.off.is_some()
    }

    /// Puts `next` in charge; nothing else is then.
    pub(crate) fn start(
        &mut self,
        next: &SchedulerPlan,
        means: &mut Means<'_>,
    ) -> Result<(), StartFault> {
        match next {
            SchedulerPlan::Builtin {
                enable, disable, ..
            } => {
                let attached = turn_on(enable, means)?;
                self.off = Some(disable.clone());
                self.enable_seq = attached.is_enabled().then(|| attached.seq());
            }
            SchedulerPlan::Binary { .. } => {
                self.program = Some(start_binary(next, means)?);
                // The kernel said that it was enabled, so that it counts also if it is gone already.
                self.enable_seq = Some(SchedExt::now().seq());
            }
        }
        Ok(())
    }

    /// Ends what is in charge; how that went is told to the host.
    pub(crate) fn stop(&mut self, means: &mut Means<'_>) -> Result<(), SendError> {
        self.enable_seq = None;
        if let Some(mut program) = self.program.take() {
            program.stop(means.outbox, means.reaper)?;
            means.stats.set(None);
        }
        if let Some(disable) = self.off.take() {
            means
                .outbox
                .stage(Stage::SchedulerStopping, disable.join("; "))?;
            let path = means.path().map(str::to_owned);
            let stop = commands::disable(&disable, path.as_deref(), means.reaper);
            means.outbox.send(&Message::SchedExit(SchedExit {
                code: None,
                signal: None,
                reason: String::new(),
                stop: Some(stop),
            }))?;
        }
        Ok(())
    }

    /// Does what a test wants done; the process that is in charge then.
    pub(crate) fn change(
        &mut self,
        action: &SchedulerAction,
        means: &mut Means<'_>,
    ) -> Result<Result<Option<i32>, SchedulerFault>, SendError> {
        let plan = means.plan;
        let refused = |text: &str| Ok(Err(SchedulerFault::Refused(text.to_owned())));
        let next = match action {
            SchedulerAction::Detach => None,
            SchedulerAction::Restart => match &plan.scheduler {
                Some(own) => Some(own),
                None => return refused("this test declares no scheduler"),
            },
            SchedulerAction::Attach(name) => {
                let own = plan.scheduler.as_ref().filter(|own| name_of(own) == name);
                match own.or_else(|| staged(plan, name)) {
                    Some(named) => Some(named),
                    None => {
                        return refused(&format!(
                            "no scheduler '{name}' is in the guest; declare it as the test's scheduler or in staged_schedulers"
                        ));
                    }
                }
            }
            SchedulerAction::Replace(name) => match staged(plan, name) {
                Some(staged) => Some(staged),
                None => {
                    return refused(&format!(
                        "no scheduler '{name}' is staged; declare it in staged_schedulers"
                    ));
                }
            },
        };
        match action {
            SchedulerAction::Attach(_) if self.is_running() => {
                return refused("the scheduler runs already");
            }
            SchedulerAction::Detach if !self.is_running() => return refused("no scheduler runs"),
            _ => {}
        }
        self.stop(means)?;
        let Some(next) = next else {
            return Ok(Ok(None));
        };
        match self.start(next, means) {
            Ok(()) => Ok(Ok(self.pid())),
            Err(StartFault::NotAttached(why)) => Ok(Err(SchedulerFault::NotAttached(why))),
            Err(StartFault::Port(error)) => Err(error),
        }
    }
}

fn staged<'a>(plan: &'a Plan, wanted: &str) -> Option<&'a SchedulerPlan> {
    plan.staged.iter().find(|staged| name_of(staged) == wanted)
}

fn name_of(scheduler: &SchedulerPlan) -> &str {
    match scheduler {
        SchedulerPlan::Binary { name, .. } | SchedulerPlan::Builtin { name, .. } => name,
    }
}

/// Runs the commands one after the other. Attached is told when all have succeeded and, where they have to do with sched_ext,
/// when the kernel says so.
fn turn_on(enable: &[String], means: &mut Means<'_>) -> Result<SchedExt, StartFault> {
    let before = SchedExt::now();
    means
        .outbox
        .stage(Stage::SchedulerStarting, enable.join("; "))?;
    let path = means.path().map(str::to_owned);
    let mut done: Vec<Done> = Vec::new();
    for line in enable {
        match commands::run(line, path.as_deref(), means.reaper) {
            Ok(one) => done.push(one),
            Err(fault) => return failed(means, format!("enable command {fault}")),
        }
    }
    for one in done.iter().filter(|one| !one.output.is_empty()) {
        means
            .outbox
            .send(&Message::Stdout(one.output.clone().into_bytes()))?;
    }
    let until = Instant::now() + ATTACH_TIME;
    loop {
        let now = SchedExt::now();
        match attached(&before, &now, commands::left_running(&done).as_deref()) {
            Attached::Yes(what) => {
                means.outbox.stage(Stage::SchedulerAttached, what)?;
                return Ok(now);
            }
            Attached::NotYet(what) if Instant::now() >= until => {
                let ms = ATTACH_TIME.as_millis();
                return failed(
                    means,
                    format!("the enable commands succeeded, but {what} after {ms} ms"),
                );
            }
            Attached::NotYet(_) => {
                let _ = sleep_on(&mut [], STATE_POLL_MS);
                means.reaper.reap();
            }
        }
    }
}

/// Whether commands that succeeded have put something in charge.
#[derive(Debug, PartialEq, Eq)]
enum Attached {
    Yes(String),
    /// A BPF scheduler is meant, and the kernel does not have it yet.
    NotYet(String),
}

/// `left` is a process that the commands left running: a program in the background is a BPF scheduler's.
fn attached(before: &SchedExt, now: &SchedExt, left: Option<&str>) -> Attached {
    let is_new = now.enable_seq != before.enable_seq || !before.is_enabled();
    if now.is_enabled() && is_new {
        return Attached::Yes(now.ops.clone());
    }
    match left {
        Some(left) => Attached::NotYet(format!(
            "{left}, which they left running, has not attached: the state of sched_ext is '{}'",
            now.state
        )),
        None if now.state == "enabling" => {
            Attached::NotYet(String::from("the state of sched_ext is still 'enabling'"))
        }
        None => Attached::Yes(String::from("by its commands")),
    }
}

/// Commands that do not turn it on are a fault of the set-up, not of the scheduler.
fn failed<T>(means: &mut Means<'_>, text: String) -> Result<T, StartFault> {
    means.outbox.stage(Stage::SetupFailed, text.clone())?;
    means.outbox.dmesg(MAX_DMESG)?;
    Err(StartFault::NotAttached(text))
}

/// Starts a scheduler's program.
fn start_binary(next: &SchedulerPlan, means: &mut Means<'_>) -> Result<Scheduler, StartFault> {
    let SchedulerPlan::Binary {
        path,
        args,
        env,
        attach_timeout_ms,
        stats_socket,
        ..
    } = next
    else {
        return Err(StartFault::NotAttached(String::from(
            "it is not a program of its own",
        )));
    };
    let mut command = Command::new(path);
    command
        .args(args)
        .envs(means.plan.env.iter().cloned())
        .envs(env.iter().cloned());
    let timeout = Duration::from_millis(*attach_timeout_ms);
    let socket = stats_socket.as_deref().unwrap_or(DEFAULT_STATS_SOCKET);
    means.stats.set(Some(PathBuf::from(socket)));
    let started = scheduler::start(means.outbox, means.reaper, command, timeout);
    match started {
        // From now on it has a while to listen.
        Ok(_) => means.stats.set(Some(PathBuf::from(socket))),
        Err(StartFault::NotAttached(_)) => {
            means.stats.set(None);
            means.outbox.dmesg(MAX_DMESG)?;
        }
        Err(_) => {}
    }
    started
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scx(state: &str, enable_seq: &str) -> SchedExt {
        SchedExt {
            state: state.into(),
            enable_seq: Some(enable_seq.into()),
            ops: "mine".into(),
        }
    }

    #[test]
    fn attached_is_the_kernels_word_where_a_bpf_scheduler_is_meant() {
        let off = scx("disabled", "1");
        let yes = |text: &str| Attached::Yes(text.into());
        assert_eq!(attached(&off, &scx("enabled", "2"), None), yes("mine"));
        assert_eq!(attached(&off, &off, None), yes("by its commands"));
        for (now, left) in [
            (&off, Some("scx_x (7)")),
            (&scx("enabling", "1"), None),
            (&scx("enabling", "1"), Some("scx_x (7)")),
        ] {
            assert!(matches!(attached(&off, now, left), Attached::NotYet(_)));
        }
        let on = scx("enabled", "1");
        assert!(
            matches!(attached(&on, &on, Some("x (7)")), Attached::NotYet(_)),
            "the one before is not taken for this one"
        );
    }

    fn means_on(plan: &Plan, act: impl FnOnce(&mut Means<'_>)) -> Vec<Message> {
        use std::io::{Read as _, Seek as _};
        let mut port = tempfile::tempfile().unwrap();
        let mut outbox = Outbox::new(port.try_clone().unwrap());
        let (stats, mut reaper) = (Target::default(), Reaper::default());
        act(&mut Means {
            plan,
            stats: &stats,
            outbox: &mut outbox,
            reaper: &mut reaper,
        });
        let mut bytes = Vec::new();
        port.rewind().unwrap();
        port.read_to_end(&mut bytes).unwrap();
        let mut assembler = ktstr_wire::Assembler::new();
        assembler.push(&bytes);
        std::iter::from_fn(|| assembler.next_event())
            .filter_map(|event| match event {
                ktstr_wire::Event::Frame(frame) => frame.decode().ok(),
                _ => None,
            })
            .collect()
    }

    fn builtin(enable: &str, disable: &str) -> Plan {
        Plan {
            scheduler: Some(SchedulerPlan::Builtin {
                name: "b".into(),
                enable: vec![enable.into()],
                disable: vec![disable.into()],
            }),
            ..Plan::default()
        }
    }

    #[test]
    fn a_failing_enable_command_is_a_fault_of_the_set_up() {
        let plan = builtin("echo oh no; exit 1", "true");
        let messages = means_on(&plan, |means| {
            let mut managed = Managed::default();
            let fault = managed.start(plan.scheduler.as_ref().unwrap(), means);
            assert!(matches!(fault, Err(StartFault::NotAttached(text)) if text.contains("oh no")));
            assert!(!managed.is_running());
        });
        let told = messages.iter().find_map(|message| match message {
            Message::Lifecycle(life) if life.stage == Stage::SetupFailed => Some(&life.detail),
            _ => None,
        });
        assert!(told.unwrap().contains("exit status 1"), "{messages:?}");
        assert!(!messages.iter().any(|message| matches!(
            message, Message::Lifecycle(life) if life.stage == Stage::SchedulerAttached
        )));
    }

    #[test]
    fn a_staged_scheduler_is_attached_by_its_name() {
        let mut plan = builtin("true", "true");
        plan.staged.push(SchedulerPlan::Builtin {
            name: "staged".into(),
            enable: vec!["true second".into()],
            disable: Vec::new(),
        });
        let messages = means_on(&plan, |means| {
            let attach = SchedulerAction::Attach("staged".into());
            let done = Managed::default().change(&attach, means).unwrap();
            assert_eq!(done, Ok(None));
        });
        let started = messages.iter().any(|message| {
            matches!(message, Message::Lifecycle(life)
                if life.stage == Stage::SchedulerStarting && life.detail == "true second")
        });
        assert!(started, "{messages:?}");
    }

    #[test]
    fn commands_are_attached_detached_and_their_failures_told() {
        let plan = builtin("true", "echo stuck; exit 5");
        let messages = means_on(&plan, |means| {
            let mut managed = Managed::default();
            let change = |managed: &mut Managed, action, means: &mut Means<'_>| {
                managed.change(&action, means).unwrap()
            };
            let attach = |name: &str| SchedulerAction::Attach(name.to_owned());
            let unknown = change(&mut managed, attach("x"), means);
            let Err(SchedulerFault::Refused(why)) = unknown else {
                panic!("{unknown:?}")
            };
            assert!(why.contains("no scheduler 'x' is in the guest"), "{why}");
            assert_eq!(change(&mut managed, attach("b"), means), Ok(None));
            let again = change(&mut managed, attach("b"), means);
            assert!(
                matches!(again, Err(SchedulerFault::Refused(_))),
                "{again:?}"
            );
            assert_eq!(
                change(&mut managed, SchedulerAction::Detach, means),
                Ok(None)
            );
            let again = change(&mut managed, SchedulerAction::Detach, means);
            assert!(
                matches!(again, Err(SchedulerFault::Refused(_))),
                "{again:?}"
            );
            let replace = change(&mut managed, SchedulerAction::Replace("x".into()), means);
            assert!(
                matches!(replace, Err(SchedulerFault::Refused(_))),
                "{replace:?}"
            );
        });
        let Some(Message::SchedExit(exit)) = messages.last() else {
            panic!("{messages:?}")
        };
        let failed = exit.stop.clone().unwrap().failed_commands.join("; ");
        assert!(
            failed.contains("exit status 5") && failed.contains("stuck"),
            "{failed}"
        );
    }
}
