//! Hash tables (`kernel/bpf/hashtab.c`) and local storage (`kernel/bpf/bpf_local_storage.c`): chains in buckets.

use super::elements::{padded, per_cpu, read_key};
use super::{BpfMap, RawEntry, RawValue};
use crate::btf::TypeId;
use crate::{Error, Kernel, Kva, Object, Problems, Result};

/// Buckets of a table of 4 M entries.
const MAX_BUCKETS: u64 = 1 << 22;
/// A chain longer than this is no hash table any more.
const MAX_CHAIN: usize = 1 << 12;
/// Elements that are met altogether, those that cannot be read included.
const MAX_VISITS: usize = 1 << 18;

/// An array of buckets, each beginning with a pointer to its chain.
struct Buckets {
    first: Kva,
    count: u64,
    stride: u64,
}

impl Buckets {
    /// `path` is the map's pointer to its buckets; BTF says how large one is.
    fn find(object: &Object<'_>, path: &'static str, count: u64) -> Result<Self> {
        if count > MAX_BUCKETS {
            return Err(Error::Implausible {
                what: "number of hash buckets",
                value: count,
            });
        }
        let first = object.follow_some(path)?;
        let ty: TypeId = first.type_id();
        let stride = object.kernel().btf().size_of(ty).unwrap_or(0);
        if stride < 8 {
            return Err(Error::Implausible {
                what: "size of a hash bucket",
                value: stride,
            });
        }
        Ok(Self {
            first: first.kva(),
            count,
            stride,
        })
    }

    /// Calls `visit` with each chain's entries until `visit` says no or the table ends. Buckets that cannot be read cost
    /// their own entries.
    fn chains(
        &self,
        kernel: &Kernel,
        what: &'static str,
        problems: &mut Problems,
        mut visit: impl FnMut(Vec<Kva>, &mut Problems) -> bool,
    ) {
        // Heads are read a page at a time: most buckets are empty.
        let per_read = (4096 / self.stride).max(1);
        let mut visits = MAX_VISITS;
        let mut number = 0;
        while number < self.count {
            let batch = per_read.min(self.count - number);
            let start = self.first.wrapping_add(number * self.stride);
            number += batch;
            let raw = kernel.read_bytes(start, batch * self.stride, 1 << 16);
            let Some(raw) = problems.need("buckets of a hash table", raw) else {
                continue;
            };
            let stride = crate::bytes::size(self.stride);
            for (index, bucket) in (0..).zip(raw.chunks_exact(stride)) {
                let head = crate::bytes::u64_at(bucket, 0).unwrap_or(0);
                if head == 0 || head & 1 == 1 {
                    continue;
                }
                let at = start.wrapping_add(index * self.stride);
                let chain = kernel.walk_hlist(what, at, MAX_CHAIN.min(visits), problems);
                visits = visits.saturating_sub(chain.len().max(1));
                if !visit(chain, problems) {
                    return;
                }
                if visits == 0 {
                    let error = Error::TooLong {
                        what,
                        limit: MAX_VISITS,
                    };
                    problems.note(what, &error);
                    return;
                }
            }
        }
    }
}

impl BpfMap {
    pub(super) fn hash_elements(
        &self,
        kernel: &Kernel,
        limit: usize,
        problems: &mut Problems,
    ) -> Result<Vec<RawEntry>> {
        let table = kernel.object("bpf_htab", self.kva)?;
        let buckets = Buckets::find(&table, "buckets", table.uint("n_buckets")?)?;
        let key_at = kernel.field_of("htab_elem", "key")?.offset;
        let value_at = key_at + padded(self.key_size);
        let is_per_cpu = self.map_type.contains("percpu");
        let mut entries = Vec::new();
        buckets.chains(kernel, "a hash chain", problems, |chain, problems| {
            for element in chain {
                if entries.len() == limit {
                    return false;
                }
                let key = read_key(kernel, element.wrapping_add(key_at), self.key_size);
                let Some(key) = problems.need("a hash key", key) else {
                    continue;
                };
                let place = element.wrapping_add(value_at);
                let value = if is_per_cpu {
                    match problems.need("a per-CPU pointer", kernel.read_u64(place)) {
                        Some(pointer) => per_cpu(kernel, Kva(pointer), problems),
                        None => continue,
                    }
                } else {
                    RawValue::One(place)
                };
                entries.push(RawEntry { key, value });
            }
            true
        });
        Ok(entries)
    }

    /// Local storage has no keys: the owner's address stands for one.
    pub(super) fn storage_elements(
        &self,
        kernel: &Kernel,
        limit: usize,
        problems: &mut Problems,
    ) -> Result<Vec<RawEntry>> {
        let map = kernel.object("bpf_local_storage_map", self.kva)?;
        let bits = map.u32("bucket_log")?;
        let count = 1_u64.checked_shl(bits).unwrap_or(u64::MAX);
        let buckets = Buckets::find(&map, "buckets", count)?;
        let data_at = kernel
            .field_of("bpf_local_storage_elem", "sdata.data")?
            .offset;
        let node_at = kernel
            .field_of("bpf_local_storage_elem", "map_node")?
            .offset;
        let mut entries = Vec::new();
        buckets.chains(kernel, "a storage chain", problems, |chain, problems| {
            for node in chain {
                if entries.len() == limit {
                    return false;
                }
                let element = node.wrapping_sub(node_at);
                let owner = kernel
                    .object("bpf_local_storage_elem", element)
                    .and_then(|element| element.follow_some("local_storage")?.pointer("owner"));
                let Some(owner) = problems.need("a storage's owner", owner) else {
                    continue;
                };
                entries.push(RawEntry {
                    key: owner.0.to_le_bytes().to_vec(),
                    value: RawValue::One(element.wrapping_add(data_at)),
                });
            }
            true
        });
        Ok(entries)
    }
}
