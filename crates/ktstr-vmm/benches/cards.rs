//! Disk and network throughput of the kvm engine, beside QEMU's own devices on the same /dev/kvm: `cards OUT.json`.
//!
//! Both run the same kernel and initramfs with one vCPU, the disk a file in memory. QEMU's machine is microvm, whose devices are
//! virtio-mmio, too. Of rounds that alternate, the median counts. One program plays all parts:
//!
//! ```text
//!   cards OUT.json ---> guest of ours -----> cards guest eth0 eth0   (each frame comes back on its card)
//!            \---------> guest of QEMU's --> cards guest eth0 eth1   (two cards on one hub)
//! ```
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a benchmark stops where something is wrong, and talks"
)]

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::fd::{FromRawFd as _, OwnedFd};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use ktstr_initramfs::{Builder, Initramfs};
use ktstr_vmm::{Disk, DiskSource, EngineChoice, Initrd, Net, Vm};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::time::Timespec;
use serde_json::json;

/// By name: MiB, operations or frames per second.
type Rates = BTreeMap<String, f64>;

const ROUNDS: usize = 3;
/// How long the guest does each job.
const EACH: Duration = Duration::from_secs(3);
const DISK_BYTES: u64 = 32 << 20;
const WRITE: usize = 64 << 10;
const READ: usize = 4 << 10;
/// Frames under way at once. For its large MTU, Linux gives our card buffers of 19 descriptors, so that a ring of 256 has 13.
const FRAMES: usize = 8;
const FRAME: usize = 1400;
/// An experimental protocol (IEEE 802), which nothing else here speaks.
const PROTOCOL: u16 = 0x88b5;
/// Before each line of results, and after the last.
const MARK: &str = "cards: ";
const JOBS: usize = 3;
const DEADLINE: Duration = Duration::from_secs(90);

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["guest", from, to] => guest(from, to),
        // As `cargo bench` calls it: what it needs is not there.
        [] | ["--bench"] => println!("skipped: `cargo xtask bench` runs this in the lab"),
        [out, ..] => compare(Path::new(out)),
    }
}

/// Runs both, in turn.
fn compare(out: &Path) {
    let kernel = std::env::var("KTSTR_TEST_KERNEL").expect("KTSTR_TEST_KERNEL");
    let dir = tempfile::tempdir().unwrap();
    let disk = dir.path().join("disk");
    File::create(&disk).unwrap().set_len(DISK_BYTES).unwrap();
    let (mut ours, mut qemus) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        ours.extend(our_guest(&kernel, &disk));
        qemus.extend(qemu_guest(&kernel, &disk, dir.path()));
    }
    let result = json!({ "ours": medians(&ours), "qemu": medians(&qemus) });
    println!("{result}");
    fs::write(out, result.to_string()).unwrap();
}

fn medians(rounds: &[Rates]) -> Rates {
    let median = |name: &String| {
        let mut values: Vec<f64> = rounds.iter().map(|rates| rates[name]).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    let names = rounds.first().expect("a round that got to its end").keys();
    names.map(|name| (name.clone(), median(name))).collect()
}

/// Busybox, this program, and an init that runs it between the two cards and powers off.
fn initramfs(from: &str, to: &str) -> Initramfs {
    let mut builder = Builder::new();
    let busybox = Path::new("/bin/busybox");
    builder.file("/bin/busybox", busybox, 0o755).unwrap();
    let own = std::env::current_exe().unwrap();
    builder.binary("/bin/cards", &own).unwrap();
    let init = format!(
        "#!/bin/busybox sh\nbb=/bin/busybox\n$bb mkdir -p /proc /sys /dev\n\
         $bb mount -t proc p /proc; $bb mount -t sysfs s /sys; $bb mount -t devtmpfs d /dev\n\
         for card in {from} {to}; do $bb ip link set $card up; done\n\
         /bin/cards guest {from} {to} || echo '{MARK}failed'\n$bb poweroff -f\n"
    );
    builder.bytes("/init", init.into_bytes(), 0o755).unwrap();
    builder.build().unwrap()
}

const CMDLINE: &str = "console=ttyS0 rdinit=/init panic=-1 loglevel=4 nokaslr";

fn our_guest(kernel: &str, disk: &Path) -> Option<Rates> {
    let exit = Vm::builder()
        .kernel(kernel)
        .initrd(Initrd::Opened(initramfs("eth0", "eth0").file()))
        .cmdline(CMDLINE)
        .engine(EngineChoice::Kvm)
        .memory_mib(256)
        .deadline(DEADLINE)
        .disk(Disk::new(DiskSource::File(disk.into())))
        .net(Net::new())
        .build()
        .unwrap()
        .run()
        .unwrap();
    let console = String::from_utf8_lossy(&exit.com1);
    let rates = console.lines().filter_map(rate).collect();
    let counters = format!("{console}\n{:?}", exit.net_counters);
    complete("our", rates, &counters)
}

fn qemu_guest(kernel: &str, disk: &Path, dir: &Path) -> Option<Rates> {
    let initrd = dir.join("initrd");
    let mut archive = Vec::new();
    let mut file = initramfs("eth0", "eth1").open().unwrap();
    file.read_to_end(&mut archive).unwrap();
    fs::write(&initrd, archive).unwrap();
    let mut qemu = Command::new("qemu-system-x86_64")
        .args([
            "-L",
            "/usr/share/qemu",
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-no-reboot",
        ])
        .args([
            "-M", "microvm", "-accel", "kvm", "-cpu", "host", "-m", "256",
        ])
        .args(["-kernel", kernel, "-append", CMDLINE, "-serial", "stdio"])
        .arg("-initrd")
        .arg(&initrd)
        .arg("-drive")
        .arg(format!("if=none,id=d,format=raw,file={}", disk.display()))
        .args(["-device", "virtio-blk-device,drive=d"])
        .args([
            "-netdev",
            "hubport,id=a,hubid=0",
            "-device",
            "virtio-net-device,netdev=a",
        ])
        .args([
            "-netdev",
            "hubport,id=b,hubid=0",
            "-device",
            "virtio-net-device,netdev=b",
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (sender, lines) = mpsc::channel();
    let stdout = BufReader::new(qemu.stdout.take().unwrap());
    let reader = thread::spawn(move || {
        let sent = |line: io::Result<String>| sender.send(line.ok()?).ok();
        stdout.lines().map_while(sent).for_each(drop);
    });
    let mut console = String::new();
    let mut rates = Rates::new();
    let deadline = Instant::now() + DEADLINE;
    while let Ok(line) = lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
        rates.extend(rate(&line));
        console.push_str(&line);
        console.push('\n');
        if line.starts_with(MARK) && rate(&line).is_none() {
            break;
        }
    }
    let _ = qemu.kill();
    qemu.wait().unwrap();
    reader.join().unwrap();
    complete("QEMU's", rates, &console)
}

fn rate(line: &str) -> Option<(String, f64)> {
    let (name, value) = line.trim().strip_prefix(MARK)?.rsplit_once(' ')?;
    Some((name.to_owned(), value.parse().ok()?))
}

/// A guest that hung, as one of QEMU's once did in the lab, is left out, and said.
fn complete(whose: &str, rates: Rates, console: &str) -> Option<Rates> {
    if rates.len() == JOBS {
        return Some(rates);
    }
    eprintln!("{whose} guest did not get to its end; its console:\n{console}");
    None
}

/// In the guest: three jobs, a line each.
fn guest(from: &str, to: &str) {
    println!("{MARK}disk, 64 KiB writes, MiB/s {:.3}", writes());
    println!("{MARK}disk, 4 KiB reads, per second {:.3}", reads());
    println!(
        "{MARK}net, frames of 1400 bytes and back, per second {:.3}",
        frames(from, to)
    );
    println!("{MARK}end");
}

/// O_DIRECT wants its buffers aligned.
#[repr(align(4096))]
struct Aligned<const N: usize>([u8; N]);

fn disk() -> File {
    let mut options = OpenOptions::new();
    options.read(true).write(true).custom_flags(libc::O_DIRECT);
    options.open("/dev/vda").unwrap()
}

/// Does `job` for a while; how often per second.
fn per_second(mut job: impl FnMut(u64)) -> f64 {
    let started = Instant::now();
    let mut done = 0;
    while started.elapsed() < EACH {
        job(done);
        done += 1;
    }
    // Far below 2^52.
    #[expect(clippy::cast_precision_loss, reason = "see above")]
    let done = done as f64;
    done / started.elapsed().as_secs_f64()
}

fn writes() -> f64 {
    let (disk, block) = (disk(), Box::new(Aligned([0x5a; WRITE])));
    let blocks = DISK_BYTES / WRITE as u64;
    per_second(|index| {
        disk.write_all_at(&block.0, index % blocks * WRITE as u64)
            .unwrap();
    }) / 16.0
}

fn reads() -> f64 {
    let (disk, mut block) = (disk(), Box::new(Aligned([0; READ])));
    let blocks = DISK_BYTES / READ as u64;
    // A stride that is prime to the number of blocks visits all of them.
    per_second(|index| {
        disk.read_exact_at(&mut block.0, index * 4099 % blocks * READ as u64)
            .unwrap();
    })
}

fn frames(from: &str, to: &str) -> f64 {
    let sender = socket(from);
    // On one card, what is sent and what comes back go through one socket.
    let receiver = if from == to {
        sender.try_clone().unwrap()
    } else {
        socket(to)
    };
    let mut frame = [0xff; FRAME];
    // From a card that does not exist.
    frame[6] = 2;
    frame[12..14].copy_from_slice(&PROTOCOL.to_be_bytes());
    let mut back = [0; 2048];
    FRAMES as f64
        * per_second(|_| {
            for _ in 0..FRAMES {
                (&sender).write_all(&frame).unwrap();
            }
            for _ in 0..FRAMES {
                wait_for(&receiver);
                assert_eq!((&receiver).read(&mut back).unwrap(), FRAME);
            }
        })
}

/// Until a frame is there; one that was lost would be waited for in vain.
fn wait_for(socket: &File) {
    let mut fds = [PollFd::new(socket, PollFlags::IN)];
    let timeout = Timespec::try_from(Duration::from_secs(10)).unwrap();
    let ready = poll(&mut fds, Some(&timeout)).unwrap();
    assert_eq!(ready, 1, "a frame was lost");
}

/// A packet(7) socket of one card and our protocol, which sees what comes in, not what goes out.
fn socket(card: &str) -> File {
    let index = fs::read_to_string(format!("/sys/class/net/{card}/ifindex")).unwrap();
    let protocol = PROTOCOL.to_be();
    let address = libc::sockaddr_ll {
        sll_family: u16::try_from(libc::AF_PACKET).unwrap(),
        sll_protocol: protocol,
        sll_ifindex: index.trim().parse().unwrap(),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    // SAFETY: takes no pointers; the result is looked at before it is used.
    let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW, i32::from(protocol)) };
    assert!(fd >= 0, "{}", io::Error::last_os_error());
    // SAFETY: just opened, and nothing else has it.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let len = u32::try_from(size_of_val(&address)).unwrap();
    // SAFETY: `address` is a sockaddr_ll of that length and lives through the call.
    let bound = unsafe { libc::bind(fd, (&raw const address).cast(), len) };
    assert_eq!(bound, 0, "{}", io::Error::last_os_error());
    socket.into()
}
