//! Guests that were saved at their gate, and copies of them.

use std::fs;
use std::path::Path;
use std::time::Duration;

use ktstr_initramfs::Builder;
use ktstr_vmm::{
    ExitReason, GuestMemory, RunningVm, Saved, Stop, StopCause, VirtualRun, VirtualTime, VmBuilder,
};

use crate::guest::guest_with;

/// Two knocks. Between them two shells that sleep and one that counts, what the host answered (a word of the mailbox), and a file
/// in the guest's memory whose words the script does not hold as they are.
const SCRIPT: &str = "\
    for i in 1 2; do ( n=0; while [ $n -lt 6 ]; do n=$((n+1)); $bb usleep 7000; done ) & done\n\
    ( n=0; while [ $n -lt 400 ]; do n=$((n+1)); done ) &\n\
    for d in /sys/bus/pci/devices/*; do read id <$d/device; [ $id = 0x1110 ] && box=$d; done\n\
    echo 1 >$box/enable\n\
    { read a; read a; read at rest; } <$box/resource\n\
    echo BEFORE\n\
    /knock\n\
    echo ANSWER $($bb devmem $((at + 4096 + 1048576)) 32)\n\
    echo \"copy wro\"te this >/tmp/file\n\
    wait\n\
    /knock\n\
    $bb cat /tmp/file\n";
/// What the file holds.
const WROTE: &[u8] = b"copy wrote this";

/// A program for x86-64 that knocks (`ktstr_wire::gate::KNOCK`) and exits: an ELF header, one program header and code.
fn knock() -> Vec<u8> {
    const BASE: u64 = 0x40_0000;
    const HEADERS: u64 = 64 + 56;
    let code = [
        &ktstr_wire::gate::KNOCK[..],
        // mov $60, %eax; xor %edi, %edi; syscall
        &[0xb8, 60, 0, 0, 0, 0x31, 0xff, 0x0f, 0x05],
    ]
    .concat();
    let len = HEADERS + code.len() as u64;
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    let half = |file: &mut Vec<u8>, words: &[u16]| {
        words
            .iter()
            .for_each(|word| file.extend(word.to_le_bytes()));
    };
    let whole = |file: &mut Vec<u8>, words: &[u64]| {
        words
            .iter()
            .for_each(|word| file.extend(word.to_le_bytes()));
    };
    half(&mut file, &[2, 62, 1, 0]);
    whole(&mut file, &[BASE + HEADERS, 64, 0]);
    half(&mut file, &[0, 0, 64, 56, 1, 0, 0, 0]);
    // PT_LOAD, read and execute.
    half(&mut file, &[1, 0, 5, 0]);
    whole(&mut file, &[0, BASE, BASE, len, len, 0x1000]);
    file.extend(code);
    file
}

fn machine(seed: u64) -> VmBuilder {
    let mut builder = Builder::new();
    builder.bytes("/knock", knock(), 0o755).unwrap();
    guest_with(builder, SCRIPT)
        .topology("1n1l2c1t".parse().unwrap())
        .virtual_time(VirtualTime::seed(seed).gate())
}

#[track_caller]
fn at_knock(vm: &RunningVm) -> Stop {
    let stop = vm.next_stop().unwrap();
    let console = || String::from_utf8_lossy(&vm.com1().snapshot()).into_owned();
    let stop = stop.unwrap_or_else(|| panic!("the guest has ended: {}", console()));
    assert!(matches!(stop.cause, StopCause::Knock(_)), "{stop:?}");
    stop
}

fn save(dir: &Path) -> Saved {
    let vm = machine(0).build().unwrap().start().unwrap();
    at_knock(&vm);
    vm.save(dir, b"said before").unwrap()
}

/// The first page of the guest's memory that begins so: a file's first page does.
fn holds(memory: &GuestMemory, begin: &[u8]) -> Option<u64> {
    let mut chunk = vec![0; 1 << 20];
    for range in memory.ranges() {
        let mut at = 0;
        while at < range.len {
            let part = chunk.len().min(usize::try_from(range.len - at).unwrap());
            memory.read(range.gpa + at, &mut chunk[..part]).unwrap();
            let mut pages = (at..).step_by(4096).zip(chunk[..part].chunks(4096));
            if let Some((offset, _)) = pages.find(|(_, page)| page.starts_with(begin)) {
                return Some(range.gpa + offset);
            }
            at += part as u64;
        }
    }
    None
}

/// A copy's run, its console, and whether the host saw what the copy wrote.
fn copy(saved: &Saved, seed: u64, answer: [u8; 4]) -> (VirtualRun, String, bool) {
    let vm = machine(seed).build().unwrap();
    let mut vm = vm.start_saved(saved).unwrap();
    let memory = vm.memory();
    let first = at_knock(&vm);
    assert_eq!(first.cause, StopCause::Knock(b"said before".to_vec()));
    let registers = vm.freeze(Duration::from_secs(5)).unwrap().registers();
    let registers = registers.unwrap();
    assert!(registers.len() == 2 && registers.iter().any(|vcpu| vcpu.cr3 != 0));
    assert_eq!(holds(&memory, WROTE), None, "it has not run yet");
    vm.go_on(&answer, None).unwrap();
    let second = at_knock(&vm);
    assert!(second.at > first.at);
    let found = holds(&memory, WROTE);
    if let Some(gpa) = found {
        // The page cache's own page of the file.
        memory.write(gpa, b"host").unwrap();
    }
    vm.go_on(b"", None).unwrap();
    assert_eq!(vm.next_stop().unwrap(), None);
    let exit = vm.wait().unwrap();
    let console = String::from_utf8_lossy(&exit.com1).into_owned();
    assert_eq!(exit.reason, ExitReason::PowerOff, "{console}");
    (exit.virtual_run.unwrap(), console, found.is_some())
}

fn files(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    let mut files: Vec<_> = entries
        .map(|entry| {
            let name = entry.file_name().into_string().unwrap();
            (name, fs::read(entry.path()).unwrap())
        })
        // It says when the others were written.
        .filter(|(name, _)| name != "saved")
        .collect();
    files.sort();
    files
}

/// All of it on two boots: equal guests leave equal files, the host sees and changes what a copy itself wrote, copies of one seed
/// are one run, those of another are not, and the saved guest stays as it was.
#[test]
fn copies_of_a_saved_guest_go_on_by_themselves() {
    let [first, again] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let saved = save(first.path());
    save(again.path());
    let before = files(first.path());
    let names: Vec<&str> = before.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["com1", "com2", "ram0", "said", "state"]);
    for (one, other) in before.iter().zip(files(again.path())) {
        assert!(*one == other, "{} differs between two saves", one.0);
    }
    let answer = 0x00ab_cdefu32.to_le_bytes();
    let (run, console, seen) = copy(&saved, 7, answer);
    assert!(seen, "the host does not see what the copy wrote");
    for words in ["BEFORE", "ANSWER 0x00ABCDEF", "host wrote this"] {
        assert!(console.contains(words), "no {words:?} in {console}");
    }
    assert_eq!(console.matches("BEFORE").count(), 1, "{console}");
    assert_eq!(copy(&saved, 7, answer), (run.clone(), console, true));
    let (other, ..) = copy(&saved, 8, answer);
    assert_ne!(run.fingerprint, other.fingerprint);
    assert_eq!((run.seed, other.seed), (7, 8));
    assert!(
        files(first.path()) == before,
        "a copy changed what it came from"
    );
    let opened = Saved::open(first.path()).unwrap();
    let smaller = machine(7).memory_mib(160).build().unwrap();
    let refused = smaller.start_saved(&opened).unwrap_err().to_string();
    assert!(refused.contains("start a copy of"), "{refused}");
}

/// The knock is what a save needs, and only a guest with a gate has one.
#[test]
fn what_does_not_stand_at_a_knock_is_not_saved() {
    let dir = tempfile::tempdir().unwrap();
    let vm = machine(0).build().unwrap().start().unwrap();
    let refused = vm.save(dir.path(), b"").unwrap_err().to_string();
    assert!(refused.contains("is not stopped at a knock"), "{refused}");
    drop(vm);
    let without = machine(0).virtual_time(VirtualTime::seed(0));
    let vm = without.build().unwrap().start().unwrap();
    let refused = vm.save(dir.path(), b"").unwrap_err().to_string();
    assert!(refused.contains("has none"), "{refused}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}
