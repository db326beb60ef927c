//! `struct bpf_map`: what every map has.

use serde::Serialize;

use crate::btf::TypeId;
use crate::{Kernel, Kva, Object, Problems, Result, Walk};

/// More maps than a machine under test has.
const MAX_MAPS: usize = 4096;

/// A map, without its contents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BpfMap {
    /// Its id.
    pub id: u32,
    /// Its name, up to 15 bytes.
    pub name: String,
    /// Its type as bpftool calls it (`hash`, `percpu_array`, …).
    #[serde(rename = "type")]
    pub map_type: String,
    /// Bytes of a key.
    pub key_size: u32,
    /// Bytes of a value.
    pub value_size: u32,
    /// Capacity.
    pub max_entries: u32,
    /// `BPF_F_*` flags.
    pub flags: u64,
    /// Whether user space can no longer write it.
    pub frozen: bool,
    /// Address of its `struct bpf_map`.
    pub kva: Kva,
    /// The `struct btf` it was made with.
    #[serde(skip)]
    pub btf: Option<Kva>,
    /// Type of a key in that BTF.
    #[serde(skip)]
    pub key_type: TypeId,
    /// Type of a value in that BTF.
    #[serde(skip)]
    pub value_type: TypeId,
    /// Type of a `struct_ops` value in the kernel's BTF.
    #[serde(skip)]
    pub vmlinux_value_type: TypeId,
}

impl Kernel {
    /// All maps, by id.
    #[must_use]
    pub fn maps(&self) -> Walk<Vec<BpfMap>> {
        let mut problems = Problems::new();
        let entries = self
            .symbol("map_idr")
            .and_then(|idr| self.walk_idr("the map registry", idr, MAX_MAPS, &mut problems));
        let found = problems
            .keep("the map registry", entries)
            .unwrap_or_default()
            .into_iter()
            .filter_map(|(id, kva)| {
                let map = self.object("bpf_map", kva).and_then(|map| self.map(&map));
                problems.need(&format!("map {id}"), map)
            })
            .collect();
        Walk { found, problems }
    }

    fn map(&self, map: &Object<'_>) -> Result<BpfMap> {
        let ty = |path| map.u32(path).map(TypeId).unwrap_or_default();
        let btf = map.pointer("btf").unwrap_or_default();
        Ok(BpfMap {
            id: map.u32("id")?,
            name: map.text("name")?,
            map_type: self.lower_name("bpf_map_type", "BPF_MAP_TYPE_", map.uint("map_type")?),
            key_size: map.u32("key_size")?,
            value_size: map.u32("value_size")?,
            max_entries: map.u32("max_entries")?,
            flags: map.uint("map_flags")?,
            frozen: map.uint("frozen")? & 1 != 0,
            kva: map.kva(),
            btf: (!btf.is_null()).then_some(btf),
            key_type: ty("btf_key_type_id"),
            value_type: ty("btf_value_type_id"),
            vmlinux_value_type: ty("btf_vmlinux_value_type_id"),
        })
    }
}
