//! Maps and programs against bpftool in the guest.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use ktstr_monitor::bpf::{BpfMap, MapContents, MapValue};
use ktstr_monitor::render::{Limits, RenderedValue};
use ktstr_monitor::{Kva, Problems};
use serde_json::Value;

use crate::lab::lab;

fn map(name: &str) -> BpfMap {
    let maps = lab().kernel.maps().found;
    maps.into_iter()
        .find(|map| map.name == name)
        .unwrap_or_else(|| panic!("no map {name}"))
}

fn contents(map: &BpfMap) -> MapContents {
    let walk = map.contents(
        &lab().kernel,
        10_000,
        Limits {
            values: 1 << 20,
            ..Limits::default()
        },
    );
    assert!(
        walk.problems.is_empty(),
        "{}: {:?}",
        map.name,
        walk.problems
    );
    walk.found
}

#[test]
fn the_list_of_maps_is_bpftools() {
    let lab = lab();
    let walk = lab.kernel.maps();
    assert!(walk.problems.is_empty(), "{:?}", walk.problems);
    let found: BTreeMap<u64, BpfMap> = walk
        .found
        .into_iter()
        .map(|map| (map.id.into(), map))
        .collect();
    let said = lab.facts.json("maps");
    let said = said.as_array().unwrap();
    assert!(said.len() >= 10);
    for said in said {
        let map = &found[&said["id"].as_u64().unwrap()];
        assert_eq!(said["name"].as_str().unwrap_or(""), map.name);
        // bpftool 7.1 knows no arenas and prints their number.
        if let Some(name) = said["type"].as_str() {
            assert_eq!(name, map.map_type);
        }
        assert_eq!(
            said["bytes_key"].as_u64(),
            Some(map.key_size.into()),
            "{said}"
        );
        assert_eq!(
            said["bytes_value"].as_u64(),
            Some(map.value_size.into()),
            "{said}"
        );
        assert_eq!(
            said["max_entries"].as_u64(),
            Some(map.max_entries.into()),
            "{said}"
        );
        assert_eq!(said["flags"].as_u64(), Some(map.flags), "{said}");
        assert_eq!(said["frozen"].as_u64(), Some(map.frozen.into()), "{said}");
    }
    assert_eq!(found.len(), said.len());
}

#[test]
fn the_list_of_programs_is_bpftools() {
    let lab = lab();
    let walk = lab.kernel.programs();
    assert!(walk.problems.is_empty(), "{:?}", walk.problems);
    let found: BTreeMap<u64, _> = walk
        .found
        .into_iter()
        .map(|prog| (prog.id.into(), prog))
        .collect();
    let said = lab.facts.json("progs");
    for said in said.as_array().unwrap() {
        let program = &found[&said["id"].as_u64().unwrap()];
        assert_eq!(said["type"].as_str(), Some(&program.prog_type[..]));
        assert_eq!(said["name"].as_str(), Some(&program.name[..]));
        assert_eq!(said["tag"].as_str(), Some(&program.tag[..]));
        assert_eq!(
            said["bytes_jited"].as_u64(),
            program.jited_len.map(u64::from)
        );
        let ids: BTreeSet<u64> = program.map_ids.iter().map(|&id| id.into()).collect();
        let none = Vec::new();
        let said_ids = said["map_ids"].as_array().unwrap_or(&none);
        assert_eq!(
            said_ids
                .iter()
                .filter_map(Value::as_u64)
                .collect::<BTreeSet<_>>(),
            ids
        );
        assert!(program.verified_insns.unwrap() > 0, "{program:?}");
    }
    let stats = lab.kernel.verifier_stats(true).found;
    assert!(
        stats
            .iter()
            .any(|stat| stat.name == "fixture_enqueue" && stat.verified_insns > 20),
        "{stats:?}"
    );
}

fn hex(value: &Value) -> Vec<u8> {
    let parse = |byte: &Value| {
        u8::from_str_radix(byte.as_str().unwrap().trim_start_matches("0x"), 16).unwrap()
    };
    value.as_array().unwrap().iter().map(parse).collect()
}

fn raw(value: &RenderedValue) -> Vec<u8> {
    match value {
        RenderedValue::Bytes(raw) => raw.clone(),
        RenderedValue::Unsigned(index) => u32::try_from(*index).unwrap().to_le_bytes().to_vec(),
        other => panic!("a map without BTF renders {other:?}"),
    }
}

#[track_caller]
fn check_entries(name: &str, count: usize) {
    let said: BTreeMap<Vec<u8>, Value> = lab()
        .facts
        .json(&format!("dump_{name}"))
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| (hex(&entry["key"]), entry.clone()))
        .collect();
    assert_eq!(said.len(), count, "{said:?}");
    let MapContents::Entries(entries) = contents(&map(name)) else {
        panic!("{name} has no entries");
    };
    assert_eq!(entries.len(), said.len(), "{entries:?}");
    for entry in entries {
        let said = &said[&raw(&entry.key)];
        match &entry.value {
            MapValue::Value(value) => assert_eq!(raw(value), hex(&said["value"])),
            MapValue::PerCpu(values) => {
                let found: Vec<_> = values
                    .iter()
                    .map(|(cpu, value)| (u64::from(*cpu), raw(value)))
                    .collect();
                let said: Vec<_> = said["values"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|value| (value["cpu"].as_u64().unwrap(), hex(&value["value"])))
                    .collect();
                assert_eq!(found, said);
            }
        }
    }
}

#[test]
fn array_values_are_bpftools() {
    check_entries("t_array", 5);
}

#[test]
fn percpu_array_values_are_bpftools() {
    check_entries("t_parray", 3);
}

#[test]
fn hash_values_are_bpftools() {
    check_entries("t_hash", 9);
    check_entries("t_nhash", 9);
}

#[test]
fn lru_hash_values_are_bpftools() {
    check_entries("t_lru", 9);
}

#[test]
fn percpu_hash_values_are_bpftools() {
    check_entries("t_phash", 3);
}

#[test]
fn lru_percpu_hash_and_trie_values_are_bpftools() {
    check_entries("t_lruphash", 1);
    check_entries("t_trie", 3);
}

/// What was pushed comes out in the order in which it would be popped.
#[test]
fn queues_and_stacks_are_in_order_of_popping() {
    let check = |name: &str, popped: [u32; 3]| {
        let MapContents::Entries(entries) = contents(&map(name)) else {
            panic!("{name} has no entries");
        };
        let found: Vec<Vec<u8>> = entries
            .iter()
            .map(|entry| match &entry.value {
                MapValue::Value(value) => raw(value),
                MapValue::PerCpu(_) => panic!("{entry:?}"),
            })
            .collect();
        assert_eq!(found, popped.map(|value| value.to_le_bytes().to_vec()));
    };
    check("t_queue", [2, 3, 4]);
    check("t_stack", [4, 3, 2]);
}

/// User space knows inner maps by their ids; an empty slot is no entry.
#[test]
fn maps_in_maps_have_the_ids_that_bpftool_prints() {
    let inner = map("t_inner");
    for (name, key) in [("t_arrays", 1_u32), ("t_hashes", 7)] {
        let MapContents::Entries(entries) = contents(&map(name)) else {
            panic!("{name} has no entries");
        };
        let [entry] = &entries[..] else {
            panic!("{name}: {entries:?}");
        };
        assert_eq!(raw(&entry.key), key.to_le_bytes());
        let MapValue::Value(value) = &entry.value else {
            panic!("{entry:?}");
        };
        assert_eq!(
            value.member("id").and_then(RenderedValue::as_u64),
            Some(inner.id.into())
        );
        let said = lab().facts.json(&format!("dump_{name}"));
        assert_eq!(hex(&said[0]["value"]), inner.id.to_le_bytes());
    }
    let MapContents::Entries(programs) = contents(&map("t_progs")) else {
        panic!("no entries");
    };
    assert!(programs.is_empty(), "{programs:?}");
}

/// bpftool prints the addresses, zeros behind the last; the way into the kernel is the way that a system call takes.
#[test]
fn stack_traces_are_bpftools_with_names() {
    let MapContents::Entries(entries) = contents(&map("t_stacks")) else {
        panic!("no entries");
    };
    let said = lab().facts.json("dump_t_stacks");
    let said = said.as_array().unwrap();
    assert_eq!((entries.len(), said.len()), (1, 1), "{entries:?} {said:?}");
    assert_eq!(raw(&entries[0].key), hex(&said[0]["key"]));
    let MapValue::Value(RenderedValue::Array { elements, .. }) = &entries[0].value else {
        panic!("{entries:?}");
    };
    let mut frames: Vec<u8> = elements
        .iter()
        .flat_map(|frame| frame.as_u64().unwrap().to_le_bytes())
        .collect();
    let said = hex(&said[0]["value"]);
    frames.resize(said.len(), 0);
    assert_eq!(frames, said);
    let names: Vec<&str> = elements
        .iter()
        .map(|frame| match frame {
            RenderedValue::Pointer {
                target: Some(target),
                ..
            } => target.split('+').next().unwrap(),
            other => panic!("no name: {other:?}"),
        })
        .collect();
    assert!(names.contains(&"__sys_bpf"), "{names:?}");
    assert!(names.contains(&"do_syscall_64"), "{names:?}");
}

/// From a map's value into the arena, and there from one object to the next.
#[test]
fn pointers_into_an_arena_are_followed() {
    let MapContents::Entries(entries) = contents(&map("t_pointer")) else {
        panic!("no entries");
    };
    let MapValue::Value(value) = &entries[0].value else {
        panic!("{entries:?}");
    };
    assert_eq!(
        value.to_string(),
        r#"{p=&{name="first page", next=&{name="third page"}}}"#
    );
}

#[test]
fn what_is_not_rendered_says_why() {
    let check = |name: &str, why: &str| match contents(&map(name)) {
        MapContents::Unsupported(reason) => assert!(reason.contains(why), "{reason}"),
        other => panic!("{name}: {other:?}"),
    };
    check("t_bloom", "keeps hashes of its values, not the values");
}

/// The kernel lists them in /proc/kallsyms.
#[test]
fn bpf_code_has_the_names_of_kallsyms() {
    let lab = lab();
    let walk = lab.kernel.bpf_symbols();
    assert!(walk.problems.is_empty(), "{:?}", walk.problems);
    let found: BTreeSet<(u64, String)> = walk
        .found
        .into_iter()
        .map(|symbol| (symbol.start.0, symbol.name))
        .collect();
    let said: BTreeSet<(u64, String)> = lab
        .facts
        .text("bpf_symbols")
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let start = u64::from_str_radix(words.next()?, 16).ok()?;
            Some((start, words.nth(1)?.to_owned()))
        })
        .collect();
    assert!(said.len() >= 5, "{said:?}");
    assert_eq!(found, said);
    let (start, name) = found
        .iter()
        .find(|(_, name)| name.ends_with("_enqueue"))
        .unwrap();
    assert_eq!(
        lab.kernel.describe(Kva(start + 0x1c)),
        format!("{name}+0x1c")
    );
}

/// Each address's line has the text that the source has there.
#[test]
fn bpf_code_knows_its_source_line() {
    let lab = lab();
    let symbols = lab.kernel.bpf_symbols().found;
    let code = symbols
        .iter()
        .find(|symbol| symbol.name.ends_with("_enqueue"))
        .unwrap();
    let first = lab.kernel.bpf_source(code.start).unwrap().unwrap();
    assert!(first.file.ends_with("fixture.bpf.c"), "{first:?}");
    assert_eq!(first.to_string(), format!("fixture.bpf.c:{}", first.line));
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scx-fixture/src/bpf/fixture.bpf.c");
    let source = std::fs::read_to_string(source).unwrap();
    let lines: Vec<&str> = source.lines().collect();
    let mut seen = BTreeSet::new();
    for at in code.start.0..code.end.0 {
        let found = lab.kernel.bpf_source(Kva(at)).unwrap().unwrap();
        if found.file.ends_with("fixture.bpf.c") {
            let number = usize::try_from(found.line).unwrap();
            assert_eq!(lines[number - 1].trim(), found.text, "{found:?}");
        }
        seen.insert(found.line);
    }
    assert!(seen.len() > 5, "{seen:?}");
    assert_eq!(lab.kernel.bpf_source(lab.kernel.text()).unwrap(), None);
}

/// bpftool prints a section as a list of objects with one variable each.
fn section(fact: &str) -> BTreeMap<String, Value> {
    let said = lab().facts.json(fact);
    let formatted = said[0].get("formatted").unwrap_or(&said[0]);
    let sections = formatted["value"].as_object().unwrap();
    let variables = sections.values().next().unwrap().as_array().unwrap();
    variables
        .iter()
        .flat_map(|variable| variable.as_object().unwrap().clone())
        .collect()
}

fn rendered(suffix: &str) -> RenderedValue {
    let maps = lab().kernel.maps().found;
    let map = maps.iter().find(|map| map.name.ends_with(suffix)).unwrap();
    match contents(map) {
        MapContents::Section(value) => value,
        other => panic!("{suffix} is {other:?}"),
    }
}

#[test]
fn rodata_is_rendered_by_its_types() {
    let value = rendered(".rodata");
    let said = section("rodata");
    for name in ["fail_verify", "own_tgid", "nr_cpus", "starve_interval_ns"] {
        let found = value.member(name).unwrap().as_u64();
        assert_eq!(found, said[name].as_u64(), "{name}");
    }
    assert_eq!(
        value.member("error_text").unwrap().to_string(),
        "\"fixture error\""
    );
}

#[test]
fn bss_counters_lie_between_the_guests_own_readings() {
    let value = rendered(".bss");
    let (before, after) = (section("before_bss"), section("after_bss"));
    for name in [
        "enqueued",
        "direct",
        "dispatched",
        "starved",
        "stalled",
        "errors",
    ] {
        let found = value
            .member(&format!("stats.{name}"))
            .unwrap()
            .as_u64()
            .unwrap();
        let said = |section: &BTreeMap<String, Value>| section["stats"][name].as_u64().unwrap();
        assert!(
            (said(&before)..=said(&after)).contains(&found),
            "{name}: {found}"
        );
    }
    // Written from outside while the guest ran; the guest sees it too.
    assert_eq!(after["exit_info"]["exit_code"].as_i64(), Some(-7));
}

#[test]
fn task_storage_belongs_to_tasks() {
    let MapContents::Entries(entries) = contents(&map("task_ctxs")) else {
        panic!("no entries");
    };
    let pids: BTreeSet<u64> = lab()
        .kernel
        .tasks()
        .found
        .iter()
        .map(|task| i64::from(task.pid).cast_unsigned())
        .collect();
    assert!(entries.len() >= 5, "{entries:?}");
    for entry in entries {
        let pid = entry
            .key
            .member("pid")
            .and_then(RenderedValue::as_u64)
            .unwrap();
        assert!(pids.contains(&pid), "{entry:?}");
        let MapValue::Value(value) = &entry.value else {
            panic!("{entry:?}");
        };
        assert!(value.member("runs").unwrap().as_u64().unwrap() < 1 << 40);
    }
}

/// A single number of a value, found by its key and name.
#[test]
fn numbers_are_found_by_key() {
    let kernel = &lab().kernel;
    let map = map("task_ctxs");
    let mut problems = Problems::new();
    let entries = map.raw_entries(kernel, 10_000, &mut problems).unwrap();
    let MapContents::Entries(rendered) = contents(&map) else {
        panic!("no entries");
    };
    assert!(entries.len() >= 5);
    for (raw, rendered) in entries.iter().zip(rendered) {
        let MapValue::Value(value) = rendered.value else {
            panic!("a value per CPU");
        };
        let field = map.field_of_key(kernel, &raw.key, "runs").unwrap();
        assert_eq!(
            Some(field.read(kernel).unwrap()),
            value.member("runs").unwrap().as_u64()
        );
    }
    let none = map.field_of_key(kernel, &[0; 8], "runs").unwrap_err();
    assert!(none.is_absence(), "{none}");
}

#[test]
fn struct_ops_name_their_scheduler() {
    let maps = lab().kernel.maps().found;
    let map = maps
        .iter()
        .find(|map| map.map_type == "struct_ops")
        .unwrap();
    let MapContents::StructOps(ops) = contents(map) else {
        panic!("no struct_ops");
    };
    assert!(
        ["inuse", "ready"].contains(&&ops.state[..]),
        "{}",
        ops.state
    );
    assert_eq!(ops.value.member("name").unwrap().to_string(), "\"fixture\"");
}

#[test]
fn the_ring_buffers_positions_are_what_was_written() {
    let MapContents::RingBuf(ring) = contents(&map("t_ring")) else {
        panic!("no ring buffer");
    };
    assert_eq!(
        (ring.consumer_pos, ring.producer_pos, ring.size),
        (8, 0, 4096)
    );
}

#[test]
fn the_arenas_pages_hold_what_was_written() {
    let lab = lab();
    let arena = map("t_arena").arena(&lab.kernel).unwrap();
    let start = 0x7e12_0000_0000;
    assert_eq!(arena.user_vm_start, start);
    let pages: Vec<u64> = arena.pages.iter().map(|page| page.user - start).collect();
    assert_eq!(pages, [0, 8192]);
    for (offset, said) in [(0, b"first page"), (8192, b"third page")] {
        let mut text = [0; 10];
        arena.read(&lab.kernel, start + offset, &mut text).unwrap();
        assert_eq!(&text, said);
    }
    assert!(arena.read(&lab.kernel, start + 4096, &mut [0; 1]).is_err());
}
