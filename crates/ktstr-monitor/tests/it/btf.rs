//! Our BTF index against btf-rs, on every type of real kernels: the guest's, this host's, and those of [`others`].

use btf_rs::{BtfType as _, Type};
use ktstr_monitor::btf::{Btf, Kind, TypeId};

use crate::lab::lab;

/// BTF of other kernels, by name: this host's where it has one, and what was put into `ktstr-monitor-btf` in the build
/// directory (`pahole --btf_encode_detached`, or the `.BTF` section of any vmlinux).
pub(crate) fn others() -> Vec<(String, Vec<u8>)> {
    let exe = std::env::current_exe().unwrap();
    let extra = exe.ancestors().nth(2).unwrap().join("ktstr-monitor-btf");
    let extra = std::fs::read_dir(extra).into_iter().flatten();
    let mut paths: Vec<_> = extra.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.push("/sys/kernel/btf/vmlinux".into());
    paths
        .into_iter()
        .filter_map(|path| Some((path.display().to_string(), std::fs::read(&path).ok()?)))
        .collect()
}

#[test]
fn every_type_agrees_with_btf_rs() {
    compare("the guest", lab().kernel.btf());
    for (name, bytes) in others() {
        compare(&name, &Btf::from_bytes(bytes).unwrap());
    }
}

#[track_caller]
fn compare(name: &str, ours: &Btf) {
    let theirs = btf_rs::Btf::from_bytes(ours.bytes()).unwrap();
    let mut compared = 0;
    for ty in ours.types() {
        let other = theirs.resolve_type_by_id(ty.id().0).unwrap();
        check(&theirs, &ty, &other);
        compared += 1;
    }
    assert!(compared > 20_000, "{name}: {compared}");
    assert_eq!(ours.end_id(), compared + 1, "{name}");
}

#[track_caller]
fn check(theirs: &btf_rs::Btf, ty: &ktstr_monitor::btf::Type<'_>, other: &Type) {
    let id = ty.id();
    let name = |ty: &dyn btf_rs::BtfType| theirs.resolve_name(ty).unwrap_or_default();
    match other {
        Type::Struct(other) | Type::Union(other) => {
            assert!(matches!(ty.kind(), Kind::Struct | Kind::Union), "{id:?}");
            assert_eq!(ty.name(), name(other));
            assert_eq!(ty.stated_size(), Some(u32::try_from(other.size()).unwrap()));
            let members: Vec<_> = ty.members().collect();
            assert_eq!(members.len(), other.members.len(), "{id:?}");
            for (member, other) in members.iter().zip(&other.members) {
                assert_eq!(member.name, name(other));
                assert_eq!(member.ty, TypeId(other.get_type_id().unwrap()));
                assert_eq!(member.bit_offset, other.bit_offset());
                assert_eq!(member.bits, other.bitfield_size().unwrap_or(0));
            }
        }
        Type::Enum(other) => {
            let values: Vec<_> = ty
                .enumerators()
                .map(|entry| {
                    (
                        entry.name.to_owned(),
                        u32::try_from(entry.value & 0xffff_ffff).unwrap(),
                    )
                })
                .collect();
            let said: Vec<_> = other
                .members
                .iter()
                .map(|entry| (name(entry), entry.val()))
                .collect();
            assert_eq!(values, said, "{id:?}");
        }
        Type::Enum64(other) => {
            let values: Vec<_> = ty
                .enumerators()
                .map(|entry| (entry.name.to_owned(), entry.value))
                .collect();
            let said: Vec<_> = other
                .members
                .iter()
                .map(|entry| (name(entry), entry.val()))
                .collect();
            assert_eq!(values, said, "{id:?}");
        }
        Type::Int(other) => {
            let int = ty.int().unwrap();
            assert_eq!(
                (ty.name(), ty.stated_size()),
                (&name(other)[..], Some(u32::try_from(other.size()).unwrap()))
            );
            assert_eq!(
                (int.is_signed, int.is_char, int.is_bool),
                (other.is_signed(), other.is_char(), other.is_bool())
            );
        }
        Type::Array(other) => {
            let (element, count) = ty.array().unwrap();
            assert_eq!(element, TypeId(other.get_type_id().unwrap()));
            assert_eq!(count, u32::try_from(other.len()).unwrap());
        }
        Type::Ptr(other) => {
            assert_eq!(ty.kind(), Kind::Ptr);
            assert_eq!(ty.target(), Some(TypeId(other.get_type_id().unwrap_or(0))));
        }
        other => check_named(theirs, ty, other),
    }
}

#[track_caller]
fn check_named(theirs: &btf_rs::Btf, ty: &ktstr_monitor::btf::Type<'_>, other: &Type) {
    let name = |ty: &dyn btf_rs::BtfType| theirs.resolve_name(ty).unwrap_or_default();
    match other {
        Type::Typedef(other) => {
            assert_eq!((ty.kind(), ty.name()), (Kind::Typedef, &name(other)[..]));
            assert_eq!(ty.target(), Some(TypeId(other.get_type_id().unwrap_or(0))));
        }
        Type::Var(other) => {
            assert_eq!((ty.kind(), ty.name()), (Kind::Var, &name(other)[..]));
        }
        Type::Datasec(other) => {
            let vars: Vec<_> = ty
                .section_vars()
                .map(|var| (var.var, var.offset, var.size))
                .collect();
            let said: Vec<_> = other
                .variables
                .iter()
                .map(|var| {
                    (
                        TypeId(var.get_type_id().unwrap()),
                        var.offset(),
                        u32::try_from(var.size()).unwrap(),
                    )
                })
                .collect();
            assert_eq!(vars, said);
        }
        Type::Func(other) => assert_eq!((ty.kind(), ty.name()), (Kind::Func, &name(other)[..])),
        Type::Fwd(other) => assert_eq!((ty.kind(), ty.name()), (Kind::Fwd, &name(other)[..])),
        _ => {}
    }
}
