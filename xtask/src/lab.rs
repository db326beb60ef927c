//! `cargo xtask lab`: a machine with a genuine /dev/kvm, anywhere.
//!
//! The outer VM runs on the tcg engine with SVM; its kernel has KVM_AMD, so hardware-style KVM works inside. The command is
//! the only program beside busybox; its output comes over virtio ports and its exit status over one more.
//!
//! ```text
//!   xtask --initramfs--> outer guest: init script --> CMD (root, /dev/kvm)
//!     ^--- lab.out, lab.err (streamed), lab.file0… (files out), lab.status ---'
//! ```

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use comfy_table::Table;
use ktstr::host::plan::kernel::resolve_test_kernel;
use ktstr_initramfs::{Builder, Initramfs};
use ktstr_vmm::{EngineChoice, ExitReason, Initrd, PortStream, Topology, Vm, VmExit};

/// Four remedies for a clock that is emulated:
///
/// - The TSC's frequency is told ([`tsc_khz`]): on a busy host the kernel's own calibration may find a tenth of it, and then all
///   time in the lab, the deadlines of its guests too, is over ten times too early.
/// - The TSC is taken for reliable, which the host's is. Where the outer kernel finds it unstable against an emulated timer, its KVM
///   stops a guest's TSC whenever the vCPU does not run (`arch/x86/kvm/x86.c: kvm_arch_vcpu_load`), and a freeze was taken off twice.
/// - A periodic tick. Without it boots took 29 to 48 s and one of 13 hung; a likely cause, not proven, is that an outer timer
///   interrupt is lost around a nested exit: a one-shot timer is then never programmed again, a periodic one comes back.
/// - Any TSC frequency. The outer kernel calibrates twice; when the second result is off by more than 250 ppm, KVM wants to
///   scale the TSC of new guests, cannot, and leaves the scale at 0 (`arch/x86/kvm/x86.c: set_tsc_khz`). Such a guest's
///   deadline timer fires many seconds late.
const CMDLINE: &str = "console=ttyS0 rdinit=/init panic=-1 loglevel=4 nokaslr mitigations=off \
    nohz=off highres=off kvm.tsc_tolerance_ppm=500000 tsc=reliable";
/// The emulator's TSC is the host's (QEMU: `cpu_get_host_ticks`), whose frequency this measures in kHz. How busy the host is has
/// no say: each end is a pair of readings between which nothing else ran.
fn tsc_khz() -> u64 {
    // SAFETY: every x86-64 processor has RDTSC, and Linux lets processes use it.
    let ticks = || unsafe { std::arch::x86_64::_rdtsc() };
    let pair = || {
        let tries = (0..100).map(|_| {
            let (before, at, after) = (ticks(), Instant::now(), ticks());
            (after.saturating_sub(before), before, at)
        });
        tries.min_by_key(|(took, ..)| *took)
    };
    let (first, last) = (pair(), {
        thread::park_timeout(TSC_WINDOW);
        pair()
    });
    let Some(((_, from, begun), (_, to, ended))) = first.zip(last) else {
        return 0;
    };
    let micros = ended.saturating_duration_since(begun).as_micros().max(1);
    u64::try_from(u128::from(to.saturating_sub(from)) * 1000 / micros).unwrap_or(0)
}

/// How long the TSC is measured: 50 ms to a microsecond is 20 ppm.
const TSC_WINDOW: Duration = Duration::from_millis(50);
/// Ends a lab of which a CPU is dead.
const DOG: &str = include_str!("lab_dog.sh");
/// Its path there.
const DOG_PATH: &str = "/dog";
/// As timeout(1) says it.
const EXIT_TIMEOUT: u8 = 124;
/// The lab itself failed, not the command.
const EXIT_LAB: u8 = 125;
/// Where the guest has the test kernel.
const GUEST_KERNEL: &str = "/boot/bzImage";
/// Environment that goes in: what tests and test binaries read.
const ENV_PREFIXES: [&str; 4] = ["KTSTR_", "RUST_", "CARGO_", "NEXTEST"];
/// End of the outer console that a report shows.
const CONSOLE_TAIL: usize = 3000;

/// Runs a command as root in a VM whose /dev/kvm is genuine. Also a cargo runner:
/// `CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER="cargo xtask lab --"`.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// CPUs of the lab; inner guests were most stable with two more than they have themselves.
    #[arg(long, default_value_t = 2)]
    pub(crate) cpus: u32,
    /// Memory of the lab in MiB.
    #[arg(long, default_value_t = 2048)]
    pub(crate) memory: u32,
    /// Seconds until the lab is ended.
    #[arg(long, default_value_t = 600)]
    pub(crate) deadline: u64,
    /// The outer emulator; the system's without it.
    #[arg(long, value_name = "PATH")]
    pub(crate) qemu: Option<PathBuf>,
    /// A file to bring in, as HOST or HOST:GUEST; programs come with their libraries.
    #[arg(long = "file", value_name = "HOST[:GUEST]")]
    pub(crate) files: Vec<String>,
    /// A file to bring out after the command, as GUEST:HOST.
    #[arg(long = "out", value_name = "GUEST:HOST")]
    pub(crate) outs: Vec<String>,
    /// A variable for the command; KTSTR_*, RUST_* and CARGO_* go in by themselves.
    #[arg(long = "env", value_name = "NAME=VALUE")]
    pub(crate) env: Vec<String>,
    /// Run the command this often, each in a fresh lab, and count what failed: the lab or the command.
    #[arg(long, value_name = "N")]
    pub(crate) soak: Option<u32>,
    /// The command and its arguments.
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) command: Vec<String>,
}

/// How one lab ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The command ended with this status.
    Status(u8),
    /// The deadline passed; what the outer guest's console ends with.
    Timeout(String),
    /// The outer guest failed: an emulator's fault, or its kernel's.
    Lab(String),
}

impl Outcome {
    fn code(&self) -> u8 {
        match self {
            Self::Status(code) => *code,
            Self::Timeout(_) => EXIT_TIMEOUT,
            Self::Lab(_) => EXIT_LAB,
        }
    }
}

/// Runs the command once, or soaks; the exit status is the command's.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let archive = initramfs(options)?;
    let Some(runs) = options.soak else {
        let (outcome, _) = once(options, &archive)?;
        report(&outcome, options);
        return Ok(ExitCode::from(outcome.code()));
    };
    soak(options, &archive, runs)
}

pub(crate) fn report(outcome: &Outcome, options: &Options) {
    match outcome {
        Outcome::Status(_) => {}
        Outcome::Timeout(console) => eprintln!(
            "lab: the command did not end within {} s; give more with --deadline\n{console}",
            options.deadline
        ),
        Outcome::Lab(why) => eprintln!("lab: the lab itself failed: {why}"),
    }
}

fn soak(options: &Options, archive: &Initramfs, runs: u32) -> Result<ExitCode> {
    let mut table = Table::new();
    table.set_header(["run", "outcome", "seconds"]);
    let (mut ok, mut emulator) = (0u32, 0u32);
    for run in 1..=runs {
        let (outcome, took) = once(options, archive)?;
        report(&outcome, options);
        let words = match &outcome {
            Outcome::Status(0) => String::from("ok"),
            Outcome::Status(code) => format!("the command failed with {code}"),
            Outcome::Timeout(_) => {
                String::from("hung: the outer guest lived, the command did not end")
            }
            Outcome::Lab(why) => format!("lab: {}", why.lines().next().unwrap_or_default()),
        };
        ok += u32::from(outcome == Outcome::Status(0));
        emulator += u32::from(matches!(outcome, Outcome::Lab(_)));
        eprintln!(
            "lab: run {run} of {runs}: {words} ({:.1} s)",
            took.as_secs_f64()
        );
        table.add_row([run.to_string(), words, format!("{:.1}", took.as_secs_f64())]);
    }
    println!("{table}");
    println!(
        "{ok} of {runs} ok with {} outer CPUs; {emulator} failed in the lab itself, {} in the command",
        options.cpus,
        runs - ok - emulator
    );
    Ok(if ok == runs {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// One lab from boot to end.
pub(crate) fn once(options: &Options, archive: &Initramfs) -> Result<(Outcome, Duration)> {
    let kernel = resolve_test_kernel()?;
    let deadline = Duration::from_secs(options.deadline);
    let mut builder = Vm::builder()
        .kernel(kernel.image.clone())
        .initrd(Initrd::Opened(archive.file()))
        .cmdline(format!("{CMDLINE} tsc_early_khz={}", tsc_khz()))
        .engine(EngineChoice::Tcg)
        .nested(true)
        .topology(Topology::new(1, 1, options.cpus, 1)?)
        .memory_mib(options.memory)
        .deadline(deadline)
        .port("lab.out")
        .port("lab.err")
        .port("lab.status");
    if let Some(qemu) = &options.qemu {
        builder = builder.qemu(qemu);
    }
    for index in 0..options.outs.len() {
        builder = builder.port(format!("lab.file{index}"));
    }
    let started = Instant::now();
    let mut vm = builder.build()?.start()?;
    let mut port = |name: &str| {
        vm.take_port(name)
            .with_context(|| format!("port {name} is missing"))
    };
    let (out, err, status) = (port("lab.out")?, port("lab.err")?, port("lab.status")?);
    let relays = [
        thread::spawn(move || relay(out, &mut io::stdout())),
        thread::spawn(move || relay(err, &mut io::stderr())),
    ];
    let mut files = Vec::new();
    for (index, out) in options.outs.iter().enumerate() {
        let stream = port(&format!("lab.file{index}"))?;
        let (_, host) = split(out)?;
        files.push(thread::spawn(move || save(stream, &host)));
    }
    let status = thread::spawn(move || read_all(status));
    let exit = vm.wait()?;
    for relay in relays {
        // A broken pipe on our side must not hide the command's status.
        let _ = relay.join();
    }
    let status = status.join().unwrap_or_default();
    let outcome = judge(&exit, &status);
    for file in files {
        if let Ok(Err(error)) = file.join()
            && outcome == Outcome::Status(0)
        {
            return Err(error);
        }
    }
    Ok((outcome, started.elapsed()))
}

/// Tells the command's end from the lab's.
fn judge(exit: &VmExit, status: &[u8]) -> Outcome {
    let status = String::from_utf8_lossy(status);
    let console = String::from_utf8_lossy(&exit.com1);
    if let Ok(code) = status.trim().parse() {
        return Outcome::Status(code);
    }
    let tail = console
        .char_indices()
        .rev()
        .nth(CONSOLE_TAIL)
        .map_or(&*console, |(at, _)| console.get(at..).unwrap_or_default());
    let troubled = [
        "Kernel panic",
        "BUG:",
        "Oops",
        "soft lockup",
        "general protection",
        "lost its timer",
    ]
    .iter()
    .any(|sign| console.contains(sign));
    match exit.reason {
        ExitReason::Deadline if !troubled => Outcome::Timeout(tail.to_owned()),
        _ => Outcome::Lab(format!(
            "it ended by {} without a status\n{tail}",
            exit.reason
        )),
    }
}

fn relay(mut from: PortStream, to: &mut dyn Write) -> io::Result<()> {
    let mut buffer = [0; 8192];
    loop {
        let len = from.read(&mut buffer)?;
        if len == 0 {
            return Ok(());
        }
        to.write_all(buffer.get(..len).unwrap_or_default())?;
        to.flush()?;
    }
}

fn read_all(mut from: PortStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    // What came before an error is judged like a short answer.
    let _ = from.read_to_end(&mut bytes);
    bytes
}

/// Writes a file that came out, all or nothing.
fn save(from: PortStream, host: &Path) -> Result<()> {
    let bytes = read_all(from);
    let dir = host.parent().filter(|dir| !dir.as_os_str().is_empty());
    let mut file = tempfile::NamedTempFile::new_in(dir.unwrap_or(Path::new(".")))
        .with_context(|| format!("failed to create a file beside {}", host.display()))?;
    file.write_all(&bytes)
        .with_context(|| format!("failed to write {}", host.display()))?;
    file.persist(host)
        .with_context(|| format!("failed to name {}", host.display()))?;
    Ok(())
}

/// `A:B`.
fn split(pair: &str) -> Result<(String, PathBuf)> {
    match pair.split_once(':') {
        Some((left, right)) if !left.is_empty() && !right.is_empty() => {
            Ok((left.to_owned(), right.into()))
        }
        _ => bail!(
            "'{pair}' is not of the form GUEST:HOST; write two paths with a colon between them"
        ),
    }
}

/// The command as the guest calls it, and where its file is here.
pub(crate) fn find_program(name: &str) -> Result<PathBuf> {
    if name.contains('/') {
        return fs::canonicalize(name).with_context(|| format!("no program '{name}'"));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|dir| dir.join(name))
        .find(|path| path.is_file())
        .with_context(|| format!("no program '{name}' on PATH; give its path"))
}

pub(crate) fn initramfs(options: &Options) -> Result<Initramfs> {
    let (name, arguments) = options
        .command
        .split_first()
        .context("no command was given")?;
    let program = find_program(name)?;
    let guest_program = program.display().to_string();
    let mut builder = Builder::new();
    let busybox =
        find_program("busybox").context("busybox-static is needed; run `cargo xtask setup`")?;
    builder.binary("/bin/busybox", &busybox)?;
    builder.symlink("/bin/sh", "busybox")?;
    builder.binary(&guest_program, &program)?;
    for file in &options.files {
        let (host, guest) = match file.split_once(':') {
            Some((host, guest)) => (PathBuf::from(host), guest.to_owned()),
            None => (PathBuf::from(file), file.clone()),
        };
        let host =
            fs::canonicalize(&host).with_context(|| format!("no file '{}'", host.display()))?;
        let guest = if guest.starts_with('/') {
            guest
        } else {
            host.display().to_string()
        };
        builder.binary(&guest, &host)?;
    }
    let kernel = resolve_test_kernel()?;
    builder.file(GUEST_KERNEL, &kernel.image, 0o644)?;
    builder.bytes(DOG_PATH, DOG.into(), 0o644)?;
    builder.bytes(
        "/init",
        script(options, &guest_program, arguments)?.into_bytes(),
        0o755,
    )?;
    builder.dir("/root")?;
    Ok(builder.build()?)
}

/// The outer guest's init.
fn script(options: &Options, program: &str, arguments: &[String]) -> Result<String> {
    let mut script = String::from(
        "#!/bin/busybox sh\n\
         bb=/bin/busybox\n\
         $bb mkdir -p /proc /sys /dev /tmp /run /usr/bin /usr/sbin /sbin\n\
         $bb mount -t proc proc /proc; $bb mount -t sysfs sys /sys; $bb mount -t devtmpfs dev /dev\n\
         $bb mkdir -p /dev/shm /dev/pts\n\
         $bb mount -t tmpfs shm /dev/shm\n\
         $bb mount -t devpts pts /dev/pts; $bb mount -t cgroup2 cgroup /sys/fs/cgroup 2>/dev/null\n\
         $bb mount -t bpf bpf /sys/fs/bpf 2>/dev/null; $bb mount -t debugfs debug /sys/kernel/debug 2>/dev/null\n\
         $bb ip link set lo up 2>/dev/null\n\
         $bb --install -s /bin 2>/dev/null\n\
         port() { for p in /sys/class/virtio-ports/*; do [ \"$($bb cat $p/name)\" = \"$1\" ] && echo /dev/${p##*/}; done; }\n\
         export HOME=/root PATH=/bin:/sbin:/usr/bin:/usr/sbin TMPDIR=/tmp\n",
    );
    let passed = std::env::vars().filter(|(name, _)| {
        ENV_PREFIXES.iter().any(|prefix| name.starts_with(prefix)) && !name.ends_with("_RUNNER")
    });
    for (name, value) in passed {
        if name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
            writeln!(script, "export {name}={}", quote(&value))?;
        }
    }
    for name in ["KTSTR_TEST_KERNEL", "KTSTR_TEST_IMAGE"] {
        writeln!(script, "export {name}={GUEST_KERNEL}")?;
    }
    writeln!(script, "export KTSTR_LAB=1")?;
    for pair in &options.env {
        let (name, value) = pair
            .split_once('=')
            .with_context(|| format!("'{pair}' is not of the form NAME=VALUE"))?;
        writeln!(script, "export {name}={}", quote(value))?;
    }
    for cpu in 0..options.cpus {
        let mask = 1u64.checked_shl(cpu).unwrap_or(0);
        writeln!(script, "$bb taskset {mask:x} $bb sh {DOG_PATH} &")?;
    }
    let cwd = std::env::current_dir().context("no current directory")?;
    let cwd = quote(&cwd.display().to_string());
    writeln!(script, "$bb mkdir -p {cwd}; cd {cwd}")?;
    write!(script, "{}", quote(program))?;
    for argument in arguments {
        write!(script, " {}", quote(argument))?;
    }
    writeln!(
        script,
        " </dev/null >$(port lab.out) 2>$(port lab.err)\nstatus=$?"
    )?;
    for (index, out) in options.outs.iter().enumerate() {
        let (guest, _) = split(out)?;
        writeln!(script, "$bb cat {} >$(port lab.file{index})", quote(&guest))?;
    }
    script.push_str("echo $status >$(port lab.status)\n$bb poweroff -f\n");
    Ok(script)
}

/// One word for sh.
pub(crate) fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_survive_the_shell() {
        assert_eq!(quote("it's $HOME"), "'it'\\''s $HOME'");
    }

    /// Processors of the last twenty years count 0.5 to 10 GHz, and always the same.
    #[test]
    fn the_tsc_is_measured() {
        let (first, again) = (tsc_khz(), tsc_khz());
        assert!((500_000..10_000_000).contains(&first), "{first}");
        assert!(first.abs_diff(again) < first / 1_000, "{first} {again}");
    }

    #[test]
    fn pairs_need_both_sides() {
        assert_eq!(split("/a:b").unwrap(), ("/a".into(), "b".into()));
        split(":b").unwrap_err();
        split("a").unwrap_err();
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = find_program("no-such-program-here")
            .unwrap_err()
            .to_string();
        assert!(error.contains("no-such-program-here"), "{error}");
    }
}
