//! The way to the host in virtual time, in place of the frame port: a mailbox that both share, and a knock at which the guest
//! stands still until the host has answered. `ktstr_wire::gate` has the layout.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;

use ktstr_wire::gate::{
    ANSWERED_AT, IN_AT, MAILBOX_HALF, MAILBOX_LEN, MAILBOX_MAGIC, MAILBOX_PCI_ID, MAILBOX_VERSION,
    MORE_AT, OUT_AT, SAID_AT, UNTIL_AT, UntilState, VERSION_AT, WAITS_AT,
};
use rustix::mm::{MapFlags, ProtFlags, mmap};
use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};

const DEVICES: &str = "/sys/bus/pci/devices";

/// What the frames of init are written to.
#[derive(Debug)]
pub(crate) enum Port {
    /// A virtio port.
    File(File),
    /// The mailbox.
    Gate(Gate),
}

impl From<File> for Port {
    fn from(file: File) -> Self {
        Self::File(file)
    }
}

impl Write for Port {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::File(file) => file.write(bytes),
            Self::Gate(gate) => gate.say(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::File(file) => file.flush(),
            Self::Gate(gate) => gate.pass_answers(),
        }
    }
}

impl Port {
    /// Knocks without a word, for what the host has to say; a virtio port says it unasked.
    pub(crate) fn fetch(&mut self) -> io::Result<()> {
        match self {
            Self::File(_) => Ok(()),
            Self::Gate(gate) => gate.say(&[]).map(drop),
        }
    }
}

/// The guest's half of the mailbox. What the host answers comes out of a pipe, as if it were the port's.
#[derive(Debug)]
pub(crate) struct Gate {
    mailbox: Mailbox,
    answers: File,
    /// What the pipe had no room for.
    waiting: VecDeque<u8>,
}

impl Gate {
    /// The gate of this guest and the pipe of its answers; `None` where the host gave it none.
    pub(crate) fn find() -> io::Result<Option<(Self, File)>> {
        let Some(device) = device(Path::new(DEVICES)) else {
            return Ok(None);
        };
        let Some(mailbox) = Mailbox::map(&device)? else {
            return Ok(None);
        };
        let (read, write) = answers()?;
        let gate = Self {
            mailbox,
            answers: write,
            waiting: VecDeque::new(),
        };
        Ok(Some((gate, read)))
    }

    fn say(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let said = bytes.get(..MAILBOX_HALF).unwrap_or(bytes);
        let mut more = self.mailbox.exchange(said, &mut self.waiting);
        while more {
            more = self.mailbox.exchange(&[], &mut self.waiting);
        }
        self.pass_answers()?;
        Ok(said.len())
    }

    /// Puts into the pipe what it has room for.
    pub(crate) fn pass_answers(&mut self) -> io::Result<()> {
        while !self.waiting.is_empty() {
            let (first, _) = self.waiting.as_slices();
            match self.answers.write(first) {
                Ok(len) => drop(self.waiting.drain(..len)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// What the test's process has of the mailbox: where it waits for a state of the kernel, and is told of it without a word of
/// init's.
#[derive(Debug)]
pub struct Waits(Mailbox);

// SAFETY: the mapping belongs to the process, not to a thread, and is never unmapped.
unsafe impl Send for Waits {}

impl Waits {
    /// `None` where the host gave this guest no mailbox: time is not virtual.
    ///
    /// # Errors
    /// When the device cannot be mapped.
    pub fn find() -> io::Result<Option<Self>> {
        match device(Path::new(DEVICES)) {
            Some(device) => Ok(Mailbox::map(&device)?.map(Self)),
            None => Ok(None),
        }
    }

    /// From now on this process waits for what it asked for under this number; 0 is nothing.
    pub fn begin(&mut self, id: u32) {
        self.0.put(UNTIL_AT, UntilState::Waiting.word());
        self.0.put(WAITS_AT, id);
    }

    /// What the host says of it.
    #[must_use]
    pub fn state(&self) -> UntilState {
        UntilState::of_word(self.0.word(UNTIL_AT)).unwrap_or(UntilState::Failed)
    }

    /// Says that this process acts on what it waited for, or has acted.
    pub fn mark(&self) {
        mark();
    }
}

/// A pipe whose writer never waits, with room for the longest answer.
fn answers() -> io::Result<(File, File)> {
    let (read, write): (OwnedFd, OwnedFd) = pipe_with(PipeFlags::CLOEXEC)?;
    // A smaller one works, too: what has no room waits.
    let _ = fcntl_setpipe_size(&write, MAILBOX_HALF);
    rustix::io::ioctl_fionbio(&write, true)?;
    Ok((File::from(read), File::from(write)))
}

/// The PCI device whose memory is the mailbox.
fn device(devices: &Path) -> Option<PathBuf> {
    let number = |path: PathBuf| {
        let text = fs::read_to_string(path).ok()?;
        u16::from_str_radix(text.trim().strip_prefix("0x")?, 16).ok()
    };
    let entries = fs::read_dir(devices).ok()?.filter_map(Result::ok);
    let mut paths = entries.map(|entry| entry.path());
    paths.find_map(|path| {
        let id = (number(path.join("vendor"))?, number(path.join("device"))?);
        (id == MAILBOX_PCI_ID).then_some(path)
    })
}

/// The mailbox as this process maps it, for as long as it lives.
#[derive(Debug)]
struct Mailbox(NonNull<u8>);

impl Mailbox {
    /// Maps the memory region of `device`; `None` where it is no mailbox of ours.
    fn map(device: &Path) -> io::Result<Option<Self>> {
        // A device without a driver answers no access before it is enabled.
        fs::write(device.join("enable"), "1")?;
        let region = OpenOptions::new()
            .read(true)
            .write(true)
            .open(device.join("resource2"))?;
        if region.metadata()?.len() < MAILBOX_LEN as u64 {
            return Ok(None);
        }
        // SAFETY: a new mapping at an address of the kernel's choice; it is never unmapped.
        let base = unsafe {
            mmap(
                std::ptr::null_mut(),
                MAILBOX_LEN,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                &region,
                0,
            )
        }?;
        let mailbox = NonNull::new(base.cast::<u8>()).map(Self);
        Ok(mailbox.filter(Self::is_ours))
    }

    fn is_ours(&self) -> bool {
        let magic = u64::from(self.word(0)) | u64::from(self.word(4)) << 32;
        magic == MAILBOX_MAGIC && self.word(VERSION_AT) == MAILBOX_VERSION
    }

    /// Says `said`, at most half a mailbox, and waits for the answer; true when the host has more of it.
    fn exchange(&mut self, said: &[u8], answer: &mut VecDeque<u8>) -> bool {
        let out = self.at(OUT_AT);
        // SAFETY: `said` fits into the mailbox's half, which is within the mapping; nothing else writes there.
        unsafe { std::ptr::copy_nonoverlapping(said.as_ptr(), out, said.len()) }
        self.set_word(SAID_AT, said.len());
        self.set_word(ANSWERED_AT, 0);
        self.set_word(MORE_AT, 0);
        knock();
        let len = usize::try_from(self.word(ANSWERED_AT)).unwrap_or(0);
        let mut bytes = vec![0; len.min(MAILBOX_HALF)];
        let from = self.at(IN_AT);
        // SAFETY: as above, for the host's half; the host writes only while this guest stands still.
        unsafe { std::ptr::copy_nonoverlapping(from, bytes.as_mut_ptr(), bytes.len()) }
        answer.extend(bytes);
        self.word(MORE_AT) != 0
    }

    /// A place in the mapping; `offset` is a constant of the layout.
    fn at(&self, offset: usize) -> *mut u8 {
        self.0.as_ptr().wrapping_add(offset)
    }

    fn word(&self, at: usize) -> u32 {
        let word = self.at(at).cast::<u32>();
        // SAFETY: the header's words are aligned and within the mapping.
        unsafe { word.read_volatile() }
    }

    fn set_word(&mut self, at: usize, value: usize) {
        self.put(at, u32::try_from(value).unwrap_or(u32::MAX));
    }

    fn put(&mut self, at: usize, value: u32) {
        let word = self.at(at).cast::<u32>();
        // SAFETY: as above.
        unsafe { word.write_volatile(value) }
    }
}

/// The instruction at which the emulator's plugin holds the guest (`ktstr_wire::gate::KNOCK`); elsewhere a NOP.
#[inline(never)]
fn knock() {
    // SAFETY: a NOP. It is taken to read and write memory, which the host does meanwhile.
    unsafe { std::arch::asm!(".byte 0x0f, 0x1f, 0x80, 0x54, 0x53, 0x54, 0x4b") }
}

/// The instruction by which the plugin knows that what was waited for is seen, and acted on (`ktstr_wire::gate::MARK`).
#[inline(never)]
fn mark() {
    // SAFETY: a NOP. It is taken to read and write memory, which the host does meanwhile.
    unsafe { std::arch::asm!(".byte 0x0f, 0x1f, 0x80, 0x54, 0x53, 0x54, 0x4d") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ktstr_wire::gate::{KNOCK, MARK};
    use std::io::Read as _;

    #[test]
    fn the_knock_is_the_wires() {
        let code = knock as fn() as *const u8;
        // SAFETY: the function's own code, which is longer than the instruction.
        let bytes = unsafe { std::slice::from_raw_parts(code, 64) };
        assert!(bytes.windows(KNOCK.len()).any(|found| found == KNOCK));
        let code = mark as fn() as *const u8;
        // SAFETY: as above.
        let bytes = unsafe { std::slice::from_raw_parts(code, 64) };
        assert!(bytes.windows(MARK.len()).any(|found| found == MARK));
    }

    #[test]
    fn what_is_waited_for_lies_where_the_host_looks() {
        let (_root, device) = fake(MAILBOX_MAGIC);
        let mut waits = Waits(Mailbox::map(&device).unwrap().unwrap());
        waits.begin(7);
        assert_eq!(waits.state(), UntilState::Waiting);
        waits.0.put(UNTIL_AT, UntilState::Held.word());
        assert_eq!(waits.state(), UntilState::Held);
        waits.0.put(UNTIL_AT, 99);
        assert_eq!(waits.state(), UntilState::Failed);
        let region = fs::read(device.join("resource2")).unwrap();
        assert_eq!(region[WAITS_AT], 7);
    }

    #[test]
    fn the_device_is_found_by_its_numbers() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(device(root.path()), None);
        for (name, vendor, id) in [("a", "0x8086", "0x29c0"), ("b", "0x1af4", "0x1110")] {
            let dir = root.path().join(name);
            fs::create_dir(&dir).unwrap();
            fs::write(dir.join("vendor"), format!("{vendor}\n")).unwrap();
            fs::write(dir.join("device"), format!("{id}\n")).unwrap();
        }
        assert_eq!(device(root.path()), Some(root.path().join("b")));
    }

    fn fake(magic: u64) -> (tempfile::TempDir, PathBuf) {
        let root = tempfile::tempdir().unwrap();
        let device = root.path().to_owned();
        let mut region = vec![0; MAILBOX_LEN];
        region[..8].copy_from_slice(&magic.to_le_bytes());
        region[VERSION_AT..VERSION_AT + 4].copy_from_slice(&MAILBOX_VERSION.to_le_bytes());
        fs::write(device.join("resource2"), region).unwrap();
        (root, device)
    }

    #[test]
    fn memory_of_others_is_no_mailbox() {
        let (_root, device) = fake(1);
        assert!(Mailbox::map(&device).unwrap().is_none());
        let (_root, device) = fake(MAILBOX_MAGIC);
        fs::write(device.join("resource2"), "short").unwrap();
        assert!(Mailbox::map(&device).unwrap().is_none());
    }

    /// There is no answer here, but the bytes are where the host looks for them.
    #[test]
    fn what_is_said_lies_in_the_guests_half() {
        let (_root, device) = fake(MAILBOX_MAGIC);
        let mut mailbox = Mailbox::map(&device).unwrap().unwrap();
        assert!(!mailbox.exchange(b"frame", &mut VecDeque::new()));
        let region = fs::read(device.join("resource2")).unwrap();
        assert_eq!(&region[OUT_AT..OUT_AT + 5], b"frame");
        assert_eq!(region[SAID_AT], 5);
    }

    #[test]
    fn answers_without_room_wait_in_order() {
        let (_root, device) = fake(MAILBOX_MAGIC);
        let (mut read, write) = answers().unwrap();
        let long: Vec<u8> = (0..=250).cycle().take(3 * MAILBOX_HALF).collect();
        let mut gate = Gate {
            mailbox: Mailbox::map(&device).unwrap().unwrap(),
            answers: write,
            waiting: long.iter().copied().collect(),
        };
        let mut found = vec![0; long.len()];
        let mut at = 0;
        while at < found.len() {
            gate.pass_answers().unwrap();
            at += read.read(&mut found[at..]).unwrap();
        }
        assert_eq!(found, long);
    }
}
