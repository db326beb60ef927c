//! What the whole-system tests share: things that cases do inside the guest, and how the tests run a case.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use anyhow::{Context as _, ensure};
use ktstr::host::evidence::sidecar::Sidecar;
use ktstr::prelude::AssertResult;
use rustix::process::Pid;

/// Sends PID 1 a fatal signal that it cannot ignore, because it has a handler for it.
///
/// # Errors
/// When the signal cannot be sent.
pub fn crash_pid1() -> anyhow::Result<()> {
    rustix::process::kill_process(rustix::process::Pid::INIT, rustix::process::Signal::SEGV)?;
    Ok(())
}

/// Calls itself until the stack ends.
#[must_use]
#[expect(unconditional_recursion, reason = "the overflow is what is wanted")]
pub fn deeper(depth: u64) -> u64 {
    let frame = std::hint::black_box([depth; 64]);
    deeper(frame[0] + 1) + std::hint::black_box(frame[1])
}

/// Hangs, as a buggy test would; only the VM's deadline ends it.
pub fn wait_forever() -> ! {
    loop {
        std::thread::park();
    }
}

/// Compares the guest's own view of its CPUs with the declared shape.
///
/// # Errors
/// When sysfs cannot be read or shows another shape.
pub fn check_sysfs_topology(
    nodes: usize,
    llcs: usize,
    cores: usize,
    threads: usize,
) -> anyhow::Result<AssertResult> {
    let cpus = llcs * cores * threads;
    let online = fs::read_to_string("/sys/devices/system/cpu/online")?;
    ensure!(
        online.trim() == format!("0-{}", cpus - 1),
        "CPUs online: {}, declared {cpus}",
        online.trim()
    );
    let distinct = |file: &str| -> anyhow::Result<usize> {
        let mut seen = std::collections::BTreeSet::new();
        for cpu in 0..cpus {
            let path = format!("/sys/devices/system/cpu/cpu{cpu}/{file}");
            seen.insert(fs::read_to_string(&path).with_context(|| path.clone())?);
        }
        Ok(seen.len())
    };
    ensure!(
        distinct("cache/index3/shared_cpu_list")? == llcs,
        "LLCs differ from the declared {llcs}"
    );
    ensure!(
        distinct("topology/thread_siblings_list")? == llcs * cores,
        "cores differ from the declared {}",
        llcs * cores
    );
    let mut seen_nodes = 0;
    for entry in fs::read_dir("/sys/devices/system/node")? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        seen_nodes += usize::from(
            name.strip_prefix("node")
                .is_some_and(|n| n.parse::<u32>().is_ok()),
        );
    }
    ensure!(
        seen_nodes == nodes,
        "{seen_nodes} NUMA nodes, declared {nodes}"
    );
    Ok(AssertResult::pass())
}

/// Brings a card up and sends `count` frames, which ask for an address that nobody has.
///
/// # Errors
/// When the guest has no busybox, or the card cannot be brought up.
pub fn ask_around(card: &str, count: u32) -> anyhow::Result<()> {
    let busybox = |line: &str| {
        let status = Command::new("busybox").args(line.split(' ')).status();
        status.with_context(|| format!("busybox {line}"))
    };
    for line in [
        format!("ip link set {card} up"),
        format!("ip addr add 10.9.8.1/24 dev {card}"),
    ] {
        ensure!(busybox(&line)?.success(), "busybox {line} failed");
    }
    // That nobody answers is its failure.
    busybox(&format!("arping -c {count} -I {card} 10.9.8.2"))?;
    Ok(())
}

/// The child of process `parent` whose command begins with `name`.
///
/// # Errors
/// When there is none.
pub fn child_named(parent: u32, name: &str) -> anyhow::Result<Pid> {
    for task in fs::read_dir(format!("/proc/{parent}/task"))? {
        let children = fs::read_to_string(task?.path().join("children"))?;
        for child in children.split_whitespace() {
            let comm = fs::read_to_string(format!("/proc/{child}/comm")).unwrap_or_default();
            if comm.starts_with(name)
                && let Some(pid) = Pid::from_raw(child.parse()?)
            {
                return Ok(pid);
            }
        }
    }
    anyhow::bail!("process {parent} has no child named {name}*")
}

/// The drgn that `cargo xtask setup --checks` has installed.
///
/// # Panics
/// When it has not.
#[must_use]
pub fn drgn() -> PathBuf {
    let exe = std::env::current_exe().expect("this program has a path");
    let drgn = exe
        .ancestors()
        .nth(3)
        .map(|target| target.join("tools/drgn/bin/drgn"))
        .expect("tests lie in the target directory");
    assert!(
        drgn.is_file(),
        "{} is missing; `cargo xtask setup --checks` installs it",
        drgn.display()
    );
    drgn
}

/// A scheduler that is somebody else's: what `KTSTR_TEST_SCHEDULER` names, else what `cargo xtask setup --checks` has
/// installed; `None` where `KTSTR_TESTS_LACK` says that this machine cannot have one (CONTRIBUTING.md).
///
/// # Panics
/// When there is none and the variable does not say so.
#[must_use]
pub fn strangers_scheduler() -> Option<String> {
    let named = std::env::var("KTSTR_TEST_SCHEDULER").ok();
    if let Some(named) = named.filter(|path| !path.is_empty()) {
        return Some(named);
    }
    let installed =
        ktstr::host::plan::config::cache_dir().join("schedulers/checks/bin/scx_bpfland");
    if installed.is_file() {
        return Some(installed.display().to_string());
    }
    let why = format!(
        "{} is missing; `cargo xtask setup --checks` installs it, and KTSTR_TEST_SCHEDULER may name another one",
        installed.display()
    );
    let listed = std::env::var("KTSTR_TESTS_LACK").unwrap_or_default();
    assert!(
        listed.split(',').any(|named| named == "scheduler"),
        "{why}; where this machine cannot have it, set KTSTR_TESTS_LACK=scheduler"
    );
    eprintln!("skipped: {why}");
    None
}

fn command(exe: &str, case: &str, dir: &tempfile::TempDir) -> Command {
    let mut command = Command::new(exe);
    command
        .args(["--exact", case, "--include-ignored", "--nocapture"])
        .env("KTSTR_SIDECAR_DIR", dir.path())
        .env_remove("KTSTR_SCHEDULER");
    command
}

/// One case, run as its user would run it.
#[derive(Debug)]
pub struct CaseRun {
    /// The test binary's exit code.
    pub code: Option<i32>,
    /// What it printed, both streams.
    pub text: String,
    /// Its record; `None` when none was written.
    pub sidecar: Option<Sidecar>,
    /// Where its artifacts lie; removed with this value.
    pub dir: tempfile::TempDir,
}

impl CaseRun {
    /// Runs `case` of the binary `exe` with `env` added.
    ///
    /// # Errors
    /// When the binary cannot be run or its record cannot be read.
    pub fn new(exe: &str, case: &str, env: &[(&str, &str)]) -> anyhow::Result<Self> {
        let dir = tempfile::tempdir()?;
        let output: Output = command(exe, case, &dir)
            .envs(env.iter().copied())
            .output()
            .with_context(|| format!("failed to run {exe}"))?;
        let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.push_str(&String::from_utf8_lossy(&output.stderr));
        Self::collect(case, dir, output.status.code(), text)
    }

    /// Runs `case` and calls `act` with the runner's pid as soon as its log says `when`.
    ///
    /// # Errors
    /// When the binary cannot be run, never says so, or `act` fails.
    pub fn interrupted(
        exe: &str,
        case: &str,
        when: &str,
        act: impl FnOnce(u32) -> anyhow::Result<()>,
    ) -> anyhow::Result<Self> {
        let dir = tempfile::tempdir()?;
        let (read, write) = std::io::pipe()?;
        let mut command = command(exe, case, &dir);
        command
            .env("RUST_LOG", "debug")
            .stdin(Stdio::null())
            .stdout(write.try_clone()?)
            .stderr(write);
        let mut child = command.spawn()?;
        // The command holds the pipe's writing ends.
        drop(command);
        let (mut text, mut act) = (String::new(), Some(act));
        for line in BufReader::new(read).lines() {
            text.push_str(&line?);
            text.push('\n');
            if text.contains(when)
                && let Some(act) = act.take()
            {
                act(child.id())?;
            }
        }
        let status = child.wait()?;
        ensure!(act.is_none(), "the run never said {when:?}:\n{text}");
        Self::collect(case, dir, status.code(), text)
    }

    fn collect(
        case: &str,
        dir: tempfile::TempDir,
        code: Option<i32>,
        text: String,
    ) -> anyhow::Result<Self> {
        let path = dir.path().join(format!("{case}.json"));
        let sidecar = match fs::read(&path) {
            Ok(bytes) => Some(serde_json::from_slice(&bytes)?),
            Err(_) => None,
        };
        Ok(Self {
            code,
            text,
            sidecar,
            dir,
        })
    }

    /// Asserts that the text holds none of `needles`.
    ///
    /// # Panics
    /// When one is there; the panic shows the whole text.
    #[track_caller]
    pub fn lacks(&self, needles: &[&str]) -> &Self {
        for needle in needles {
            assert!(
                !self.text.contains(needle),
                "{needle:?} is in:\n{}",
                self.text
            );
        }
        self
    }

    /// Asserts that the text holds every one of `needles`.
    ///
    /// # Panics
    /// When one is missing; the panic shows the whole text.
    #[track_caller]
    pub fn says(&self, needles: &[&str]) -> &Self {
        for needle in needles {
            assert!(
                self.text.contains(needle),
                "{needle:?} is not in:\n{}",
                self.text
            );
        }
        self
    }

    /// Asserts the exit code.
    ///
    /// # Panics
    /// When it is another one; the panic shows the whole text.
    #[track_caller]
    pub fn exits(&self, code: i32) -> &Self {
        assert_eq!(self.code, Some(code), "{}", self.text);
        self
    }

    /// Asserts that a failure dump was left and parses, and returns it.
    ///
    /// # Panics
    /// When there is none, or it is not JSON.
    #[track_caller]
    pub fn dump(&self) -> serde_json::Value {
        let mut found: Vec<PathBuf> = fs::read_dir(self.dir.path())
            .expect("the artifact directory exists")
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.to_string_lossy().ends_with(".failure-dump.json"))
            .collect();
        let path = found
            .pop()
            .unwrap_or_else(|| panic!("no failure dump; the run said:\n{}", self.text));
        let bytes = fs::read(path).expect("the dump can be read");
        serde_json::from_slice(&bytes).expect("the dump is JSON")
    }
}
