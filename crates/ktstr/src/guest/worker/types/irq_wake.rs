//! `IrqWake`: worker 2i sends a datagram every period, worker 2i+1 waits for it. Exercises the wake-up out of the network softirq; the
//! datagrams go over the loopback device, whose softirq runs on the sender's CPU.
//!
//! One iteration is one datagram sent or received: one work unit. The receiver's wake latency is from the send to running, the
//! sender's from its due time.

use std::net::UdpSocket;
use std::time::Duration;

use super::super::meter::Meter;
use super::{Place, timer_latency};

/// More than a datagram may hold here.
const MOST_BYTES: u16 = 1_400;

pub(super) fn run<'a>(
    bytes: u16,
    period: Duration,
    place: &Place<'a>,
) -> impl FnOnce(&mut Meter<'_>) + use<'a> {
    let (index, partner) = (place.index, place.index ^ 1);
    let (mine, theirs) = (&place.kit.sockets[index], &place.kit.sockets[partner]);
    let mut data = vec![0u8; bytes.clamp(1, MOST_BYTES).into()];
    move |meter| {
        if index.is_multiple_of(2) {
            send_all(mine, theirs, &data, partner, period, meter);
            return;
        }
        while meter.await_fd(mine) {
            if mine.recv(&mut data).is_ok() {
                meter.tick(1);
            }
        }
    }
}

fn send_all(
    from: &UdpSocket,
    to: &UdpSocket,
    data: &[u8],
    partner: usize,
    period: Duration,
    meter: &mut Meter<'_>,
) {
    let Ok(address) = to.local_addr() else {
        return;
    };
    while !meter.stopping() {
        timer_latency::once(period, meter);
        meter.call(partner);
        if from.send_to(data, address).is_ok() {
            meter.tick(1);
        }
    }
}
