//! What the messages do: addresses, positions, eventfds and features become rings that a device model works on.

use std::fs::File;
use std::io::Read as _;
use std::time::Instant;

use vhost::vhost_user::message::{
    VhostTransferStateDirection, VhostTransferStatePhase, VhostUserConfigFlags, VhostUserInflight,
    VhostUserLog, VhostUserMemoryRegion, VhostUserProtocolFeatures, VhostUserShMemConfig,
    VhostUserSharedMsg, VhostUserSingleMemoryRegion, VhostUserVirtioFeatures,
    VhostUserVringAddrFlags, VhostUserVringState,
};
use vhost::vhost_user::{Error, GpuBackend, Result, VhostUserBackendReqHandlerMut};
use virtio_queue::QueueT as _;
use vm_memory::GuestMemoryMmap;

use crate::devices::virtio::transport::{EVENT_IDX, VERSION_1};
use crate::devices::virtio::{Device, Rings};

/// Regions of guest memory that QEMU may announce one by one; a node is one, and the hole below 4 GiB splits another.
const MAX_REGIONS: u64 = 64;
/// `VhostUserMemoryRegionBase`, which the message crate does not export.
type RegionBases = Vec<vhost::VhostUserMemoryRegionBase>;

/// A part of guest memory as QEMU sees it.
#[derive(Debug, Clone, Copy)]
struct Region {
    gpa: u64,
    len: u64,
    /// QEMU's own address of it, in which it tells where rings are.
    user: u64,
}

/// What QEMU has said of a queue.
#[derive(Debug, Default)]
struct Vring {
    kick: Option<File>,
    enabled: bool,
}

/// A device and its rings.
#[derive(Debug)]
pub(super) struct Backend {
    device: Box<dyn Device>,
    rings: Rings,
    regions: Vec<Region>,
    vrings: Vec<Vring>,
    features: u64,
    /// Queues that have used up their turn.
    again: Vec<usize>,
}

impl Backend {
    pub(super) fn new(
        device: Box<dyn Device>,
        memory: GuestMemoryMmap<()>,
    ) -> std::result::Result<Self, virtio_queue::Error> {
        let sizes = device.queue_sizes();
        let rings = Rings::with_calls(&sizes, memory)?;
        Ok(Self {
            device,
            rings,
            regions: Vec::new(),
            vrings: sizes.iter().map(|_| Vring::default()).collect(),
            features: 0,
            again: Vec::new(),
        })
    }

    /// Queues that run, with what kicks them.
    pub(super) fn kicks(&self) -> Vec<(usize, &File)> {
        let vrings = self.vrings.iter().enumerate();
        vrings
            .filter(|(index, _)| self.rings.runs(*index))
            .filter_map(|(index, vring)| Some((index, vring.kick.as_ref()?)))
            .collect()
    }

    /// When [`work`](Self::work) is due without a kick.
    pub(super) fn next_wake(&self) -> Option<Instant> {
        if self.again.is_empty() {
            self.device.next_timer()
        } else {
            Some(Instant::now())
        }
    }

    /// Serves the queues that were kicked, those that want another turn, and the timer.
    pub(super) fn work(&mut self, kicked: &[usize], now: Instant) {
        for queue in kicked {
            if let Some(mut kick) = self
                .vrings
                .get(*queue)
                .and_then(|vring| vring.kick.as_ref())
            {
                // Readable, or already read: either way the queue is looked at.
                let _ = kick.read(&mut [0; 8]);
            }
        }
        if self.device.next_timer().is_some_and(|at| at <= now) {
            self.device.timer(&mut self.rings);
        }
        let again = std::mem::take(&mut self.again);
        for queue in again.iter().chain(kicked) {
            if self.rings.runs(*queue) {
                self.device.process(*queue, &mut self.rings);
            }
        }
        self.again = self.rings.take_again();
    }

    /// As if each ring were enabled by a message.
    pub(super) fn enable_all(&mut self) {
        for index in 0..self.vrings.len() {
            if let Some(vring) = self.vrings.get_mut(index) {
                vring.enabled = true;
            }
            self.start_if_complete(index);
        }
    }

    /// The VM has ended.
    pub(super) fn end(&mut self) {
        self.device.end(&mut self.rings);
    }

    fn offered(&self) -> u64 {
        let protocol = VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
        self.device.features() | VERSION_1 | EVENT_IDX | protocol
    }

    fn gpa(&self, user: u64) -> Result<u64> {
        let inside = |region: &Region| {
            let offset = user.checked_sub(region.user)?;
            (offset < region.len).then(|| region.gpa.checked_add(offset))?
        };
        self.regions
            .iter()
            .find_map(inside)
            .ok_or(Error::InvalidParam)
    }

    fn vring(&mut self, index: impl TryInto<usize>) -> Result<(usize, &mut Vring)> {
        let index = index.try_into().map_err(|_| Error::InvalidParam)?;
        let vring = self.vrings.get_mut(index).ok_or(Error::InvalidParam)?;
        Ok((index, vring))
    }

    /// A ring runs from when it can be kicked and is enabled; without protocol features it is enabled from the start.
    fn start_if_complete(&mut self, index: usize) {
        let protocol = VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
        let complete = self.vrings.get(index).is_some_and(|vring| {
            vring.kick.is_some() && (vring.enabled || self.features & protocol == 0)
        });
        if !complete || self.rings.runs(index) {
            return;
        }
        self.device.activate(self.features);
        self.rings.start(index, self.features & EVENT_IDX != 0);
        // What was kicked before is in the ring already.
        self.again.push(index);
    }

    fn stop(&mut self, index: usize) {
        if self.rings.runs(index) {
            self.rings.stop(index);
            self.device.reset();
        }
    }
}

/// Requests that no device of ours needs.
fn unsupported<T>() -> Result<T> {
    Err(Error::InvalidOperation("not offered by this device"))
}

impl VhostUserBackendReqHandlerMut for Backend {
    fn set_owner(&mut self) -> Result<()> {
        Ok(())
    }

    fn reset_owner(&mut self) -> Result<()> {
        Ok(())
    }

    fn reset_device(&mut self) -> Result<()> {
        unsupported()
    }

    fn get_features(&mut self) -> Result<u64> {
        Ok(self.offered())
    }

    fn set_features(&mut self, features: u64) -> Result<()> {
        if features & !self.offered() != 0 {
            return Err(Error::FeatureMismatch);
        }
        self.features = features;
        Ok(())
    }

    /// Guest memory is mapped here already, so that the files are only closed.
    fn set_mem_table(
        &mut self,
        regions: &[VhostUserMemoryRegion],
        _files: Vec<File>,
        _postcopy_listening: Option<bool>,
    ) -> Result<Option<RegionBases>> {
        self.regions = regions.iter().map(region).collect();
        Ok(None)
    }

    fn set_vring_num(&mut self, index: u32, num: u32) -> Result<()> {
        let (index, _) = self.vring(index)?;
        let queue = self.rings.queue(index).ok_or(Error::InvalidParam)?;
        match u16::try_from(num) {
            Ok(size) if size.is_power_of_two() && size <= queue.max_size() => {
                queue.set_size(size);
                Ok(())
            }
            _ => Err(Error::InvalidParam),
        }
    }

    fn set_vring_addr(
        &mut self,
        index: u32,
        _flags: VhostUserVringAddrFlags,
        descriptor: u64,
        used: u64,
        available: u64,
        _log: u64,
    ) -> Result<()> {
        let (index, _) = self.vring(index)?;
        let [table, avail, used] = [self.gpa(descriptor)?, self.gpa(available)?, self.gpa(used)?];
        let queue = self.rings.queue(index).ok_or(Error::InvalidParam)?;
        let (low, high) = halves(table);
        queue.set_desc_table_address(low, high);
        let (low, high) = halves(avail);
        queue.set_avail_ring_address(low, high);
        let (low, high) = halves(used);
        queue.set_used_ring_address(low, high);
        Ok(())
    }

    fn set_vring_base(&mut self, index: u32, base: u32) -> Result<()> {
        let (index, _) = self.vring(index)?;
        let base = u16::try_from(base).map_err(|_| Error::InvalidParam)?;
        self.rings.move_to(index, base);
        Ok(())
    }

    /// Stops the ring (vhost-user.rst, "Ring states").
    fn get_vring_base(&mut self, index: u32) -> Result<VhostUserVringState> {
        let (at, vring) = self.vring(index)?;
        vring.kick = None;
        self.stop(at);
        let queue = self.rings.queue(at).ok_or(Error::InvalidParam)?;
        Ok(VhostUserVringState::new(
            index,
            u32::from(queue.next_avail()),
        ))
    }

    fn set_vring_kick(&mut self, index: u8, fd: Option<File>) -> Result<()> {
        let (index, vring) = self.vring(index)?;
        vring.kick = fd;
        self.start_if_complete(index);
        Ok(())
    }

    fn set_vring_call(&mut self, index: u8, fd: Option<File>) -> Result<()> {
        let (index, _) = self.vring(index)?;
        self.rings.set_call(index, fd);
        Ok(())
    }

    /// A ring that is dead stays dead until the driver resets it; only a counter tells of it.
    fn set_vring_err(&mut self, index: u8, _fd: Option<File>) -> Result<()> {
        self.vring(index).map(drop)
    }

    fn get_protocol_features(&mut self) -> Result<VhostUserProtocolFeatures> {
        Ok(VhostUserProtocolFeatures::CONFIG | VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS)
    }

    fn set_protocol_features(&mut self, _features: u64) -> Result<()> {
        Ok(())
    }

    fn get_queue_num(&mut self) -> Result<u64> {
        Ok(self.vrings.len() as u64)
    }

    fn set_vring_enable(&mut self, index: u32, enable: bool) -> Result<()> {
        let (index, vring) = self.vring(index)?;
        vring.enabled = enable;
        if enable {
            self.start_if_complete(index);
        } else {
            self.stop(index);
        }
        Ok(())
    }

    fn get_config(
        &mut self,
        offset: u32,
        size: u32,
        _flags: VhostUserConfigFlags,
    ) -> Result<Vec<u8>> {
        let mut space = vec![0; usize::try_from(size).map_err(|_| Error::InvalidParam)?];
        self.device.read_config(u64::from(offset), &mut space);
        Ok(space)
    }

    fn set_config(
        &mut self,
        _offset: u32,
        _buf: &[u8],
        _flags: VhostUserConfigFlags,
    ) -> Result<()> {
        unsupported()
    }

    fn set_gpu_socket(&mut self, _gpu_backend: GpuBackend) -> Result<()> {
        unsupported()
    }

    fn get_shared_object(&mut self, _uuid: VhostUserSharedMsg) -> Result<File> {
        unsupported()
    }

    fn get_inflight_fd(
        &mut self,
        _inflight: &VhostUserInflight,
    ) -> Result<(VhostUserInflight, File)> {
        unsupported()
    }

    fn set_inflight_fd(&mut self, _inflight: &VhostUserInflight, _file: File) -> Result<()> {
        unsupported()
    }

    fn get_max_mem_slots(&mut self) -> Result<u64> {
        Ok(MAX_REGIONS)
    }

    fn add_mem_region(
        &mut self,
        added: &VhostUserSingleMemoryRegion,
        _fd: File,
        _postcopy_listening: Option<bool>,
    ) -> Result<Option<vhost::VhostUserMemoryRegionBase>> {
        self.regions.push(region(added));
        Ok(None)
    }

    fn remove_mem_region(&mut self, removed: &VhostUserSingleMemoryRegion) -> Result<()> {
        self.regions
            .retain(|known| known.gpa != removed.guest_phys_addr);
        Ok(())
    }

    fn set_device_state_fd(
        &mut self,
        _direction: VhostTransferStateDirection,
        _phase: VhostTransferStatePhase,
        _fd: File,
    ) -> Result<Option<File>> {
        unsupported()
    }

    fn check_device_state(&mut self) -> Result<()> {
        unsupported()
    }

    fn get_shmem_config(&mut self) -> Result<VhostUserShMemConfig> {
        unsupported()
    }

    fn set_log_base(&mut self, _log: &VhostUserLog, _file: File) -> Result<()> {
        unsupported()
    }
}

fn region(region: &VhostUserMemoryRegion) -> Region {
    Region {
        gpa: region.guest_phys_addr,
        len: region.memory_size,
        user: region.user_addr,
    }
}

/// An address as the register halves that `virtio-queue` takes.
fn halves(gpa: u64) -> (Option<u32>, Option<u32>) {
    let word = |value: u64| u32::try_from(value & 0xffff_ffff).ok();
    (word(gpa), word(gpa >> 32))
}
