//! Single numbers in maps, by name: read without decoding the rest, and written.

use super::{BpfMap, RawValue};
use crate::btf::{Btf, Field, Kind};
use crate::kernel::write_number;
use crate::{Error, Kernel, Kva, Problems, Result, bytes};

/// Entries among which a key is looked for.
const MAX_ENTRIES: usize = 1 << 20;

/// A number's place in a map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MapField {
    /// Where the value that holds it begins.
    pub base: Kva,
    /// Its place therein.
    pub field: Field,
}

impl BpfMap {
    /// The place of a number in element `index` of an array: `var.member` in a section, `member` in a struct, empty for
    /// a value that is a number itself.
    ///
    /// # Errors
    /// [`Error::NoField`] when the name does not fit the map's types, [`Error::Unsupported`] for other maps.
    pub fn field(&self, kernel: &Kernel, index: u32, path: &str) -> Result<MapField> {
        let place = self.array_element(kernel, index, &mut Problems::new())?;
        let RawValue::One(base) = place else {
            return Err(Error::Unsupported {
                what: format!("map {}", self.name),
                why: "it has a value per CPU; name the CPU".to_owned(),
            });
        };
        Ok(MapField {
            base,
            field: self.value_field(kernel, path)?,
        })
    }

    /// As [`BpfMap::field`], one CPU's copy of a per-CPU array.
    ///
    /// # Errors
    /// As [`BpfMap::field`].
    pub fn field_of_cpu(
        &self,
        kernel: &Kernel,
        index: u32,
        cpu: u32,
        path: &str,
    ) -> Result<MapField> {
        let place = self.array_element(kernel, index, &mut Problems::new())?;
        let base = match place {
            RawValue::PerCpu(places) => places.into_iter().find(|place| place.0 == cpu),
            RawValue::One(_) => None,
        };
        let (_, base) = base.ok_or_else(|| Error::Unsupported {
            what: format!("map {}", self.name),
            why: format!("it has no value for CPU {cpu}"),
        })?;
        Ok(MapField {
            base,
            field: self.value_field(kernel, path)?,
        })
    }

    /// As [`BpfMap::field`], in the value of a key: of a hash, a trie, or task storage, whose key is the task's address.
    ///
    /// # Errors
    /// [`Error::NoField`] when there is no such key, or as [`BpfMap::field`].
    pub fn field_of_key(&self, kernel: &Kernel, key: &[u8], path: &str) -> Result<MapField> {
        let entries = self.raw_entries(kernel, MAX_ENTRIES, &mut Problems::new())?;
        let entry = entries.into_iter().find(|entry| entry.key == key);
        let entry = entry.ok_or_else(|| Error::NoField {
            ty: format!("map {}", self.name),
            path: format!("[{}]", bytes::hex(key)),
        })?;
        match entry.value {
            RawValue::One(base) => Ok(MapField {
                base,
                field: self.value_field(kernel, path)?,
            }),
            RawValue::PerCpu(_) => Err(Error::Unsupported {
                what: format!("map {}", self.name),
                why: "it has a value per CPU".to_owned(),
            }),
        }
    }

    /// The place of a named number in a value of this map.
    ///
    /// # Errors
    /// As [`BpfMap::field`].
    pub fn value_field(&self, kernel: &Kernel, path: &str) -> Result<Field> {
        let lacking = || Error::NoField {
            ty: format!("map {}", self.name),
            path: path.to_owned(),
        };
        let btf = kernel.btf_at(self.btf.ok_or_else(lacking)?)?;
        let field = match btf.ty(self.value_type).map(|ty| ty.kind()) {
            Some(Kind::DataSec) => section_field(&btf, self.value_type, path),
            _ if path.is_empty() => Some(Field {
                offset: 0,
                size: self.value_size.into(),
                ty: self.value_type,
                bits: None,
            }),
            _ => btf.member(self.value_type, path),
        };
        let field = field.ok_or_else(lacking)?;
        let end = field.offset.checked_add(field.size);
        if end.is_none_or(|end| end > u64::from(self.value_size)) {
            return Err(Error::Implausible {
                what: "end of a member, past its map's value",
                value: end.unwrap_or(u64::MAX),
            });
        }
        Ok(field)
    }
}

/// `var` or `var.member`, with array indices on both.
fn section_field(btf: &Btf, section: crate::btf::TypeId, path: &str) -> Option<Field> {
    let end = path.find(['.', '[']).unwrap_or(path.len());
    let (name, rest) = path.split_at_checked(end)?;
    let var = btf.section_var(section, name)?;
    let inner = match rest.strip_prefix('.') {
        _ if rest.is_empty() => return Some(var),
        Some(member) => btf.member(var.ty, member)?,
        None => btf.indexed(var.ty, rest)?,
    };
    Some(Field {
        offset: var.offset.checked_add(inner.offset)?,
        ..inner
    })
}

impl MapField {
    /// Reads the number.
    ///
    /// # Errors
    /// [`Error::Implausible`] for members of more than 8 bytes, or when memory cannot be read.
    pub fn read(&self, kernel: &Kernel) -> Result<u64> {
        let at = self.base.wrapping_add(self.field.offset);
        let raw = kernel.read_bytes(at, self.field.size, 9)?;
        if self.field.bits.is_none() && raw.len() > 8 {
            return Err(Error::Implausible {
                what: "size of a number",
                value: raw.len() as u64,
            });
        }
        Ok(self.field.decode(&raw))
    }

    /// Reads the number as signed.
    ///
    /// # Errors
    /// As [`MapField::read`].
    pub fn read_signed(&self, kernel: &Kernel) -> Result<i64> {
        let bits = self
            .field
            .bits
            .map_or(self.field.size * 8, |span| span.bits.into());
        let bits = u32::try_from(bits).unwrap_or(64);
        Ok(bytes::sign_extend(self.read(kernel)?, bits))
    }

    /// Writes the number.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for bit fields, structs and values that do not fit, or when memory cannot be written.
    pub fn write(&self, kernel: &Kernel, value: u64) -> Result<()> {
        write_number(kernel, self.base, &self.field, "the map's member", value)
    }
}
