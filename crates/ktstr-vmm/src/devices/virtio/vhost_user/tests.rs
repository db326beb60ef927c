use std::io;
use std::os::fd::AsRawFd as _;

use vhost::vhost_user::message::VhostUserConfigFlags;
use vhost::vhost_user::{Frontend, VhostUserFrontend as _};
use vhost::{VhostBackend as _, VhostUserMemoryRegionInfo, VringConfigData};
use vmm_sys_util::eventfd::EventFd;

use super::*;
use crate::devices::virtio::blk::{Disk, DiskSource};
use crate::devices::virtio::cards::{CardCounters, cards};
use crate::devices::virtio::testutil::{Descriptor, Driver, WRITE};
use crate::devices::virtio::transport::{EVENT_IDX, VERSION_1};
use crate::devices::virtio::worker::borrow;
use vhost::vhost_user::{VhostUserProtocolFeatures, VhostUserVirtioFeatures};

const SIZE: u16 = 8;
const NEXT: u16 = 1;
/// Where QEMU would have mapped guest memory.
const USER: u64 = 0x7f00_0000_0000;

/// A disk behind its socket, and the other side of it.
struct Bench {
    driver: Driver,
    qemu: Frontend,
    kick: EventFd,
    call: EventFd,
    counters: CardCounters,
    thread: JoinHandle<()>,
}

impl Bench {
    fn new() -> Self {
        let driver = Driver::new(1, SIZE);
        let disk = Disk::new(DiskSource::Memory(1 << 20));
        let (mut cards, counters) = cards(&[disk], &[]).unwrap();
        let (theirs, ours) = UnixStream::pair().unwrap();
        let thread = serve(
            cards.remove(0),
            driver.memory.clone(),
            Socket::Connected(ours),
        )
        .unwrap();
        Self {
            driver,
            qemu: Frontend::from_stream(theirs, 1),
            kick: EventFd::new(libc::EFD_NONBLOCK).unwrap(),
            call: EventFd::new(libc::EFD_NONBLOCK).unwrap(),
            counters,
            thread,
        }
    }

    /// What QEMU says before the guest's driver is ready.
    fn negotiate(&mut self) {
        self.qemu.set_owner().unwrap();
        let offered = self.qemu.get_features().unwrap();
        // Without event indices, so that the driver is called for every buffer.
        let wanted = VERSION_1 | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
        assert_eq!(offered & (wanted | EVENT_IDX), wanted | EVENT_IDX);
        self.qemu.set_features(wanted).unwrap();
        let protocol = self.qemu.get_protocol_features().unwrap();
        assert!(protocol.contains(VhostUserProtocolFeatures::CONFIG));
        self.qemu
            .set_protocol_features(VhostUserProtocolFeatures::CONFIG)
            .unwrap();
    }

    /// What QEMU says when the guest's driver is ready, or the VM goes on.
    fn start(&mut self, base: u16) {
        let memory = tempfile::tempfile().unwrap();
        let region = VhostUserMemoryRegionInfo {
            guest_phys_addr: 0,
            memory_size: Driver::MEMORY,
            userspace_addr: USER,
            mmap_offset: 0,
            mmap_handle: memory.as_raw_fd(),
        };
        self.qemu.set_mem_table(&[region]).unwrap();
        self.qemu.set_vring_num(0, SIZE).unwrap();
        self.qemu.set_vring_base(0, base).unwrap();
        let addresses = VringConfigData {
            queue_max_size: SIZE,
            queue_size: SIZE,
            flags: 0,
            desc_table_addr: USER + 0x1000,
            avail_ring_addr: USER + 0x1400,
            used_ring_addr: USER + 0x1800,
            log_addr: None,
        };
        self.qemu.set_vring_addr(0, &addresses).unwrap();
        self.qemu.set_vring_call(0, &self.call).unwrap();
        self.qemu.set_vring_kick(0, &self.kick).unwrap();
        self.qemu.set_vring_enable(0, true).unwrap();
    }

    /// Writes sector 1 with `byte` as the guest's driver would, and waits for the interrupt.
    fn write_sector(&self, byte: u8) {
        let mut header = 1u32.to_le_bytes().to_vec();
        header.extend([0; 4]);
        header.extend(1u64.to_le_bytes());
        self.driver.write(0x8000, &header);
        self.driver.write(0x9000, &[byte; 512]);
        self.driver.write(0xa000, &[0xff]);
        let descriptor = |gpa, len, flags, next| Descriptor {
            gpa,
            len,
            flags,
            next,
        };
        self.driver.put_table(
            0,
            &[
                descriptor(0x8000, 16, NEXT, 1),
                descriptor(0x9000, 512, NEXT, 2),
                descriptor(0xa000, 1, WRITE, 0),
            ],
        );
        self.driver.offer(0, &[0]);
        self.kick.write(1).unwrap();
        self.wait_for_call();
        assert_eq!(self.driver.read(0xa000, 1), [0]);
    }

    fn wait_for_call(&self) {
        let mut fds = [PollFd::from_borrowed_fd(borrow(&self.call), PollFlags::IN)];
        let long = Timespec {
            tv_sec: 20,
            tv_nsec: 0,
        };
        assert_eq!(poll(&mut fds, Some(&long)), Ok(1), "no interrupt came");
        self.call.read().unwrap();
    }

    fn end(self) {
        drop(self.qemu);
        self.thread.join().unwrap();
    }
}

#[test]
fn a_disk_serves_its_ring_and_ends_with_its_socket() {
    let mut bench = Bench::new();
    bench.negotiate();
    let capacity = bench
        .qemu
        .get_config(0, 8, VhostUserConfigFlags::empty(), &[0; 8])
        .unwrap()
        .1;
    assert_eq!(capacity, 2048u64.to_le_bytes());
    bench.start(0);
    bench.write_sector(7);
    bench.write_sector(8);
    let counters = bench.counters.disks()[0];
    assert_eq!(
        (counters.writes_completed, counters.bytes_written),
        (2, 1024)
    );
    bench.end();
}

/// A ring is looked at when it is enabled, whether or not the guest has offered something: without a used buffer there is nothing
/// to be interrupted for, and who then takes the interrupt for the answer to a later request reads what is not there yet.
#[test]
fn a_ring_that_is_enabled_empty_interrupts_nobody() {
    let mut bench = Bench::new();
    bench.negotiate();
    bench.start(0);
    // Answered by the thread that looks at the ring, one message between two looks.
    for _ in 0..2 {
        bench
            .qemu
            .get_config(0, 8, VhostUserConfigFlags::empty(), &[0; 8])
            .unwrap();
    }
    assert_eq!(
        bench.call.read().unwrap_err().kind(),
        io::ErrorKind::WouldBlock
    );
    bench.write_sector(7);
    bench.end();
}

/// As at every freeze: the ring stops, tells its position, and goes on from there.
#[test]
fn a_ring_that_was_taken_back_goes_on_where_it_stood() {
    let mut bench = Bench::new();
    bench.negotiate();
    bench.start(0);
    bench.write_sector(1);
    bench.qemu.set_vring_enable(0, false).unwrap();
    assert_eq!(bench.qemu.get_vring_base(0).unwrap(), 1);
    // What the driver offers meanwhile waits.
    bench.driver.offer(0, &[0]);
    bench.kick.write(1).unwrap();
    assert_eq!(bench.driver.used(0).len(), 1);
    bench.start(1);
    bench.wait_for_call();
    assert_eq!(bench.driver.used(0).len(), 2);
    bench.end();
}

/// As QEMU's netdev does from 8.2 on: before it sets features, and it waits for the answer.
#[test]
fn a_ring_enabled_early_is_acknowledged() {
    let (mut theirs, ours) = UnixStream::pair().unwrap();
    theirs
        .set_read_timeout(Some(std::time::Duration::from_secs(20)))
        .unwrap();
    let (mut cards, _) = cards(&[Disk::new(DiskSource::Memory(1 << 20))], &[]).unwrap();
    let memory = Driver::new(1, SIZE).memory.clone();
    let thread = serve(cards.remove(0), memory, Socket::Connected(ours)).unwrap();
    let message = |flags: u32| {
        let words = [SET_VRING_ENABLE, flags, 8, 0, 1];
        words.map(u32::to_le_bytes).concat()
    };
    // The first wants no reply and gets none.
    theirs.write_all(&message(1)).unwrap();
    theirs.write_all(&message(1 | NEED_REPLY)).unwrap();
    let mut reply = [0xff; ENABLED.len()];
    std::io::Read::read_exact(&mut theirs, &mut reply).unwrap();
    assert_eq!(reply, ENABLED);
    theirs.shutdown(std::net::Shutdown::Write).unwrap();
    let mut rest = Vec::new();
    std::io::Read::read_to_end(&mut theirs, &mut rest).unwrap();
    assert!(rest.is_empty(), "{rest:?}");
    thread.join().unwrap();
}

#[test]
fn addresses_outside_of_the_announced_memory_end_the_connection() {
    let mut bench = Bench::new();
    bench.negotiate();
    bench.start(0);
    let outside = VringConfigData {
        queue_max_size: SIZE,
        queue_size: SIZE,
        flags: 0,
        desc_table_addr: USER + Driver::MEMORY,
        avail_ring_addr: USER,
        used_ring_addr: USER,
        log_addr: None,
    };
    // Without REPLY_ACK nothing comes back.
    let _ = bench.qemu.set_vring_addr(0, &outside);
    bench.thread.join().unwrap();
    assert!(bench.qemu.get_features().is_err());
}
