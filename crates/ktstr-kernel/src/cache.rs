//! Built kernels on disk.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{IMAGE, Kernel, KernelError, VMLINUX, failed_to};

/// The file that makes an entry complete.
const METADATA: &str = "metadata.json";

/// Says which image the checksum was seen to hold for.
const CHECKED: &str = "checked";

/// What an entry says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metadata {
    /// Where the source came from.
    pub source: String,
    /// `make kernelrelease`.
    pub release: String,
    /// First line of the compiler's version.
    pub compiler: String,
    /// Sizes of the files; a damaged entry differs.
    pub image_bytes: u64,
    /// Size of vmlinux.
    pub vmlinux_bytes: u64,
    /// SHA-256 of the image, hex.
    pub image_sha256: String,
    /// Files of edits and patches that the source was changed with. A changed kernel never becomes the one that tests take by
    /// themselves.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<String>,
}

/// A lock on an entry; released with its drop.
#[derive(Debug)]
pub struct Lease {
    _lock: Locked,
}

/// A file that this process has locked, released with its drop. To close the file would not be enough: a child that another
/// thread has forked and that has not executed its program yet has it open, too, and the lock is the open file's (flock(2)).
#[derive(Debug)]
struct Locked(File);

impl Locked {
    /// Locks the file as `how` says.
    fn new(file: File, how: FlockOperation) -> rustix::io::Result<Self> {
        flock(&file, how)?;
        Ok(Self(file))
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        let _ = flock(&self.0, FlockOperation::Unlock);
    }
}

/// A directory of entries.
#[derive(Debug, Clone)]
pub struct Cache {
    root: PathBuf,
}

impl Cache {
    /// A cache in this directory.
    #[must_use]
    pub fn at(root: PathBuf) -> Self {
        Self { root }
    }

    /// The directory.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where fetched archives are kept: beside the kernels.
    #[cfg(feature = "build")]
    pub(crate) fn sources(&self) -> PathBuf {
        self.root.with_file_name("sources")
    }

    /// Source trees that are kept with their objects, beside the kernels: each an entry without metadata.
    #[must_use]
    pub fn trees(&self) -> Self {
        Self::at(self.root.with_file_name("trees"))
    }

    /// Keys of all complete entries.
    #[must_use]
    pub fn keys(&self) -> Vec<String> {
        self.keys_where(|entry| entry.join(METADATA).is_file())
    }

    /// Keys of all entry directories, complete or not: what cleaning looks through.
    #[must_use]
    pub fn all_keys(&self) -> Vec<String> {
        self.keys_where(Path::is_dir)
    }

    fn keys_where(&self, is_entry: impl Fn(&Path) -> bool) -> Vec<String> {
        let Ok(entries) = fs::read_dir(&self.root) else {
            return Vec::new();
        };
        let mut keys: Vec<String> = entries
            .filter_map(Result::ok)
            .filter(|entry| is_entry(&entry.path()))
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .filter(|key| !key.starts_with('.'))
            .collect();
        keys.sort();
        keys
    }

    /// What killed builds and removals left: directories without a lock held.
    #[must_use]
    pub fn leftovers(&self) -> Vec<Leftover> {
        let entries = fs::read_dir(&self.root).into_iter().flatten().flatten();
        let leftover = |entry: fs::DirEntry| {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let is_work = WORK_PREFIXES.iter().any(|prefix| name.starts_with(prefix));
            let path = entry.path();
            if !is_work || !path.is_dir() {
                return None;
            }
            let file = File::open(&path).ok()?;
            let lock = Locked::new(file, FlockOperation::NonBlockingLockExclusive).ok()?;
            Some(Leftover {
                bytes: bytes_below(&path),
                path,
                _lock: lock,
            })
        };
        let mut found: Vec<Leftover> = entries.filter_map(leftover).collect();
        found.sort_by(|a, b| a.path.cmp(&b.path));
        found
    }

    /// What the entry says of itself, after its files were compared with that.
    ///
    /// # Errors
    /// With what is wrong with it.
    pub fn inspect(&self, key: &str) -> Result<Metadata, String> {
        check(&self.root.join(key))
    }

    /// The entry of that key, locked against removal; `None` when it is not there or damaged.
    ///
    /// # Errors
    /// When its lock cannot be taken.
    pub fn entry(&self, key: &str) -> Result<Option<Kernel>, KernelError> {
        let dir = self.root.join(key);
        if !dir.join(METADATA).is_file() {
            return Ok(None);
        }
        let lease = self.lock(key, FlockOperation::LockShared)?;
        match check(&dir) {
            Ok(_) => Ok(Some(Kernel {
                image: dir.join(IMAGE),
                vmlinux: Some(dir.join(VMLINUX)),
                _lease: Some(lease),
                label: key.to_owned(),
            })),
            Err(why) => {
                tracing::warn!(key, why, "a damaged kernel cache entry is passed over");
                Ok(None)
            }
        }
    }

    /// The entry that was built last from a source without changes.
    ///
    /// # Errors
    /// When a lock cannot be taken.
    pub fn newest(&self) -> Result<Option<Kernel>, KernelError> {
        let built = |key: &String| -> Option<SystemTime> {
            self.root
                .join(key)
                .join(METADATA)
                .metadata()
                .ok()?
                .modified()
                .ok()
        };
        let mut keys = self.keys();
        keys.sort_by_key(built);
        let is_changed = |key: &str| {
            let read = read_metadata(&self.root.join(key));
            read.is_ok_and(|metadata| !metadata.changes.is_empty())
        };
        for key in keys.iter().rev() {
            if !is_changed(key)
                && let Some(kernel) = self.entry(key)?
            {
                return Ok(Some(kernel));
            }
        }
        Ok(None)
    }

    /// Takes the exclusive right to build or remove an entry, waiting for other builders and users.
    ///
    /// # Errors
    /// When the lock file cannot be made or locked.
    pub fn lock_exclusive(
        &self,
        key: &str,
        mut on_wait: impl FnMut(),
    ) -> Result<Lease, KernelError> {
        match self.try_lock(key, FlockOperation::NonBlockingLockExclusive)? {
            Some(lease) => Ok(lease),
            None => {
                on_wait();
                self.lock(key, FlockOperation::LockExclusive)
            }
        }
    }

    /// The right to use an entry, which keeps it there; waits for a process that builds or removes it.
    ///
    /// # Errors
    /// When the lock file cannot be made or locked.
    pub fn lock_shared(&self, key: &str) -> Result<Lease, KernelError> {
        self.lock(key, FlockOperation::LockShared)
    }

    /// The exclusive right to an entry if no process uses or builds it now.
    ///
    /// # Errors
    /// When the lock file cannot be made or locked.
    pub fn try_lock_exclusive(&self, key: &str) -> Result<Option<Lease>, KernelError> {
        self.try_lock(key, FlockOperation::NonBlockingLockExclusive)
    }

    /// Removes the entry, whole or damaged. It is gone for readers at once, by a rename.
    ///
    /// # Errors
    /// When a file of it cannot be removed.
    pub fn remove(&self, key: &str, _exclusive: &Lease) -> Result<(), KernelError> {
        let dir = self.root.join(key);
        let grave = self.root.join(format!(".removed-{key}"));
        if grave.exists() {
            fs::remove_dir_all(&grave).map_err(failed_to("remove", &grave))?;
        }
        // It is not taken for a leftover meanwhile.
        let file = File::open(&dir).map_err(failed_to("open", &dir))?;
        let _lock = Locked::new(file, FlockOperation::NonBlockingLockExclusive);
        fs::rename(&dir, &grave).map_err(failed_to("remove", &dir))?;
        fs::remove_dir_all(&grave).map_err(failed_to("remove", &grave))
    }

    fn lock(&self, key: &str, how: FlockOperation) -> Result<Lease, KernelError> {
        match self.try_lock(key, how)? {
            Some(lease) => Ok(lease),
            None => {
                let source = io::ErrorKind::WouldBlock.into();
                Err(KernelError::Cache {
                    what: "lock",
                    path: self.lock_path(key),
                    source,
                })
            }
        }
    }

    fn try_lock(&self, key: &str, how: FlockOperation) -> Result<Option<Lease>, KernelError> {
        let path = self.lock_path(key);
        let file = match open_lock(&self.root, &path) {
            // No process that could remove the entry has ever locked it, and this one cannot.
            Err(_) if how == FlockOperation::LockShared && !path.exists() => {
                File::open(self.root.join(key)).map_err(failed_to("open the entry of", &path))?
            }
            opened => opened.map_err(failed_to("open", &path))?,
        };
        match Locked::new(file, how) {
            Ok(lock) => Ok(Some(Lease { _lock: lock })),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(errno) => Err(failed_to("lock", &path)(errno.into())),
        }
    }

    fn lock_path(&self, key: &str) -> PathBuf {
        self.root.join(format!(".{key}.lock"))
    }

    /// Makes `files` (a directory on the same file system) the entry `key`, replacing a damaged one. The caller holds
    /// the exclusive lock.
    ///
    /// # Errors
    /// When a file cannot be read or the rename is refused.
    pub fn publish(
        &self,
        key: &str,
        files: &Path,
        mut metadata: Metadata,
    ) -> Result<(), KernelError> {
        let size = |name: &str| -> Result<u64, KernelError> {
            let path = files.join(name);
            path.metadata()
                .map(|meta| meta.len())
                .map_err(failed_to("read", &path))
        };
        metadata.image_bytes = size(IMAGE)?;
        metadata.vmlinux_bytes = size(VMLINUX)?;
        let image = files.join(IMAGE);
        metadata.image_sha256 = sha256(&image).map_err(failed_to("read", &image))?;
        let json = serde_json::to_vec_pretty(&metadata)
            .map_err(io::Error::other)
            .map_err(failed_to("serialise", files))?;
        fs::write(files.join(METADATA), json).map_err(failed_to("write the metadata in", files))?;
        let dir = self.root.join(key);
        if dir.exists() {
            fs::remove_dir_all(&dir).map_err(failed_to("remove the damaged", &dir))?;
        }
        fs::rename(files, &dir).map_err(failed_to("publish", &dir))
    }
}

/// A lock needs no write: a cache may be another user's, or lie on a file system that is read-only.
fn open_lock(root: &Path, path: &Path) -> io::Result<File> {
    match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        opened => return opened,
    }
    fs::create_dir_all(root)?;
    create_for_all(path)
}

/// Creates an empty file that every user can open for reading, whatever the umask; one that is there is opened.
///
/// # Errors
/// When the file can be neither created nor opened.
pub fn create_for_all(path: &Path) -> io::Result<File> {
    let dir = path.parent().unwrap_or(path);
    let new = tempfile::NamedTempFile::new_in(dir)?;
    new.as_file()
        .set_permissions(fs::Permissions::from_mode(0o644))?;
    match new.persist_noclobber(path) {
        Ok(file) => Ok(file),
        Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => File::open(path),
        Err(error) => Err(error.error),
    }
}

/// A directory of the cache in which something is made; it goes away with its maker, and is known as a leftover if that was
/// killed, because its lock is free then.
#[derive(Debug)]
pub struct WorkDir {
    dir: tempfile::TempDir,
    _lock: Locked,
}

impl WorkDir {
    /// Makes one in `root`; the prefix begins with a dot and says what is made.
    ///
    /// # Errors
    /// When it cannot be made or locked.
    pub fn new_in(root: &Path, prefix: &str) -> io::Result<Self> {
        let dir = tempfile::Builder::new().prefix(prefix).tempdir_in(root)?;
        let lock = Locked::new(
            File::open(dir.path())?,
            FlockOperation::NonBlockingLockExclusive,
        )?;
        Ok(Self { dir, _lock: lock })
    }

    /// Gives the whole directory its lasting name.
    ///
    /// # Errors
    /// When the rename is refused; then it is removed.
    pub fn publish(self, name: &Path) -> io::Result<()> {
        fs::rename(self.dir.path(), name)?;
        // Nothing is left to remove.
        let _ = self.dir.keep();
        Ok(())
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.dir.path()
    }
}

/// What a killed process left in a cache.
#[derive(Debug)]
pub struct Leftover {
    /// The directory.
    pub path: PathBuf,
    /// What it takes.
    pub bytes: u64,
    _lock: Locked,
}

impl Leftover {
    /// Removes it.
    ///
    /// # Errors
    /// When a file of it cannot be removed.
    pub fn remove(self) -> io::Result<()> {
        fs::remove_dir_all(&self.path)
    }
}

/// Prefixes of directories in which something is made or removed.
const WORK_PREFIXES: [&str; 5] = [".build-", ".clone-", ".extract-", ".removed-", ".template-"];

/// What the files beneath `dir` take on disk, in bytes, without following links; what cannot be read counts as nothing.
#[must_use]
pub fn bytes_below(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let size = |entry: fs::DirEntry| match entry.file_type() {
        Ok(kind) if kind.is_dir() => bytes_below(&entry.path()),
        Ok(kind) if kind.is_file() => entry.metadata().map_or(0, |meta| meta.blocks() * 512),
        _ => 0,
    };
    entries.map(size).sum()
}

fn read_metadata(dir: &Path) -> Result<Metadata, String> {
    let bytes = fs::read(dir.join(METADATA)).map_err(|error| error.to_string())?;
    serde_json::from_slice(&bytes).map_err(|error| error.to_string())
}

/// The entry's metadata if its files are what it says.
fn check(dir: &Path) -> Result<Metadata, String> {
    let metadata = read_metadata(dir)?;
    for (name, expected) in [
        (IMAGE, metadata.image_bytes),
        (VMLINUX, metadata.vmlinux_bytes),
    ] {
        let found = dir
            .join(name)
            .metadata()
            .map_err(|error| format!("{name}: {error}"))?
            .len();
        if found != expected {
            return Err(format!("{name} has {found} bytes, expected {expected}"));
        }
    }
    let image = dir.join(IMAGE);
    let identity = identity(&image).map_err(|error| error.to_string())?;
    let stamp = dir.join(CHECKED);
    if fs::read_to_string(&stamp).is_ok_and(|text| text == identity) {
        return Ok(metadata);
    }
    let found = sha256(&image).map_err(|error| error.to_string())?;
    if found != metadata.image_sha256 {
        return Err(format!("{IMAGE} has another checksum than at its build"));
    }
    remember(&stamp, &identity);
    Ok(metadata)
}

/// What changes with any write to the file: inode, size, and the time of its last change, which no program can set.
fn identity(path: &Path) -> io::Result<String> {
    let meta = path.metadata()?;
    Ok(format!(
        "{} {} {}.{:09}\n",
        meta.ino(),
        meta.len(),
        meta.ctime(),
        meta.ctime_nsec()
    ))
}

/// Saves the next run the checksum, half a second of an unoptimised build. A cache that cannot be written costs only that.
fn remember(stamp: &Path, identity: &str) {
    let written = stamp.parent().map(tempfile::NamedTempFile::new_in);
    if let Some(Ok(mut file)) = written
        && file.write_all(identity.as_bytes()).is_ok()
    {
        let _ = file.persist(stamp);
    }
}

/// SHA-256 in hex.
pub(crate) fn sha256(path: &Path) -> io::Result<String> {
    let mut hash = Sha256::new();
    let mut file = File::open(path)?;
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(format!("{:x}", hash.finalize())),
            len => hash.update(buffer.get(..len).unwrap_or_default()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_entry() -> (tempfile::TempDir, Cache) {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path().join("kernels"));
        let _lock = cache.lock_exclusive("k", || ()).unwrap();
        let files = cache.root().join(".tmp");
        fs::create_dir(&files).unwrap();
        fs::write(files.join(IMAGE), b"image").unwrap();
        fs::write(files.join(VMLINUX), b"elf").unwrap();
        let metadata = Metadata {
            source: "test".into(),
            release: "6.12".into(),
            compiler: "gcc".into(),
            image_bytes: 0,
            vmlinux_bytes: 0,
            image_sha256: String::new(),
            changes: Vec::new(),
        };
        cache.publish("k", &files, metadata).unwrap();
        (dir, cache)
    }

    #[test]
    fn a_changed_kernel_is_found_by_its_key_alone() {
        let (_dir, cache) = with_entry();
        let mut metadata = cache.inspect("k").unwrap();
        metadata.changes.push("bug.toml".into());
        let json = serde_json::to_vec(&metadata).unwrap();
        fs::write(cache.root().join("k").join(METADATA), json).unwrap();
        assert!(cache.newest().unwrap().is_none());
        assert!(cache.entry("k").unwrap().is_some());
    }

    #[test]
    fn a_published_entry_is_found() {
        let (_dir, cache) = with_entry();
        assert_eq!(cache.keys(), ["k"]);
        assert_eq!(
            cache.newest().unwrap().unwrap().image,
            cache.root().join("k/bzImage")
        );
    }

    #[test]
    fn a_damaged_entry_is_passed_over() {
        for damage in [b"imagX".as_slice(), b"short"] {
            let (_dir, cache) = with_entry();
            fs::write(cache.root().join("k").join(IMAGE), &damage[..damage.len()]).unwrap();
            assert!(cache.newest().unwrap().is_none());
        }
        // A check that held once says nothing about another image.
        let (_dir, cache) = with_entry();
        let image = cache.root().join("k").join(IMAGE);
        for _ in 0..2 {
            assert!(cache.entry("k").unwrap().is_some());
            assert!(cache.root().join("k").join(CHECKED).is_file());
        }
        let times = fs::File::open(&image)
            .unwrap()
            .metadata()
            .unwrap()
            .modified()
            .unwrap();
        fs::write(&image, b"imagX").unwrap();
        let file = fs::File::options().write(true).open(&image).unwrap();
        file.set_modified(times).unwrap();
        assert!(
            cache.entry("k").unwrap().is_none(),
            "same size and modification time"
        );
        let (_dir, cache) = with_entry();
        fs::remove_file(cache.root().join("k").join(VMLINUX)).unwrap();
        assert!(cache.entry("k").unwrap().is_none());
    }

    /// It was said that there is no such file, and among what is there instead was this very key.
    #[test]
    fn a_damaged_entry_that_is_named_is_called_damaged() {
        let (_dir, cache) = with_entry();
        let find = || crate::find(&cache, Some("k".as_ref()));
        assert!(find().is_ok());
        fs::write(cache.root().join("k").join(IMAGE), b"shor").unwrap();
        let damaged = find().unwrap_err().to_string();
        assert!(
            damaged.contains("is damaged (bzImage has 4 bytes, expected 5)")
                && !damaged.contains("no such file"),
            "{damaged}"
        );
        fs::remove_file(cache.root().join("k").join(METADATA)).unwrap();
        let without = find().unwrap_err().to_string();
        assert!(without.contains("is damaged"), "{without}");
    }

    #[test]
    fn a_damaged_entry_can_be_inspected_and_removed() {
        let (_dir, cache) = with_entry();
        assert_eq!(cache.inspect("k").unwrap().release, "6.12");
        fs::remove_file(cache.root().join("k").join(METADATA)).unwrap();
        assert!(cache.inspect("k").is_err());
        assert_eq!(
            (cache.keys().len(), cache.all_keys()),
            (0, vec!["k".to_owned()])
        );
        let lock = cache.try_lock_exclusive("k").unwrap().unwrap();
        cache.remove("k", &lock).unwrap();
        assert!(cache.all_keys().is_empty());
    }

    /// A child between fork and exec has its parent's open files, as a duplicate has.
    #[test]
    fn a_dropped_lease_is_free_though_a_forked_child_has_its_file() {
        let (_dir, cache) = with_entry();
        let lease = cache.try_lock_exclusive("k").unwrap().unwrap();
        let _of_the_child = lease._lock.0.try_clone().unwrap();
        drop(lease);
        assert!(cache.try_lock_exclusive("k").unwrap().is_some());
    }

    #[test]
    fn an_entry_in_use_is_not_replaced() {
        let (_dir, cache) = with_entry();
        let user = cache.entry("k").unwrap().unwrap();
        assert!(
            cache
                .try_lock("k", FlockOperation::NonBlockingLockExclusive)
                .unwrap()
                .is_none()
        );
        drop(user);
        assert!(
            cache
                .try_lock("k", FlockOperation::NonBlockingLockExclusive)
                .unwrap()
                .is_some()
        );
    }

    /// What `act` sees as a user who is neither root nor the owner of anything.
    fn as_nobody<T: Send>(act: impl FnOnce() -> T + Send) -> T {
        let nobody = rustix::process::Uid::from_raw(65_534);
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                if rustix::process::geteuid().is_root() {
                    // Of this thread alone.
                    rustix::thread::set_thread_res_uid(nobody, nobody, nobody).unwrap();
                }
                act()
            });
            thread.join().unwrap()
        })
    }

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_cache_that_cannot_be_written_serves_its_kernels() {
        let (dir, cache) = with_entry();
        set_mode(dir.path(), 0o755);
        set_mode(cache.root(), 0o555);
        let lock = cache.lock_path("k");
        assert_eq!(lock.metadata().unwrap().mode() & 0o777, 0o644);
        as_nobody(|| {
            let first = cache.newest().unwrap().unwrap();
            assert_eq!(first.image, cache.root().join("k/bzImage"));
            // The shared lock is a real one.
            let taken = cache.try_lock("k", FlockOperation::NonBlockingLockExclusive);
            assert!(taken.unwrap().is_none());
        });
        // One that was copied without its locks.
        set_mode(cache.root(), 0o755);
        fs::remove_file(&lock).unwrap();
        set_mode(cache.root(), 0o555);
        as_nobody(|| assert!(cache.entry("k").unwrap().is_some()));
        set_mode(cache.root(), 0o755);
    }

    #[test]
    fn what_a_killed_build_left_is_known_by_its_missing_lock() {
        let (_dir, cache) = with_entry();
        let _user = cache.entry("k").unwrap().unwrap();
        let building = WorkDir::new_in(cache.root(), ".build-").unwrap();
        assert!(cache.leftovers().is_empty(), "it is being built");
        // A kernel in use is no reason to keep what a killed build left.
        let left = cache.root().join(".build-killed");
        fs::create_dir(&left).unwrap();
        fs::write(left.join("object"), vec![1; 100_000]).unwrap();
        let found = cache.leftovers();
        let [leftover] = found.as_slice() else {
            panic!("{found:?}");
        };
        assert_eq!(leftover.path, left);
        assert!(leftover.bytes >= 100_000, "{leftover:?}");
        for leftover in found {
            leftover.remove().unwrap();
        }
        assert!(!left.exists() && building.path().is_dir());
    }
}
