//! Tables written as `scripts/kallsyms.c` writes them, and nonsense.

use proptest::prelude::*;

use super::*;

/// In which order the tables lie.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Order {
    Since7_0,
    Since6_5,
    Since6_2,
    Before6_2,
}

impl Order {
    fn pad(self, image: &mut Vec<u8>) {
        let align = if self == Self::Since7_0 { 4 } else { 8 };
        image.resize(image.len().next_multiple_of(align), 0);
    }
}

fn pad(image: &mut Vec<u8>) {
    image.resize(image.len().next_multiple_of(8), 0);
}

/// The address of the image that the tables lie in.
const START: u64 = 0xffff_ffff_9a00_0000;

/// Offsets from their own places, to where `offsets` has the same symbols.
fn places(image: &mut Vec<u8>, symbols: &[(&str, i32)], base: u64) {
    for (_, offset) in symbols {
        let value = base.wrapping_add_signed(-1 - i64::from(*offset));
        let place = START + u64::try_from(image.len()).unwrap();
        let distance = i32::try_from(value.wrapping_sub(place).cast_signed()).unwrap();
        image.extend(distance.to_le_bytes());
    }
}

fn sequences(image: &mut Vec<u8>, count: usize) {
    for number in 0..count {
        // The kernel writes the most significant of the three bytes first.
        let sequence = u32::try_from(number * 7 % count).unwrap();
        let [low, middle, high, _] = sequence.to_le_bytes();
        image.extend([high, middle, low]);
    }
}

fn offsets(image: &mut Vec<u8>, symbols: &[(&str, i32)], base: u64) {
    for (_, offset) in symbols {
        image.extend(offset.to_le_bytes());
    }
    pad(image);
    image.extend(base.to_le_bytes());
}

/// Writes the tables behind `prefix`, in the order of 6.5 and later.
fn tables(prefix: usize, symbols: &[(&str, i32)], base: u64) -> Vec<u8> {
    ordered(Order::Since6_5, prefix, symbols, base)
}

fn ordered(order: Order, prefix: usize, symbols: &[(&str, i32)], base: u64) -> Vec<u8> {
    let mut image = vec![0xcc; prefix];
    order.pad(&mut image);
    if matches!(order, Order::Since6_2 | Order::Before6_2) {
        offsets(&mut image, symbols, base);
    }
    image.extend(u32::try_from(symbols.len()).unwrap().to_le_bytes());
    order.pad(&mut image);
    let mut markers = Vec::new();
    let start = image.len();
    for (number, (name, _)) in symbols.iter().enumerate() {
        if number % 256 == 0 {
            markers.push(u32::try_from(image.len() - start).unwrap());
        }
        image.push(u8::try_from(name.len()).unwrap());
        image.extend(name.as_bytes());
    }
    order.pad(&mut image);
    for marker in markers {
        image.extend(marker.to_le_bytes());
    }
    order.pad(&mut image);
    if order == Order::Since6_2 {
        sequences(&mut image, symbols.len());
        order.pad(&mut image);
    }
    let mut index = Vec::new();
    let start = image.len();
    for token in 0..=255_u8 {
        index.push(u16::try_from(image.len() - start).unwrap());
        // Characters stand for themselves, other tokens for some pair.
        match token {
            b'0'..=b'z' => image.push(token),
            _ => image.extend(b"qz"),
        }
        image.push(0);
    }
    order.pad(&mut image);
    for start in index {
        image.extend(start.to_le_bytes());
    }
    order.pad(&mut image);
    match order {
        Order::Since7_0 => places(&mut image, symbols, base),
        Order::Since6_5 => offsets(&mut image, symbols, base),
        Order::Since6_2 | Order::Before6_2 => {}
    }
    if matches!(order, Order::Since7_0 | Order::Since6_5) {
        sequences(&mut image, symbols.len());
    }
    image.extend([0xcc; 100]);
    image
}

const BASE: u64 = 0xffff_ffff_9860_0000;

#[test]
fn tables_without_header_are_found_and_decoded() {
    let names: Vec<String> = (0..600).map(|number| format!("tsym_{number}")).collect();
    let mut symbols: Vec<(&str, i32)> = (0..)
        .zip(&names)
        .map(|(n, name)| (&name[..], -1 - n * 16))
        .collect();
    symbols[0] = ("T_text", -1);
    symbols[1] = ("Arunqueues", 0x2cc00);
    for order in [Order::Since6_5, Order::Since6_2, Order::Before6_2] {
        let found = find_kallsyms(&ordered(order, 1000, &symbols, BASE), Kva(START));
        let found = found.unwrap_or_else(|| panic!("{order:?}"));
        assert_eq!(found.len(), 600);
        assert_eq!(found.find("_text"), Some(BASE));
        assert_eq!(found.find("runqueues"), Some(0x2cc00));
        assert_eq!(found.find("sym_599"), Some(BASE + 599 * 16));
        assert_eq!(found.find("sym_600"), None);
        assert_eq!(found.symbolize(Kva(BASE + 33)), Some(("sym_2", 1)));
    }
}

/// The base is gone, every offset counts from its own place, and tables begin at any multiple of 4.
#[test]
fn offsets_that_count_from_their_own_place_are_followed() {
    let names: Vec<String> = (0..600).map(|number| format!("tsym_{number}")).collect();
    let mut symbols: Vec<(&str, i32)> = (0..)
        .zip(&names)
        .map(|(n, name)| (&name[..], -1 - n * 16))
        .collect();
    symbols[0] = ("T_text", -1);
    for prefix in [1000, 1004] {
        let image = ordered(Order::Since7_0, prefix, &symbols, BASE);
        let found = find_kallsyms(&image, Kva(START)).expect("the tables are found");
        assert_eq!(found.len(), 600);
        assert_eq!(found.find("_text"), Some(BASE));
        assert_eq!(found.find("sym_599"), Some(BASE + 599 * 16));
        // In a window of memory whose address is unknown, distances are right.
        let moved = find_kallsyms(&image, Kva(START + 0x1230_0000)).unwrap();
        assert_eq!(moved.find("sym_599"), Some(BASE + 599 * 16 + 0x1230_0000));
    }
    // Numbers that lead nowhere near an image are no such offsets.
    let far = ordered(Order::Since7_0, 8, &symbols, START + (1 << 30));
    assert!(find_kallsyms(&far, Kva(START)).is_none());
}

/// Ascending numbers before a token table, as a guest would lay them out to keep us busy.
#[test]
fn a_search_for_markers_ends() {
    let mut image: Vec<u8> = (1..3_000_000_u32).flat_map(u32::to_le_bytes).collect();
    let tables = tables(8, &[("T_text", -1)], BASE);
    let at = tables.windows(4).position(|part| part == b"qz\0q").unwrap();
    pad(&mut image);
    let tokens = image.len();
    image.extend(&tables[at..]);
    assert!(image.len() > tokens);
    let start = cpu_time();
    assert!(find_kallsyms(&image, Kva(START)).is_none());
    assert!(cpu_time() - start < std::time::Duration::from_secs(10));
}

/// What this thread computed so far: how long that took by the clock is up to who else computes.
fn cpu_time() -> std::time::Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    let ns = text.split(' ').next().unwrap();
    std::time::Duration::from_nanos(ns.parse().unwrap())
}

#[test]
fn offsets_without_absolute_percpu_are_unsigned() {
    let symbols = [("T_text", 0), ("Drunqueues", 0x100)];
    let found = find_kallsyms(&tables(8, &symbols, BASE), Kva(START)).unwrap();
    assert_eq!(found.find("runqueues"), Some(BASE + 0x100));
}

proptest! {
    #[test]
    fn damage_never_panics(flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..40)) {
        let mut image = tables(64, &[("T_text", -1), ("Dinit_task", -100), ("Aper_cpu", 5)], BASE);
        for (place, value) in flips {
            let at = place.index(image.len());
            image[at] = value;
        }
        if let Some(found) = find_kallsyms(&image, Kva(START)) {
            let _ = (found.find("_text"), found.symbolize(Kva(BASE)), found.iter().count());
        }
    }
}
