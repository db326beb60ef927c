//! `/etc/ld.so.cache` (glibc `sysdeps/generic/dl-cache.h`: `struct cache_file_new`).

const MAGIC: &[u8] = b"glibc-ld.so.cache1.1";
/// magic and version (20), nlibs (4), len_strings (4), flags and padding (4), extension offset (4), unused (12).
const HEADER_LEN: usize = 48;
/// flags (4), key (4), value (4), osversion (4), hwcap (8).
const ENTRY_LEN: usize = 24;
/// FLAG_X8664_LIB64 | FLAG_ELF_LIBC6.
const X86_64_LIBC6: u32 = 0x0303;

/// Library names to paths. Entries are read when a name is looked up: a program needs a handful of hundreds.
#[derive(Debug, Default)]
pub(super) struct LdCache {
    file: Vec<u8>,
    /// Where the new-format part begins.
    start: usize,
}

impl LdCache {
    /// This system's cache; empty where there is none.
    pub(super) fn system() -> Self {
        std::fs::read("/etc/ld.so.cache")
            .map(Self::parse)
            .unwrap_or_default()
    }

    /// Empty for another format.
    fn parse(file: Vec<u8>) -> Self {
        // An old-format table may come first; its new-format part then begins at an aligned offset behind it.
        let start = file.windows(MAGIC.len()).position(|window| window == MAGIC);
        start.map(|start| Self { file, start }).unwrap_or_default()
    }

    /// A cache of these names and paths.
    #[cfg(test)]
    pub(super) fn of(entries: &[(&str, &str)]) -> Self {
        let mut file = vec![0; HEADER_LEN + ENTRY_LEN * entries.len()];
        file[..MAGIC.len()].copy_from_slice(MAGIC);
        file[20..24].copy_from_slice(&u32::try_from(entries.len()).unwrap().to_le_bytes());
        for (index, (name, path)) in entries.iter().enumerate() {
            let at = HEADER_LEN + index * ENTRY_LEN;
            file[at..at + 4].copy_from_slice(&X86_64_LIBC6.to_le_bytes());
            for (field, text) in [(4, name), (8, path)] {
                let place = u32::try_from(file.len()).unwrap();
                file[at + field..at + field + 4].copy_from_slice(&place.to_le_bytes());
                file.extend(text.bytes().chain([0]));
            }
        }
        Self::parse(file)
    }

    /// The first path of that name for this machine; entries that point outside of the file are passed over.
    pub(super) fn lookup(&self, library: &str) -> Option<&str> {
        let file = self.file.get(self.start..)?;
        let count = usize::try_from(word(file, 20)?).ok()?;
        let entries = file.get(HEADER_LEN..)?.chunks_exact(ENTRY_LEN).take(count);
        entries
            .filter(|entry| is_ours(entry))
            .find(|entry| {
                let name = word(entry, 4).and_then(|at| file.get(usize::try_from(at).ok()?..));
                name.and_then(|name| name.strip_prefix(library.as_bytes()))
                    .is_some_and(|rest| rest.first() == Some(&0))
            })
            .and_then(|entry| string(file, word(entry, 8)?))
    }
}

/// Entries for special hardware come first; a guest's CPU may lack it.
fn is_ours(entry: &[u8]) -> bool {
    let hwcap = (word(entry, 16), word(entry, 20));
    word(entry, 0) == Some(X86_64_LIBC6) && hwcap == (Some(0), Some(0))
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk::<4>()?))
}

fn string(file: &[u8], at: u32) -> Option<&str> {
    let tail = file.get(usize::try_from(at).ok()?..)?;
    let end = tail.iter().position(|byte| *byte == 0)?;
    std::str::from_utf8(tail.get(..end)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_systems_cache_knows_libc() {
        let path = LdCache::system()
            .lookup("libc.so.6")
            .map(str::to_owned)
            .expect("a Debian system has libc in its cache");
        assert!(std::path::Path::new(&path).is_file(), "{path}");
        assert_eq!(LdCache::system().lookup("libc.so"), None, "a name is whole");
    }

    proptest! {
        #[test]
        fn noise_never_panics(mut bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = LdCache::parse(bytes.clone()).lookup("libc.so.6");
            let mut file = MAGIC.to_vec();
            file.append(&mut bytes);
            let _ = LdCache::parse(file).lookup("libc.so.6");
        }
    }
}
