//! Places in the guest kernel's memory, and what operations read from them and write to them.

/// A place in the guest kernel's memory.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum KernelTarget {
    /// A symbol by name.
    Symbol(String),
    /// An address in the direct map.
    Direct(u64),
    /// Any kernel virtual address.
    Kva(u64),
    /// A field of a per-CPU variable.
    PerCpuField {
        /// The variable.
        symbol: String,
        /// Dotted path in it; empty for the variable itself.
        field: String,
        /// Which CPU's.
        cpu: u32,
    },
    /// A field of a task, identified so that a reused pid is noticed.
    TaskField {
        /// The task's pid.
        pid: i32,
        /// Its start time, nanoseconds since boot.
        expected_start_time_ns: u64,
        /// Dotted path in `struct task_struct`.
        field: String,
    },
}

impl KernelTarget {
    /// A symbol by name.
    pub fn symbol(name: impl Into<String>) -> Self {
        Self::Symbol(name.into())
    }

    /// An address in the direct map: the guest's physical memory.
    #[must_use]
    pub const fn direct(address: u64) -> Self {
        Self::Direct(address)
    }

    /// Any kernel virtual address.
    #[must_use]
    pub const fn kva(address: u64) -> Self {
        Self::Kva(address)
    }

    /// A field of a per-CPU variable, of this CPU: `per_cpu_field("runqueues", "nr_running", 1)`.
    pub fn per_cpu_field(symbol: impl Into<String>, field: impl Into<String>, cpu: u32) -> Self {
        Self::PerCpuField {
            symbol: symbol.into(),
            field: field.into(),
            cpu,
        }
    }

    /// A field of a task, by its pid and its start time in nanoseconds since boot (the pid alone may be another's by then).
    pub fn task_field(pid: i32, expected_start_time_ns: u64, field: impl Into<String>) -> Self {
        Self::TaskField {
            pid,
            expected_start_time_ns,
            field: field.into(),
        }
    }
}

/// What is written to kernel memory.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum KernelValue {
    /// Four bytes.
    U32(u32),
    /// Eight bytes.
    U64(u64),
    /// Any bytes, at most 1 MiB in one operation.
    Bytes(Vec<u8>),
    /// Set these bits of four bytes and leave the others; cold only.
    OrU32(u32),
}

impl KernelValue {
    /// Four bytes.
    #[must_use]
    pub const fn u32(value: u32) -> Self {
        Self::U32(value)
    }

    /// Eight bytes.
    #[must_use]
    pub const fn u64(value: u64) -> Self {
        Self::U64(value)
    }

    /// Any bytes.
    pub fn bytes(value: impl Into<Vec<u8>>) -> Self {
        Self::Bytes(value.into())
    }

    /// These bits set in four bytes, the others left; for cold writes alone, since a running guest may change the others.
    #[must_use]
    pub const fn or_u32(bits: u32) -> Self {
        Self::OrU32(bits)
    }
}

/// How much is read of kernel memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum KernelValueWidth {
    /// Four bytes.
    U32,
    /// Eight bytes.
    U64,
    /// So many bytes, at most 1 MiB.
    Bytes(usize),
}

impl KernelValueWidth {
    /// Four bytes.
    #[must_use]
    pub const fn u32() -> Self {
        Self::U32
    }

    /// Eight bytes.
    #[must_use]
    pub const fn u64() -> Self {
        Self::U64
    }

    /// So many bytes, at most 1 MiB.
    #[must_use]
    pub const fn bytes(len: usize) -> Self {
        Self::Bytes(len)
    }
}
