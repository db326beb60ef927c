//! The log against /dev/kmsg.

use crate::lab::lab;

/// As /dev/kmsg escapes: what is not printable, and the backslash.
fn escaped(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'\\' | 0..32 | 127.. => format!("\\x{byte:02x}"),
            _ => char::from(byte).to_string(),
        })
        .collect()
}

#[test]
fn every_record_of_dev_kmsg_is_found() {
    let lab = lab();
    let walk = lab.kernel.dmesg();
    assert!(walk.problems.is_empty(), "{:?}", walk.problems);
    assert_eq!(walk.found.incomplete, 0);
    let records = walk.found.records;
    // "prio,seq,microseconds,flags[,caller];text", then lines of properties that begin with a space.
    let said: Vec<&str> = lab
        .facts
        .text("kmsg")
        .lines()
        .filter(|line| !line.starts_with(' ') && line.contains(';'))
        .collect();
    assert!(said.len() > 100, "{}", said.len());
    for line in said {
        let (head, text) = line.split_once(';').unwrap();
        let numbers: Vec<u64> = head
            .split(',')
            .take(3)
            .map(|word| word.parse().unwrap())
            .collect();
        let record = records
            .iter()
            .find(|record| record.seq == numbers[1])
            .unwrap_or_else(|| panic!("no record for {line}"));
        assert_eq!(
            u64::from(record.facility) << 3 | u64::from(record.level),
            numbers[0],
            "{line}"
        );
        assert_eq!(record.ts_nsec / 1000, numbers[2], "{line}");
        assert_eq!(escaped(&record.text), text.trim_end_matches('\r'), "{line}");
    }
    let hello = records
        .iter()
        .find(|record| record.text == "monitor says hello")
        .unwrap();
    assert_eq!((hello.level, hello.facility), (4, 1));
}
