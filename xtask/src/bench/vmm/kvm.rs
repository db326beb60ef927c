//! The kvm engine, measured with a guest of a few instructions: that runs on any /dev/kvm, one that only emulates as well.

use std::io::Write as _;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use comfy_table::Table;
use ktstr_vmm::{EngineChoice, RunningVm, Vm};
use tempfile::NamedTempFile;

use super::super::{add, median, ratio};

/// Where the guest is loaded and entered.
const LOAD: u64 = 0x10_0000;
/// Where it counts its exits.
const COUNTER: u64 = 0x20_0000;
/// `mov dx, 0x3f8; mov al, 'h'; out dx, al` says that it runs; then `inc qword [COUNTER]; out 0x80, al` for ever.
const CODE: [u8; 19] = [
    0x66, 0xba, 0xf8, 0x03, 0xb0, b'h', 0xee, 0x48, 0xff, 0x04, 0x25, 0x00, 0x00, 0x20, 0x00, 0xe6,
    0x80, 0xeb, 0xf4,
];
const REPEATS: usize = 30;
/// How long exits are counted.
const COUNT_FOR: Duration = Duration::from_secs(1);
const DEADLINE: Duration = Duration::from_secs(60);

/// Adds the engine's rows, or says why there are none.
pub(super) fn rows(table: &mut Table) -> Result<()> {
    if let Err(error) = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/kvm")
    {
        table.add_row([
            String::from("kvm engine"),
            String::from("-"),
            format!("/dev/kvm does not open: {error}"),
            String::from("-"),
        ]);
        return Ok(());
    }
    let image = image()?;
    let before = own_memory()?;
    let mut starts = Vec::new();
    for _ in 0..REPEATS {
        let (_, took) = start(&image)?;
        starts.push(took);
    }
    let what = "kvm: build and start to the first guest instruction";
    plain(table, what, "-", &milliseconds(median(starts)));
    let (vm, _) = start(&image)?;
    let beside = own_memory()?.saturating_sub(before);
    table.add_row([
        String::from("kvm: memory beside guest pages"),
        String::from("8192 KiB"),
        format!("{beside} KiB"),
        ratio(f64::from(u32::try_from(beside)?) / 8192.0),
    ]);
    let frozen = median(freezes(&vm)?);
    add(table, "freeze + registers + resume, kvm", 1, frozen);
    plain(
        table,
        "kvm: exits to the engine",
        "-",
        &format!("{} per second", exits(&vm)?),
    );
    vm.kill();
    Ok(())
}

fn plain(table: &mut Table, what: &str, bar: &str, measured: &str) {
    table.add_row([what, bar, measured, "-"]);
}

fn milliseconds(time: Option<Duration>) -> String {
    time.map_or_else(
        || String::from("not measured"),
        |time| format!("{:.3} ms", time.as_secs_f64() * 1e3),
    )
}

/// Starts the guest and waits for its first byte, without sleeping.
fn start(image: &NamedTempFile) -> Result<(RunningVm, Duration)> {
    let started = Instant::now();
    let vm = Vm::builder()
        .kernel(image.path())
        .engine(EngineChoice::Kvm)
        .memory_mib(64)
        .deadline(DEADLINE)
        .build()?
        .start()?;
    let console = vm.com1();
    while console.is_empty() {
        ensure!(
            started.elapsed() < DEADLINE,
            "the guest's first byte did not come"
        );
        thread::yield_now();
    }
    Ok((vm, started.elapsed()))
}

fn freezes(vm: &RunningVm) -> Result<Vec<Duration>> {
    let one = || {
        let started = Instant::now();
        let guard = vm.freeze(DEADLINE)?;
        let registers = guard.registers()?;
        guard.resume()?;
        ensure!(!registers.is_empty(), "no registers");
        Ok(started.elapsed())
    };
    (0..200).map(|_| one()).collect()
}

/// Exits per second to a port that nobody serves.
fn exits(vm: &RunningVm) -> Result<u64> {
    let count = || -> Result<u64> {
        let mut bytes = [0; 8];
        vm.memory().read(COUNTER, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    };
    let (started, before) = (Instant::now(), count()?);
    while started.elapsed() < COUNT_FOR {
        thread::park_timeout(COUNT_FOR.saturating_sub(started.elapsed()));
    }
    Ok((count()? - before) / COUNT_FOR.as_secs())
}

/// KiB of this process's memory that is no guest's, which is shared memory.
fn own_memory() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let of = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let number = line.and_then(|line| line.trim().split(' ').next()?.parse::<u64>().ok());
        number.with_context(|| format!("no {name} in /proc/self/status"))
    };
    Ok(of("RssAnon:")? + of("RssFile:")?)
}

/// The guest as an ELF kernel file: one segment, all rights.
fn image() -> Result<NamedTempFile> {
    const AT: u64 = 0x1000;
    let mut elf = b"\x7fELF\x02\x01\x01".to_vec();
    elf.resize(16, 0);
    let halves = |elf: &mut Vec<u8>, values: &[u16]| {
        elf.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    };
    let words = |elf: &mut Vec<u8>, values: &[u32]| {
        elf.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    };
    let longs = |elf: &mut Vec<u8>, values: &[u64]| {
        elf.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    };
    halves(&mut elf, &[2, 62]);
    words(&mut elf, &[1]);
    longs(&mut elf, &[LOAD, 64, 0]);
    words(&mut elf, &[0]);
    halves(&mut elf, &[64, 56, 1, 0, 0, 0]);
    words(&mut elf, &[1, 7]);
    longs(
        &mut elf,
        &[AT, LOAD, LOAD, CODE.len() as u64, CODE.len() as u64, AT],
    );
    elf.resize(usize::try_from(AT)?, 0);
    elf.extend(CODE);
    // A header's worth of a kernel is looked at.
    elf.resize(elf.len() + 0x400, 0);
    let mut file = NamedTempFile::new()?;
    file.write_all(&elf)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guest_counts_its_exits_and_freezes() {
        if std::fs::metadata("/dev/kvm").is_err() {
            println!("skipped: no /dev/kvm; run this in `cargo xtask lab`");
            return;
        }
        let image = image().unwrap();
        let (vm, _) = start(&image).unwrap();
        assert!(exits(&vm).unwrap() > 0);
        assert!(freezes(&vm).unwrap().len() == 200);
        vm.kill();
        let mut table = Table::new();
        rows(&mut table).unwrap();
        println!("{table}");
    }
}
