//! `NetTraffic`: worker 2i sends bursts of datagrams to worker 2i+1, which answers each burst. Exercises the network softirq, socket
//! wake-ups and, under load, ksoftirqd. The datagrams go over the loopback device.
//!
//! One iteration is one burst sent and answered, or received: a work unit for each datagram. Wake latency is from the partner's
//! first send to running. A datagram that is lost costs its burst 50 ms.

use std::net::UdpSocket;
use std::time::Duration;

use super::super::meter::Meter;
use super::Place;

/// More than a datagram may hold here.
const MOST_BYTES: u16 = 1_400;
/// Datagrams of one burst.
const BURST: u32 = 16;

pub(super) fn run<'a>(
    bytes: u16,
    interval: Duration,
    place: &Place<'a>,
) -> impl FnOnce(&mut Meter<'_>) + use<'a> {
    let (index, partner) = (place.index, place.index ^ 1);
    let (mine, theirs) = (&place.kit.sockets[index], &place.kit.sockets[partner]);
    let data = vec![0u8; bytes.clamp(1, MOST_BYTES).into()];
    let sends_first = index.is_multiple_of(2);
    // The sender gets one answer for each burst, the other gets whole bursts.
    let (outgoing, incoming) = if sends_first { (BURST, 1) } else { (1, BURST) };
    move |meter| {
        if sends_first {
            send(mine, theirs, &data, (partner, outgoing), meter);
        }
        while receive(mine, incoming, meter) {
            meter.tick(u64::from(BURST));
            if sends_first && !interval.is_zero() {
                meter.rest_for(interval);
            }
            send(mine, theirs, &data, (partner, outgoing), meter);
        }
    }
}

fn send(
    from: &UdpSocket,
    to: &UdpSocket,
    data: &[u8],
    (partner, count): (usize, u32),
    meter: &Meter<'_>,
) {
    let Ok(address) = to.local_addr() else {
        return;
    };
    meter.call(partner);
    for _ in 0..count {
        let _ = from.send_to(data, address);
    }
}

/// Takes one burst; `false` if the stop came first.
fn receive(socket: &UdpSocket, count: u32, meter: &mut Meter<'_>) -> bool {
    if !meter.await_fd(socket) {
        return false;
    }
    let mut buffer = [0u8; MOST_BYTES as usize];
    // A receive that times out stands for a lost datagram.
    for _ in 0..count {
        let _ = socket.recv(&mut buffer);
        if meter.stopping() {
            return false;
        }
    }
    true
}
