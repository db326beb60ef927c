//! A vmlinux on disk: build id, BTF and symbols, without reading its debug information.

use std::path::{Path, PathBuf};

use object::read::elf::ElfFile64;
use object::{LittleEndian, Object as _, ObjectSection as _, ObjectSymbol as _, SymbolKind};

use super::{START_KERNEL_MAP, Symbols};
use crate::btf::{Blob, Btf};
use crate::{Error, Result};

/// An ELF kernel image.
#[derive(Debug)]
pub struct Vmlinux {
    path: PathBuf,
    blob: Blob,
    build_id: Vec<u8>,
    text: u64,
    notes: Option<u64>,
}

impl Vmlinux {
    /// Opens an uncompressed ELF kernel image.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be read, [`Error::BadVmlinux`] when it has no build id or no `_text`.
    pub fn open(path: &Path) -> Result<Self> {
        let blob = Blob::map(path)?;
        let refuse = |why: &str| Error::BadVmlinux {
            path: path.to_owned(),
            why: why.to_owned(),
        };
        let (build_id, text, notes) = {
            let elf = parse(path, &blob)?;
            let build_id = elf.build_id().ok().flatten().map(<[u8]>::to_vec);
            let text = elf
                .symbols()
                .find(|symbol| symbol.name() == Ok("_text"))
                .map(|symbol| symbol.address());
            let notes = elf
                .section_by_name(".notes")
                .map(|section| section.address());
            (build_id, text, notes)
        };
        Ok(Self {
            path: path.to_owned(),
            build_id: build_id.ok_or_else(|| refuse("it has no build id"))?,
            text: text.ok_or_else(|| refuse("it has no symbol _text (a stripped image?)"))?,
            notes,
            blob,
        })
    }

    /// Where it lies.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its build id.
    #[must_use]
    pub fn build_id(&self) -> &[u8] {
        &self.build_id
    }

    /// The address that `_text` was linked at.
    #[must_use]
    pub fn text(&self) -> u64 {
        self.text
    }

    /// The address that the notes were linked at.
    #[must_use]
    pub fn notes(&self) -> Option<u64> {
        self.notes
    }

    /// Its BTF.
    ///
    /// # Errors
    /// [`Error::BadVmlinux`] when it has none, [`Error::BadBtf`] when it is damaged.
    pub fn btf(&self) -> Result<Btf> {
        let elf = parse(&self.path, &self.blob)?;
        let range = elf
            .section_by_name(".BTF")
            .and_then(|section| section.file_range())
            .ok_or_else(|| Error::BadVmlinux {
                path: self.path.clone(),
                why: "it has no .BTF section (CONFIG_DEBUG_INFO_BTF)".to_owned(),
            })?;
        let start = crate::bytes::size(range.0);
        let end = start.saturating_add(crate::bytes::size(range.1));
        let blob = Blob::map(&self.path)?
            .slice(start..end)
            .ok_or(Error::BadBtf {
                offset: 0,
                what: "the .BTF section lies outside the file",
            })?;
        Btf::new(blob)
    }

    /// Its symbols, addresses moved by `slide`.
    ///
    /// # Errors
    /// [`Error::BadVmlinux`] when the file cannot be parsed.
    pub fn symbols(&self, slide: u64) -> Result<Symbols> {
        let elf = parse(&self.path, &self.blob)?;
        Ok(Symbols::collect(elf.symbols().filter_map(|symbol| {
            let name = symbol.name_bytes().ok().filter(|name| !name.is_empty())?;
            let kind = match symbol.kind() {
                SymbolKind::Text => b't',
                SymbolKind::File | SymbolKind::Section => return None,
                _ => b'd',
            };
            let value = symbol.address();
            let moved = if value >= START_KERNEL_MAP {
                value.wrapping_add(slide)
            } else {
                value
            };
            Some((kind, name, moved))
        })))
    }
}

fn parse<'a>(path: &Path, blob: &'a Blob) -> Result<ElfFile64<'a, LittleEndian>> {
    ElfFile64::parse(blob.bytes()).map_err(|error| Error::BadVmlinux {
        path: path.to_owned(),
        why: error.to_string(),
    })
}
