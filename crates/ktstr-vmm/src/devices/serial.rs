//! A 16550 whose output is a console log.

use std::io::{self, Write};
use std::sync::{Mutex, PoisonError};

use vm_superio::serial::NoEvents;
use vm_superio::{Serial, Trigger};
use vmm_sys_util::eventfd::EventFd;

use crate::console::ConsoleLog;

/// An interrupt that is an eventfd.
#[derive(Debug)]
struct Line(EventFd);

impl Trigger for Line {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.write(1)
    }
}

#[derive(Debug)]
struct Output(ConsoleLog);

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.push(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A UART; what the guest sends is logged, nothing is ever received.
#[derive(Debug)]
pub(crate) struct Uart(Mutex<Serial<Line, NoEvents, Output>>);

impl Uart {
    /// Writes to `log` and interrupts through `line`.
    pub(crate) fn new(log: ConsoleLog, line: EventFd) -> Self {
        Self(Mutex::new(Serial::new(Line(line), Output(log))))
    }

    /// The guest writes the register `offset`.
    pub(crate) fn write(&self, offset: u8, data: &[u8]) {
        let mut serial = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for byte in data {
            // A full eventfd only means that the interrupt is already pending.
            let _ = serial.write(offset, *byte);
        }
    }

    /// The guest reads the register `offset`.
    pub(crate) fn read(&self, offset: u8) -> u8 {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .read(offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_is_logged_and_interrupts() {
        let log = ConsoleLog::default();
        let line = EventFd::new(libc::EFD_NONBLOCK).unwrap();
        let uart = Uart::new(log.clone(), line.try_clone().unwrap());
        line.read().unwrap_err();
        uart.write(1, &[2]);
        uart.write(0, b"hi");
        assert_eq!(log.snapshot(), b"hi");
        assert!(line.read().unwrap() > 0);
        assert_eq!(uart.read(5) & 0x60, 0x60, "transmitter empty");
    }
}
