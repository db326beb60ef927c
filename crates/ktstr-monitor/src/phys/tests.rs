//! Memory sources against what was put into them.

use std::io::Write as _;

use proptest::prelude::*;

use super::*;

/// A vmcore as QEMU writes it: one note, two segments.
fn vmcore(segments: &[(u64, &[u8])], cr3: u64) -> Vec<u8> {
    let mut note = Vec::new();
    let desc_len = 8 + 18 * 8 + 10 * 24 + 5 * 8 + 8;
    for word in [5_u32, desc_len, 0] {
        note.extend(word.to_le_bytes());
    }
    note.extend(b"QEMU\0\0\0\0");
    let mut desc = vec![0; desc_len as usize];
    let cr0 = 8 + 18 * 8 + 10 * 24;
    desc[cr0..cr0 + 8].copy_from_slice(&0x8000_0001_u64.to_le_bytes());
    for (number, value) in [
        (6, 0xffff_c900_0000_1000_u64),
        (16, 0xffff_ffff_8100_0010),
        (17, 0x246),
    ] {
        desc[8 + number * 8..16 + number * 8].copy_from_slice(&value.to_le_bytes());
    }
    desc[cr0 + 24..cr0 + 32].copy_from_slice(&cr3.to_le_bytes());
    note.extend(desc);

    let mut file = vec![0; 64];
    file[..6].copy_from_slice(b"\x7fELF\x02\x01");
    file[16..18].copy_from_slice(&4_u16.to_le_bytes());
    file[18..20].copy_from_slice(&62_u16.to_le_bytes());
    file[32..40].copy_from_slice(&64_u64.to_le_bytes());
    file[54..56].copy_from_slice(&56_u16.to_le_bytes());
    file[56..58].copy_from_slice(&(u16::try_from(segments.len()).unwrap() + 1).to_le_bytes());
    let mut at = 64 + 56 * (segments.len() as u64 + 1);
    let mut body = Vec::new();
    let mut header = |kind: u32, paddr: u64, data: &[u8]| {
        let mut entry = vec![0; 56];
        entry[..4].copy_from_slice(&kind.to_le_bytes());
        entry[8..16].copy_from_slice(&at.to_le_bytes());
        entry[24..32].copy_from_slice(&paddr.to_le_bytes());
        entry[32..40].copy_from_slice(&(data.len() as u64).to_le_bytes());
        at += data.len() as u64;
        file.extend(entry);
        body.extend_from_slice(data);
    };
    header(4, 0, &note);
    for (paddr, data) in segments {
        header(1, *paddr, data);
    }
    file.extend(body);
    file
}

fn open(bytes: &[u8]) -> Result<Vmcore> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    Vmcore::open(file.path())
}

#[test]
fn a_vmcore_gives_its_segments_and_page_table_root() {
    let core = open(&vmcore(
        &[(0x1000, b"low memory"), (0x10_0000, b"high")],
        0x1234_5000,
    ))
    .unwrap();
    let mut text = [0; 6];
    core.read(Gpa(0x1004), &mut text).unwrap();
    assert_eq!(&text, b"memory");
    assert_eq!(core.hints().cr3, [0x1234_5000]);
    let vcpu = VcpuHint {
        rip: 0xffff_ffff_8100_0010,
        rsp: 0xffff_c900_0000_1000,
        rflags: 0x246,
        cr3: 0x1234_5000,
    };
    assert_eq!(core.hints().vcpus, [vcpu]);
    assert_eq!(core.ranges().len(), 2);
    let error = core.read(Gpa(0x1008), &mut text).unwrap_err().to_string();
    assert_eq!(error, "no memory at GPA 0x100a (4 bytes wanted)");
    assert!(matches!(
        core.write(Gpa(0x1000), b"x"),
        Err(Error::ReadOnly { .. })
    ));
}

#[test]
fn a_vmcore_cut_short_loses_only_its_end() {
    let whole = vmcore(&[(0, &[7; 4096]), (0x10_0000, &[9; 4096])], 0);
    assert_eq!(open(&whole).unwrap().missing(), 0);
    let core = open(&whole[..whole.len() - 100]).unwrap();
    assert_eq!(core.missing(), 100);
    assert_eq!(core.read_u32(Gpa(0)).unwrap(), 0x0707_0707);
    assert!(matches!(
        core.read_u64(Gpa(0x10_0000 + 4096 - 100)),
        Err(Error::NoMemory { .. })
    ));
}

#[test]
fn segments_may_overlap() {
    let image = [3; 0x800];
    let core = open(&vmcore(
        &[
            (0x1400, &image),
            (0x1000, &[1; 0x1000]),
            (0x1f00, &[2; 0x200]),
        ],
        0,
    ))
    .unwrap();
    let at = |gpa| core.read_u32(Gpa(gpa)).unwrap();
    assert_eq!(
        (at(0x1400), at(0x1ffc), at(0x2000)),
        (0x0101_0101, 0x0101_0101, 0x0202_0202)
    );
    assert_eq!(core.ranges().len(), 2);
    assert!(core.read_u32(Gpa(0x2100)).is_err());
}

#[test]
fn other_files_are_refused_by_name() {
    let refusal = |bytes: &[u8]| open(bytes).unwrap_err().to_string();
    assert!(refusal(b"").contains("it is empty"));
    assert!(refusal(b"#!/bin/sh").contains("does not begin with an ELF header"));
    assert!(refusal(b"KDUMP   and more").contains("compressed kdump"));
    let mut other = vmcore(&[(0, b"x")], 0);
    other[18] = 183;
    assert!(refusal(&other).contains("ELF machine 183, expected 62"));
    other[16] = 2;
    assert!(refusal(&other).contains("ELF type 2, expected 4"));
    let mut cut = vmcore(&[(0, b"x")], 0);
    cut.truncate(64);
    assert!(refusal(&cut).contains("no program headers"));
}

/// 65535 segments by the header, and four billion by section 0: what is there is read.
#[test]
fn absurd_counts_of_segments_are_bounded() {
    let mut core = vmcore(&[(0x1000, b"memory")], 0);
    core[56..58].copy_from_slice(&0xfffe_u16.to_le_bytes());
    let _ = open(&core);
    core[56..58].copy_from_slice(&0xffff_u16.to_le_bytes());
    let end = core.len() as u64;
    core[40..48].copy_from_slice(&end.to_le_bytes());
    let mut section = [0; 64];
    section[44..48].copy_from_slice(&u32::MAX.to_le_bytes());
    core.extend(section);
    let read = open(&core).unwrap().read_u32(Gpa(0x1000)).unwrap();
    assert_eq!(read.to_le_bytes(), *b"memo");
}

#[test]
fn shared_memory_is_read_and_written() {
    let file = tempfile::tempfile().unwrap();
    file.set_len(0x3000).unwrap();
    let piece = |gpa, offset, len| Piece {
        gpa: Gpa(gpa),
        offset,
        len,
    };
    let memory = MappedMem::shared(
        &file,
        &[piece(0x10_0000, 0x1000, 0x2000), piece(0, 0, 0x1000)],
    )
    .unwrap();
    memory.write(Gpa(0x10_0ffd), b"across").unwrap();
    let mut text = [0; 6];
    memory.read(Gpa(0x10_0ffd), &mut text).unwrap();
    assert_eq!(&text, b"across");
    let mut whole = [0; 6];
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut whole, 0x1ffd).unwrap();
    assert_eq!(&whole, b"across");
    assert!(memory.write(Gpa(0xffe), b"four").is_err());
    let overlapping = [piece(0, 0, 0x2000), piece(0x1000, 0, 0x1000)];
    assert!(MappedMem::shared(&file, &overlapping).is_err());
}

#[test]
fn batches_say_which_reads_failed() {
    let memory = SparseMem::new();
    memory.put(Gpa(0x1000), &[1, 2, 3, 4]);
    let (mut a, mut b) = ([0; 4], [0; 4]);
    let mut reads = [
        BatchRead {
            gpa: Gpa(0x9000),
            buffer: &mut a,
            done: false,
        },
        BatchRead {
            gpa: Gpa(0x1000),
            buffer: &mut b,
            done: false,
        },
    ];
    memory.read_batch(&mut reads);
    assert_eq!((reads[0].done, reads[1].done), (false, true));
    assert_eq!(b, [1, 2, 3, 4]);
}

proptest! {
    /// Any bytes of a dump may be wrong, and its end missing: it opens or is refused, and reads stay inside.
    #[test]
    fn damaged_vmcores_are_survived(
        flips in proptest::collection::vec((0_usize..1100, any::<u8>()), 0..12), kept in 0_usize..9000,
    ) {
        let mut core = vmcore(&[(0x1000, &[1; 4096]), (0x10_0000, &[2; 2048])], 0x1000);
        for (at, byte) in flips {
            if let Some(place) = core.get_mut(at) {
                *place = byte;
            }
        }
        core.truncate(kept.max(64));
        if let Ok(core) = open(&core) {
            let ranges = core.ranges();
            for pair in ranges.windows(2) {
                prop_assert!(pair[0].end() <= pair[1].gpa);
            }
            for range in ranges {
                let last = Gpa(range.end().0.saturating_sub(4));
                let _ = (core.read_u32(range.gpa), core.read_u32(last), core.read_u64(range.end()));
            }
        }
    }

    #[test]
    fn any_read_equals_the_file_or_names_what_is_missing(offset in 0_u64..9000, len in 0_usize..9000) {
        let data: Vec<u8> = (0..8192_u32).map(|n| u8::try_from(n * 31 % 251).unwrap()).collect();
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&data).unwrap();
        let memory = open_raw(file.path()).unwrap();
        let mut buffer = vec![0; len];
        let start = usize::try_from(offset).unwrap();
        match memory.read(Gpa(offset), &mut buffer) {
            Ok(()) => prop_assert!(len == 0 || data[start..start + len] == buffer[..]),
            Err(Error::NoMemory { gpa, .. }) => {
                prop_assert!(start + len > data.len());
                prop_assert_eq!(gpa.0, offset.max(8192));
            }
            Err(other) => prop_assert!(false, "{other}"),
        }
    }

    #[test]
    fn a_vmcore_of_random_bytes_never_panics(mut bytes in proptest::collection::vec(any::<u8>(), 0..600), valid_start in any::<bool>()) {
        if valid_start && bytes.len() > 64 {
            let good = vmcore(&[(0, b"x")], 0);
            bytes[..64].copy_from_slice(&good[..64]);
        }
        let _ = open(&bytes);
    }
}
