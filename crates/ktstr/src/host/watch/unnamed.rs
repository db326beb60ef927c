//! A file that has no name until it is whole: a process that is killed while it writes leaves nothing behind.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, linkat, open};
use rustix::io::Errno;

/// A file under way.
#[derive(Debug)]
pub(in crate::host) enum Unnamed {
    /// It has no name at all.
    Unlinked(File),
    /// The file system has no such files: under a temporary name.
    Temporary(tempfile::NamedTempFile),
}

impl Unnamed {
    /// On the file system of `dir`, where [`Self::persist`] will give it its name.
    ///
    /// # Errors
    /// When no file can be made there.
    pub(in crate::host) fn new_in(dir: &Path) -> io::Result<Self> {
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        match open(dir, flags, Mode::RUSR | Mode::WUSR) {
            Ok(fd) => Ok(Self::Unlinked(fd.into())),
            // open(2): a file system without them says one of these.
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => {
                tempfile::NamedTempFile::new_in(dir).map(Self::Temporary)
            }
            Err(errno) => Err(errno.into()),
        }
    }

    pub(in crate::host) fn as_file(&self) -> &File {
        match self {
            Self::Unlinked(file) => file,
            Self::Temporary(file) => file.as_file(),
        }
    }

    /// Gives it its name; what has it already is replaced.
    ///
    /// # Errors
    /// When the name cannot be had.
    pub(in crate::host) fn persist(self, path: &Path) -> io::Result<()> {
        let file = match self {
            Self::Unlinked(file) => file,
            Self::Temporary(file) => {
                return file.persist(path).map(drop).map_err(|error| error.error);
            }
        };
        // open(2) on O_TMPFILE: the way to a name that asks for no capability.
        let fd = format!("/proc/self/fd/{}", file.as_raw_fd());
        let link = || linkat(CWD, &fd, CWD, path, AtFlags::SYMLINK_FOLLOW);
        match link() {
            Err(Errno::EXIST) => {
                fs::remove_file(path)?;
                Ok(link()?)
            }
            linked => Ok(linked?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn nothing_is_there_before_the_whole_file_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.vmcore");
        for text in ["first", "second"] {
            let before = fs::read(&path).ok();
            let file = Unnamed::new_in(dir.path()).unwrap();
            file.as_file().write_all(text.as_bytes()).unwrap();
            let names = || fs::read_dir(dir.path()).unwrap().count();
            assert_eq!(names(), usize::from(before.is_some()), "no temporary name");
            assert_eq!(fs::read(&path).ok(), before);
            file.persist(&path).unwrap();
            assert_eq!(fs::read(&path).unwrap(), text.as_bytes());
            assert_eq!(names(), 1);
        }
        // Given up: gone.
        drop(Unnamed::new_in(dir.path()).unwrap());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
