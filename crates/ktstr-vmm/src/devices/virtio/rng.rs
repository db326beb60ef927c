//! Virtio-entropy (virtio 1.2 §5.4), so that a guest never waits for randomness.

use rustix::rand::{GetRandomFlags, getrandom};

use super::{Device, Popped, Rings};

const DEVICE_TYPE: u32 = 4;
const QUEUE_SIZE: u16 = 64;
/// Bytes given for one request; a driver that wants more asks again.
const MOST: u64 = 4096;
/// Requests answered before the worker looks up.
const BUDGET: usize = 128;

/// The device.
#[derive(Debug, Default)]
pub(crate) struct Entropy;

impl Device for Entropy {
    fn device_type(&self) -> u32 {
        DEVICE_TYPE
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE]
    }

    fn process(&mut self, queue: usize, rings: &mut Rings) {
        let mut turns = 0;
        loop {
            turns += 1;
            if turns > BUDGET {
                rings.again(queue);
                break;
            }
            let (head, written) = match rings.pop(queue) {
                Popped::Empty if rings.listen(queue) => continue,
                Popped::Empty | Popped::Poisoned => break,
                Popped::Bad(head) => (head, 0),
                Popped::Chain(chain) => {
                    let len = usize::try_from(chain.writable_len().min(MOST)).unwrap_or(0);
                    let mut bytes = vec![0; len];
                    let filled =
                        getrandom(bytes.as_mut_slice(), GetRandomFlags::empty()).unwrap_or(0);
                    let written = rings.write(&chain, bytes.get(..filled).unwrap_or_default());
                    (chain.head, written)
                }
            };
            // A used ring outside memory hurts only the guest.
            let _ = rings.push(queue, head, written);
        }
        rings.signal(queue);
    }

    fn reset(&mut self) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::virtio::testutil::{Descriptor, Driver, WRITE};

    #[test]
    fn requests_are_filled_up_to_a_bound() {
        let driver = Driver::new(1, 8);
        let mut rings = driver.rings(8);
        let buffer = |gpa, len| Descriptor {
            gpa,
            len,
            flags: WRITE,
            next: 0,
        };
        let bad = Descriptor {
            gpa: 1 << 50,
            len: 8,
            flags: WRITE,
            next: 0,
        };
        driver.put_table(0, &[buffer(0x8000, 64), buffer(0x2_0000, 0x1_0000), bad]);
        driver.offer(0, &[0, 1, 2]);
        Entropy.process(0, &mut rings);
        assert_eq!(driver.used(0), [(0, 64), (1, 4096), (2, 0)]);
        assert_ne!(driver.read(0x8000, 64), [0; 64]);
        assert!(driver.interrupted());
    }
}
