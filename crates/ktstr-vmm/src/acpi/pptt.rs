//! PPTT: packages, cores and threads with their caches (§5.2.30).

use super::tables::{Body, HEADER};
use crate::topology::Topology;

const PACKAGE: u32 = 1;
const ID_VALID: u32 = 1 << 1;
const THREAD: u32 = 1 << 2;
const LEAF: u32 = 1 << 3;
const IDENTICAL: u32 = 1 << 4;
const UNIFIED: u8 = 2;

pub(super) fn body(topology: &Topology) -> Vec<u8> {
    let mut pptt = Pptt::default();
    let smt = topology.threads_per_core() > 1;
    let mut vcpu = 0;
    for llc in 0..topology.llcs() {
        let l3 = pptt.cache(0, 16 << 20, 16384, llc + 1);
        let package = pptt.node(PACKAGE | IDENTICAL, 0, llc, Some(l3));
        for core in 0..topology.cores_per_llc() {
            let id = topology.llcs() + llc * topology.cores_per_llc() + core + 1;
            let l2 = pptt.cache(l3, 1 << 20, 1024, id);
            let flags = if smt { IDENTICAL } else { ID_VALID | LEAF };
            let uid = if smt { core } else { vcpu };
            let parent = pptt.node(flags, package, uid, Some(l2));
            for _ in 0..topology.threads_per_core() {
                if smt {
                    pptt.node(ID_VALID | THREAD | LEAF, parent, vcpu, None);
                }
                vcpu += 1;
            }
        }
    }
    pptt.0.0
}

#[derive(Debug, Default)]
struct Pptt(Body);

impl Pptt {
    /// Offset of the next structure from the start of the table.
    fn next(&self) -> u32 {
        HEADER + u32::try_from(self.0.0.len()).unwrap_or(u32::MAX)
    }

    fn node(&mut self, flags: u32, parent: u32, uid: u32, cache: Option<u32>) -> u32 {
        let at = self.next();
        let len = if cache.is_some() { 24 } else { 20 };
        self.0.u8(0).u8(len).u16(0).u32(flags).u32(parent).u32(uid);
        self.0.u32(u32::from(cache.is_some()));
        if let Some(cache) = cache {
            self.0.u32(cache);
        }
        at
    }

    /// A unified write-back cache with 16 ways of 64-byte lines.
    fn cache(&mut self, next_level: u32, size: u32, sets: u32, id: u32) -> u32 {
        const ALL_VALID: u32 = 0xff;
        const READ_WRITE_ALLOCATE: u8 = 2;
        let at = self.next();
        self.0.u8(1).u8(28).u16(0).u32(ALL_VALID).u32(next_level);
        self.0.u32(size).u32(sets).u8(16);
        self.0
            .u8(READ_WRITE_ALLOCATE | UNIFIED << 2)
            .u16(64)
            .u32(id);
        at
    }
}
