//! Finding a port by its name in sysfs (kernel Documentation/ABI/testing/sysfs-class-virtio-ports… `name`).

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify;

const CLASS: &str = "/sys/class/virtio-ports";

/// Opens the port `name` for reading and writing, waiting for it until `deadline`.
pub(crate) fn open(name: &str, deadline: Duration) -> io::Result<File> {
    let device = wait_for(Path::new(CLASS), Path::new("/dev"), name, deadline)?;
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_CLOEXEC)
        .open(device)
}

/// How often to look where the kernel has no inotify.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// A new device node is an event in `/dev`; sysfs itself sends none.
fn wait_for(class: &Path, dev: &Path, name: &str, deadline: Duration) -> io::Result<PathBuf> {
    let until = Instant::now() + deadline;
    let events = watch(dev).ok();
    loop {
        if let Some(device) = find(class, dev, name) {
            return Ok(device);
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            let text = format!(
                "no virtio port '{name}' appeared within {} ms",
                deadline.as_millis()
            );
            return Err(io::Error::new(io::ErrorKind::TimedOut, text));
        }
        match &events {
            Some(events) => {
                sleep_on(&mut [PollFd::new(events, PollFlags::IN)], left)?;
                // The content does not matter: every event is a reason to look again.
                let mut buffer = [0; 4096];
                let _ = rustix::io::read(events, &mut buffer);
            }
            None => sleep_on(&mut [], left.min(LOOK_EVERY))?,
        }
    }
}

fn watch(dev: &Path) -> rustix::io::Result<OwnedFd> {
    let events = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
    inotify::add_watch(
        &events,
        dev,
        inotify::WatchFlags::CREATE | inotify::WatchFlags::ATTRIB,
    )?;
    Ok(events)
}

fn sleep_on(fds: &mut [PollFd<'_>], time: Duration) -> io::Result<()> {
    let timeout = Timespec::try_from(time).map_err(io::Error::other)?;
    match poll(fds, Some(&timeout)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// The device node of the port `name`, if both its name and its node are there.
fn find(class: &Path, dev: &Path, name: &str) -> Option<PathBuf> {
    fs::read_dir(class)
        .ok()?
        .filter_map(Result::ok)
        .find_map(|entry| {
            let found = fs::read_to_string(entry.path().join("name")).ok()?;
            let device = dev.join(entry.file_name());
            (found.trim() == name && device.exists()).then_some(device)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_appears_later_is_found() {
        let root = tempfile::tempdir().unwrap();
        let (class, dev) = (root.path().join("class"), root.path().join("dev"));
        fs::create_dir_all(class.join("vport0p1")).unwrap();
        fs::create_dir_all(&dev).unwrap();
        fs::write(class.join("vport0p1/name"), "mine\n").unwrap();
        assert_eq!(find(&class, &dev, "mine"), None);
        let node = dev.join("vport0p1");
        let (ready, go) = std::sync::mpsc::channel();
        let maker = std::thread::spawn({
            let node = node.clone();
            move || {
                go.recv().unwrap();
                fs::write(node, b"").unwrap();
            }
        });
        ready.send(()).unwrap();
        assert_eq!(
            wait_for(&class, &dev, "mine", Duration::from_secs(30)).unwrap(),
            node
        );
        maker.join().unwrap();
    }

    #[test]
    fn a_port_that_never_comes_is_named() {
        let root = tempfile::tempdir().unwrap();
        let error =
            wait_for(root.path(), root.path(), "ghost", Duration::from_millis(20)).unwrap_err();
        assert!(error.to_string().contains("ghost"), "{error}");
    }
}
