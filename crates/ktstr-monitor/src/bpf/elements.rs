//! Where a map keeps its elements: arrays here, chains in [`super::hash`].

use crate::{Error, Kernel, Kva, Problems, Result, bytes};

use super::BpfMap;

/// Bytes of one key or value that are read at most.
pub(super) const MAX_VALUE: usize = 1 << 20;

/// A key and where its value lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawEntry {
    /// The key's bytes.
    pub key: Vec<u8>,
    /// Where the value is.
    pub value: RawValue,
}

/// Where a value lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RawValue {
    /// In one place.
    One(Kva),
    /// One per CPU: number and place.
    PerCpu(Vec<(u32, Kva)>),
}

impl BpfMap {
    /// Keys and places of values; at most `limit`.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for types of maps without such elements. What goes wrong further down is noted.
    pub fn raw_entries(
        &self,
        kernel: &Kernel,
        limit: usize,
        problems: &mut Problems,
    ) -> Result<Vec<RawEntry>> {
        match self.map_type.as_str() {
            "array" | "percpu_array" | "array_of_maps" | "prog_array" => {
                let count = (self.max_entries as usize).min(limit);
                let entries = (0..u32::try_from(count).unwrap_or(u32::MAX))
                    .filter_map(|index| {
                        let element = self.array_element(kernel, index, problems);
                        Some(RawEntry {
                            key: index.to_le_bytes().to_vec(),
                            value: problems.need("an array's element", element)?,
                        })
                    })
                    .collect();
                Ok(entries)
            }
            "hash" | "percpu_hash" | "lru_hash" | "lru_percpu_hash" | "hash_of_maps" => {
                self.hash_elements(kernel, limit, problems)
            }
            "task_storage" | "inode_storage" | "sk_storage" | "cgrp_storage" => {
                self.storage_elements(kernel, limit, problems)
            }
            "queue" | "stack" => self.queued_elements(kernel, limit),
            "lpm_trie" => self.trie_elements(kernel, limit, problems),
            "cgroup_storage" | "percpu_cgroup_storage" => {
                self.cgroup_elements(kernel, limit, problems)
            }
            _ => Err(Error::Unsupported {
                what: format!("contents of {} {}", self.map_type, self.name),
                why: self.without_entries().to_owned(),
            }),
        }
    }

    /// Where element `index` of an array lies.
    ///
    /// # Errors
    /// [`Error::Implausible`] past the end, or when the map cannot be read.
    pub fn array_element(
        &self,
        kernel: &Kernel,
        index: u32,
        problems: &mut Problems,
    ) -> Result<RawValue> {
        if index >= self.max_entries {
            return Err(Error::Implausible {
                what: "index into a BPF array",
                value: index.into(),
            });
        }
        let array = kernel.object("bpf_array", self.kva)?;
        let index = u64::from(index);
        if self.map_type == "percpu_array" {
            let table = array.address_of("pptrs")?;
            let pointer = Kva(kernel.read_u64(table.wrapping_add(index * 8))?);
            return Ok(per_cpu(kernel, pointer, problems));
        }
        let stride = match self.map_type.as_str() {
            "array" => array.uint("elem_size")?,
            _ => 8,
        };
        let first = array.address_of("value")?;
        Ok(RawValue::One(first.wrapping_add(index * stride)))
    }

    /// Reads a value.
    pub(super) fn read_value(&self, kernel: &Kernel, at: Kva) -> Result<Vec<u8>> {
        kernel.read_bytes(at, self.value_size.into(), MAX_VALUE)
    }
}

/// All CPUs' copies behind a per-CPU pointer.
pub(super) fn per_cpu(kernel: &Kernel, pointer: Kva, problems: &mut Problems) -> RawValue {
    let cpus = problems.need("the possible CPUs", kernel.possible_cpus());
    RawValue::PerCpu(
        cpus.unwrap_or_default()
            .into_iter()
            .filter_map(|cpu| {
                let at = problems.need("a per-CPU value", kernel.per_cpu(pointer, cpu))?;
                Some((cpu, at))
            })
            .collect(),
    )
}

/// `round_up(size, 8)`: keys are padded so.
pub(super) fn padded(size: u32) -> u64 {
    u64::from(size).next_multiple_of(8)
}

/// Reads a key.
pub(super) fn read_key(kernel: &Kernel, at: Kva, size: u32) -> Result<Vec<u8>> {
    kernel.read_bytes(at, size.into(), bytes::size(64 << 10))
}
