//! A guest that was saved where it stood still at its gate: files in a directory, from which any number of copies start.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::console::ConsoleLog;
use crate::error::{Error, Result};

/// The record's file, written last.
const RECORD: &str = "saved";
/// The record's first words.
const MARK: &str = "ktstr-saved";
/// The layout's version.
const FORMAT: u32 = 1;
/// More than a record of a thousand vCPUs has.
const MAX_RECORD: u64 = 4 << 20;
/// More than any other file but memory has: consoles, device state, what the guest has said.
const MAX_SMALL: u64 = 256 << 20;
/// What is copied at once.
const CHUNK: usize = 1 << 20;
/// What is left out where it holds zeroes alone.
const PAGE: usize = 4096;

/// Names of the files beside the record.
pub(crate) const STATE: &str = "state";
pub(crate) const SAID: &str = "said";
pub(crate) const CONSOLES: [&str; 2] = ["com1", "com2"];
/// With a number behind it.
const RAM: &str = "ram";

/// A saved guest. [`Vm::start_saved`](crate::Vm::start_saved) starts copies of it, each of which goes on by itself.
///
/// Equal guests that stood still at the same knock leave equal files, but for the record, which says when they were written.
#[derive(Debug, Clone)]
pub struct Saved {
    dir: PathBuf,
    record: Record,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    place: Place,
    files: Vec<FileRecord>,
}

/// What was saved, and where it stood.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Place {
    /// What a copy's machine must be, too.
    pub(crate) machine: String,
    pub(crate) vcpu: u64,
    pub(crate) time_ns: u64,
    pub(crate) registers: Vec<Vec<u64>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct FileRecord {
    name: String,
    len: u64,
    crc32: u32,
    /// The file's number and the time of its last change: a file that still has both is not read to be checked.
    stamp: (u64, i64, i64),
}

impl Saved {
    /// A saved guest's directory, once its files are checked: small ones by their checksums, memory too unless it is the file that
    /// was written, unchanged since.
    ///
    /// # Errors
    /// When a file is missing or damaged; the error names it.
    pub fn open(dir: &Path) -> Result<Self> {
        let record = read_record(dir)?;
        for file in &record.files {
            check(dir, file)?;
        }
        let names: Vec<&str> = record.files.iter().map(|file| file.name.as_str()).collect();
        for name in CONSOLES.iter().chain(&[STATE, SAID]) {
            if !names.contains(name) {
                return Err(damaged(&dir.join(name), "the record does not have it"));
            }
        }
        Ok(Self {
            dir: dir.to_owned(),
            record,
        })
    }

    /// What tells it from others: equal guests that were saved at one moment have the same.
    pub(crate) fn content(&self) -> Vec<u8> {
        let files = self.record.files.iter();
        let text: String = files
            .map(|file| format!("{} {} {:08x}\n", file.name, file.len, file.crc32))
            .collect();
        text.into_bytes()
    }

    /// Where it lies.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The memory that its copies have.
    #[must_use]
    pub fn memory_mib(&self) -> u32 {
        let files = self.record.files.iter();
        let memory = files.filter(|file| file.name.starts_with(RAM));
        let bytes: u64 = memory.map(|file| file.len).sum();
        u32::try_from(bytes >> 20).unwrap_or(u32::MAX)
    }

    pub(crate) fn place(&self) -> &Place {
        &self.record.place
    }

    /// The memory's files, in the order of the nodes.
    pub(crate) fn memory(&self) -> Result<Vec<File>> {
        let names = self.record.files.iter().map(|file| &file.name);
        let memory = names.filter(|name| name.starts_with(RAM));
        // QEMU opens memory for writing also where it keeps what it writes to itself.
        memory
            .map(|name| {
                let open = File::options()
                    .read(true)
                    .write(true)
                    .open(self.dir.join(name));
                open.map_err(Error::system("open a saved guest's memory"))
            })
            .collect()
    }

    /// What the guest had written to its consoles.
    pub(crate) fn tell_consoles(&self, consoles: &[ConsoleLog; 2]) -> Result<()> {
        for (console, name) in consoles.iter().zip(CONSOLES) {
            console.push(&self.read(name)?);
        }
        Ok(())
    }

    /// A file's content.
    pub(crate) fn read(&self, name: &str) -> Result<Vec<u8>> {
        fs::read(self.dir.join(name)).map_err(Error::system("read a saved guest"))
    }

    pub(crate) fn open_file(&self, name: &str) -> Result<File> {
        File::open(self.dir.join(name)).map_err(Error::system("open a saved guest's state"))
    }
}

/// Collects a guest's files.
#[derive(Debug)]
pub(crate) struct Writer {
    dir: PathBuf,
    files: Vec<FileRecord>,
}

impl Writer {
    pub(crate) fn new(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            files: Vec::new(),
        }
    }

    fn create(&self, name: &str) -> Result<File> {
        File::create_new(self.dir.join(name)).map_err(Error::system("create a saved guest's file"))
    }

    pub(crate) fn bytes(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        let mut file = self.create(name)?;
        file.write_all(bytes)
            .map_err(Error::system("write a saved guest"))?;
        self.add(name, &file, crc32fast::hash(bytes))
    }

    /// A node's memory, without pages of zeroes.
    pub(crate) fn memory(&mut self, node: usize, from: &File) -> Result<()> {
        let name = format!("{RAM}{node}");
        let file = self.create(&name)?;
        let crc32 = copy_sparse(from, &file).map_err(Error::system("write a guest's memory"))?;
        self.add(&name, &file, crc32)
    }

    fn add(&mut self, name: &str, file: &File, crc32: u32) -> Result<()> {
        file.sync_all()
            .and_then(|()| file.metadata())
            .map(|meta| {
                self.files.push(FileRecord {
                    name: name.to_owned(),
                    len: meta.len(),
                    crc32,
                    stamp: stamp(&meta),
                });
            })
            .map_err(Error::system("write a saved guest"))
    }

    pub(crate) fn finish(self, place: Place) -> Result<Saved> {
        let record = Record {
            place,
            files: self.files,
        };
        let json = serde_json::to_string(&record)
            .map_err(|error| damaged(&self.dir, &error.to_string()))?;
        let text = format!(
            "{MARK} {FORMAT} {:08x}\n{json}",
            crc32fast::hash(json.as_bytes())
        );
        let mut file = File::create_new(self.dir.join(RECORD))
            .map_err(Error::system("create a saved guest's record"))?;
        file.write_all(text.as_bytes())
            .and_then(|()| file.sync_all())
            .map_err(Error::system("write a saved guest's record"))?;
        Ok(Saved {
            dir: self.dir,
            record,
        })
    }
}

fn damaged(path: &Path, why: &str) -> Error {
    Error::SavedDamaged {
        path: path.to_owned(),
        why: why.to_owned(),
    }
}

fn read_record(dir: &Path) -> Result<Record> {
    let path = dir.join(RECORD);
    let refuse = |why: &str| damaged(&path, why);
    let text = read_bounded(&path, MAX_RECORD).map_err(|error| refuse(&error.to_string()))?;
    let text = String::from_utf8(text).map_err(|_| refuse("it is not UTF-8 text"))?;
    let (head, json) = text
        .split_once('\n')
        .ok_or_else(|| refuse("it has no head"))?;
    let expected = format!("{MARK} {FORMAT} {:08x}", crc32fast::hash(json.as_bytes()));
    if head != expected {
        return Err(refuse("its checksum or its version is another one"));
    }
    serde_json::from_str(json).map_err(|error| refuse(&error.to_string()))
}

fn read_bounded(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    let len = file.metadata()?.len();
    if len > most {
        return Err(io::Error::other(format!(
            "it has {len} bytes, more than {most}"
        )));
    }
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn check(dir: &Path, record: &FileRecord) -> Result<()> {
    let name = &record.name;
    let is_memory = name
        .strip_prefix(RAM)
        .is_some_and(|number| number.parse::<u32>().is_ok());
    let is_known = is_memory || name == STATE || name == SAID || CONSOLES.contains(&name.as_str());
    let path = dir.join(RECORD);
    if !is_known {
        return Err(damaged(&path, "it names a file that no saved guest has"));
    }
    let path = dir.join(name);
    let refuse = |error: io::Error| damaged(&path, &error.to_string());
    let meta = fs::metadata(&path).map_err(refuse)?;
    if meta.len() != record.len {
        let why = format!("it has {} bytes instead of {}", meta.len(), record.len);
        return Err(damaged(&path, &why));
    }
    if is_memory && stamp(&meta) == record.stamp {
        return Ok(());
    }
    let most = if is_memory { u64::MAX } else { MAX_SMALL };
    let found = checksum(&path, most).map_err(refuse)?;
    if found == record.crc32 {
        return Ok(());
    }
    Err(damaged(&path, "its checksum is another one"))
}

fn checksum(path: &Path, most: u64) -> io::Result<u32> {
    let mut file = File::open(path)?.take(most);
    let mut hasher = crc32fast::Hasher::new();
    let mut chunk = vec![0; CHUNK];
    loop {
        match file.read(&mut chunk) {
            Ok(0) => return Ok(hasher.finalize()),
            Ok(len) => hasher.update(chunk.get(..len).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn stamp(meta: &fs::Metadata) -> (u64, i64, i64) {
    (meta.ino(), meta.ctime(), meta.ctime_nsec())
}

/// Copies a file but for its pages of zeroes, which become holes; gives the checksum of all of it.
fn copy_sparse(from: &File, to: &File) -> io::Result<u32> {
    let len = from.metadata()?.len();
    to.set_len(len)?;
    let mut hasher = crc32fast::Hasher::new();
    let mut chunk = vec![0; CHUNK];
    let mut at = 0;
    while at < len {
        let left = usize::try_from(len - at).unwrap_or(usize::MAX);
        let part = chunk.get_mut(..left.min(CHUNK)).unwrap_or_default();
        from.read_exact_at(part, at)?;
        hasher.update(part);
        for (page, index) in part.chunks(PAGE).zip(0u64..) {
            if page.iter().any(|byte| *byte != 0) {
                to.write_all_at(page, at + index * PAGE as u64)?;
            }
        }
        at += part.len() as u64;
    }
    Ok(hasher.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> Place {
        Place {
            machine: String::from("m"),
            vcpu: 1,
            time_ns: 5,
            registers: vec![vec![7; 3]],
        }
    }

    fn saved(dir: &Path) -> Saved {
        let mut memory = tempfile::tempfile().unwrap();
        memory.write_all(&[0; PAGE]).unwrap();
        memory.write_all(&[3; PAGE]).unwrap();
        memory.set_len(40 * PAGE as u64).unwrap();
        let mut writer = Writer::new(dir);
        for (name, bytes) in [(STATE, "state"), (SAID, ""), ("com1", "c"), ("com2", "")] {
            writer.bytes(name, bytes.as_bytes()).unwrap();
        }
        writer.memory(0, &memory).unwrap();
        writer.finish(place()).unwrap()
    }

    #[test]
    fn what_was_written_is_read_and_zeroes_take_no_room() {
        let dir = tempfile::tempdir().unwrap();
        saved(dir.path());
        let found = Saved::open(dir.path()).unwrap();
        assert_eq!(*found.place(), place());
        assert_eq!(found.read(STATE).unwrap(), b"state");
        let [memory] = &found.memory().unwrap()[..] else {
            panic!("one node")
        };
        let mut page = [0; 2];
        memory.read_exact_at(&mut page, PAGE as u64 - 1).unwrap();
        assert_eq!(page, [0, 3]);
        let meta = memory.metadata().unwrap();
        assert_eq!(meta.len(), 40 * PAGE as u64);
        assert!(meta.blocks() * 512 < meta.len() / 2, "{}", meta.blocks());
    }

    /// Each byte of each file that could be read wrong, and files that are cut short or missing.
    #[test]
    fn damage_is_told_by_the_files_name() {
        for name in [RECORD, STATE, "com1", "ram0"] {
            let dir = tempfile::tempdir().unwrap();
            saved(dir.path());
            let path = dir.path().join(name);
            let told = || match Saved::open(dir.path()) {
                Err(Error::SavedDamaged { path, .. }) => path
                    .file_name()
                    .map(|name| name.to_string_lossy().into_owned()),
                other => panic!("{name}: {other:?}"),
            };
            let whole = fs::read(&path).unwrap();
            for at in [0, whole.len() / 2, whole.len() - 1] {
                let mut bytes = whole.clone();
                bytes[at] ^= 1;
                fs::write(&path, &bytes).unwrap();
                assert_eq!(told().as_deref(), Some(name), "byte {at}");
            }
            fs::write(&path, &whole[..whole.len() - 1]).unwrap();
            assert_eq!(told().as_deref(), Some(name), "cut short");
            // Written anew it is not the same file, but what it holds is right.
            fs::write(&path, &whole).unwrap();
            Saved::open(dir.path()).unwrap();
            fs::remove_file(&path).unwrap();
            assert_eq!(told().as_deref(), Some(name), "missing");
        }
    }

    #[test]
    fn a_record_leads_to_no_other_file() {
        let dir = tempfile::tempdir().unwrap();
        let mut found = saved(dir.path());
        found.record.files[0].name = String::from("../x");
        let writer = Writer {
            dir: dir.path().to_owned(),
            files: found.record.files,
        };
        fs::remove_file(dir.path().join(RECORD)).unwrap();
        writer.finish(place()).unwrap();
        let error = Saved::open(dir.path()).unwrap_err().to_string();
        assert!(error.contains("no saved guest has"), "{error}");
    }
}
