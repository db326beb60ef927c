//! cgroups: the path of a task's cgroup in the unified hierarchy.

use crate::{Error, Kernel, Object, Result};

/// Deeper nesting than `cgroup.max.depth` of any sane set-up.
const MAX_DEPTH: usize = 128;
/// `NAME_MAX`.
const MAX_NAME: usize = 255;

impl Kernel {
    /// The path of the cgroup v2 that a task is in; none without cgroups.
    ///
    /// # Errors
    /// When a node on the way cannot be read.
    pub fn task_cgroup(&self, task: &Object<'_>) -> Result<Option<String>> {
        let Some(set) = task.follow("cgroups")? else {
            return Ok(None);
        };
        let Some(cgroup) = set.follow("dfl_cgrp")? else {
            return Ok(None);
        };
        self.cgroup_path(&cgroup).map(Some)
    }

    /// The path of a `struct cgroup` below the hierarchy's root.
    ///
    /// # Errors
    /// When a node on the way cannot be read, or [`Error::TooLong`].
    pub fn cgroup_path(&self, cgroup: &Object<'_>) -> Result<String> {
        let mut node = cgroup.follow_some("kn")?;
        let mut names = Vec::new();
        while names.len() < MAX_DEPTH {
            // 6.15: 633488947ef6 made parent an RCU pointer and renamed it.
            let parent = node.follow("__parent").or_else(|_| node.follow("parent"))?;
            let Some(parent) = parent else {
                names.reverse();
                return Ok(format!("/{}", names.join("/")));
            };
            names.push(node.text_behind("name", MAX_NAME)?.unwrap_or_default());
            node = parent;
        }
        Err(Error::TooLong {
            what: "a cgroup path",
            limit: MAX_DEPTH,
        })
    }
}
