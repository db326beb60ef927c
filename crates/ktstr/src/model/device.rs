//! Disks and network cards that a test asks for.

use ktstr_vmm::{Disk, DiskSource, Net, Throttle};

/// The guest's disk: `/dev/vda`, all zeros, without a file system; it ends with the guest.
///
/// ```
/// use ktstr::prelude::DiskConfig;
///
/// const SLOW: DiskConfig = DiskConfig::DEFAULT.capacity_mib(64).iops(200);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskConfig {
    /// Its size; memory of the host is used for what is written.
    pub capacity_mib: u32,
    /// Writes are refused.
    pub read_only: bool,
    /// Requests per second; `None`: as many as come.
    pub iops: Option<u32>,
    /// Data bytes per second; `None`: as many as come.
    pub bytes_per_second: Option<u64>,
}

impl DiskConfig {
    /// 256 MiB, writable, unthrottled.
    pub const DEFAULT: Self = Self {
        capacity_mib: 256,
        read_only: false,
        iops: None,
        bytes_per_second: None,
    };

    /// Sets the size.
    #[must_use]
    pub const fn capacity_mib(self, capacity_mib: u32) -> Self {
        Self {
            capacity_mib,
            ..self
        }
    }

    /// Refuses writes.
    #[must_use]
    pub const fn read_only(self) -> Self {
        Self {
            read_only: true,
            ..self
        }
    }

    /// Bounds the requests per second. One second's worth may come at once.
    #[must_use]
    pub const fn iops(self, iops: u32) -> Self {
        Self {
            iops: Some(iops),
            ..self
        }
    }

    /// Bounds the data bytes per second. One second's worth may come at once.
    #[must_use]
    pub const fn bytes_per_second(self, bytes: u64) -> Self {
        Self {
            bytes_per_second: Some(bytes),
            ..self
        }
    }

    /// What is wrong with it.
    pub(super) fn fault(&self) -> Option<&'static str> {
        if self.capacity_mib == 0 {
            Some("disk: capacity_mib is 0")
        } else if self.iops == Some(0) || self.bytes_per_second == Some(0) {
            Some("disk: a throttle of 0 would let nothing through; leave it out for none")
        } else {
            None
        }
    }

    pub(crate) fn disk(&self) -> Disk {
        let bytes = u64::from(self.capacity_mib) << 20;
        let mut throttle = Throttle::NONE;
        throttle.iops = self.iops;
        throttle.bytes_per_second = self.bytes_per_second;
        Disk::new(DiskSource::Memory(bytes))
            .read_only(self.read_only)
            .throttle(throttle)
    }
}

/// A network card of the guest, eth0 and on, that gives back each frame it is sent. The guest finds it down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NetConfig {
    /// Its address; `None`: some address.
    pub mac: Option<[u8; 6]>,
}

impl NetConfig {
    /// A card with some address.
    pub const DEFAULT: Self = Self { mac: None };

    /// Fixes the address.
    #[must_use]
    pub const fn mac(self, mac: [u8; 6]) -> Self {
        Self { mac: Some(mac) }
    }

    pub(super) fn fault(&self) -> Option<&'static str> {
        let group = self.mac.is_some_and(|[first, ..]| first & 1 == 1);
        (group || self.mac == Some([0; 6]))
            .then_some("networks: a mac must be the address of one card, with an even first byte")
    }

    pub(crate) fn net(&self) -> Net {
        self.mac.map_or_else(Net::new, |mac| Net::new().mac(mac))
    }
}
