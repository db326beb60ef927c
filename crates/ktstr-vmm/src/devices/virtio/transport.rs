//! The register file of a virtio-mmio device (virtio 1.2 §4.2.2).

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use virtio_queue::QueueT as _;
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::EventFd;

use super::Device;
use super::ring::Rings;

/// QueueNotify, whose writes are ioeventfds.
pub(crate) const NOTIFY_OFFSET: u64 = 0x50;

pub(super) const INTERRUPT_STATUS: u64 = 0x60;
pub(super) const INTERRUPT_ACK: u64 = 0x64;

const MAGIC: u32 = 0x7472_6976;
const VERSION: u32 = 2;
/// "KTST".
const VENDOR: u32 = 0x5453_544b;
const CONFIG: u64 = 0x100;

pub(super) const VERSION_1: u64 = 1 << 32;
pub(super) const EVENT_IDX: u64 = 1 << 29;

const STATUS_DRIVER_OK: u32 = 4;
const STATUS_FEATURES_OK: u32 = 8;

/// A device and its registers. One lock guards both.
#[derive(Debug)]
pub(crate) struct Transport {
    device: Box<dyn Device>,
    rings: Rings,
    /// Work for the worker thread when a kick does not come by ioeventfd.
    kicks: Vec<EventFd>,
    status: u32,
    features: u64,
    feature_select: u32,
    driver_feature_select: u32,
    queue_select: u32,
}

impl Transport {
    /// Queues live in `memory`, interrupts go to `line`, one of `kicks` per queue wakes the worker.
    pub(crate) fn new(
        device: Box<dyn Device>,
        memory: GuestMemoryMmap<()>,
        line: EventFd,
        kicks: Vec<EventFd>,
    ) -> Result<Self, virtio_queue::Error> {
        let rings = Rings::new(&device.queue_sizes(), memory, line)?;
        Ok(Self {
            device,
            rings,
            kicks,
            status: 0,
            features: 0,
            feature_select: 0,
            driver_feature_select: 0,
            queue_select: 0,
        })
    }

    /// Device and rings, once the driver is ready.
    pub(super) fn active(&mut self) -> Option<(&mut dyn Device, &mut Rings)> {
        if self.status & STATUS_DRIVER_OK == 0 {
            return None;
        }
        Some((self.device.as_mut(), &mut self.rings))
    }

    /// The driver is ready.
    pub(super) fn is_active(&self) -> bool {
        self.status & STATUS_DRIVER_OK != 0
    }

    /// InterruptStatus, readable without waiting for the device.
    pub(super) fn interrupt_status(&self) -> Arc<AtomicU32> {
        self.rings.status().map(Arc::clone).unwrap_or_default()
    }

    /// The VM has ended, whatever state the driver left the device in.
    pub(super) fn end(&mut self) {
        self.device.end(&mut self.rings);
    }

    pub(super) fn device(&self) -> &dyn Device {
        self.device.as_ref()
    }

    fn offered(&self) -> u64 {
        self.device.features() | VERSION_1 | EVENT_IDX
    }

    /// The driver reads at `offset`.
    pub(crate) fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if let Some(at) = offset.checked_sub(CONFIG) {
            self.device.read_config(at, data);
            return;
        }
        if let (4, true) = (data.len(), offset.is_multiple_of(4)) {
            data.copy_from_slice(&self.register(offset).to_le_bytes());
        }
    }

    fn register(&self, offset: u64) -> u32 {
        let queue = usize::try_from(self.queue_select)
            .ok()
            .and_then(|index| self.rings.queue_ref(index));
        match offset {
            0x00 => MAGIC,
            0x04 => VERSION,
            0x08 => self.device.device_type(),
            0x0c => VENDOR,
            0x10 => half(self.offered(), self.feature_select),
            0x34 => queue.map_or(0, |queue| u32::from(queue.max_size())),
            0x44 => queue.map_or(0, |queue| u32::from(queue.ready())),
            INTERRUPT_STATUS => self.interrupt_status().load(Ordering::Relaxed),
            0x70 => self.status,
            // No shared memory regions: all ones (§4.2.2).
            0xb0..=0xbc => u32::MAX,
            _ => 0,
        }
    }

    /// The driver writes at `offset`. Configuration spaces are read-only, and odd accesses do nothing.
    pub(crate) fn write(&mut self, offset: u64, data: &[u8]) {
        let Ok(bytes) = <[u8; 4]>::try_from(data) else {
            return;
        };
        let value = u32::from_le_bytes(bytes);
        match offset {
            0x14 => self.feature_select = value,
            0x20 => self.set_features(value),
            0x24 => self.driver_feature_select = value,
            0x30 => self.queue_select = value,
            NOTIFY_OFFSET => self.kick(value),
            INTERRUPT_ACK => {
                self.interrupt_status().fetch_and(!value, Ordering::Relaxed);
            }
            0x70 => self.set_status(value),
            0x38 | 0x44 | 0x80..=0xa4 => self.set_queue(offset, value),
            _ => {}
        }
    }

    /// Features may change until FEATURES_OK (§3.1.1).
    fn set_features(&mut self, value: u32) {
        if self.status & STATUS_FEATURES_OK != 0 {
            return;
        }
        let value = u64::from(value);
        match self.driver_feature_select {
            0 => self.features = self.features & !0xffff_ffff | value,
            1 => self.features = self.features & 0xffff_ffff | value << 32,
            _ => {}
        }
    }

    /// Queues may change between FEATURES_OK and DRIVER_OK.
    fn set_queue(&mut self, offset: u64, value: u32) {
        if self.status & STATUS_FEATURES_OK == 0 || self.status & STATUS_DRIVER_OK != 0 {
            return;
        }
        let event_idx = self.features & EVENT_IDX != 0;
        let queue = usize::try_from(self.queue_select)
            .ok()
            .and_then(|index| self.rings.queue(index));
        let Some(queue) = queue else { return };
        match offset {
            0x38 => queue.set_size(u16::try_from(value).unwrap_or(0)),
            0x44 => {
                queue.set_event_idx(event_idx);
                queue.set_ready(value == 1);
            }
            0x80 => queue.set_desc_table_address(Some(value), None),
            0x84 => queue.set_desc_table_address(None, Some(value)),
            0x90 => queue.set_avail_ring_address(Some(value), None),
            0x94 => queue.set_avail_ring_address(None, Some(value)),
            0xa0 => queue.set_used_ring_address(Some(value), None),
            0xa4 => queue.set_used_ring_address(None, Some(value)),
            _ => {}
        }
    }

    fn set_status(&mut self, value: u32) {
        if value == 0 {
            self.status = 0;
            self.features = 0;
            self.rings.reset();
            self.device.reset();
            return;
        }
        let mut value = value;
        let acceptable = self.features & !self.offered() == 0 && self.features & VERSION_1 != 0;
        if value & STATUS_FEATURES_OK != 0 && !acceptable {
            value &= !STATUS_FEATURES_OK;
        }
        // DRIVER_OK without agreed features would be used without a format.
        if value & STATUS_FEATURES_OK == 0 {
            value &= !STATUS_DRIVER_OK;
        }
        let started = value & !self.status & STATUS_DRIVER_OK != 0;
        self.status = value;
        if started {
            self.rings.validate();
            self.device.activate(self.features);
            // Kicks before DRIVER_OK were ignored; look once.
            for kick in &self.kicks {
                let _ = kick.write(1);
            }
        }
    }

    fn kick(&self, queue: u32) {
        let kick = usize::try_from(queue)
            .ok()
            .and_then(|index| self.kicks.get(index));
        if let Some(kick) = kick {
            // A full eventfd only means that the kick is already pending.
            let _ = kick.write(1);
        }
    }
}

/// The low or the high word, or nothing.
fn half(value: u64, select: u32) -> u32 {
    let shifted = match select {
        0 => value,
        1 => value >> 32,
        _ => 0,
    };
    u32::try_from(shifted & 0xffff_ffff).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::virtio::testutil::Driver;
    use proptest::prelude::*;

    #[derive(Debug, Default)]
    struct Dummy {
        activated: u64,
    }

    impl Device for Dummy {
        fn device_type(&self) -> u32 {
            4
        }
        fn features(&self) -> u64 {
            1
        }
        fn queue_sizes(&self) -> Vec<u16> {
            vec![8, 8]
        }
        fn activate(&mut self, features: u64) {
            self.activated = features;
        }
        fn process(&mut self, _queue: usize, _rings: &mut Rings) {}
        fn reset(&mut self) {
            self.activated = 0;
        }
    }

    fn transport() -> Transport {
        let driver = Driver::new(2, 8);
        let kicks = vec![
            EventFd::new(libc::EFD_NONBLOCK).unwrap(),
            EventFd::new(libc::EFD_NONBLOCK).unwrap(),
        ];
        Transport::new(
            Box::<Dummy>::default(),
            driver.memory.clone(),
            driver.line.try_clone().unwrap(),
            kicks,
        )
        .unwrap()
    }

    fn get(transport: &Transport, offset: u64) -> u32 {
        let mut word = [0; 4];
        transport.read(offset, &mut word);
        u32::from_le_bytes(word)
    }

    fn set(transport: &mut Transport, offset: u64, value: u32) {
        transport.write(offset, &value.to_le_bytes());
    }

    #[test]
    fn a_driver_finds_and_starts_the_device() {
        let mut transport = transport();
        assert_eq!(get(&transport, 0), u32::from_le_bytes(*b"virt"));
        assert_eq!((get(&transport, 4), get(&transport, 8)), (2, 4));
        set(&mut transport, 0x70, 3);
        set(&mut transport, 0x20, 1);
        set(&mut transport, 0x24, 1);
        set(&mut transport, 0x20, 1);
        set(&mut transport, 0x70, 0xb);
        assert_eq!(get(&transport, 0x70), 0xb, "FEATURES_OK stands");
        assert!(transport.active().is_none());
        set(&mut transport, 0x70, 0xf);
        assert!(transport.active().is_some());
        set(&mut transport, 0x70, 0);
        assert!(transport.active().is_none());
    }

    #[test]
    fn features_that_were_not_offered_are_refused() {
        for (low, high) in [(2, 1), (1, 0), (1, 3)] {
            let mut transport = transport();
            set(&mut transport, 0x20, low);
            set(&mut transport, 0x24, 1);
            set(&mut transport, 0x20, high);
            set(&mut transport, 0x70, 0xf);
            assert_eq!(get(&transport, 0x70), 3, "{low:#x} {high:#x}");
        }
    }

    proptest! {
        #[test]
        fn any_accesses_are_survived(accesses in proptest::collection::vec((0u64..0x140, any::<u32>(), 1usize..9), 0..200)) {
            let mut transport = transport();
            for (offset, value, len) in accesses {
                let bytes = [value.to_le_bytes(), value.to_le_bytes()].concat();
                transport.write(offset, &bytes[..len]);
                transport.write(offset & !3, &(value & 0xf).to_le_bytes());
                let mut data = vec![0; len];
                transport.read(offset, &mut data);
            }
        }
    }
}
