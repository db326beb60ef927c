//! A shell in a guest, in place of a test: for a look around, or for one command.

use std::fs;
use std::io::{self, IsTerminal as _, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use ktstr_init::{FRAME_PORT, PLAN_PATH, Plan, STATS_PORT};
use ktstr_initramfs::{Builder, Initramfs};
use ktstr_vmm::{Clock, Initrd, PortStream, Vm};
use ktstr_wire::{Message, Stage};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use serde::{Deserialize, Serialize};

use crate::host::boot::archive;
use crate::host::plan::admission::{Share, admit};
use crate::host::plan::busybox;
use crate::host::plan::config::HostConfig;
use crate::host::plan::includes;
use crate::host::plan::kernel::resolve_test_kernel;
use crate::host::plan::programs::Programs;
use crate::host::plan::scheduler::resolve_scheduler;
use crate::host::tools::describe::shape;
use crate::host::watch::drain::Drain;
use crate::model::entry::KtstrTestEntry;
use crate::model::role::{GUEST_SHELL_ARG, SHELL_PORT};

/// A [`ShellOrder`] as JSON: a test binary that has it gives a shell in the VM of the test that its filter names.
pub const SHELL_ENV: &str = "KTSTR_SHELL";
/// An interactive guest may live so long.
const INTERACTIVE_DEADLINE: Duration = Duration::from_secs(24 * 3600);
/// Boot and power-off, on the slow engine.
const HEADROOM: Duration = Duration::from_secs(30);
/// The same, per vCPU.
const HEADROOM_PER_VCPU: Duration = Duration::from_secs(4);
/// Exit status of a command that ran out of time, as `timeout(1)` has it.
const TIMED_OUT: u8 = 124;
/// Exit status when the guest crashed, or ended before the command did: no command of the user's gave it.
const NO_STATUS: u8 = 125;
/// So much of the console is shown of a guest that crashed.
const CRASH_LINES: usize = 60;
/// And of one that ended for no visible reason.
const TAIL_LINES: usize = 15;

/// What the shell is to do.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct ShellOrder {
    /// Run this command and end; without it the shell is interactive.
    pub exec: Option<String>,
    /// Time for the command.
    pub exec_timeout_s: u64,
    /// Host files for the guest's `/include-files`, with the libraries that they need.
    pub include: Vec<PathBuf>,
    /// Print the kernel's log at the end.
    pub dmesg: bool,
}

impl ShellOrder {
    /// The order in the environment; an error when it is there and no order.
    #[must_use]
    pub fn from_env() -> Option<Result<Self, String>> {
        let text = std::env::var(SHELL_ENV)
            .ok()
            .filter(|text| !text.is_empty())?;
        Some(
            serde_json::from_str(&text)
                .map_err(|error| format!("{SHELL_ENV} is not a valid request: {error}")),
        )
    }
}

/// Boots the VM of `entry`, with its scheduler, and gives a shell in it. Returns the command's exit status; 124 when it ran
/// out of time, 125 when the guest gave none.
///
/// # Errors
/// When there is no kernel, scheduler or busybox, or the VM cannot be run.
pub fn run(entry: &KtstrTestEntry, order: &ShellOrder, manifest_dir: &Path) -> Result<u8> {
    let config = HostConfig::from_env()?;
    entry.validate()?;
    let kernel = resolve_test_kernel()?;
    let (scheduler, _) = resolve_scheduler(entry.scheduler_spec(), &config, manifest_dir)?;
    let programs = Programs {
        scheduler,
        includes: includes::of_entry(entry, manifest_dir)?,
        ..Programs::default()
    };
    let initramfs = files(entry, order, &programs)?;
    archive::check_size(&initramfs, entry.memory_mib)?;
    let headroom = HEADROOM + HEADROOM_PER_VCPU * entry.topology.total_cpus();
    let deadline = match order.exec {
        Some(_) => Duration::from_secs(order.exec_timeout_s) + headroom,
        None => INTERACTIVE_DEADLINE,
    };
    config.engine.check()?;
    let mut builder = Vm::builder()
        .kernel(&kernel.image)
        .initrd(Initrd::Opened(initramfs.file()))
        .cmdline(archive::command_line(entry))
        .topology(archive::topology(entry)?)
        .memory_mib(entry.memory_mib)
        .port(FRAME_PORT)
        .port(STATS_PORT)
        .port(SHELL_PORT)
        .engine(config.engine)
        .deadline(deadline);
    builder = archive::with_devices(builder, entry);
    if let Some(qemu) = &config.qemu {
        builder = builder.qemu(qemu);
    }
    let mut say = |line: &str| eprintln!("ktstr: {line}");
    let need = Share::of_entry(entry, Clock::Host);
    let _admission = need
        .map(|need| admit(entry.name, need, &mut say))
        .transpose()?;
    let vm = builder.build().context("failed to build the VM")?;
    if io::stderr().is_terminal() {
        eprintln!(
            "ktstr: booting {} CPUs on {}, kernel {}",
            entry.topology.total_cpus(),
            vm.engine(),
            kernel.label()
        );
    }
    follow(vm, order)
}

fn follow(vm: Vm, order: &ShellOrder) -> Result<u8> {
    let started = Instant::now();
    let mut running = vm.start().context("failed to start the VM")?;
    let mut frames = running
        .take_port(FRAME_PORT)
        .context("the VM has no frame port")?;
    let terminal = match order.exec {
        Some(_) => None,
        None => Some(connect(
            running
                .take_port(SHELL_PORT)
                .context("the VM has no shell port")?,
        )?),
    };
    let (begun, begins) = mpsc::channel();
    // The port closes when the VM has ended, by itself or by its deadline.
    let reader = thread::Builder::new()
        .name(String::from("ktstr-frames"))
        .spawn(move || {
            let mut drain = Drain::new(started);
            let read = drain.read_to_end(&mut frames, |message| {
                if is_begin(message) {
                    // An interactive shell does not wait for it.
                    let _ = begun.send(());
                }
                show(message);
            });
            (drain.finish(), read)
        })
        .context("failed to start the frame thread")?;
    let limit = order
        .exec
        .is_some()
        .then(|| Duration::from_secs(order.exec_timeout_s));
    let cut = limit.is_some_and(|limit| runs_out_of_time(&begins, limit));
    if cut {
        running.kill();
    }
    let exit = running.wait().context("failed to wait for the VM's end");
    let console = running.com1().snapshot();
    drop(running);
    let (drained, _) = reader
        .join()
        .map_err(|_| anyhow::anyhow!("the frame thread panicked"))?;
    drop(terminal);
    let exit = exit?;
    let console = String::from_utf8_lossy(&console).into_owned();
    if order.dmesg {
        eprint!("{console}");
    }
    let messages = || drained.frames.messages().map(|(_, message)| message);
    if let Some(code) = messages().find_map(|message| match message {
        Message::Exit(code) => Some(code),
        _ => None,
    }) {
        return Ok(u8::try_from(code).unwrap_or(1));
    }
    if cut {
        eprintln!(
            "ktstr: the command was cut off after {} s; --exec-timeout gives it more",
            order.exec_timeout_s
        );
        return Ok(TIMED_OUT);
    }
    let stage = messages()
        .filter_map(|message| match message {
            Message::Lifecycle(life) => Some(life.stage),
            _ => None,
        })
        .last()
        .map_or("nothing", Stage::as_str);
    eprintln!(
        "ktstr: the guest ended without an exit status of the command ({}), it reached: {stage}. From its console:\n{}",
        exit.reason,
        telling(&console)
    );
    Ok(NO_STATUS)
}

/// Whether the command began and did not end within its time. `false` when the guest ended, by itself or by its deadline.
fn runs_out_of_time(begins: &Receiver<()>, limit: Duration) -> bool {
    begins.recv().is_ok() && matches!(begins.recv_timeout(limit), Err(RecvTimeoutError::Timeout))
}

fn is_begin(message: &Message) -> bool {
    matches!(message, Message::Lifecycle(life) if life.stage == Stage::PayloadStarting)
}

/// The part of a console that says why a guest ended: from the kernel's first complaint on, else the end.
fn telling(console: &str) -> String {
    const COMPLAINTS: [&str; 4] = ["Kernel panic", "Oops", "BUG:", "general protection fault"];
    let lines: Vec<&str> = console.lines().collect();
    let complains = |line: &&str| COMPLAINTS.iter().any(|word| line.contains(word));
    let shown = match lines.iter().position(complains) {
        Some(first) => lines.iter().skip(first).take(CRASH_LINES),
        None => {
            let first = lines.len().saturating_sub(TAIL_LINES);
            lines.iter().skip(first).take(TAIL_LINES)
        }
    };
    shown.copied().collect::<Vec<_>>().join("\n")
}

/// Output of the command and of the scheduler, as it comes.
fn show(message: &Message) {
    // A closed pipe is the reader's choice.
    match message {
        Message::Stdout(bytes) => {
            let mut out = io::stdout().lock();
            let _ = out.write_all(bytes).and_then(|()| out.flush());
        }
        Message::Stderr(bytes) => {
            let _ = io::stderr().write_all(bytes);
        }
        Message::Lifecycle(life)
            if matches!(
                life.stage,
                Stage::SchedulerNotAttached | Stage::SchedulerDied
            ) =>
        {
            eprintln!("ktstr: {}: {}", life.stage.as_str(), life.detail);
        }
        _ => {}
    }
}

/// The user's terminal in raw mode; as before when dropped.
#[derive(Debug)]
struct Terminal(Option<Termios>);

impl Drop for Terminal {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            // Nothing else can be done for a terminal that is gone.
            let _ = tcsetattr(io::stdin(), OptionalActions::Flush, before);
        }
    }
}

/// Joins standard input and output with the guest's shell.
fn connect(port: PortStream) -> Result<Terminal> {
    let before = if io::stdin().is_terminal() {
        let before = tcgetattr(io::stdin()).context("failed to read the terminal's mode")?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(io::stdin(), OptionalActions::Flush, &raw)
            .context("failed to switch the terminal")?;
        Some(before)
    } else {
        None
    };
    let mut to_guest = port.try_clone().context("failed to share the shell port")?;
    let mut from_guest = port;
    let spawn = |name: &str, body: Box<dyn FnOnce() + Send>| {
        thread::Builder::new()
            .name(name.to_owned())
            .spawn(body)
            .context("failed to start a thread")
    };
    // Both end with the process or the port: a read of the terminal cannot be interrupted.
    spawn(
        "keys",
        Box::new(move || {
            let mut buffer = [0; 4096];
            let mut stdin = io::stdin().lock();
            while let Ok(len) = stdin.read(&mut buffer) {
                // The end of a pipe is Ctrl-D for the shell.
                let bytes = if len == 0 {
                    &[4][..]
                } else {
                    buffer.get(..len).unwrap_or_default()
                };
                if to_guest.write_all(bytes).is_err() || len == 0 {
                    return;
                }
            }
        }),
    )?;
    spawn(
        "screen",
        Box::new(move || {
            let mut buffer = [0; 4096];
            while let Ok(len) = from_guest.read(&mut buffer) {
                let mut out = io::stdout().lock();
                let bytes = buffer.get(..len).unwrap_or_default();
                if len == 0 || out.write_all(bytes).and_then(|()| out.flush()).is_err() {
                    return;
                }
            }
        }),
    )?;
    Ok(Terminal(before))
}

fn files(entry: &KtstrTestEntry, order: &ShellOrder, programs: &Programs) -> Result<Initramfs> {
    let exe = std::env::current_exe().context("failed to find this program")?;
    let plan = Plan {
        test: match &order.exec {
            Some(command) => ["/bin/busybox", "sh", "-c", command]
                .map(str::to_owned)
                .to_vec(),
            None => vec![String::from("/init"), GUEST_SHELL_ARG.to_owned()],
        },
        env: environment(),
        // A shell is followed by a person alone.
        await_watch: false,
        look_for_requests: false,
        ..archive::init_plan(entry, programs)
    };
    let mut builder = Builder::new();
    builder.binary("/init", &exe)?;
    if let Some(host) = &programs.scheduler {
        builder.binary(&archive::guest_binary_path(host), host)?;
    }
    busybox::add_to(&mut builder)?;
    let asked = includes::of_paths(&order.include)?;
    for include in includes::merged(programs.includes.iter().cloned().chain(asked))? {
        include.add_to(&mut builder)?;
    }
    builder.bytes(PLAN_PATH, archive::to_json(&plan), 0o644)?;
    Ok(builder.build()?)
}

fn environment() -> Vec<(String, String)> {
    let mut env = vec![
        (
            String::from("PATH"),
            String::from("/bin:/include-files:/ktstr/bin"),
        ),
        (String::from("HOME"), String::from("/")),
        (String::from("PS1"), String::from("ktstr:\\w# ")),
        (
            String::from("TERM"),
            std::env::var("TERM").unwrap_or_else(|_| String::from("dumb")),
        ),
    ];
    if let Ok(size) = tcgetwinsize(io::stdout()) {
        env.push((String::from("LINES"), size.ws_row.to_string()));
        env.push((String::from("COLUMNS"), size.ws_col.to_string()));
    }
    env
}

/// A VM that is no test's: this topology and memory, the kernel's own scheduler. Kept to the process's end.
///
/// # Errors
/// When the text is not a topology.
pub fn plain_vm(topology: &str, memory_mib: u32) -> Result<&'static KtstrTestEntry> {
    let topology = shape(topology).with_context(|| {
        format!(
            "invalid topology '{topology}'; expected NODESnLLCSlCOREScTHREADSt such as 1n2l4c2t"
        )
    })?;
    let entry = KtstrTestEntry {
        name: "shell",
        topology,
        memory_mib,
        ..KtstrTestEntry::DEFAULT
    };
    entry.validate()?;
    Ok(Box::leak(Box::new(entry)))
}

/// Whether a file exists that an order names, before anything is booted.
///
/// # Errors
/// With the first that does not.
pub fn check_includes(order: &ShellOrder) -> Result<()> {
    for include in &order.include {
        fs::metadata(include).with_context(|| format!("cannot include '{}'", include.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crash_is_shown_from_the_kernels_first_complaint_on() {
        let noise: String = (0..40).map(|i| format!("line {i}\n")).collect();
        let trace = "Call Trace:\n".repeat(40);
        let crashed = format!("{noise}[ 1.0] Kernel panic - not syncing: sysrq\n{trace}");
        let shown = telling(&crashed);
        assert!(
            shown.starts_with("[ 1.0] Kernel panic - not syncing: sysrq\n"),
            "{shown}"
        );
        assert_eq!(telling(&noise).lines().count(), TAIL_LINES);
        assert!(telling(&noise).ends_with("line 39"));
    }

    #[test]
    fn an_order_survives_the_environment() {
        let order = ShellOrder {
            exec: Some(String::from("uname -r; exit 3")),
            exec_timeout_s: 7,
            include: vec![PathBuf::from("/a b")],
            dmesg: true,
        };
        let text = serde_json::to_string(&order).unwrap();
        let back: ShellOrder = serde_json::from_str(&text).unwrap();
        assert_eq!((back.exec, back.include), (order.exec, order.include));
    }

    #[test]
    fn a_wrong_topology_shows_a_right_one() {
        let error = plain_vm("4 cpus", 256).unwrap_err().to_string();
        assert!(
            error.contains("4 cpus") && error.contains("1n2l4c2t"),
            "{error}"
        );
        assert_eq!(plain_vm("1n2l2c1t", 256).unwrap().topology.total_cpus(), 4);
    }

    #[test]
    fn a_missing_file_is_named_before_the_boot() {
        let order = ShellOrder {
            include: vec![PathBuf::from("/no/such/file")],
            ..ShellOrder::default()
        };
        let error = check_includes(&order).unwrap_err().to_string();
        assert!(error.contains("/no/such/file"), "{error}");
    }
}
