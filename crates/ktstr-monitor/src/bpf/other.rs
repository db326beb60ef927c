//! Maps that are neither arrays nor hashes: queues, stacks, tries, cgroup storage.

use super::elements::per_cpu;
use super::{BpfMap, RawEntry, RawValue};
use crate::{Error, Kernel, Kva, Object, Problems, Result};

/// `LPM_TREE_NODE_FLAG_IM`: a node that only joins two others.
const INTERMEDIATE: u64 = 1;
/// Nodes of a trie that are visited.
const MAX_NODES: usize = 1 << 20;
/// Bytes of a trie's keys behind the length (`LPM_DATA_SIZE_MAX`).
const MAX_KEY: u64 = 256;

impl BpfMap {
    /// A queue's or stack's values in the order in which they would be popped; the key is that order.
    pub(super) fn queued_elements(&self, kernel: &Kernel, limit: usize) -> Result<Vec<RawEntry>> {
        let queue = kernel.object("bpf_queue_stack", self.kva)?;
        let (head, tail) = (queue.uint("head")?, queue.uint("tail")?);
        let size = queue.uint("size")?;
        // One place stays empty, to tell a full ring from an empty one.
        if head >= size || tail >= size || size > u64::from(self.max_entries) + 1 {
            return Err(Error::Implausible {
                what: "position in a queue",
                value: head.max(tail),
            });
        }
        let first = queue.address_of("elements")?;
        let count = (head + size - tail) % size;
        let place = |number: u64| match self.map_type.as_str() {
            "stack" => (head + size - 1 - number) % size,
            _ => (tail + number) % size,
        };
        Ok((0..count)
            .take(limit)
            .map(|number| RawEntry {
                key: number.to_le_bytes().to_vec(),
                value: RawValue::One(
                    first.wrapping_add(place(number) * u64::from(self.value_size)),
                ),
            })
            .collect())
    }

    /// A trie's entries, shorter prefixes before the longer ones in them.
    pub(super) fn trie_elements(
        &self,
        kernel: &Kernel,
        limit: usize,
        problems: &mut Problems,
    ) -> Result<Vec<RawEntry>> {
        let trie = kernel.object("lpm_trie", self.kva)?;
        let size = trie.uint("data_size")?;
        if size > MAX_KEY {
            return Err(Error::Implausible {
                what: "size of a trie's keys",
                value: size,
            });
        }
        let mut open: Vec<Object<'_>> = trie.follow("root")?.into_iter().collect();
        let mut entries = Vec::new();
        let mut visited = 0;
        while let Some(node) = open.pop() {
            visited += 1;
            if visited > MAX_NODES {
                let limit = MAX_NODES;
                let error = Error::TooLong {
                    what: "the nodes of a trie",
                    limit,
                };
                problems.note("a trie", &error);
                break;
            }
            if entries.len() == limit {
                break;
            }
            for child in ["child[1]", "child[0]"] {
                let next = problems.need("a trie's node", node.pointer(child));
                if let Some(next) = next.filter(|next| !next.is_null()) {
                    open.push(Object::new(kernel, node.type_id(), next));
                }
            }
            entries.extend(
                problems
                    .need("a trie's node", trie_entry(&node, size))
                    .flatten(),
            );
        }
        Ok(entries)
    }

    /// Storage of programs attached to cgroups, by `struct bpf_cgroup_storage_key`.
    pub(super) fn cgroup_elements(
        &self,
        kernel: &Kernel,
        limit: usize,
        problems: &mut Problems,
    ) -> Result<Vec<RawEntry>> {
        let map = kernel.object("bpf_cgroup_storage_map", self.kva)?;
        let head = map.address_of("list")?;
        let is_per_cpu = self.map_type.starts_with("percpu");
        let data = kernel.field_of("bpf_storage_buffer", "data")?.offset;
        kernel
            .walk_list("cgroup storage", head, limit, problems)
            .into_iter()
            .map(|node| {
                let storage = kernel.container_of(node, "bpf_cgroup_storage", "list_map")?;
                let value = if is_per_cpu {
                    per_cpu(kernel, storage.pointer("percpu_buf")?, problems)
                } else {
                    RawValue::One(storage.pointer("buf")?.wrapping_add(data))
                };
                let mut key = storage.bytes("key")?;
                // The map may be keyed by the cgroup's id alone.
                key.truncate(self.key_size as usize);
                Ok(RawEntry { key, value })
            })
            .collect()
    }

    /// Why a map of this type shows no entries.
    pub(super) fn without_entries(&self) -> &'static str {
        match self.map_type.as_str() {
            "bloom_filter" => "a bloom filter keeps hashes of its values, not the values",
            "perf_event_array"
            | "cgroup_array"
            | "devmap"
            | "devmap_hash"
            | "cpumap"
            | "xskmap"
            | "sockmap"
            | "sockhash"
            | "reuseport_sockarray" => {
                "its elements are objects of the kernel's, which have no value that user space could read"
            }
            _ => "this code does not know maps of this type",
        }
    }
}

/// Key and value of a trie's node; none for one that only joins two others.
fn trie_entry(node: &Object<'_>, size: u64) -> Result<Option<RawEntry>> {
    if node.uint("flags")? & INTERMEDIATE != 0 {
        return Ok(None);
    }
    let data = node.address_of("data")?;
    let kernel = node.kernel();
    // struct bpf_lpm_trie_key: the prefix's length, then its bytes.
    let mut key = node.u32("prefixlen")?.to_le_bytes().to_vec();
    key.extend(kernel.read_bytes(data, size, crate::bytes::size(MAX_KEY))?);
    Ok(Some(RawEntry {
        key,
        value: RawValue::One(data.wrapping_add(size)),
    }))
}

/// What an element of a map of maps or programs refers to.
pub(super) fn reference(
    kernel: &Kernel,
    map_type: &str,
    element: Kva,
) -> Result<Option<Reference>> {
    let target = Kva(kernel.read_u64(element)?);
    if target.is_null() {
        return Ok(None);
    }
    let (what, id, name) = if map_type == "prog_array" {
        let aux = kernel.object("bpf_prog", target)?.follow_some("aux")?;
        ("program", aux.u32("id")?, aux.text("name")?)
    } else {
        let map = kernel.object("bpf_map", target)?;
        ("map", map.u32("id")?, map.text("name")?)
    };
    Ok(Some(Reference { what, id, name }))
}

/// A map or program that an element refers to.
pub(super) struct Reference {
    pub(super) what: &'static str,
    pub(super) id: u32,
    pub(super) name: String,
}
