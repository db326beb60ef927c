//! The whole dump of a healthy guest.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Instant;

use ktstr_monitor::{DUMP_SCHEMA, DumpOptions, FailureDumpReport, VcpuRegisters};

use crate::lab::lab;

#[test]
fn every_section_is_there_and_nothing_went_wrong() {
    let kernel = &lab().kernel;
    let registers = [VcpuRegisters {
        vcpu: 1,
        rip: kernel.symbol("schedule").unwrap().0 + 5,
        ..VcpuRegisters::default()
    }];
    let report = FailureDumpReport::capture(kernel, &registers, &DumpOptions::default());
    assert!(report.problems.is_empty(), "{:?}", report.problems);
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["schema"], DUMP_SCHEMA);
    assert_eq!(json["is_placeholder"], false);
    assert_eq!(json["vcpus"][0]["symbol"], "schedule+0x5");
    assert!(json["vcpus"][0]["task"].is_string());
    assert_eq!(json["scx"]["ops_name"], "fixture");
    for section in [
        "runqueues",
        "tasks",
        "maps",
        "programs",
        "dispatch_queues",
        "sched_domains",
        "log",
    ] {
        assert!(!json[section].as_array().unwrap().is_empty(), "{section}");
    }
    let bss = json["maps"]
        .as_array()
        .unwrap()
        .iter()
        .find(|map| map["name"].as_str().unwrap().ends_with(".bss"))
        .unwrap();
    assert!(
        bss["contents"]["section"]["stats"]["enqueued"]
            .as_u64()
            .unwrap()
            > 0,
        "{bss}"
    );
}

/// What this kernel lacks of all that readers look for. A name that is not listed was renamed, or moved: its column is
/// empty from then on, and nothing else would say so.
#[test]
fn nothing_is_absent_but_what_is_known_to_be() {
    let kernel = &lab().kernel;
    let name = match kernel.btf().find_struct("scx_sched") {
        Some(_) => "absent-7.3.txt",
        None => "absent-6.12.txt",
    };
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    let list = std::fs::read_to_string(data.join(name)).unwrap();
    let known: BTreeSet<&str> = list
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .collect();
    let report = FailureDumpReport::capture(kernel, &[], &DumpOptions::default());
    let unknown: Vec<&String> = report
        .absent
        .iter()
        .filter(|name| !known.contains(name.as_str()))
        .collect();
    assert!(unknown.is_empty(), "{unknown:#?}");
}

#[test]
fn without_time_the_rest_is_named() {
    let options = DumpOptions {
        deadline: Some(Instant::now()),
        ..DumpOptions::default()
    };
    let report = FailureDumpReport::capture(&lab().kernel, &[], &options);
    assert_eq!(
        report.truncated,
        [
            "the log (out of time)",
            "tasks (out of time)",
            "maps and programs (out of time)"
        ]
    );
    assert!(!report.runqueues.is_empty());
}
