//! A device's registers as vCPUs reach them.
//!
//! The driver's interrupt handler reads and acknowledges InterruptStatus with interrupts off. These two take no lock, so that it does
//! not wait for a worker that waits for the host's disk.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::transport::{INTERRUPT_ACK, INTERRUPT_STATUS, Transport};

/// One device's registers.
#[derive(Debug)]
pub(crate) struct Registers {
    transport: Arc<Mutex<Transport>>,
    status: Arc<AtomicU32>,
}

impl Registers {
    /// Of a device with an interrupt line.
    pub(crate) fn new(transport: Transport) -> Self {
        Self {
            status: transport.interrupt_status(),
            transport: Arc::new(Mutex::new(transport)),
        }
    }

    /// For the device's thread.
    pub(crate) fn transport(&self) -> Arc<Mutex<Transport>> {
        Arc::clone(&self.transport)
    }

    fn lock(&self) -> MutexGuard<'_, Transport> {
        self.transport
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// The driver reads at `offset`.
    pub(crate) fn read(&self, offset: u64, data: &mut [u8]) {
        if let (INTERRUPT_STATUS, [_, _, _, _]) = (offset, &*data) {
            data.copy_from_slice(&self.status.load(Ordering::Relaxed).to_le_bytes());
            return;
        }
        self.lock().read(offset, data);
    }

    /// The driver writes at `offset`.
    pub(crate) fn write(&self, offset: u64, data: &[u8]) {
        if let (INTERRUPT_ACK, [a, b, c, d]) = (offset, data) {
            let value = u32::from_le_bytes([*a, *b, *c, *d]);
            self.status.fetch_and(!value, Ordering::Relaxed);
            return;
        }
        self.lock().write(offset, data);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;
    use std::time::Duration;

    use super::*;
    use crate::devices::virtio::rng::Entropy;
    use crate::devices::virtio::testutil::Driver;

    #[test]
    fn an_interrupt_handler_waits_for_no_worker() {
        let driver = Driver::new(1, 8);
        let line = driver.line.try_clone().unwrap();
        let device = Transport::new(Box::new(Entropy), driver.memory.clone(), line, Vec::new());
        let registers = Registers::new(device.unwrap());
        registers.status.store(3, Ordering::Relaxed);
        let transport = registers.transport();
        // As a worker has it while the host's disk is slow.
        let held = transport.lock().unwrap();
        let (tell, told) = mpsc::channel();
        let handler = thread::spawn(move || {
            let mut status = [0; 4];
            registers.read(INTERRUPT_STATUS, &mut status);
            registers.write(INTERRUPT_ACK, &1u32.to_le_bytes());
            let before = u32::from_le_bytes(status);
            registers.read(INTERRUPT_STATUS, &mut status);
            tell.send((before, u32::from_le_bytes(status))).unwrap();
            registers
        });
        let seen = told.recv_timeout(Duration::from_secs(20));
        drop(held);
        assert_eq!(seen, Ok((3, 2)));
        let registers = handler.join().unwrap();
        // Other registers still need the device.
        let mut magic = [0; 4];
        registers.read(0, &mut magic);
        assert_eq!(&magic, b"virt");
    }
}
