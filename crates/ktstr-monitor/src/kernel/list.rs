//! Linked lists, with bounds.

use std::collections::HashSet;

use super::{Kernel, Problems};
use crate::{Error, Kva};

impl Kernel {
    /// Addresses of the `struct list_head`s linked behind `head`, which is not among them.
    ///
    /// The walk ends at `limit` entries, at a cycle and at a pointer that leads nowhere; each is noted.
    pub fn walk_list(
        &self,
        what: &'static str,
        head: Kva,
        limit: usize,
        problems: &mut Problems,
    ) -> Vec<Kva> {
        self.walk_links(what, head, limit, problems, |at| at == head)
    }

    /// Addresses of the `struct hlist_node`s of the list whose first pointer lies at `head`.
    ///
    /// A null ends it, and so does the odd end marker of an `hlist_nulls`.
    pub fn walk_hlist(
        &self,
        what: &'static str,
        head: Kva,
        limit: usize,
        problems: &mut Problems,
    ) -> Vec<Kva> {
        self.walk_links(what, head, limit, problems, |at| {
            at.is_null() || at.0 & 1 == 1
        })
    }

    /// Follows the pointers at the start of each entry, from the one at `head` on.
    fn walk_links(
        &self,
        what: &'static str,
        head: Kva,
        limit: usize,
        problems: &mut Problems,
        is_end: impl Fn(Kva) -> bool,
    ) -> Vec<Kva> {
        let mut entries = Vec::new();
        let mut seen = HashSet::new();
        let mut at = head;
        loop {
            at = match self.read_u64(at) {
                Ok(next) => Kva(next),
                Err(error) => {
                    problems.note(what, &error);
                    break;
                }
            };
            if is_end(at) {
                break;
            }
            if !seen.insert(at) {
                problems.note(what, &Error::Cycle { what, at });
                break;
            }
            if entries.len() == limit {
                problems.note(what, &Error::TooLong { what, limit });
                break;
            }
            entries.push(at);
        }
        entries
    }
}
