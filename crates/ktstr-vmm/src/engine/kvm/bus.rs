//! From an exit's address to a device.

use crate::devices::power::{Power, PowerRequest};
use crate::devices::serial::Uart;
use crate::devices::virtio::Registers;
use crate::layout::{COM_PORTS, COM1_PORT, COM2_PORT, VIRTIO_BASE, VIRTIO_STRIDE};

/// Every device of a VM that exits reach.
#[derive(Debug)]
pub(crate) struct Bus {
    pub(crate) com1: Uart,
    pub(crate) com2: Uart,
    pub(crate) power: Power,
    /// In the order of their addresses.
    pub(crate) virtio: Vec<Registers>,
}

impl Bus {
    fn uart(&self, port: u16) -> Option<(&Uart, u8)> {
        [(COM1_PORT, &self.com1), (COM2_PORT, &self.com2)]
            .into_iter()
            .find_map(|(base, uart)| {
                let offset = port
                    .checked_sub(base)
                    .filter(|offset| *offset < COM_PORTS)?;
                Some((uart, u8::try_from(offset).ok()?))
            })
    }

    /// The guest writes a port.
    pub(crate) fn write_port(&self, port: u16, data: &[u8]) -> Option<PowerRequest> {
        if let Some((uart, offset)) = self.uart(port) {
            uart.write(offset, data);
            return None;
        }
        self.power.write(port, data)
    }

    /// The guest reads a port; without a device it reads ones, as on a PC.
    pub(crate) fn read_port(&self, port: u16, data: &mut [u8]) {
        if let Some((uart, offset)) = self.uart(port) {
            for byte in data {
                *byte = uart.read(offset);
            }
            return;
        }
        let Some(value) = self.power.read(port) else {
            data.fill(0xff);
            return;
        };
        data.fill(0);
        for (slot, byte) in data.iter_mut().zip(value.to_le_bytes()) {
            *slot = byte;
        }
    }

    /// The device at `gpa`, and the offset into its registers.
    fn device(&self, gpa: u64) -> Option<(&Registers, u64)> {
        let offset = gpa.checked_sub(u64::from(VIRTIO_BASE))?;
        let stride = u64::from(VIRTIO_STRIDE);
        let device = self.virtio.get(usize::try_from(offset / stride).ok()?)?;
        Some((device, offset % stride))
    }

    /// The guest writes where there is no memory.
    pub(crate) fn write_memory(&self, gpa: u64, data: &[u8]) {
        if let Some((device, offset)) = self.device(gpa) {
            device.write(offset, data);
        }
    }

    /// The guest reads where there is no memory; without a device it reads ones.
    pub(crate) fn read_memory(&self, gpa: u64, data: &mut [u8]) {
        match self.device(gpa) {
            Some((device, offset)) => device.read(offset, data),
            None => data.fill(0xff),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::console::ConsoleLog;
    use crate::layout::PM1_CONTROL_PORT;
    use vmm_sys_util::eventfd::EventFd;

    #[test]
    fn ports_reach_their_devices() {
        let logs = [ConsoleLog::default(), ConsoleLog::default()];
        let uart = |log: &ConsoleLog| Uart::new(log.clone(), EventFd::new(0).unwrap());
        let bus = Bus {
            com1: uart(&logs[0]),
            com2: uart(&logs[1]),
            power: Power::default(),
            virtio: Vec::new(),
        };
        assert_eq!(bus.write_port(COM1_PORT, b"one"), None);
        assert_eq!(bus.write_port(COM2_PORT, b"two"), None);
        assert_eq!(logs[0].snapshot(), b"one");
        assert_eq!(logs[1].snapshot(), b"two");
        let mut data = [0; 4];
        bus.read_port(0x80, &mut data);
        assert_eq!(data, [0xff; 4]);
        bus.read_port(PM1_CONTROL_PORT, &mut data);
        assert_eq!(data, [1, 0, 0, 0]);
        bus.read_memory(0xc000_0000, &mut data);
        assert_eq!(data, [0xff; 4]);
        assert_eq!(
            bus.write_port(PM1_CONTROL_PORT, &[0, 0x34]),
            Some(PowerRequest::Off)
        );
    }
}
