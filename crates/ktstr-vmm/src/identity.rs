//! What decides a run in virtual time beside its seed.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::str::FromStr;

use sha2::{Digest as _, Sha256};

/// A part of an [`Identity`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Part {
    /// The emulator's program.
    Emulator,
    /// The plugin that decides turns.
    Plugin,
    /// The emulator's arguments without paths, descriptors and what other parts have: devices, memory, command line.
    Arguments,
    /// Speeds, lengths of turns, the deadline.
    Clock,
    /// The guest's kernel.
    Kernel,
    /// The guest's files.
    Archive,
    /// What the guest is told to do, as its starter says; it may be among the files, too.
    Plan,
    /// How the run begins.
    Start,
}

impl Part {
    /// All of them, in the order in which an identity is written.
    pub const ALL: [Self; 8] = [
        Self::Emulator,
        Self::Plugin,
        Self::Arguments,
        Self::Clock,
        Self::Kernel,
        Self::Archive,
        Self::Plan,
        Self::Start,
    ];
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Emulator => "emulator",
            Self::Plugin => "plugin",
            Self::Arguments => "the emulator's arguments",
            Self::Clock => "speed and deadline",
            Self::Kernel => "kernel",
            Self::Archive => "the guest's files (test binary, scheduler, libraries)",
            Self::Plan => "the test's plan",
            Self::Start => "the start (boot or saved moment)",
        })
    }
}

/// Hexadecimal digits of a part.
const DIGITS: usize = 5;

/// Two runs with one identity and one seed are the same run. As text it is 40 hexadecimal digits, five for each part, so that two
/// of them say which part differs.
///
/// A part is the first 20 bits of a SHA-256: it tells builds apart, and is no protection against builds made to look alike.
/// (A CRC would not do: that of every kernel image is the same, since images end with a sum that makes it so.)
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Identity([u32; Part::ALL.len()]);

impl Identity {
    /// Sets a part from its bytes.
    pub fn set(&mut self, part: Part, bytes: &[u8]) {
        self.put(part, Sha256::new_with_prefix(bytes));
    }

    /// Sets a part from a file, whose position stays.
    pub(crate) fn set_file(&mut self, part: Part, file: &File) -> io::Result<()> {
        let mut hash = Sha256::new();
        let mut buffer = vec![0; 1 << 20];
        let mut at = 0;
        loop {
            match file.read_at(&mut buffer, at) {
                Ok(0) => break,
                Ok(len) => {
                    hash.update(buffer.get(..len).unwrap_or_default());
                    at += len as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.put(part, hash);
        Ok(())
    }

    fn put(&mut self, part: Part, hash: Sha256) {
        let [a, b, c, ..] = <[u8; 32]>::from(hash.finalize());
        let places = Part::ALL.iter().zip(&mut self.0);
        for (_, place) in places.filter(|(known, _)| **known == part) {
            *place = u32::from_be_bytes([0, a, b, c]) >> 4;
        }
    }

    /// The parts in which two differ.
    #[must_use]
    pub fn differing(&self, other: &Self) -> Vec<Part> {
        let pairs = self.0.iter().zip(&other.0);
        let parts = Part::ALL.into_iter().zip(pairs);
        parts
            .filter_map(|(part, (ours, theirs))| (ours != theirs).then_some(part))
            .collect()
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .iter()
            .try_for_each(|part| write!(f, "{part:0DIGITS$x}"))
    }
}

/// Text that is not an identity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "invalid identity '{0}'; expected 40 hexadecimal digits, as in the replay line of a failure"
)]
pub struct NoIdentity(pub String);

impl FromStr for Identity {
    type Err = NoIdentity;

    fn from_str(text: &str) -> Result<Self, NoIdentity> {
        let wrong = || NoIdentity(text.to_owned());
        let digits = text.as_bytes();
        if digits.len() != DIGITS * Part::ALL.len() || !digits.iter().all(u8::is_ascii_hexdigit) {
            return Err(wrong());
        }
        let mut identity = Self::default();
        for (part, digits) in identity.0.iter_mut().zip(digits.chunks(DIGITS)) {
            let digits = std::str::from_utf8(digits).map_err(|_| wrong())?;
            *part = u32::from_str_radix(digits, 16).map_err(|_| wrong())?;
        }
        Ok(identity)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn two_identities_say_which_parts_differ() {
        let mut one = Identity::default();
        for part in Part::ALL {
            one.set(part, format!("{part:?}").as_bytes());
        }
        let mut other = one;
        assert_eq!(one.differing(&other), []);
        other.set(Part::Kernel, b"another");
        other.set(Part::Start, b"another");
        assert_eq!(one.differing(&other), [Part::Kernel, Part::Start]);
    }

    #[test]
    fn the_text_is_read_back() {
        let mut identity = Identity::default();
        identity.set(Part::Emulator, b"an emulator");
        identity.set(Part::Start, b"cold");
        let text = identity.to_string();
        assert_eq!(text.len(), 40);
        assert_eq!(text.parse(), Ok(identity));
        for wrong in ["", "0", &"g".repeat(40), &"0".repeat(41), &"é".repeat(20)] {
            assert_eq!(wrong.parse::<Identity>(), Err(NoIdentity(wrong.into())));
        }
    }

    #[test]
    fn a_file_is_its_bytes() {
        let mut file = tempfile::tempfile().unwrap();
        let bytes: Vec<u8> = (0..=255).cycle().take(3_000_001).collect();
        file.write_all(&bytes).unwrap();
        let (mut one, mut other) = (Identity::default(), Identity::default());
        one.set_file(Part::Kernel, &file).unwrap();
        other.set(Part::Kernel, &bytes);
        assert_eq!(one, other);
    }
}
