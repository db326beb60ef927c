//! The index over types written by hand, and over nonsense.

use std::sync::Arc;

use proptest::prelude::*;

use super::build::Builder;
use super::*;

fn good() -> Vec<u8> {
    let mut btf = Builder::new();
    let int = btf.int("int", 4, true);
    let u64_ = btf.int("unsigned long", 8, false);
    let s64 = btf.alias("s64", u64_);
    let konst = btf.add("", (10, false, 0), s64, &[]);
    let ints = btf.array(int, 4);
    let inner = btf.structure(
        "",
        16,
        &[
            ("deep", konst, 0, 0),
            ("low", int, 64, 3),
            ("next", int, 67, 7),
        ],
    );
    let task = btf.structure(
        "task",
        48,
        &[
            ("pid", int, 0, 0),
            ("", inner, 64, 0),
            ("args", ints, 192, 0),
        ],
    );
    btf.ptr(task);
    btf.alias("task", task);
    btf.enumeration("state", &[("RUNNING", 0), ("DEAD", u32::MAX)]);
    btf.finish()
}

#[test]
fn members_are_found_through_anonymous_ones() {
    let btf = Btf::from_bytes(good()).unwrap();
    let field = |path| btf.member_of("task", path);
    assert_eq!(field("pid").map(|f| (f.offset, f.size)), Some((0, 4)));
    assert_eq!(field("deep").map(|f| (f.offset, f.size)), Some((8, 8)));
    assert_eq!(field("args[3]").map(|f| (f.offset, f.size)), Some((36, 4)));
    assert_eq!(field("args[4]"), None);
    assert_eq!(field("pid.none"), None);
    assert_eq!(field("absent"), None);
}

#[test]
fn bit_fields_are_cut_out() {
    let btf = Btf::from_bytes(good()).unwrap();
    let next = btf.member_of("task", "next").unwrap();
    assert_eq!((next.offset, next.size), (16, 2));
    assert_eq!(next.decode(&[0b1010_1111, 0b0000_0010]), 0b101_0101);
    let low = btf.member_of("task", "low").unwrap();
    assert_eq!(low.decode(&[0b1111_1101]), 0b101);
}

#[test]
fn names_find_the_kind_asked_for() {
    let btf = Btf::from_bytes(good()).unwrap();
    assert_eq!(btf.find_struct("task").unwrap().kind(), Kind::Struct);
    assert_eq!(
        btf.find("task", Kind::Typedef).unwrap().kind(),
        Kind::Typedef
    );
    assert!(btf.find("task", Kind::Enum).is_none());
    assert_eq!(btf.enumerator("state", "DEAD"), Some(u32::MAX.into()));
    assert_eq!(
        btf.type_name(btf.find("s64", Kind::Typedef).unwrap().id()),
        "s64"
    );
    let pointer = btf.types().find(|ty| ty.kind() == Kind::Ptr).unwrap();
    assert_eq!(btf.type_name(pointer.id()), "struct task *");
}

#[test]
fn split_btf_continues_its_base() {
    let base = Arc::new(Btf::from_bytes(good()).unwrap());
    let int = base.find("int", Kind::Int).unwrap().id().0;
    let mut top = Builder::on_top_of(&base);
    top.structure("mine", 8, &[("x", int, 32, 0)]);
    let split = Btf::split(Blob::Owned(top.finish()), base).unwrap();
    assert_eq!(split.member_of("mine", "x").unwrap().offset, 4);
    assert_eq!(split.member_of("task", "deep").unwrap().offset, 8);
    let field = split.member_of("mine", "x").unwrap();
    assert_eq!(split.type_name(field.ty), "int");
}

#[test]
fn a_cut_body_is_named() {
    let mut cut = good();
    let types = u32::from_le_bytes(cut[12..16].try_into().unwrap());
    cut[12..16].copy_from_slice(&(types - 4).to_le_bytes());
    assert!(
        Btf::from_bytes(cut)
            .unwrap_err()
            .to_string()
            .contains("cut off")
    );
}

#[test]
fn typedef_cycles_end() {
    let mut btf = Builder::new();
    btf.alias("a", 2);
    btf.alias("b", 1);
    btf.array(3, 2);
    let btf = Btf::from_bytes(btf.finish()).unwrap();
    assert!(btf.resolve(TypeId(1)).is_none());
    assert!(btf.size_of(TypeId(3)).is_none());
    assert!(btf.type_name(TypeId(3)).contains('?'));
}

#[test]
fn the_cache_gives_back_what_was_stored() {
    let dir = tempfile::tempdir().unwrap();
    let btf = Btf::from_bytes(good()).unwrap();
    assert!(load_cached(dir.path(), &[1, 2]).is_none());
    store_cached(dir.path(), &[1, 2], &btf).unwrap();
    let again = load_cached(dir.path(), &[1, 2]).unwrap();
    assert_eq!(again.bytes(), btf.bytes());
    assert_eq!(
        again.member_of("task", "deep"),
        btf.member_of("task", "deep")
    );
    let file = dir.path().join("0102.btf");
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[40] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    assert!(load_cached(dir.path(), &[1, 2]).is_none());
}

/// A blob that was damaged on its way, tables and all sizes whole.
#[test]
fn a_damaged_blob_in_the_cache_is_ignored() {
    let dir = tempfile::tempdir().unwrap();
    let btf = Btf::from_bytes(good()).unwrap();
    store_cached(dir.path(), &[1, 2], &btf).unwrap();
    let file = dir.path().join("0102.btf");
    let mut bytes = std::fs::read(&file).unwrap();
    let strings = bytes.len() - 9;
    bytes[strings..].fill(0);
    std::fs::write(&file, bytes).unwrap();
    assert!(load_cached(dir.path(), &[1, 2]).is_none());
}

/// A kind that came later, described by the layout section: what lies behind it is found.
#[test]
fn kinds_of_later_kernels_are_stepped_over() {
    const KNOWN: usize = 20;
    let build = || {
        let mut btf = Builder::new();
        let int = btf.int("int", 4, true);
        btf.add("location", (21, false, 3), 0, &[1, 2, 3, 4, 5, 6, 7]);
        btf.add("", (100, false, 0), 0, &[9]);
        btf.structure("behind", 8, &[("x", int, 32, 0)]);
        btf
    };
    let mut layout = vec![(0, 0); KNOWN];
    layout.extend([(0, 0), (4, 8)]);
    layout.resize(100, (0, 0));
    layout.push((4, 0));
    let btf = Btf::from_bytes(build().finish_with_layout(&layout)).unwrap();
    assert_eq!(btf.member_of("behind", "x").unwrap().offset, 4);
    assert_eq!(btf.end_id(), 5);
    assert!(btf.ty(TypeId(2)).is_none() && btf.size_of(TypeId(3)).is_none());
    assert_eq!(btf.types().count(), 2);
    exercise(&btf);
    // Without a description, where the next type begins is unknown.
    let refusal = Btf::from_bytes(build().finish_with_layout(&layout[..KNOWN]));
    assert!(refusal.unwrap_err().to_string().contains("predates"));
    let short = vec![0x9f, 0xeb, 1, 0, 23, 0, 0, 0];
    assert!(
        Btf::from_bytes(short)
            .unwrap_err()
            .to_string()
            .contains("shorter")
    );
}

#[test]
fn types_with_many_parts_are_whole() {
    let mut btf = Builder::new();
    let values: Vec<(String, u32)> = (0..70_000).map(|n| (format!("V{n}"), n)).collect();
    let named: Vec<(&str, u32)> = values.iter().map(|(name, n)| (&name[..], *n)).collect();
    btf.enumeration("many", &named);
    btf.int("int", 4, true);
    let btf = Btf::from_bytes(btf.finish()).unwrap();
    assert_eq!(btf.enumerator("many", "V69999"), Some(69_999));
    assert!(btf.find("int", Kind::Int).is_some());
}

/// Everything that can be asked of a BTF.
pub(crate) fn exercise(btf: &Btf) {
    for ty in btf.types().take(200) {
        let _ = (btf.type_name(ty.id()), btf.size_of(ty.id()), ty.int());
        for member in ty.members().take(50) {
            let _ = btf.member(ty.id(), member.name);
        }
        let _ = ty.enumerators().count() + ty.section_vars().count();
        let _ = btf.find_struct(ty.name());
    }
}

proptest! {
    #[test]
    fn random_damage_never_panics(flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..30)) {
        let mut blob = good();
        for (place, value) in flips {
            let at = place.index(blob.len());
            blob[at] = value;
        }
        if let Ok(btf) = Btf::from_bytes(blob) {
            exercise(&btf);
        }
    }
}
