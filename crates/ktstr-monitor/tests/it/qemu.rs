//! A guest in QEMU's TCG whose memory is a file, driven over QMP.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use ktstr_monitor::Gpa;
use ktstr_monitor::phys::{MappedMem, Piece};
use serde_json::{Value, json};

/// How often a file is looked at while waiting for it to grow.
const LOOK: Duration = Duration::from_millis(30);
/// Boots take seconds; a machine with everything else to do takes longer.
const BOOT: Duration = Duration::from_secs(240);

pub(crate) struct Qemu {
    child: Child,
    /// Kills its process group, QEMU's, when its standard input ends: when this process does, however that comes.
    guard: Child,
    qmp: BufReader<UnixStream>,
    memory: PathBuf,
    /// Lines to the guest; kept open while the guest lives.
    talk: Vec<UnixStream>,
    pub(crate) dir: PathBuf,
}

pub(crate) struct Machine<'a> {
    pub(crate) smp: &'a str,
    pub(crate) memory_mib: u64,
    pub(crate) cmdline: &'a str,
}

/// Waits a little, not asleep: for a message that never comes.
fn pause() {
    let (_keep, never) = mpsc::channel::<()>();
    let _ = never.recv_timeout(LOOK);
}

/// The kernel's vmlinux; none beside an image that came without, as a distribution's does. What wants one then has
/// nothing to compare with, and says so.
pub(crate) fn vmlinux() -> Option<PathBuf> {
    let image = kernel();
    let found = image
        .ancestors()
        .skip(1)
        .take(4)
        .map(|dir| dir.join("vmlinux"))
        .find(|path| path.is_file());
    if found.is_none() {
        eprintln!("skipped: no vmlinux near {}", image.display());
    }
    found
}

/// The kernel image, as the harness finds it.
pub(crate) fn kernel() -> PathBuf {
    let named = ["KTSTR_TEST_KERNEL", "KTSTR_KERNEL"]
        .iter()
        .find_map(std::env::var_os)
        .map(PathBuf::from);
    let image = named.or_else(cached).unwrap_or_else(|| {
        panic!("no kernel: `cargo xtask kernel` makes one, or set KTSTR_TEST_KERNEL to an image")
    });
    [
        &image.join("bzImage"),
        &image.join("arch/x86/boot/bzImage"),
        &image,
    ]
    .into_iter()
    .find(|path| path.is_file())
    .unwrap_or_else(|| panic!("no kernel image at {}", image.display()))
    .clone()
}

fn cached() -> Option<PathBuf> {
    let home = std::env::var_os("KTSTR_CACHE_DIR")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache/ktstr")))?;
    // None whose source was changed: its books may be wrong on purpose.
    let newest = ktstr_kernel::Cache::at(home.join("kernels")).newest();
    Some(newest.ok()??.image)
}

impl Qemu {
    pub(crate) fn boot(dir: &Path, initrd: &Path, machine: &Machine<'_>) -> Self {
        let memory = dir.join("memory");
        let size = machine.memory_mib << 20;
        File::create(&memory).unwrap().set_len(size).unwrap();
        let socket = dir.join("qmp");
        let backend = format!(
            "memory-backend-file,id=ram,size={size},share=on,mem-path={}",
            memory.display()
        );
        let talk = format!("unix:{},server=on,wait=off", dir.join("talk").display());
        let log = File::create(dir.join("qemu.log")).unwrap();
        let guard = Command::new("/bin/sh")
            .args(["-c", "read line; kill -KILL 0"])
            .process_group(0)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let program = std::env::var_os("KTSTR_QEMU").unwrap_or_else(|| "qemu-system-x86_64".into());
        let child = Command::new(&program)
            .args(["-machine", "q35,memory-backend=ram", "-nodefaults"])
            .args(["-cpu", "max", "-accel", "tcg,thread=multi"])
            .args([
                "-smp",
                machine.smp,
                "-m",
                &format!("{}M", machine.memory_mib),
            ])
            .args(["-object", &backend, "-display", "none", "-no-reboot"])
            .arg("-kernel")
            .arg(kernel())
            .arg("-initrd")
            .arg(initrd)
            .args([
                "-append",
                &format!("console=ttyS0 panic=-1 rdinit=/init {}", machine.cmdline),
            ])
            .args([
                "-serial",
                &format!("file:{}", dir.join("console").display()),
            ])
            .args(["-serial", &format!("file:{}", dir.join("facts").display())])
            .args(["-serial", &talk])
            .args([
                "-qmp",
                &format!("unix:{},server=on,wait=off", socket.display()),
            ])
            .stdin(Stdio::null())
            .stderr(log)
            .process_group(guard.id().try_into().unwrap())
            .spawn()
            .unwrap_or_else(|error| {
                let program = program.display();
                panic!("failed to start {program}: {error}; `cargo xtask setup` installs QEMU")
            });
        let end = Instant::now() + BOOT;
        let stream = loop {
            match UnixStream::connect(&socket) {
                Ok(stream) => break stream,
                Err(error) => assert!(Instant::now() < end, "QEMU opens no QMP socket: {error}"),
            }
            pause();
        };
        stream
            .set_read_timeout(Some(Duration::from_secs(60)))
            .unwrap();
        let mut qemu = Self {
            child,
            guard,
            qmp: BufReader::new(stream),
            memory,
            talk: Vec::new(),
            dir: dir.to_owned(),
        };
        qemu.reply();
        qemu.execute("qmp_capabilities", &json!({}));
        qemu
    }

    /// The next answer; events are passed over.
    fn reply(&mut self) -> Value {
        loop {
            let mut line = String::new();
            let read = self
                .qmp
                .read_line(&mut line)
                .expect("QMP answers in a minute");
            assert!(read > 0, "QEMU closed QMP");
            let message: Value = serde_json::from_str(&line).unwrap();
            if message.get("event").is_none() {
                return message;
            }
        }
    }

    pub(crate) fn execute(&mut self, command: &str, arguments: &Value) -> Value {
        let request = json!({ "execute": command, "arguments": arguments });
        writeln!(self.qmp.get_mut(), "{request}").unwrap();
        let answer = self.reply();
        assert!(answer.get("error").is_none(), "{command}: {answer}");
        answer["return"].clone()
    }

    /// Waits until the second serial line has said `mark`; everything it said.
    pub(crate) fn wait_for(&mut self, mark: &str) -> String {
        let end = Instant::now() + BOOT;
        loop {
            let said = std::fs::read(self.dir.join("facts")).unwrap_or_default();
            let said = String::from_utf8_lossy(&said).into_owned();
            if said.contains(mark) {
                return said;
            }
            let console = || {
                let text = std::fs::read(self.dir.join("console")).unwrap_or_default();
                let text = String::from_utf8_lossy(&text).into_owned();
                text[text.floor_char_boundary(text.len().saturating_sub(2000))..].to_owned()
            };
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("QEMU ended ({status}) before {mark}: {}", console());
            }
            assert!(Instant::now() < end, "no {mark} in {BOOT:?}: {}", console());
            pause();
        }
    }

    /// A line on the guest's third serial port, which says nothing itself.
    pub(crate) fn say(&mut self, line: &str) {
        let mut talk = UnixStream::connect(self.dir.join("talk")).unwrap();
        writeln!(talk, "{line}").unwrap();
        self.talk.push(talk);
    }

    pub(crate) fn stop(&mut self) {
        self.execute("stop", &json!({}));
    }

    pub(crate) fn resume(&mut self) {
        self.execute("cont", &json!({}));
    }

    /// CR3 of the first vCPU; the guest is stopped.
    pub(crate) fn cr3(&mut self) -> u64 {
        let text = self.execute(
            "human-monitor-command",
            &json!({ "command-line": "info registers" }),
        );
        let text = text.as_str().unwrap();
        let at = text.find("CR3=").unwrap() + 4;
        u64::from_str_radix(text[at..].split_whitespace().next().unwrap(), 16).unwrap()
    }

    pub(crate) fn dump(&mut self, path: &Path) {
        self.execute(
            "dump-guest-memory",
            &json!({ "paging": false, "protocol": format!("file:{}", path.display()) }),
        );
    }

    /// The guest's memory, as it is and changes.
    pub(crate) fn memory(&self) -> MappedMem {
        let file = File::options()
            .read(true)
            .write(true)
            .open(&self.memory)
            .unwrap();
        let len = file.metadata().unwrap().len();
        let whole = Piece {
            gpa: Gpa(0),
            offset: 0,
            len,
        };
        MappedMem::shared(&file, &[whole]).unwrap()
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        // Ours by its handle; a guest that is gone already is fine.
        let _ = self.child.kill();
        let _ = self.child.wait();
        // It ends with its input.
        drop(self.guard.stdin.take());
        let _ = self.guard.wait();
        let _ = std::fs::remove_file(&self.memory);
    }
}
