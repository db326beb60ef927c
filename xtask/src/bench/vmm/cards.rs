//! Disk and network card of the kvm engine, in the lab, beside QEMU's own devices in the same lab.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use comfy_table::Table;
use serde::Deserialize;

use crate::lab_tests;

/// What QEMU's microvm loads; its other firmware is for devices that it has not.
const FIRMWARE: [&str; 3] = ["bios-microvm.bin", "linuxboot_dma.bin", "kvmvapic.bin"];
const RESULT: &str = "/tmp/cards.json";

/// MiB, operations or frames per second, by name.
#[derive(Deserialize)]
struct Measured {
    ours: BTreeMap<String, f64>,
    qemu: BTreeMap<String, f64>,
}

/// Adds a row per job.
pub(super) fn rows(table: &mut Table) -> Result<()> {
    let build = ["bench", "-p", "ktstr-vmm", "--bench", "cards", "--no-run"];
    let program = lab_tests::program(&build, "cards")?;
    let mut options = lab_tests::options(vec![program, RESULT.into()]);
    options.memory = 3072;
    // Six guests, each with a deadline of its own.
    options.deadline = 600;
    options
        .files
        .push(format!("{}:/bin/busybox", lab_tests::busybox()?));
    let qemu = crate::lab::find_program("qemu-system-x86_64")?;
    options
        .files
        .push(format!("{}:/bin/qemu-system-x86_64", qemu.display()));
    for name in FIRMWARE {
        options
            .files
            .push(format!("/usr/share/qemu/{name}:/usr/share/qemu/{name}"));
    }
    let dir = tempfile::tempdir()?;
    let out = dir.path().join("cards.json");
    options.outs.push(format!("{RESULT}:{}", out.display()));
    lab_tests::pass("bench-cards-in-lab", &options)?;
    let measured: Measured =
        serde_json::from_slice(&std::fs::read(out)?).context("the benchmark wrote no result")?;
    for (name, ours) in &measured.ours {
        let theirs = measured
            .qemu
            .get(name)
            .with_context(|| format!("no '{name}' of QEMU's"))?;
        table.add_row([
            format!("kvm in the lab: {name}"),
            String::from("-"),
            format!("{ours:.1}; QEMU's {theirs:.1}"),
            format!("{:.2} times as fast", ours / theirs),
        ]);
    }
    Ok(())
}
