//! One guest for all tests: booted once, sampled while it ran, frozen, dumped, run on, and gone.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use ktstr_monitor::phys::Vmcore;
use ktstr_monitor::sampler::{MonitorReport, MonitorSample};
use ktstr_monitor::sched::WatchdogOverride;
use ktstr_monitor::{Attach, Kernel, Sampler};

use crate::books::ext_rules_fired;
use crate::facts::Facts;
use crate::initrd::{Initrd, tool};
use crate::qemu::{Machine, Qemu};

pub(crate) struct Lab {
    /// What the guest said before and after it was frozen.
    pub(crate) facts: Facts,
    /// The kernel in the dump.
    pub(crate) kernel: Arc<Kernel>,
    pub(crate) vmcore: PathBuf,
    pub(crate) live: Live,
    /// Rules of sched_ext that were seen to fire before the dump.
    pub(crate) fired: BTreeSet<&'static str>,
}

/// What was done to the guest while it ran.
pub(crate) struct Live {
    pub(crate) report: MonitorReport,
    pub(crate) watchdog: Option<WatchdogOverride>,
    /// The fixture's `.rodata` and `.bss` members, read by name: number of CPUs, vtime twice.
    pub(crate) nr_cpus: u64,
    pub(crate) vtimes: [u64; 2],
    /// A number in `.bss` that was written and read back.
    pub(crate) written: u64,
}

/// The shared guest.
pub(crate) fn lab() -> &'static Lab {
    static LAB: OnceLock<Lab> = OnceLock::new();
    LAB.get_or_init(boot)
}

/// Where cargo puts this build's programs.
fn target() -> PathBuf {
    let exe = std::env::current_exe().unwrap();
    exe.ancestors().nth(2).unwrap().to_owned()
}

/// A directory of ours that stays for looking at; its contents are of the last run.
pub(crate) fn scratch(name: &str) -> PathBuf {
    let dir = target().join("ktstr-monitor-tests").join(name);
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

fn run(command: &mut Command) {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

fn fixture() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let target = target();
    // Without this package's names, which build scripts may depend on.
    let mut cargo = Command::new(env!("CARGO"));
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            cargo.env_remove(name);
        }
    }
    run(cargo
        .args(["build", "-q", "--workspace", "--bin", "scx-fixture"])
        .arg("--target-dir")
        .arg(target.parent().unwrap())
        .current_dir(root));
    target.parent().unwrap().join("debug/scx-fixture")
}

fn initrd(dir: &Path) -> PathBuf {
    let maps = dir.join("maps");
    let guest = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/guest");
    run(Command::new("cc")
        .args(["-O1", "-static", "-o"])
        .arg(&maps)
        .arg(guest.join("maps.c")));
    let path = dir.join("initrd");
    let mut initrd = Initrd::default();
    for empty in ["proc", "sys", "dev", "tmp"] {
        initrd.dir(empty);
    }
    initrd
        .file("/init", include_bytes!("guest/init.sh"))
        .program("/bin/busybox", &tool("busybox"))
        .program("/bin/maps", &maps)
        .program("/bin/scx-fixture", &fixture())
        .program("/sbin/bpftool", &tool("bpftool"))
        .write(&path);
    path
}

fn boot() -> Lab {
    let dir = scratch("guest");
    let initrd = initrd(&dir);
    let machine = Machine {
        smp: "4,sockets=2,cores=2",
        memory_mib: 512,
        cmdline: "",
    };
    let mut qemu = Qemu::boot(&dir, &initrd, &machine);
    qemu.wait_for("@@READY");
    let live = sample(&qemu);
    let fired = ext_rules_fired(&mut qemu);
    qemu.stop();
    let vmcore = dir.join("vmcore");
    qemu.dump(&vmcore);
    qemu.resume();
    qemu.say("go on");
    let facts = Facts::parse(&qemu.wait_for("@@DONE"));
    drop(qemu);
    let core = Arc::new(Vmcore::open(&vmcore).unwrap());
    let kernel = Arc::new(Attach::new(core).attach().unwrap());
    std::fs::write(dir.join("vmcoreinfo"), kernel.vmcoreinfo().unwrap()).unwrap();
    Lab {
        facts,
        kernel,
        vmcore,
        live,
        fired,
    }
}

/// Reads and writes the running guest.
fn sample(qemu: &Qemu) -> Live {
    let kernel = Arc::new(Attach::new(Arc::new(qemu.memory())).attach().unwrap());
    let maps = kernel.maps().found;
    let map = |suffix: &str| maps.iter().find(|map| map.name.ends_with(suffix)).unwrap();
    let nr_cpus = map(".rodata").field(&kernel, 0, "nr_cpus").unwrap();
    let bss = map(".bss");
    let vtime = bss.field(&kernel, 0, "vtime_now").unwrap();
    let mut sampler = Sampler::new(Arc::clone(&kernel)).unwrap();
    sampler.watch(
        ktstr_monitor::sampler::WatchedField::gauge("vtime"),
        |kernel| {
            let maps = kernel.maps().found;
            let bss = maps.iter().find(|map| map.name.ends_with(".bss"))?;
            bss.field(kernel, 0, "vtime_now").ok()
        },
    );
    let first = vtime.read(&kernel).unwrap();
    let samples = take_samples(&mut sampler, 60, Duration::from_millis(25));
    // This member is not read while no fault is on.
    let victim = bss.field(&kernel, 0, "exit_info.exit_code").unwrap();
    victim.write(&kernel, (-7_i64).cast_unsigned()).unwrap();
    let watchdog = kernel
        .override_watchdog(Duration::from_secs(9), 1000)
        .unwrap();
    Live {
        report: MonitorReport::new(samples, 1000),
        watchdog,
        nr_cpus: nr_cpus.read(&kernel).unwrap(),
        vtimes: [first, vtime.read(&kernel).unwrap()],
        written: victim.read(&kernel).unwrap(),
    }
}

/// Samples at a fixed pace, kept by a channel's time-out.
fn take_samples(sampler: &mut Sampler, count: u32, pace: Duration) -> Vec<MonitorSample> {
    let (_keep, never) = std::sync::mpsc::channel::<()>();
    let start = Instant::now();
    (0..count)
        .map(|number| {
            let due = start + pace * number;
            let _ = never.recv_timeout(due.saturating_duration_since(Instant::now()));
            let elapsed = u64::try_from(start.elapsed().as_millis()).unwrap();
            sampler.sample(elapsed, &[]).unwrap()
        })
        .collect()
}
