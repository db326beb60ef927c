//! One vCPU goes on and the others hardly do: from the moment at which a guest reached the state that it waits for until it has
//! acted on it.

use crate::gate::{ALONE_AT_MOST_NS, Alone};

/// Who goes on alone, if anybody does.
#[derive(Debug, Default)]
pub(crate) struct Lead {
    by: Option<By>,
}

#[derive(Debug)]
struct By {
    vcpu: usize,
    until_ns: u64,
    /// It has said that it acts.
    acts: bool,
    /// Blocks of the others since the clock was moved for it, or since it ran.
    waited: usize,
}

impl Lead {
    /// What the host said at `now_ns`.
    pub(crate) fn follow(&mut self, alone: Alone, now_ns: u64) {
        self.by = match alone {
            Alone::AsBefore => return,
            Alone::All => None,
            Alone::Only(vcpu) => usize::try_from(vcpu).ok().map(|vcpu| By {
                vcpu,
                until_ns: now_ns.saturating_add(ALONE_AT_MOST_NS),
                acts: false,
                waited: 0,
            }),
        };
    }

    /// `vcpu` executed a mark.
    pub(crate) fn mark(&mut self, vcpu: usize) {
        if let Some(by) = &mut self.by
            && by.vcpu == vcpu
        {
            by.acts = true;
        }
    }

    /// `vcpu` halts: one that acts has nothing more to do now.
    pub(crate) fn halt(&mut self, vcpu: usize) {
        if self
            .by
            .as_ref()
            .is_some_and(|by| by.vcpu == vcpu && by.acts)
        {
            self.by = None;
        }
    }

    /// Whether `vcpu` is to end its turn after this block, because another one goes on alone.
    pub(crate) fn holds_back(&mut self, vcpu: usize, now_ns: u64) -> bool {
        if self.by.as_ref().is_some_and(|by| now_ns >= by.until_ns) {
            self.by = None;
        }
        self.by.as_ref().is_some_and(|by| by.vcpu != vcpu)
    }

    /// One of the others executes a block. Whether the clock may move to the next timer, because the one that goes on alone
    /// `halts` and had no turn though the others had this many blocks.
    pub(crate) fn may_skip(&mut self, halts: bool, blocks: usize) -> bool {
        let Some(by) = &mut self.by else { return false };
        by.waited = if halts { by.waited + 1 } else { 0 };
        let skips = by.waited > blocks;
        if skips {
            by.waited = 0;
        }
        skips
    }

    /// The vCPU that goes on alone.
    pub(crate) fn vcpu(&self) -> Option<usize> {
        self.by.as_ref().map(|by| by.vcpu)
    }
}
