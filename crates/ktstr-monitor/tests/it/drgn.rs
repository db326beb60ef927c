//! The referee: drgn reads the same dump and must agree.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use ktstr_monitor::bpf::{MapContents, MapValue};
use ktstr_monitor::render::{Limits, RenderedValue};
use serde_json::{Value, json};

use crate::lab::{lab, scratch};
use crate::qemu::kernel;

/// The interpreter of a virtual environment that has drgn, made once per build directory.
fn drgn() -> PathBuf {
    let exe = std::env::current_exe().unwrap();
    let venv = exe.ancestors().nth(2).unwrap().join("ktstr-monitor-drgn");
    let python = venv.join("bin/python");
    if venv.join("bin/drgn").is_file() {
        return python;
    }
    let run = |command: &mut Command| {
        let output = command
            .output()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{command:?}: {text}");
    };
    run(Command::new("python3").args(["-m", "venv"]).arg(&venv));
    run(Command::new(venv.join("bin/pip")).args(["install", "-q", "drgn==0.3.0"]));
    python
}

fn referee() -> Value {
    let lab = lab();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/guest/referee.py");
    let out = scratch("drgn").join("out.json");
    // QEMU's dump lacks the note that drgn starts from; the kernel keeps it in memory.
    let note = out.with_file_name("vmcoreinfo");
    std::fs::write(&note, lab.kernel.vmcoreinfo().unwrap()).unwrap();
    let output = Command::new(drgn())
        .arg(script)
        .arg(&lab.vmcore)
        .arg(kernel().1)
        .args([&note, &out])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "drgn: {text}");
    serde_json::from_slice(&std::fs::read(out).unwrap()).unwrap()
}

fn ours() -> Value {
    let kernel = &lab().kernel;
    let runqueues: Vec<Value> = kernel
        .runqueues()
        .found
        .iter()
        .map(|rq| {
            let scx = rq.scx.as_ref().unwrap();
            json!({
                "cpu": rq.cpu, "nr_running": rq.nr_running, "clock": rq.clock, "nr_switches": rq.nr_switches,
                "curr": rq.curr.as_ref().unwrap().pid, "scx_nr_running": scx.nr_running,
                "local_dsq": scx.local_dsq_depth, "scx_flags": scx.flags,
            })
        })
        .collect();
    let tasks: BTreeMap<String, Value> = kernel
        .tasks()
        .found
        .iter()
        .map(|task| {
            let value = json!({
                "comm": task.comm, "state": task.state, "cpu": task.cpu, "tgid": task.tgid, "cgroup": task.cgroup,
                "runtime": task.sum_exec_runtime,
            });
            (task.pid.to_string(), value)
        })
        .collect();
    let maps: BTreeMap<String, Value> = kernel
        .maps()
        .found
        .iter()
        .map(|map| {
            (
                map.id.to_string(),
                json!({ "name": map.name, "type": map.map_type, "kva": map.kva.0 }),
            )
        })
        .collect();
    let log: Vec<Value> = kernel
        .dmesg()
        .found
        .records
        .iter()
        .map(|record| json!([record.seq, record.ts_nsec, record.level, record.text]))
        .collect();
    json!({ "runqueues": runqueues, "tasks": tasks, "maps": maps, "array": array(), "log": log })
}

/// Values of the plain array, hex.
fn array() -> Vec<String> {
    let kernel = &lab().kernel;
    let maps = kernel.maps().found;
    let map = maps.iter().find(|map| map.name == "t_array").unwrap();
    let MapContents::Entries(entries) = map.contents(kernel, 100, Limits::default()).found else {
        panic!("t_array has no entries");
    };
    entries
        .iter()
        .map(|entry| match &entry.value {
            MapValue::Value(RenderedValue::Bytes(raw)) => {
                raw.iter().map(|byte| format!("{byte:02x}")).collect()
            }
            other => panic!("{other:?}"),
        })
        .collect()
}

/// drgn knows types by debug information alone, which installed kernels leave behind.
fn has_debug_info(vmlinux: &Path) -> bool {
    let bytes = std::fs::read(vmlinux).unwrap();
    memchr::memmem::find(&bytes, b"\0.debug_info\0").is_some()
}

#[test]
fn drgn_reads_the_same() {
    let vmlinux = kernel().1;
    if !has_debug_info(&vmlinux) {
        eprintln!(
            "ktstr: SKIP: {} has no debug information for drgn; set KTSTR_TEST_KERNEL to a build tree",
            vmlinux.display()
        );
        return;
    }
    let (theirs, ours) = (referee(), ours());
    for section in ["runqueues", "tasks", "maps", "array", "log"] {
        assert_eq!(ours[section], theirs[section], "{section}");
    }
    assert!(ours["tasks"].as_object().unwrap().len() > 40);
}
