//! Types that come with BPF objects: the BTF that a program was loaded with.

use std::sync::{Arc, PoisonError};

use crate::btf::{Blob, Btf};
use crate::{Kernel, Kva, Result};

/// `BTF_MAX_SIZE`: what the kernel accepts from a program.
const MAX_PROGRAM_BTF: usize = 16 << 20;
/// Remembered at most; a guest may load any number.
const MAX_KEPT: usize = 256;

impl Kernel {
    /// The types behind a `struct btf`: the kernel's own, or those a program brought along.
    ///
    /// # Errors
    /// When the blob cannot be read or is damaged.
    pub fn btf_at(&self, kva: Kva) -> Result<Arc<Btf>> {
        let object = self.object("btf", kva)?;
        if object.uint("kernel_btf")? & 1 != 0 && object.pointer("base_btf")?.is_null() {
            return Ok(Arc::clone(self.btf()));
        }
        // Ids are not reused for long, so address and id name the object.
        let key = (kva, object.u32("id")?);
        let known = self
            .program_btfs
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&key)
            .cloned();
        if let Some(btf) = known {
            return Ok(btf);
        }
        let len = object.uint("data_size")?;
        let data = self.read_bytes(object.pointer("data")?, len, MAX_PROGRAM_BTF)?;
        let blob = Blob::Owned(data);
        let btf = Arc::new(if object.pointer("base_btf")?.is_null() {
            Btf::new(blob)?
        } else {
            Btf::split(blob, Arc::clone(self.btf()))?
        });
        let mut kept = self
            .program_btfs
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= MAX_KEPT {
            kept.clear();
        }
        kept.insert(key, Arc::clone(&btf));
        Ok(btf)
    }

    /// The name of an enum's value, without prefix and in lower case; the number where it has none.
    pub(crate) fn lower_name(&self, enumeration: &str, prefix: &str, value: u64) -> String {
        self.btf()
            .find_enum(enumeration)
            .and_then(|ty| {
                ty.enumerators()
                    .filter(|entry| entry.value == value && !entry.name.ends_with("_DEPRECATED"))
                    .find_map(|entry| entry.name.strip_prefix(prefix))
                    .map(str::to_ascii_lowercase)
            })
            .unwrap_or_else(|| value.to_string())
    }
}
