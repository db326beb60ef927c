//! What an engine needs to know of a VM.

use std::path::PathBuf;
use std::time::Duration;

use crate::clock::VirtualTime;
use crate::devices::virtio::blk::Disk;
use crate::devices::virtio::net::Net;
use crate::initrd::Initrd;
use crate::topology::Topology;

/// What an engine needs to know.
#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) kernel: PathBuf,
    pub(crate) initrd: Option<Initrd>,
    pub(crate) cmdline: String,
    pub(crate) topology: Topology,
    pub(crate) memory_mib: u32,
    /// Memory of each node, adding up to `memory_mib`.
    pub(crate) node_mib: Vec<u32>,
    pub(crate) ports: Vec<String>,
    pub(crate) disks: Vec<Disk>,
    pub(crate) nets: Vec<Net>,
    pub(crate) deadline: Duration,
    pub(crate) performance_mode: bool,
    pub(crate) cpu_budget: Option<u32>,
    pub(crate) lock_dir: PathBuf,
    /// The guest may run guests of its own.
    pub(crate) nested: bool,
    /// The guest's TSC is its clock; kvm only.
    pub(crate) invariant_tsc: bool,
    pub(crate) qemu: PathBuf,
    pub(crate) virtual_time: Option<VirtualTime>,
}
