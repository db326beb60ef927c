//! QEMU's command line.

use std::ffi::{OsStr, OsString};
use std::os::fd::RawFd;
use std::path::Path;

use crate::config::Config;
use ktstr_wire::gate::MAILBOX_LEN;

use crate::devices::virtio::blk;
use crate::devices::virtio::net::{self, MTU};
use crate::topology::Topology;

/// The kernel counts timer ticks over ten jiffies of its own and panics when too few came ("IO-APIC + timer doesn't work"),
/// which happens to an emulated CPU on a busy host.
const TIMER: &str = "no_timer_check";

/// Descriptors that QEMU inherits.
#[derive(Debug)]
pub(super) struct Fds {
    pub(super) qmp: RawFd,
    pub(super) com1: RawFd,
    pub(super) com2: RawFd,
    pub(super) gdb: RawFd,
    /// One per port, in the order of the configuration.
    pub(super) ports: Vec<RawFd>,
    /// One per disk, then one per network card, which only tells the card of QEMU's end.
    pub(super) cards: Vec<RawFd>,
    /// One per node.
    pub(super) memory: Vec<RawFd>,
    pub(super) initrd: Option<RawFd>,
    /// Set in virtual time.
    pub(super) virtual_time: Option<VirtualArguments>,
}

/// What differs in virtual time.
#[derive(Debug)]
pub(super) struct VirtualArguments {
    /// The consoles, as `-serial` takes them.
    pub(super) serials: [String; 2],
    /// The plugin with its arguments.
    pub(super) plugin: String,
    /// What guest and host share, where the guest has a gate.
    pub(super) mailbox: Option<RawFd>,
    /// The machine is made for a guest that was saved: memory is the emulator's own copy of its files, and nothing boots.
    pub(super) forked: bool,
}

impl Fds {
    /// Whether the host sees in the memory's files what the guest writes.
    fn share(&self) -> &'static str {
        let forked = self.virtual_time.as_ref().is_some_and(|time| time.forked);
        if forked { "off" } else { "on" }
    }
}

/// The arguments after the program's name; `names` are the sockets of the network cards.
pub(super) fn arguments(config: &Config, fds: &Fds, names: &[String]) -> Vec<OsString> {
    arguments_with(config, &config.kernel, fds, names)
}

fn arguments_with(config: &Config, kernel: &Path, fds: &Fds, names: &[String]) -> Vec<OsString> {
    let mut args = Args(Vec::new());
    args.flag("-nodefaults")
        .flag("-no-user-config")
        .flag("-no-reboot")
        .flag("-S");
    args.pair("-display", "none")
        .pair("-cpu", cpu(config.nested, fds.virtual_time.is_some()));
    args.pair("-smp", smp(&config.topology));
    memory(&mut args, config, fds);
    args.0.push("-kernel".into());
    args.0.push(kernel.into());
    args.pair("-append", format!("{TIMER} {}", config.cmdline));
    if let Some(fd) = fds.initrd {
        args.pair("-initrd", format!("/proc/self/fd/{fd}"));
    }
    args.pair("-chardev", format!("socket,id=qmp,fd={}", fds.qmp))
        .pair("-mon", "chardev=qmp,mode=control");
    match &fds.virtual_time {
        None => host_time(&mut args, fds),
        Some(virtual_time) => count_time(&mut args, virtual_time, fds.share()),
    }
    if !config.ports.is_empty() {
        args.pair(
            "-device",
            format!("virtio-serial-pci,max_ports={}", config.ports.len() + 1),
        );
    }
    for (index, (name, fd)) in config.ports.iter().zip(&fds.ports).enumerate() {
        args.pair("-chardev", format!("socket,id=port{index},fd={fd}"));
        let name = name.replace(',', ",,");
        args.pair(
            "-device",
            format!(
                "virtserialport,nr={},chardev=port{index},name={name}",
                index + 1
            ),
        );
    }
    disks(&mut args, config, fds);
    nets(&mut args, config, names);
    args.0
}

/// The arguments of a guest in virtual time without what differs from one start to the next, or is no part of the machine: paths,
/// descriptors, the plugin.
pub(super) fn normalised(config: &Config, has_gate: bool) -> Vec<u8> {
    let fds = Fds {
        qmp: 0,
        com1: 0,
        com2: 0,
        gdb: 0,
        ports: vec![0; config.ports.len()],
        cards: Vec::new(),
        memory: vec![0; config.node_mib.len()],
        initrd: config.initrd.as_ref().map(|_| 0),
        virtual_time: Some(VirtualArguments {
            serials: [1, 2].map(|number| format!("file:{number}")),
            plugin: String::from("plugin"),
            mailbox: has_gate.then_some(0),
            forked: false,
        }),
    };
    let kernel = Path::new("kernel");
    let args = arguments_with(config, kernel, &fds, &[]);
    args.join(OsStr::new("\n")).into_encoded_bytes()
}

/// A thread per vCPU, and streams that the host follows while the guest runs.
fn host_time(args: &mut Args, fds: &Fds) {
    args.pair("-accel", "tcg,thread=multi");
    for (id, fd) in [("com1", fds.com1), ("com2", fds.com2), ("gdb", fds.gdb)] {
        args.pair("-chardev", format!("socket,id={id},fd={fd}"));
    }
    args.pair("-serial", "chardev:com1")
        .pair("-serial", "chardev:com2");
    args.pair("-object", "rng-builtin,id=rng")
        .pair("-device", "virtio-rng-pci,rng=rng");
}

/// One thread, whose instructions are the clock; no device that answers at a time of the host's (virtio-rng does).
fn count_time(args: &mut Args, virtual_time: &VirtualArguments, share: &str) {
    args.pair("-accel", "tcg,thread=single")
        .pair("-icount", "shift=0,sleep=off")
        .pair("-rtc", "base=2024-01-01T00:00:00,clock=vm")
        .pair("-seed", "0")
        .pair("-plugin", &virtual_time.plugin);
    for serial in &virtual_time.serials {
        args.pair("-serial", serial);
    }
    if let Some(fd) = virtual_time.mailbox {
        args.pair(
            "-object",
            format!(
                "memory-backend-file,id=mailbox,size={MAILBOX_LEN},mem-path=/proc/self/fd/{fd},share={share}"
            ),
        )
        // QEMU saves a guest with this device only where it is the memory's master, which tells a guest nothing.
        .pair("-device", "ivshmem-plain,memdev=mailbox,master=on");
    }
    if virtual_time.forked {
        args.pair("-incoming", "defer");
    }
}

/// Our own model behind vhost-user.
fn disks(args: &mut Args, config: &Config, fds: &Fds) {
    for (index, fd) in fds.cards.iter().enumerate().take(config.disks.len()) {
        args.pair("-chardev", format!("socket,id=disk{index},fd={fd}"));
        args.pair(
            "-device",
            format!(
                "vhost-user-blk-pci,chardev=disk{index},num-queues=1,queue-size={},\
                 config-wce=off,disable-legacy=on",
                blk::QUEUE_SIZE
            ),
        );
    }
}

/// Our own model behind vhost-user; its registers and address are QEMU's. No boot ROM: the kernel is loaded by QEMU itself.
fn nets(args: &mut Args, config: &Config, names: &[String]) {
    for (index, (net, name)) in config.nets.iter().zip(names).enumerate() {
        let socket = format!("socket,id=net{index},path={name},abstract=on");
        args.pair("-chardev", socket);
        args.pair(
            "-netdev",
            format!("vhost-user,id=peer{index},chardev=net{index}"),
        );
        let mac = net.mac.map_or_else(String::new, |mac| {
            let hex = mac.map(|byte| format!("{byte:02x}"));
            format!(",mac={}", hex.join(":"))
        });
        args.pair(
            "-device",
            format!(
                "virtio-net-pci,netdev=peer{index},rx_queue_size={size},tx_queue_size={size},\
                 host_mtu={MTU},romfile=,rombar=0,disable-legacy=on{mac}",
                size = net::QUEUE_SIZE
            ),
        );
    }
}

struct Args(Vec<OsString>);

impl Args {
    fn flag(&mut self, flag: &str) -> &mut Self {
        self.0.push(flag.into());
        self
    }

    fn pair(&mut self, flag: &str, value: impl AsRef<str>) -> &mut Self {
        self.flag(flag).flag(value.as_ref())
    }
}

/// `max` is an AMD, whose Linux learns of caches from leaves 0x8000001D and 0x8000001E, and only with TOPOEXT. Without it each
/// CPU has an L3 id of its own, and threads of a core share no L1 and L2. TCG has those leaves but not the flag in its list of
/// features, so it is forced (QEMU 7.2 to 10.0 say a warning per vCPU).
fn cpu(nested: bool, virtual_time: bool) -> String {
    let svm = if nested { ",+svm,+npt" } else { "" };
    let random = if virtual_time { ",-rdrand,-rdseed" } else { "" };
    format!("max,+topoext,x-force-features=on,xlevel=0x8000001e{svm}{random}")
}

/// One LLC is one socket: QEMU's L3 is per socket.
fn smp(topology: &Topology) -> String {
    format!(
        "{},sockets={},cores={},threads={}",
        topology.total_cpus(),
        topology.llcs(),
        topology.cores_per_llc(),
        topology.threads_per_core()
    )
}

fn memory(args: &mut Args, config: &Config, fds: &Fds) {
    args.pair("-m", format!("{}M", config.memory_mib));
    for (node, (mib, fd)) in config.node_mib.iter().zip(&fds.memory).enumerate() {
        let object = format!(
            "memory-backend-file,id=mem{node},size={mib}M,mem-path=/proc/self/fd/{fd},share={}",
            fds.share()
        );
        args.pair("-object", object);
    }
    let nodes = config.topology.nodes().len();
    if nodes == 1 {
        args.pair("-machine", "q35,memory-backend=mem0");
        return;
    }
    args.pair("-machine", "q35");
    for node in 0..nodes {
        args.pair("-numa", format!("node,nodeid={node},memdev=mem{node}"));
    }
    for llc in 0..config.topology.llcs() {
        let node = config.topology.node_of_llc(llc).unwrap_or(0);
        args.pair("-numa", format!("cpu,node-id={node},socket-id={llc}"));
    }
    for from in 0..nodes {
        for to in 0..nodes {
            let distance = config
                .topology
                .distance()
                .between(from, to)
                .unwrap_or(crate::topology::REMOTE_DISTANCE);
            args.pair("-numa", format!("dist,src={from},dst={to},val={distance}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Disk, DiskSource, Net};
    use std::time::Duration;

    fn config(shape: &str) -> Config {
        let topology: Topology = shape.parse().unwrap();
        let nodes = topology.nodes().len();
        Config {
            kernel: "/k".into(),
            initrd: None,
            cmdline: "quiet".into(),
            node_mib: vec![128; nodes],
            memory_mib: 128 * u32::try_from(nodes).unwrap(),
            topology,
            ports: vec!["a,b".into()],
            deadline: Duration::from_secs(1),
            performance_mode: false,
            cpu_budget: None,
            lock_dir: std::env::temp_dir(),
            nested: false,
            invariant_tsc: false,
            disks: vec![Disk::new(DiskSource::Memory(512))],
            nets: vec![Net::new().mac([2, 0, 0, 0, 0, 7])],
            qemu: "qemu".into(),
            virtual_time: None,
        }
    }

    #[track_caller]
    fn check(shape: &str, expected: &[&str]) {
        let config = config(shape);
        let nodes = config.node_mib.len();
        let memory = (20..).take(nodes).collect();
        let fds = Fds {
            qmp: 3,
            com1: 4,
            com2: 5,
            gdb: 6,
            ports: vec![7],
            cards: vec![8, 9],
            memory,
            initrd: None,
            virtual_time: None,
        };
        let names = [String::from("ktstr-card-7")];
        let args: Vec<String> = arguments(&config, &fds, &names)
            .into_iter()
            .map(|arg| arg.into_string().unwrap())
            .collect();
        let line = args.join(" ");
        for needle in expected {
            assert!(line.contains(needle), "{needle:?} is not in {line}");
        }
    }

    #[test]
    fn what_a_run_is_does_not_depend_on_where_its_files_are() {
        let of = |config: &Config| normalised(config, true);
        let plain = config("1n1l2c1t");
        let moved = Config {
            kernel: "/elsewhere/k".into(),
            qemu: "/elsewhere/qemu".into(),
            ..config("1n1l2c1t")
        };
        assert_eq!(of(&plain), of(&moved));
        let quiet = Config {
            cmdline: "loud".into(),
            ..config("1n1l2c1t")
        };
        assert_ne!(of(&plain), of(&quiet));
        assert_ne!(of(&plain), of(&config("1n1l3c1t")));
        assert_ne!(of(&plain), normalised(&plain, false));
    }

    /// A guest of a busy CI run died of it.
    #[test]
    fn the_kernel_does_not_judge_the_timer() {
        check("1n1l1c1t", &["-append no_timer_check quiet"]);
    }

    #[test]
    fn one_llc_is_one_socket() {
        check(
            "1n2l4c2t",
            &[
                "-smp 16,sockets=2,cores=4,threads=2",
                "q35,memory-backend=mem0",
                "mem-path=/proc/self/fd/20",
            ],
        );
    }

    #[test]
    fn caches_are_told_by_the_leaves_that_name_their_sharers() {
        check("1n1l1c1t", &["-cpu max,+topoext,x-force-features=on"]);
        assert!(cpu(true, false).ends_with(",+svm,+npt"));
    }

    #[test]
    fn nodes_have_memory_cpus_and_distances() {
        check(
            "2n4l1c1t",
            &[
                "node,nodeid=1,memdev=mem1",
                "cpu,node-id=1,socket-id=2",
                "dist,src=0,dst=1,val=20",
                "dist,src=1,dst=1,val=10",
            ],
        );
    }

    #[test]
    fn each_card_has_its_own_socket() {
        check(
            "1n1l1c1t",
            &[
                "socket,id=disk0,fd=8",
                "vhost-user-blk-pci,chardev=disk0,",
                "socket,id=net0,path=ktstr-card-7,abstract=on",
                "vhost-user,id=peer0,chardev=net0",
                "netdev=peer0,",
                ",mac=02:00:00:00:00:07",
            ],
        );
    }

    #[test]
    fn a_comma_in_a_port_name_stays_in_the_name() {
        check("1n1l1c1t", &["virtserialport,nr=1,chardev=port0,name=a,,b"]);
    }
}
