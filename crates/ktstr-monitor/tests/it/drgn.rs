//! The referee: drgn reads the same dump and must agree.
//!
//! drgn wants DWARF, which installed kernels leave behind; where vmlinux has none, `guest/btf_types.py` gives it the types
//! from BTF with a parser of its own, so that the comparison is made with every kernel.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use ktstr_monitor::bpf::{BpfMap, BpfProgram, RawValue};
use ktstr_monitor::sched::{DispatchQueue, QueuedTask, Runqueue, SchedDomain, Task};
use ktstr_monitor::{Kernel, Kva, LogRecord, Problems};
use serde_json::{Value, json};

use crate::lab::{lab, scratch};
use crate::qemu::vmlinux;

/// The interpreter of the Python environment with drgn.
fn drgn() -> PathBuf {
    let exe = std::env::current_exe().unwrap();
    let target = exe.ancestors().nth(3).unwrap();
    let python = target.join("tools/drgn/bin/python");
    assert!(
        python.is_file(),
        "{} is missing; `cargo xtask setup --checks` installs it",
        python.display()
    );
    python
}

fn referee(vmlinux: &Path) -> Value {
    let lab = lab();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/guest/referee.py");
    let out = scratch("drgn").join("out.json");
    let output = Command::new(drgn())
        .arg(script)
        .arg(&lab.vmcore)
        .arg(vmlinux)
        // QEMU's dump lacks the note that drgn starts from; the kernel keeps it in memory.
        .arg(lab.vmcore.with_file_name("vmcoreinfo"))
        .arg(&out)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "drgn: {text}");
    serde_json::from_slice(&std::fs::read(out).unwrap()).unwrap()
}

fn runqueues(kernel: &Kernel) -> Value {
    let queue = |rq: &Runqueue| {
        let scx = rq.scx.as_ref().unwrap();
        json!({
            "cpu": rq.cpu, "nr_running": rq.nr_running, "clock": rq.clock, "nr_switches": rq.nr_switches,
            "curr": rq.curr.as_ref().unwrap().pid, "scx_nr_running": scx.nr_running,
            "local_dsq": scx.local_dsq_depth, "scx_flags": scx.flags,
        })
    };
    kernel.runqueues().found.iter().map(queue).collect()
}

fn domains(kernel: &Kernel) -> Value {
    let domain = |sd: &SchedDomain| {
        json!({
            "cpu": sd.cpu, "depth": sd.depth, "name": sd.name, "level": sd.level, "flags": sd.flags, "span": sd.span,
            "imbalance_pct": sd.imbalance_pct, "balance_interval": sd.balance_interval,
        })
    };
    kernel.sched_domains().found.iter().map(domain).collect()
}

fn dsqs(kernel: &Kernel) -> Value {
    let queued = |task: &QueuedTask| json!([task.task.pid, task.dsq_vtime, task.slice]);
    let dsq = |dsq: &DispatchQueue| {
        let tasks: Vec<Value> = dsq.tasks.iter().map(queued).collect();
        json!({ "kind": dsq.kind, "id": dsq.id, "nr": dsq.nr, "tasks": tasks })
    };
    kernel.dispatch_queues().found.iter().map(dsq).collect()
}

fn tasks(kernel: &Kernel) -> Value {
    let task = |task: &Task| {
        let scx = task.scx.as_ref().unwrap();
        let value = json!({
            "comm": task.comm, "state": task.state, "cpu": task.cpu, "tgid": task.tgid, "cgroup": task.cgroup,
            "runtime": task.sum_exec_runtime, "prio": task.prio, "policy": task.policy, "on_cpu": task.on_cpu,
            "on_rq": task.on_rq, "scx_weight": scx.weight, "scx_slice": scx.slice, "scx_flags": scx.flags,
            "scx_ops_state": scx.ops_state, "scx_dsq": scx.dsq_id,
        });
        (task.pid.to_string(), value)
    };
    kernel.tasks().found.iter().map(task).collect()
}

fn maps(kernel: &Kernel) -> Value {
    let map = |map: &BpfMap| {
        let value = json!({ "name": map.name, "type": map.map_type, "kva": map.kva.0 });
        (map.id.to_string(), value)
    };
    kernel.maps().found.iter().map(map).collect()
}

/// Raw values by map and key, hex; of a per-CPU map one after the other.
fn values(kernel: &Kernel) -> Value {
    let hex = |raw: &[u8]| -> String { raw.iter().map(|byte| format!("{byte:02x}")).collect() };
    let value = |map: &BpfMap, at: Kva| {
        let mut raw = vec![0; map.value_size.try_into().unwrap()];
        kernel.read(at, &mut raw).unwrap();
        hex(&raw)
    };
    let mut found = BTreeMap::new();
    for map in kernel.maps().found {
        // Their elements are the kernel's pointers, which user space never sees.
        if ["array_of_maps", "hash_of_maps", "prog_array"].contains(&&*map.map_type) {
            continue;
        }
        let mut problems = Problems::new();
        let Ok(entries) = map.raw_entries(kernel, 1 << 20, &mut problems) else {
            continue;
        };
        assert!(problems.is_empty(), "{}: {problems:?}", map.name);
        let entries: BTreeMap<String, String> = entries
            .iter()
            .map(|entry| {
                let values = match &entry.value {
                    RawValue::One(at) => value(&map, *at),
                    RawValue::PerCpu(places) => {
                        places.iter().map(|&(_, at)| value(&map, at)).collect()
                    }
                };
                (hex(&entry.key), values)
            })
            .collect();
        found.insert(map.id.to_string(), entries);
    }
    json!(found)
}

/// drgn knows the kernel's own names, which are cut.
fn programs(kernel: &Kernel) -> Value {
    let program = |program: &BpfProgram| {
        let name: String = program.name.chars().take(15).collect();
        let value = json!({
            "name": name, "tag": program.tag, "jited": program.jited_len, "verified": program.verified_insns,
        });
        (program.id.to_string(), value)
    };
    kernel.programs().found.iter().map(program).collect()
}

fn log(kernel: &Kernel) -> Value {
    let record =
        |record: &LogRecord| json!([record.seq, record.ts_nsec, record.level, record.text]);
    kernel.dmesg().found.records.iter().map(record).collect()
}

#[test]
fn drgn_reads_the_same() {
    let Some(vmlinux) = vmlinux() else { return };
    let theirs = referee(&vmlinux);
    let kernel = &lab().kernel;
    let ours = [
        ("runqueues", runqueues(kernel)),
        ("domains", domains(kernel)),
        ("dsqs", dsqs(kernel)),
        ("tasks", tasks(kernel)),
        ("maps", maps(kernel)),
        ("values", values(kernel)),
        ("programs", programs(kernel)),
        ("log", log(kernel)),
    ];
    for (section, ours) in &ours {
        let count = ours
            .as_array()
            .map_or_else(|| ours.as_object().unwrap().len(), Vec::len);
        assert!(count >= 4, "{section}: {ours}");
        assert_eq!(ours, &theirs[section], "{section}");
    }
}
