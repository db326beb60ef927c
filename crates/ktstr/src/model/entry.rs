//! What a test declares: the registry entry that `#[ktstr_test]` emits, and its scheduler.

/// Where a test's scheduler comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SchedulerSpec {
    /// The kernel's default scheduler; nothing is started.
    Eevdf,
    /// A binary built from the workspace, or found on `PATH`.
    Discover(&'static str),
    /// A prebuilt binary at this host path.
    Path(&'static str),
    /// A scheduler built into the kernel, switched by guest shell commands.
    KernelBuiltin {
        /// Commands that turn it on.
        enable: &'static [&'static str],
        /// Commands that turn it off.
        disable: &'static [&'static str],
    },
}

/// A CPU topology in const form; checked when the entry is validated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TopologySpec {
    /// NUMA nodes, at least 1.
    pub numa_nodes: u32,
    /// LLCs in all nodes together.
    pub llcs: u32,
    /// Cores per LLC.
    pub cores: u32,
    /// Threads per core, 1 or 2.
    pub threads: u32,
}
