//! The guest's end of an interactive shell: a terminal for busybox, its other side on a port.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;

use anyhow::{Context as _, Result};
use rustix::mount::{MountFlags, mount};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::model::role::SHELL_PORT;

/// Rows and columns of the host's terminal.
const SIZE_VARIABLES: (&str, &str) = ("LINES", "COLUMNS");

/// Runs the shell to its end and returns its exit status.
pub(crate) fn run() -> u8 {
    match serve() {
        Ok(status) => status,
        Err(error) => {
            eprintln!("ktstr: no shell: {error:#}");
            1
        }
    }
}

fn serve() -> Result<u8> {
    let path = port()?;
    let port = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&path)
        .with_context(|| format!("failed to open {}", path.display()))?;
    let (master, slave) = terminal().context("failed to make a terminal")?;
    let stdio = || {
        slave
            .try_clone()
            .map(Stdio::from)
            .context("failed to share the terminal")
    };
    // `setsid -c` makes the terminal the controlling one, so that job control and Ctrl-C work.
    let mut shell = Command::new("/bin/busybox")
        .args(["setsid", "-c", "/bin/busybox", "sh", "-i"])
        .stdin(stdio()?)
        .stdout(stdio()?)
        .stderr(stdio()?)
        .spawn()
        .context("failed to start /bin/busybox")?;
    drop(slave);
    let (from_host, to_shell) = (
        port.try_clone().context("failed to share the port")?,
        File::from(master.try_clone().context("failed to share the terminal")?),
    );
    // Ends with this process: a read of the port cannot be interrupted.
    thread::Builder::new()
        .name(String::from("keys"))
        .spawn(move || relay(from_host, to_shell))
        .context("failed to start a thread")?;
    // The terminal reads as an error when the shell has closed its side.
    relay(File::from(master), port);
    let status = shell.wait().context("failed to wait for the shell")?;
    Ok(u8::try_from(status.code().unwrap_or(1)).unwrap_or(1))
}

fn relay(mut from: File, mut to: File) {
    let mut buffer = [0; 4096];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return,
            Ok(len) => {
                if to.write_all(buffer.get(..len).unwrap_or_default()).is_err() {
                    return;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

/// The device of [`SHELL_PORT`].
fn port() -> Result<PathBuf> {
    let ports = "/sys/class/virtio-ports";
    for entry in fs::read_dir(ports).with_context(|| format!("failed to list {ports}"))? {
        let entry = entry.with_context(|| format!("failed to list {ports}"))?;
        let name = fs::read_to_string(entry.path().join("name")).unwrap_or_default();
        if name.trim() == SHELL_PORT {
            return Ok(PathBuf::from("/dev").join(entry.file_name()));
        }
    }
    anyhow::bail!("this VM has no port {SHELL_PORT}")
}

/// Terminals are made here; init has no use for them.
fn mount_devpts() -> Result<()> {
    const DIR: &str = "/dev/pts";
    fs::create_dir_all(DIR).with_context(|| format!("failed to create {DIR}"))?;
    mount(
        "devpts",
        DIR,
        "devpts",
        MountFlags::NOSUID | MountFlags::NOEXEC,
        Some(c"ptmxmode=666,mode=620"),
    )
    .with_context(|| format!("failed to mount {DIR}"))
}

fn terminal() -> Result<(OwnedFd, File)> {
    mount_devpts()?;
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let path = ptsname(&master, Vec::new())?;
    let number = |name: &str, otherwise: u16| {
        std::env::var(name)
            .ok()
            .and_then(|text| text.parse().ok())
            .unwrap_or(otherwise)
    };
    let size = Winsize {
        ws_row: number(SIZE_VARIABLES.0, 24),
        ws_col: number(SIZE_VARIABLES.1, 80),
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    tcsetwinsize(&master, size)?;
    let slave = OpenOptions::new()
        .read(true)
        .write(true)
        .open(path.to_string_lossy().as_ref())?;
    Ok((master, slave))
}
