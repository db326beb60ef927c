//! Decoding, text and JSON of values written by hand.

use proptest::prelude::*;

use super::*;
use crate::btf::build::Builder;
use crate::btf::{Btf, TypeId};

/// `struct s { int a; u8 low:3, high:5; char name[4]; enum e kind; void *next; u32 v[3]; struct { u16 in; }; }`
fn sample() -> (Btf, TypeId) {
    let mut btf = Builder::new();
    let int = btf.int("int", 4, true);
    let byte = btf.int("unsigned char", 1, false);
    let character = btf.int("char", 1, true);
    let half = btf.int("short", 2, false);
    let word = btf.int("unsigned int", 4, false);
    let name = btf.array(character, 4);
    let kind = btf.enumeration("e", &[("ONE", 1), ("TWO", 2), ("FOUR", 4)]);
    let void = btf.ptr(0);
    let list = btf.array(word, 3);
    let inner = btf.structure("", 2, &[("in", half, 0, 0)]);
    let id = btf.structure(
        "s",
        40,
        &[
            ("a", int, 0, 0),
            ("low", byte, 32, 3),
            ("high", byte, 35, 5),
            ("name", name, 40, 0),
            ("kind", kind, 96, 0),
            ("next", void, 128, 0),
            ("v", list, 192, 0),
            ("", inner, 288, 0),
        ],
    );
    (Btf::from_bytes(btf.finish()).unwrap(), TypeId(id))
}

/// `struct sdt { u64 id; u64 payload[]; }`: an empty array would look like a struct with nothing in it.
#[test]
fn a_flexible_array_is_what_lies_behind_or_of_unknown_length() {
    let mut btf = Builder::new();
    let word = btf.int("unsigned long", 8, false);
    let rest = btf.array(word, 0);
    let id = btf.structure("sdt", 8, &[("id", word, 0, 0), ("payload", rest, 64, 0)]);
    let btf = Btf::from_bytes(btf.finish()).unwrap();
    let raw: Vec<u8> = [3_u64, 5, 0, 7]
        .iter()
        .flat_map(|n| n.to_le_bytes())
        .collect();
    let decode = |len: usize| {
        let value = Decoder::new(&btf, Limits::default()).decode(TypeId(id), &raw[..len]);
        value.to_string()
    };
    assert_eq!(decode(32), "{id=3, payload=[5, 0, 7]}");
    assert_eq!(
        decode(8),
        "{id=3, payload=<a flexible array of unknown length>}"
    );
}

fn raw() -> Vec<u8> {
    let mut raw = vec![0; 40];
    raw[..4].copy_from_slice(&(-5_i32).to_le_bytes());
    raw[4] = 0xb5;
    raw[5..8].copy_from_slice(b"hi\0");
    raw[12] = 2;
    raw[16..24].copy_from_slice(&0xffff_ffff_8100_0000_u64.to_le_bytes());
    raw[24..36].copy_from_slice(&[7, 0, 0, 0, 7, 0, 0, 0, 9, 0, 0, 0]);
    raw[36] = 3;
    raw
}

#[test]
fn every_kind_of_value_is_rendered() {
    let (btf, id) = sample();
    let resolve = |address: u64| (address == 0xffff_ffff_8100_0000).then(|| "_text+0x0".to_owned());
    let value = Decoder::new(&btf, Limits::default())
        .resolver(&resolve)
        .decode(id, &raw());
    assert_eq!(
        value.to_string(),
        r#"{a=-5, low=5, high=22, name="hi", kind=TWO, next=0xffffffff81000000 (_text+0x0), v=[7 x2, 9], in=3}"#
    );
    assert_eq!(
        serde_json::to_string(&value).unwrap(),
        r#"{"a":-5,"low":5,"high":22,"name":"hi","kind":{"enum":"TWO","value":2},"next":{"ptr":"0xffffffff81000000","to":"_text+0x0"},"v":[7,7,9],"in":3}"#
    );
    assert_eq!(value.member("v.2").and_then(RenderedValue::as_u64), Some(9));
}

#[test]
fn several_bits_of_an_enum_are_flags() {
    let (btf, id) = sample();
    let mut raw = raw();
    raw[12] = 5;
    let value = Decoder::new(&btf, Limits::default()).decode(id, &raw);
    assert_eq!(value.member("kind").unwrap().to_string(), "ONE|FOUR (0x5)");
}

#[test]
fn limits_cut_and_say_so() {
    let (btf, id) = sample();
    let limits = Limits {
        elements: 1,
        ..Limits::default()
    };
    let value = Decoder::new(&btf, limits).decode(id, &raw());
    assert_eq!(value.member("v").unwrap().to_string(), "[7, 2 more]");
    let short = Decoder::new(&btf, Limits::default()).decode(id, &raw()[..20]);
    assert!(
        short
            .member("next")
            .unwrap()
            .to_string()
            .contains("ends before")
    );
}

proptest! {
    #[test]
    fn decoding_never_panics(raw in proptest::collection::vec(any::<u8>(), 0..64), id in 0_u32..20, values in 0_usize..20) {
        let (btf, _) = sample();
        let limits = Limits { values, ..Limits::default() };
        let value = Decoder::new(&btf, limits).decode(TypeId(id), &raw);
        let _ = (value.to_string(), serde_json::to_string(&value).unwrap());
    }
}

/// `struct node { struct node *next; unsigned int v; }`, three of them in a ring at 0x1000, 0x2000 and 0x3000.
#[test]
fn pointers_are_followed_but_not_for_ever() {
    let mut btf = Builder::new();
    let word = btf.int("unsigned int", 4, false);
    // The pointer comes before the struct that it points at.
    let to_node = btf.ptr(word + 2);
    let id = btf.structure("node", 16, &[("next", to_node, 0, 0), ("v", word, 64, 0)]);
    assert_eq!(id, word + 2);
    let btf = Btf::from_bytes(btf.finish()).unwrap();
    let node = |next: u64, v: u64| [next.to_le_bytes(), v.to_le_bytes()].concat();
    let follow = |address: u64, target: &crate::btf::Type<'_>| {
        assert_eq!(target.name(), "node");
        let number = address / 0x1000;
        (number < 4).then(|| Pointee::Bytes(node((number % 3 + 1) * 0x1000, number)))
    };
    let limits = Limits {
        values: 5,
        ..Limits::default()
    };
    let decode = |next, limits| {
        Decoder::new(&btf, limits)
            .follower(&follow)
            .decode(TypeId(id), &node(next, 7))
    };
    let ring = decode(0x1000, Limits::default());
    assert_eq!(
        ring.to_string(),
        "{next=&{next=&{next=&{next=0x1000 (struct node), v=3}, v=2}, v=1}, v=7}"
    );
    assert_eq!(
        ring.member("next.next.v").and_then(RenderedValue::as_u64),
        Some(2)
    );
    assert_eq!(
        ring.member("next").and_then(RenderedValue::as_u64),
        Some(0x1000)
    );
    let json = serde_json::to_value(&ring).unwrap();
    assert_eq!(json["next"]["ptr"], "0x1000");
    assert_eq!(json["next"]["at"]["v"], 1);
    // What lies behind a pointer takes nothing from the value that has it.
    let short = decode(0x1000, limits);
    assert_eq!(
        short.member("v").and_then(RenderedValue::as_u64),
        Some(7),
        "{short}"
    );
    // Nothing to follow, nothing there.
    for next in [0, 0x9000] {
        assert!(matches!(
            decode(next, limits).member("next"),
            Some(RenderedValue::Pointer { pointee: None, .. })
        ));
    }
}
