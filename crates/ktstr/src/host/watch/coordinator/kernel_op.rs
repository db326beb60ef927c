//! Reads and writes of kernel memory by name, for a guest that asks.

use ktstr_monitor::btf::Kind;
use ktstr_monitor::{Kernel, Kva, Problems};
use ktstr_wire::{
    KernelOpDirection, KernelOpEntry, KernelOpMode, KernelOpRequest, KernelTarget, KernelValue,
    MAX_KERNEL_REPLY,
};

/// How many near names an error suggests.
const SUGGESTIONS: usize = 3;
/// Edits between a name and one that is near.
const NEAR: usize = 4;

/// Does the whole batch, or nothing: all targets are found before the first is touched.
pub(super) fn run(kernel: &Kernel, request: &KernelOpRequest) -> Result<Vec<KernelValue>, String> {
    check(request)?;
    let places: Vec<Kva> = request
        .entries
        .iter()
        .map(|entry| place(kernel, &entry.target))
        .collect::<Result<_, _>>()?;
    let entries = request.entries.iter().zip(places);
    match request.direction {
        KernelOpDirection::Read => entries
            .map(|(entry, kva)| read(kernel, kva, &entry.value))
            .collect(),
        KernelOpDirection::Write => {
            for (entry, kva) in entries {
                write(kernel, kva, &entry.value)?;
            }
            Ok(Vec::new())
        }
    }
}

fn check(request: &KernelOpRequest) -> Result<(), String> {
    let size = |entry: &KernelOpEntry| match &entry.value {
        KernelValue::U32(_) | KernelValue::OrU32(_) => 4,
        KernelValue::U64(_) => 8,
        KernelValue::Bytes(bytes) => bytes.len(),
    };
    let bytes: usize = request.entries.iter().map(size).sum();
    if bytes > MAX_KERNEL_REPLY {
        return Err(format!(
            "{bytes} bytes asked for, at most {MAX_KERNEL_REPLY} are possible"
        ));
    }
    let sets_bits = |entry: &KernelOpEntry| matches!(entry.value, KernelValue::OrU32(_));
    let writes = request.direction == KernelOpDirection::Write;
    if request.entries.iter().any(sets_bits) && !(writes && request.mode == KernelOpMode::Cold) {
        return Err(String::from(
            "setting bits is possible in cold writes only: a running guest may change the others",
        ));
    }
    Ok(())
}

fn read(kernel: &Kernel, kva: Kva, wanted: &KernelValue) -> Result<KernelValue, String> {
    let failed = |error: ktstr_monitor::Error| error.to_string();
    Ok(match wanted {
        KernelValue::U32(_) | KernelValue::OrU32(_) => {
            KernelValue::U32(kernel.read_u32(kva).map_err(failed)?)
        }
        KernelValue::U64(_) => KernelValue::U64(kernel.read_u64(kva).map_err(failed)?),
        KernelValue::Bytes(bytes) => {
            let mut buffer = vec![0; bytes.len()];
            kernel.read(kva, &mut buffer).map_err(failed)?;
            KernelValue::Bytes(buffer)
        }
    })
}

fn write(kernel: &Kernel, kva: Kva, value: &KernelValue) -> Result<(), String> {
    let written = match value {
        KernelValue::U32(value) => kernel.write(kva, &value.to_le_bytes()),
        KernelValue::U64(value) => kernel.write(kva, &value.to_le_bytes()),
        KernelValue::Bytes(bytes) => kernel.write(kva, bytes),
        KernelValue::OrU32(bits) => kernel
            .read_u32(kva)
            .and_then(|value| kernel.write(kva, &(value | bits).to_le_bytes())),
    };
    written.map_err(|error| error.to_string())
}

fn place(kernel: &Kernel, target: &KernelTarget) -> Result<Kva, String> {
    match target {
        KernelTarget::Symbol(name) => symbol(kernel, name),
        KernelTarget::Kva(kva) => Ok(Kva(*kva)),
        KernelTarget::Direct(gpa) => Ok(kernel.page_offset().wrapping_add(*gpa)),
        KernelTarget::PerCpuField {
            symbol: name,
            field,
            cpu,
        } => {
            symbol(kernel, name)?;
            let base = kernel
                .per_cpu_symbol(name, *cpu)
                .map_err(|error| error.to_string())?;
            let variable = kernel.btf().find(name, Kind::Var);
            let ty = variable.and_then(|variable| variable.target());
            let ty = ty.ok_or_else(|| format!("BTF has no per-CPU variable '{name}'"))?;
            offset(kernel, ty, field, name).map(|offset| base.wrapping_add(offset))
        }
        KernelTarget::TaskField {
            pid,
            start_time_ns,
            field,
        } => {
            let (kva, ty) = task(kernel, *pid, *start_time_ns)?;
            offset(kernel, ty, field, "task_struct").map(|offset| kva.wrapping_add(offset))
        }
    }
}

fn offset(
    kernel: &Kernel,
    ty: ktstr_monitor::btf::TypeId,
    path: &str,
    owner: &str,
) -> Result<u64, String> {
    if path.is_empty() {
        return Ok(0);
    }
    let field = kernel.btf().member(ty, path);
    field
        .map(|field| field.offset)
        .ok_or_else(|| format!("'{owner}' has no field '{path}'"))
}

/// The thread of that id, if it is still the one that was meant: ids are used again.
fn task(
    kernel: &Kernel,
    pid: i32,
    start_time_ns: u64,
) -> Result<(Kva, ktstr_monitor::btf::TypeId), String> {
    let failed = |error: ktstr_monitor::Error| error.to_string();
    let mut problems = Problems::new();
    for kva in kernel.threads(&mut problems).map_err(failed)? {
        let task = kernel.object("task_struct", kva).map_err(failed)?;
        if task.i32("pid").ok() != Some(pid) {
            continue;
        }
        let started = task.uint("start_time").map_err(failed)?;
        if started != start_time_ns {
            return Err(format!(
                "thread {pid} started at {started} ns, not at {start_time_ns} ns: its id was used again"
            ));
        }
        return Ok((kva, task.type_id()));
    }
    Err(format!("there is no thread {pid}"))
}

/// A symbol by its exact name; an error suggests near ones.
pub(super) fn symbol(kernel: &Kernel, name: &str) -> Result<Kva, String> {
    if let Ok(kva) = kernel.symbol(name) {
        return Ok(kva);
    }
    let names = kernel.symbols().iter().map(|(_, name, _)| name);
    let near = near_names(name, names);
    Err(if near.is_empty() {
        format!("this kernel has no symbol '{name}'")
    } else {
        format!(
            "this kernel has no symbol '{name}'; near: {}",
            near.join(", ")
        )
    })
}

fn near_names<'n>(name: &str, names: impl Iterator<Item = &'n str>) -> Vec<&'n str> {
    let close = |other: &&str| other.len().abs_diff(name.len()) <= NEAR;
    let mut near: Vec<(usize, &str)> = names
        .filter(close)
        .map(|other| (strsim::levenshtein(name, other), other))
        .filter(|(distance, _)| *distance <= NEAR && *distance < name.len())
        .collect();
    near.sort_unstable();
    near.dedup();
    let near = near.into_iter().take(SUGGESTIONS);
    near.map(|(_, name)| name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(
        value: KernelValue,
        direction: KernelOpDirection,
        mode: KernelOpMode,
    ) -> KernelOpRequest {
        KernelOpRequest {
            id: 1,
            mode,
            direction,
            tag: "t".into(),
            entries: vec![KernelOpEntry {
                target: KernelTarget::Kva(1),
                value,
            }],
        }
    }

    #[test]
    fn the_nearest_names_come_first() {
        let names = [
            "jiffies",
            "jiffies_64",
            "jiffy",
            "panic_on_oops",
            "panic_on_warn",
        ];
        assert_eq!(
            near_names("jiffes", names.into_iter()),
            ["jiffies", "jiffy", "jiffies_64"]
        );
        assert_eq!(
            near_names("panic_on_ops", names.into_iter()).first(),
            Some(&"panic_on_oops")
        );
        assert!(near_names("zz", names.into_iter()).is_empty());
    }

    #[test]
    fn bits_are_set_in_cold_writes_only() {
        let cold = request(
            KernelValue::OrU32(1),
            KernelOpDirection::Write,
            KernelOpMode::Cold,
        );
        assert_eq!(check(&cold), Ok(()));
        for (direction, mode) in [
            (KernelOpDirection::Write, KernelOpMode::Hot),
            (KernelOpDirection::Read, KernelOpMode::Cold),
        ] {
            check(&request(KernelValue::OrU32(1), direction, mode)).unwrap_err();
        }
        let huge = KernelValue::Bytes(vec![0; MAX_KERNEL_REPLY + 1]);
        let huge = check(&request(huge, KernelOpDirection::Read, KernelOpMode::Hot)).unwrap_err();
        assert!(
            huge.contains("1048577") && huge.contains("1048576"),
            "{huge}"
        );
    }
}
