//! A map's contents, rendered by the BTF it was made with.

use serde::Serialize;

use super::other::reference;
use super::reader::Reader;
use super::{Arena, BpfMap, RawEntry, RawValue};
use crate::btf::{Btf, TypeId};
use crate::render::{Limits, RenderedValue};
use crate::{Error, Kernel, Kva, Problems, Result, Walk, bytes};

/// Bytes of values that are read of one map at most.
const MAX_MAP_BYTES: usize = 16 << 20;

/// What a map holds.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum MapContents {
    /// Keys and values.
    Entries(Vec<MapEntry>),
    /// The variables of a `.bss`, `.data` or `.rodata` section.
    Section(RenderedValue),
    /// A ring buffer's positions.
    RingBuf(RingBuf),
    /// An arena's pages.
    Arena(Arena),
    /// A `struct_ops` and its state.
    StructOps(StructOps),
    /// Nothing that this code can read.
    Unsupported(String),
}

/// A key and its value.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MapEntry {
    /// The key; for task storage the task.
    pub key: RenderedValue,
    /// The value.
    #[serde(flatten)]
    pub value: MapValue,
}

/// One value, or one per CPU.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum MapValue {
    /// In one place.
    Value(RenderedValue),
    /// Per CPU, by number.
    PerCpu(Vec<(u32, RenderedValue)>),
}

/// Positions of a ring buffer, bytes since its creation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct RingBuf {
    /// Up to here it was read.
    pub consumer_pos: u64,
    /// Up to here it was written or reserved.
    pub producer_pos: u64,
    /// Capacity in bytes.
    pub size: u64,
}

/// A registered or registering `struct_ops`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StructOps {
    /// `enum bpf_struct_ops_state` without prefix: init, inuse, tobefree, ready.
    pub state: String,
    /// The kernel's copy of the operations.
    pub value: RenderedValue,
}

impl BpfMap {
    /// The contents, at most `entries` of them.
    #[must_use]
    pub fn contents(&self, kernel: &Kernel, entries: usize, limits: Limits) -> Walk<MapContents> {
        let mut problems = Problems::new();
        let reader = Reader::new(kernel, self);
        let contents = match self.map_type.as_str() {
            "ringbuf" | "user_ringbuf" => self.ringbuf(kernel).map(MapContents::RingBuf),
            "arena" => self.arena(kernel).map(MapContents::Arena),
            "struct_ops" => self.struct_ops(&reader, limits).map(MapContents::StructOps),
            "stack_trace" => self
                .stacks(kernel, self.affordable(entries, 1), limits)
                .map(MapContents::Entries),
            _ => self.entries(&reader, entries, limits, &mut problems),
        };
        let found = contents.unwrap_or_else(|error| {
            if !matches!(error, Error::Unsupported { .. }) {
                problems.note(&format!("map {}", self.name), &error);
            }
            MapContents::Unsupported(error.to_string())
        });
        Walk { found, problems }
    }

    fn ringbuf(&self, kernel: &Kernel) -> Result<RingBuf> {
        let ring = kernel
            .object("bpf_ringbuf_map", self.kva)?
            .follow_some("rb")?;
        Ok(RingBuf {
            consumer_pos: ring.uint("consumer_pos")?,
            producer_pos: ring.uint("producer_pos")?,
            size: ring.uint("mask")?.wrapping_add(1),
        })
    }

    fn struct_ops(&self, reader: &Reader<'_>, limits: Limits) -> Result<StructOps> {
        let kernel = reader.kernel;
        let map = kernel.object("bpf_struct_ops_map", self.kva)?;
        let state = map
            .uint("kvalue.common.state")
            .or_else(|_| map.uint("kvalue.state"))?;
        let at = map.address_of("kvalue")?;
        let raw = self.read_value(kernel, at)?;
        // The wrapper's last member is the operations themselves.
        let btf = kernel.btf();
        let field = btf
            .member(self.vmlinux_value_type, "data")
            .ok_or_else(|| Error::NoType {
                name: format!("of the struct_ops value of map {}", self.name),
            })?;
        let data = raw.get(bytes::size(field.offset)..).unwrap_or_default();
        Ok(StructOps {
            state: kernel.lower_name("bpf_struct_ops_state", "BPF_STRUCT_OPS_STATE_", state),
            value: reader.render(btf, field.ty, data, limits),
        })
    }

    fn entries(
        &self,
        reader: &Reader<'_>,
        limit: usize,
        limits: Limits,
        problems: &mut Problems,
    ) -> Result<MapContents> {
        let kernel = reader.kernel;
        let btf = match self.btf {
            Some(kva) => problems.need("a map's BTF", kernel.btf_at(kva)),
            None => None,
        };
        let btf = btf.as_deref();
        if let Some(btf) = btf.filter(|btf| self.is_section(btf)) {
            let RawValue::One(at) = self.array_element(kernel, 0, problems)? else {
                return Err(Error::Unsupported {
                    what: format!("map {}", self.name),
                    why: "a section per CPU".to_owned(),
                });
            };
            return Ok(MapContents::Section(reader.section(btf, at, limits)));
        }
        let copies = if self.map_type.contains("percpu") {
            kernel.possible_cpus()?.len()
        } else {
            1
        };
        let raw = self.raw_entries(kernel, self.affordable(limit, copies), problems)?;
        let limits = Limits {
            values: (limits.values / raw.len().max(1)).max(64),
            ..limits
        };
        let entries = raw
            .into_iter()
            .filter_map(|entry| self.entry(reader, btf, &entry, limits))
            .collect();
        Ok(MapContents::Entries(entries))
    }

    /// However many CPUs and bytes the map claims, a bounded amount is read, and decoded.
    fn affordable(&self, limit: usize, copies: usize) -> usize {
        let size = (self.value_size as usize)
            .max(1)
            .saturating_mul(copies.max(1));
        limit.min((MAX_MAP_BYTES / size).max(1))
    }

    fn is_section(&self, btf: &Btf) -> bool {
        self.max_entries == 1
            && self.map_type == "array"
            && btf
                .ty(self.value_type)
                .is_some_and(|ty| ty.kind() == crate::btf::Kind::DataSec)
    }

    fn entry(
        &self,
        reader: &Reader<'_>,
        btf: Option<&Btf>,
        entry: &RawEntry,
        limits: Limits,
    ) -> Option<MapEntry> {
        let kernel = reader.kernel;
        let value = |at: Kva| match self.read_value(kernel, at) {
            Ok(raw) => self.typed(reader, btf, self.value_type, raw, limits),
            Err(error) => RenderedValue::Unreadable(error.to_string()),
        };
        let key = match self.map_type.as_str() {
            "task_storage" | "inode_storage" | "sk_storage" | "cgrp_storage" => {
                owner(kernel, &self.map_type, &entry.key)
            }
            "queue" | "stack" => RenderedValue::Unsigned(bytes::uint(&entry.key)),
            _ => self.typed(reader, btf, self.key_type, entry.key.clone(), limits),
        };
        let value = match &entry.value {
            RawValue::One(at) if self.holds_references() => {
                MapValue::Value(self.referred(kernel, *at)?)
            }
            RawValue::One(at) => MapValue::Value(value(*at)),
            RawValue::PerCpu(places) => {
                MapValue::PerCpu(places.iter().map(|&(cpu, at)| (cpu, value(at))).collect())
            }
        };
        Some(MapEntry { key, value })
    }

    /// Whether elements are pointers to maps or programs, which user space knows by their ids.
    fn holds_references(&self) -> bool {
        matches!(
            self.map_type.as_str(),
            "array_of_maps" | "hash_of_maps" | "prog_array"
        )
    }

    /// The map or program in an element; none in an empty slot.
    fn referred(&self, kernel: &Kernel, at: Kva) -> Option<RenderedValue> {
        let reference = match reference(kernel, &self.map_type, at) {
            Ok(reference) => reference?,
            Err(error) => return Some(RenderedValue::Unreadable(error.to_string())),
        };
        Some(RenderedValue::Struct {
            type_name: reference.what.to_owned(),
            members: vec![
                (
                    "id".to_owned(),
                    RenderedValue::Unsigned(reference.id.into()),
                ),
                ("name".to_owned(), RenderedValue::Text(reference.name)),
            ],
        })
    }

    fn typed(
        &self,
        reader: &Reader<'_>,
        btf: Option<&Btf>,
        ty: TypeId,
        raw: Vec<u8>,
        limits: Limits,
    ) -> RenderedValue {
        match btf {
            Some(btf) if ty.0 != 0 => reader.render(btf, ty, &raw, limits),
            // An array's index needs no type.
            _ if self.map_type.ends_with("array") && raw.len() == 4 => {
                RenderedValue::Unsigned(bytes::uint(&raw))
            }
            _ => RenderedValue::Bytes(raw),
        }
    }
}

/// Storage belongs to a task or cgroup; of other owners only the address is known.
fn owner(kernel: &Kernel, map_type: &str, key: &[u8]) -> RenderedValue {
    let address = bytes::uint(key);
    let known = match map_type {
        "task_storage" => task_owner(kernel, Kva(address)),
        "cgrp_storage" => cgroup_owner(kernel, Kva(address)),
        _ => None,
    };
    known.unwrap_or(RenderedValue::Pointer {
        address,
        target: None,
        pointee: None,
    })
}

fn task_owner(kernel: &Kernel, kva: Kva) -> Option<RenderedValue> {
    let task = kernel.object("task_struct", kva).ok()?;
    let (pid, comm) = (task.i32("pid").ok()?, task.text("comm").ok()?);
    Some(RenderedValue::Struct {
        type_name: "task".to_owned(),
        members: vec![
            ("pid".to_owned(), RenderedValue::Signed(pid.into())),
            ("comm".to_owned(), RenderedValue::Text(comm)),
        ],
    })
}

fn cgroup_owner(kernel: &Kernel, kva: Kva) -> Option<RenderedValue> {
    let path = kernel
        .cgroup_path(&kernel.object("cgroup", kva).ok()?)
        .ok()?;
    Some(RenderedValue::Struct {
        type_name: "cgroup".to_owned(),
        members: vec![("path".to_owned(), RenderedValue::Text(path))],
    })
}
