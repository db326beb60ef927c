//! Saving a guest that stands still at its gate, and starting copies of it.
//!
//! QEMU saves the devices (`migrate` with `x-ignore-shared`); memory is a file, which is copied while no vCPU executes. A copy maps
//! that file for itself alone, so the host reads and writes the copy's memory in the emulator's address space.

use std::fs::File;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use ktstr_plugin::gate::{Cause, REGISTERS, Stop as Told};
use ktstr_plugin::{LIBRARY, Options};
use ktstr_wire::gate::MAILBOX_LEN;
use serde_json::json;

use super::qmp::Qmp;
use super::virtual_time::Files;
use super::{TcgVm, memfd};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::exit::ExitReason;
use crate::gate::no_gate;
use crate::memory::{Backing, EmulatorMemory, EmulatorPiece, GuestMemory, pieces, q35_ranges};
use crate::saved::{CONSOLES, Place, SAID, STATE, Saved, Writer};

/// How long the emulator may take to stop, and to save or load devices; measured: 3 ms and 10 ms.
const DEADLINE: Duration = Duration::from_secs(60);
/// More than any device state of ours has; measured: 300 kB.
const MAX_STATE: u64 = 64 << 20;

/// What a save needs of a VM.
#[derive(Debug)]
pub(super) struct Sources {
    pub(super) memory: Vec<File>,
    pub(super) consoles: [File; 2],
    pub(super) machine: String,
}

impl Sources {
    pub(super) fn new(config: &Config, backings: &[Backing], files: &Files) -> Result<Self> {
        let memory = backings.iter().map(|backing| backing.file.try_clone());
        let share = || Ok((memory.collect::<std::io::Result<_>>()?, files.consoles()?));
        let (memory, consoles) = share().map_err(Error::system("share a descriptor"))?;
        Ok(Self {
            memory,
            consoles,
            machine: machine(config, files.options()),
        })
    }
}

/// The same, of a VM that is not started; `None` without virtual time.
pub(crate) fn saved_machine(config: &Config) -> Option<String> {
    let time = config.virtual_time.as_ref()?;
    let options = time.options(&config.topology, config.deadline);
    Some(machine(config, &options))
}

/// What decides how a machine is made and how its time passes; seeds and deadlines may differ between copies.
pub(super) fn machine(config: &Config, options: &Options) -> String {
    let options = Options {
        seed: 0,
        deadline_ns: 0,
        report: String::new(),
        gate: None,
        forked: false,
        ..options.clone()
    };
    json!({
        "emulator": file_identity(&config.qemu),
        "plugin": crc32fast::hash(LIBRARY),
        "kernel": file_identity(&config.kernel),
        "cmdline": config.cmdline,
        "topology": format!("{:?}", config.topology),
        "memory_mib": config.node_mib,
        "nested": config.nested,
        "time": options.to_arguments(),
    })
    .to_string()
}

/// Refuses to make a copy on another machine.
pub(super) fn check_machine(saved: &Saved, config: &Config, options: &Options) -> Result<()> {
    let (expected, found) = (&saved.place().machine, machine(config, options));
    if *expected == found {
        return Ok(());
    }
    Err(Error::Refused {
        what: format!("start a copy of {}", saved.dir().display()),
        reason: format!("this machine is {found}, and the saved guest's was {expected}"),
    })
}

/// A file that is replaced or changed has another one.
fn file_identity(path: &Path) -> String {
    let meta = std::fs::metadata(path);
    let changed = meta.as_ref().ok().and_then(|meta| meta.modified().ok());
    let changed = changed.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    format!(
        "{} {} {}",
        path.display(),
        meta.map_or(0, |meta| meta.len()),
        changed.unwrap_or_default().as_nanos()
    )
}

impl TcgVm {
    /// Saves the guest, which ends. `said` is what copies say first.
    pub(crate) fn save(&self, dir: &Path, said: &[u8]) -> Result<Saved> {
        let gate = self.gate.as_ref().ok_or_else(no_gate)?;
        let sources = self.sources.as_ref().ok_or_else(no_gate)?;
        let told = gate.release_to_save()?;
        let saved = self.save_as(told, sources, dir, said);
        self.shared.kill(ExitReason::Killed);
        saved
    }

    fn save_as(&self, told: Told, sources: &Sources, dir: &Path, said: &[u8]) -> Result<Saved> {
        self.qmp
            .execute("stop", &serde_json::Value::Null, DEADLINE)?;
        set_up(&self.qmp)?;
        let state = memfd("ktstr-state")?;
        self.qmp.pass_fd("state", state.as_fd(), DEADLINE)?;
        let well = self.qmp.migrate(DEADLINE, || {
            let uri = json!({"uri": "fd:state"});
            self.qmp.execute("migrate", &uri, DEADLINE).map(drop)
        })?;
        if !well {
            return Err(self.migration_failed("save the guest"));
        }
        let mut writer = Writer::new(dir);
        writer.bytes(STATE, &without_host_time(read_all(&state, MAX_STATE)?))?;
        writer.bytes(SAID, said)?;
        for (name, file) in CONSOLES.iter().zip(&sources.consoles) {
            writer.bytes(name, &read_all(file, crate::console::MAX_CONSOLE as u64)?)?;
        }
        for (node, memory) in sources.memory.iter().enumerate() {
            writer.memory(node, memory)?;
        }
        writer.finish(Place {
            machine: sources.machine.clone(),
            vcpu: told.vcpu,
            time_ns: told.time_ns,
            registers: told.registers.iter().map(|vcpu| vcpu.to_vec()).collect(),
        })
    }

    fn migration_failed(&self, what: &str) -> Error {
        let asked = self
            .qmp
            .execute("query-migrate", &serde_json::Value::Null, DEADLINE);
        let reason = asked.ok().and_then(|told| {
            told.get("error-desc")
                .and_then(|text| text.as_str().map(str::to_owned))
        });
        Error::Refused {
            what: what.to_owned(),
            reason: reason.unwrap_or_else(|| String::from("QEMU gives no reason")),
        }
    }

    /// Puts the saved devices into a machine that was made for them; its memory is there already.
    pub(super) fn load(&self, state: &File) -> Result<()> {
        set_up(&self.qmp)?;
        // Otherwise QEMU tells the network that the guest has moved, by a timer of the host's that cuts turns.
        let rounds = json!({"announce-rounds": 0});
        self.qmp
            .execute("migrate-set-parameters", &rounds, DEADLINE)?;
        let well = self.qmp.migrate(DEADLINE, || {
            let uri = json!({"uri": format!("fd:{}", state.as_raw_fd())});
            self.qmp
                .execute("migrate-incoming", &uri, DEADLINE)
                .map(drop)
        })?;
        if well {
            return Ok(());
        }
        Err(self.migration_failed("load the saved guest"))
    }

    /// Once the emulator has made its machine: where it has memory and mailbox, and where the guest stands.
    pub(super) fn take_place(
        &mut self,
        saved: &Saved,
        memory: &[File],
        mailbox: &File,
    ) -> Result<()> {
        let pid = self.shared.pid;
        let maps = std::fs::read_to_string(format!("/proc/{pid}/maps"))
            .map_err(Error::system("read the emulator's mappings"))?;
        let mut lens = Vec::new();
        let mut bases = Vec::new();
        for file in memory {
            let len = file
                .metadata()
                .map_err(Error::system("look at memory"))?
                .len();
            lens.push(len);
            bases.push(base_of(&maps, file, len)?);
        }
        let ranges = q35_ranges(lens.iter().sum());
        let pieces = pieces(&lens, &ranges)
            .into_iter()
            .map(|piece| EmulatorPiece {
                range: piece.range,
                address: bases.get(piece.file).copied().unwrap_or_default() + piece.offset,
            });
        let open = || {
            let mut options = File::options();
            options
                .read(true)
                .write(true)
                .open(format!("/proc/{pid}/mem"))
        };
        let open = || open().map_err(Error::system("open the emulator's memory"));
        self.memory = GuestMemory::of_emulator(EmulatorMemory {
            space: open()?,
            pieces: pieces.collect(),
        });
        let at = base_of(&maps, mailbox, MAILBOX_LEN as u64)?;
        let place = saved.place();
        let registers = place.registers.iter().map(|words| {
            let mut registers = [0; REGISTERS];
            for (to, from) in registers.iter_mut().zip(words) {
                *to = *from;
            }
            registers
        });
        let told = Told {
            cause: Cause::Knock,
            vcpu: place.vcpu,
            time_ns: place.time_ns,
            address: 0,
            registers: registers.collect(),
        };
        let said = saved.read(SAID)?;
        let gate = self.gate.as_mut().ok_or_else(no_gate)?;
        gate.stand_at(told, said, open()?, at);
        Ok(())
    }
}

fn set_up(qmp: &Qmp) -> Result<()> {
    let on = |name| json!({"capability": name, "state": true});
    let capabilities = json!({"capabilities": [on("x-ignore-shared"), on("events")]});
    qmp.execute("migrate-set-capabilities", &capabilities, DEADLINE)
        .map(drop)
}

fn read_all(file: &File, most: u64) -> Result<Vec<u8>> {
    use std::os::unix::fs::FileExt as _;
    let read = || {
        let len = file.metadata()?.len();
        if len > most {
            let text = format!("{len} bytes, more than {most}");
            return Err(std::io::Error::other(text));
        }
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
        file.read_exact_at(&mut bytes, 0)?;
        Ok(bytes)
    };
    read().map_err(Error::system("read what the guest left"))
}

/// QEMU saves how long it ran in the host's time (`cpu_ticks_offset` and `cpu_clock_offset` of `vmstate_timers`, 7.2
/// `softmmu/cpu-timers.c`), which counted instructions never look at. Without it equal guests leave equal states.
fn without_host_time(mut state: Vec<u8>) -> Vec<u8> {
    const NAME: &[u8] = b"\x05timer\0\0\0\0\0\0\0\x02";
    // The offset of the ticks, eight bytes that are unused, the offset of the clock.
    const LEN: usize = 24;
    let places: Vec<usize> = state
        .windows(NAME.len())
        .enumerate()
        .filter_map(|(at, found)| (found == NAME).then_some(at + NAME.len()))
        .collect();
    if let [at] = places[..]
        && let Some(times) = state.get_mut(at..at + LEN)
    {
        times.fill(0);
    }
    state
}

/// Where a process has all of a file, by its map (proc(5), `/proc/pid/maps`).
fn base_of(maps: &str, file: &File, len: u64) -> Result<u64> {
    let inode = file
        .metadata()
        .map_err(Error::system("look at memory"))?
        .ino();
    find_base(maps, inode, len).ok_or_else(|| Error::Refused {
        what: String::from("find the guest's memory in the emulator"),
        reason: format!("nothing of {len} bytes with inode {inode} is mapped whole"),
    })
}

/// By number alone: on some file systems a map names another device than the file does.
fn find_base(maps: &str, inode: u64, len: u64) -> Option<u64> {
    let mut base = 0;
    let mut end = None;
    for line in maps.lines() {
        let mut words = line.split_ascii_whitespace();
        let (Some(span), Some(_), Some(offset), Some(_), Some(number)) = (
            words.next(),
            words.next(),
            words.next(),
            words.next(),
            words.next(),
        ) else {
            continue;
        };
        let hex = |text| u64::from_str_radix(text, 16).ok();
        let (start, until) = span.split_once('-')?;
        let (start, until, offset) = (hex(start)?, hex(until)?, hex(offset)?);
        if number.parse() != Ok(inode) {
            end = None;
            continue;
        }
        // What belongs together lies together.
        if offset == 0 {
            base = start;
        } else if end != Some(start) || start - base != offset {
            end = None;
            continue;
        }
        if until - base == len {
            return Some(base);
        }
        end = Some(until);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_found_by_its_number_and_length() {
        let maps = "\
7f0000000000-7f0000004000 rw-p 00000000 fe:00 77 /other\n\
7f0000010000-7f0000012000 rw-p 00000000 fe:00 7 /a name with words\n\
7f0000012000-7f0000013000 r--p 00002000 fe:00 7 /a name with words\n\
7f0000013000-7f0000014000 rw-p 00003000 fe:00 7 /a name with words\n\
7f0000020000-7f0000024000 rw-p 00000000 00:00 0 \n";
        assert_eq!(find_base(maps, 7, 0x4000), Some(0x7f00_0001_0000));
        assert_eq!(find_base(maps, 77, 0x4000), Some(0x7f00_0000_0000));
        assert_eq!(find_base(maps, 7, 0x5000), None);
        assert_eq!(find_base(maps, 8, 0x4000), None);
        let torn = maps.replace("7f0000012000-7f0000013000", "7f0000022000-7f0000023000");
        assert_eq!(find_base(&torn, 7, 0x4000), None);
        assert_eq!(find_base("nonsense\n1-2 r 3", 7, 1), None);
    }

    #[test]
    fn the_hosts_time_is_left_out_of_a_state() {
        let mut state = b"before\x05timer\0\0\0\0\0\0\0\x02".to_vec();
        state.extend([9; 24]);
        state.extend(b"after");
        let clean = without_host_time(state.clone());
        assert_eq!(clean[..20], state[..20]);
        assert_eq!(clean[20..44], [0; 24]);
        assert_eq!(&clean[44..], b"after");
        let short = state[..30].to_vec();
        assert_eq!(without_host_time(short.clone()), short);
        let twice = [state.clone(), state].concat();
        assert_eq!(without_host_time(twice.clone()), twice);
    }
}
