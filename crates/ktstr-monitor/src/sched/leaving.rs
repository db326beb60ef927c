//! Which scheduler of a tree leaves.

use super::{ScxExit, ScxScheduler, ScxState};

/// A scheduler that leaves, or has left: the root, or one below it.
#[derive(Debug, Clone, Copy)]
pub struct ScxLeaving<'a> {
    /// `enum scx_exit_kind`.
    pub kind: u64,
    /// The same in words.
    pub kind_name: Option<&'a str>,
    /// What it left behind.
    pub exit: Option<&'a ScxExit>,
    /// The scheduler itself where it is not the root.
    pub child: Option<&'a ScxScheduler>,
}

impl ScxState {
    /// The scheduler that leaves. The root's end is also that of all others, so it comes first; of others the first that the
    /// kernel ejects, else the first that leaves at all.
    #[must_use]
    pub fn leaving(&self) -> Option<ScxLeaving<'_>> {
        if let Some(kind) = self.exit_kind.filter(|kind| *kind != 0) {
            return Some(ScxLeaving {
                kind,
                kind_name: self.exit_kind_name.as_deref(),
                exit: self.exit.as_ref(),
                child: None,
            });
        }
        let children = self.schedulers.iter().filter(|one| one.level != Some(0));
        let leave =
            children.filter_map(|child| Some((child.exit_kind.filter(|kind| *kind != 0)?, child)));
        // `max_by_key` takes the last of equals.
        let (kind, child) = leave
            .rev()
            .max_by_key(|(kind, _)| *kind >= ScxExit::ERROR)?;
        Some(ScxLeaving {
            kind,
            kind_name: child.exit_kind_name.as_deref(),
            exit: child.exit.as_ref(),
            child: Some(child),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scheduler(level: i64, exit_kind: u64) -> ScxScheduler {
        ScxScheduler {
            level: Some(level),
            exit_kind: Some(exit_kind),
            ..ScxScheduler::default()
        }
    }

    #[track_caller]
    fn check(root: u64, children: &[u64], expected: Option<(u64, bool)>) {
        let children = children.iter().map(|kind| scheduler(1, *kind));
        let state = ScxState {
            exit_kind: Some(root),
            schedulers: std::iter::once(scheduler(0, root))
                .chain(children)
                .collect(),
            ..ScxState::default()
        };
        let found = state.leaving();
        assert_eq!(
            found.map(|found| (found.kind, found.child.is_some())),
            expected
        );
    }

    #[test]
    fn the_root_comes_first_then_the_child_that_was_thrown_out() {
        check(0, &[0, 0], None);
        check(1026, &[1025], Some((1026, false)));
        check(0, &[0, 64, 1025, 1026], Some((1025, true)));
        check(0, &[64, 65], Some((64, true)));
        check(64, &[1025], Some((64, false)));
    }
}
