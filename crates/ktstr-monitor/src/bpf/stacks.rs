//! Maps of stack traces (kernel/bpf/stackmap.c): a program keeps a trace's number, the map has its addresses.

use super::contents::{MapEntry, MapValue};
use super::elements::MAX_VALUE;
use super::{BpfMap, BpfSymbol};
use crate::render::{Decoder, Limits, RenderedValue};
use crate::{Error, Kernel, Kva, Object, Result, bytes};

/// Bytes of a map's table of pointers that are read.
const MAX_TABLE: usize = 16 << 20;
/// `BPF_F_STACK_BUILD_ID` (include/uapi/linux/bpf.h): frames are places in files, not addresses.
const BUILD_ID: u64 = 1 << 5;
/// `sizeof(struct bpf_stack_build_id)`.
const BUILD_ID_SIZE: u32 = 32;

impl BpfMap {
    /// Traces by number, each with its innermost frame first.
    pub(super) fn stacks(
        &self,
        kernel: &Kernel,
        limit: usize,
        limits: Limits,
    ) -> Result<Vec<MapEntry>> {
        let map = kernel.object("bpf_stack_map", self.kva)?;
        let count = map.uint("n_buckets")?;
        let table = kernel.read_bytes(
            map.address_of("buckets")?,
            count.saturating_mul(8),
            MAX_TABLE,
        )?;
        let code = kernel.bpf_symbols().found;
        let mut entries = Vec::new();
        for (number, pointer) in (0_u64..).zip(table.chunks_exact(8)) {
            let bucket = Kva(bytes::uint(pointer));
            if bucket.is_null() {
                continue;
            }
            if entries.len() == limit {
                break;
            }
            let frames = kernel
                .object("stack_map_bucket", bucket)
                .and_then(|bucket| self.frames(&bucket, &code, limits));
            let value = match frames {
                Ok(elements) => RenderedValue::Array {
                    elements,
                    omitted: 0,
                },
                Err(error) => RenderedValue::Unreadable(error.to_string()),
            };
            entries.push(MapEntry {
                key: RenderedValue::Unsigned(number),
                value: MapValue::Value(value),
            });
        }
        Ok(entries)
    }

    fn frames(
        &self,
        bucket: &Object<'_>,
        code: &[BpfSymbol],
        limits: Limits,
    ) -> Result<Vec<RenderedValue>> {
        let kernel = bucket.kernel();
        let is_in_files = self.flags & BUILD_ID != 0;
        let size = if is_in_files { BUILD_ID_SIZE } else { 8 };
        let count = bucket.u32("nr")?;
        if count > self.value_size / size {
            return Err(Error::Implausible {
                what: "number of frames in a stack trace",
                value: count.into(),
            });
        }
        let raw = kernel.read_bytes(
            bucket.address_of("data")?,
            u64::from(count) * u64::from(size),
            MAX_VALUE,
        )?;
        let frames = raw.chunks_exact(size as usize);
        if is_in_files {
            let btf = kernel.btf();
            let ty = btf
                .find_struct("bpf_stack_build_id")
                .ok_or_else(|| Error::NoType {
                    name: "struct bpf_stack_build_id".to_owned(),
                })?;
            let decoder = Decoder::new(btf, limits);
            return Ok(frames.map(|frame| decoder.decode(ty.id(), frame)).collect());
        }
        Ok(frames
            .map(|frame| pointer_to_code(kernel, code, Kva(bytes::uint(frame))))
            .collect())
    }
}

/// A return address with the function that it lies in; user space's have none.
fn pointer_to_code(kernel: &Kernel, code: &[BpfSymbol], at: Kva) -> RenderedValue {
    let of_program = || {
        let symbol = code
            .iter()
            .find(|symbol| (symbol.start..symbol.end).contains(&at))?;
        Some((symbol.name.as_str(), at.0 - symbol.start.0))
    };
    let target = kernel
        .symbolize(at)
        .or_else(of_program)
        .map(|(name, offset)| format!("{name}+{offset:#x}"));
    RenderedValue::Pointer {
        address: at.0,
        target,
        pointee: None,
    }
}
