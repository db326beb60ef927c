//! ACPI's PM1 registers, the reset register and the keyboard controller's reset line: how a guest ends.

use std::sync::atomic::{AtomicU16, Ordering};

use crate::layout::{
    I8042_COMMAND, I8042_RESET, PM1_CONTROL_PORT, PM1_EVENT_PORT, RESET_PORT, RESET_VALUE,
    S5_SLEEP_TYPE,
};

/// ACPI 6.5 §4.8.3.2.1: the platform is in ACPI mode.
const SCI_EN: u16 = 1;
const SLP_EN: u16 = 1 << 13;
const SLP_TYP_SHIFT: u16 = 10;
const SLP_TYP_MASK: u16 = 7;

/// What a write asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PowerRequest {
    /// S5.
    Off,
    /// Start again.
    Reset,
}

/// The registers. None of them raises an interrupt.
#[derive(Debug, Default)]
pub(crate) struct Power {
    /// PM1 enable; relaxed, since nothing hangs on it.
    enable: AtomicU16,
}

impl Power {
    /// A write of `data` to `port`; `None` when it has no consequence.
    pub(crate) fn write(&self, port: u16, data: &[u8]) -> Option<PowerRequest> {
        let value = match data {
            [low] => u16::from(*low),
            [low, high, ..] => u16::from_le_bytes([*low, *high]),
            [] => return None,
        };
        match port {
            PM1_CONTROL_PORT if value & SLP_EN != 0 => {
                let kind = value >> SLP_TYP_SHIFT & SLP_TYP_MASK;
                (kind == u16::from(S5_SLEEP_TYPE)).then_some(PowerRequest::Off)
            }
            RESET_PORT if value == u16::from(RESET_VALUE) => Some(PowerRequest::Reset),
            I8042_COMMAND if value == u16::from(I8042_RESET) => Some(PowerRequest::Reset),
            _ if port == PM1_EVENT_PORT + 2 => {
                self.enable.store(value, Ordering::Relaxed);
                None
            }
            _ => None,
        }
    }

    /// The register at `port`; `None` when it is none of ours.
    pub(crate) fn read(&self, port: u16) -> Option<u16> {
        match port {
            PM1_CONTROL_PORT => Some(SCI_EN),
            // No event is ever pending.
            PM1_EVENT_PORT => Some(0),
            _ if port == PM1_EVENT_PORT + 2 => Some(self.enable.load(Ordering::Relaxed)),
            // The keyboard controller's input buffer is empty, so that a reset need not wait.
            RESET_PORT | I8042_COMMAND => Some(0),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(port: u16, data: &[u8], expected: Option<PowerRequest>) {
        assert_eq!(Power::default().write(port, data), expected);
    }

    #[test]
    fn only_the_right_values_end_a_guest() {
        check(PM1_CONTROL_PORT, &[0, 0x34], Some(PowerRequest::Off));
        check(PM1_CONTROL_PORT, &[0, 0x14], None);
        check(PM1_CONTROL_PORT, &[0, 0x24], None);
        check(RESET_PORT, &[RESET_VALUE], Some(PowerRequest::Reset));
        check(RESET_PORT, &[0], None);
        check(I8042_COMMAND, &[0xfe], Some(PowerRequest::Reset));
        check(I8042_COMMAND, &[0xd1], None);
        check(0x80, &[0xfe], None);
        check(PM1_CONTROL_PORT, &[], None);
    }

    #[test]
    fn acpi_is_on_and_enables_are_kept() {
        let power = Power::default();
        assert_eq!(power.read(PM1_CONTROL_PORT), Some(SCI_EN));
        power.write(PM1_EVENT_PORT + 2, &[0x20, 0x01]);
        assert_eq!(power.read(PM1_EVENT_PORT + 2), Some(0x120));
        assert_eq!(power.read(0x80), None);
    }
}
