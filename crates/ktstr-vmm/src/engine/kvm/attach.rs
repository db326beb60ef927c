//! The virtio devices of a VM: which there are, where they sit, which thread serves them.

use std::os::unix::net::UnixStream;
use std::sync::Arc;

use kvm_ioctls::IoEventAddress;

use super::ioctl::failed;
use super::machine::Machine;
use crate::acpi::VirtioPlace;
use crate::config::Config;
use crate::devices::virtio::cards::{Card, CardCounters, cards};
use crate::devices::virtio::console::Console;
use crate::devices::virtio::rng::Entropy;
use crate::devices::virtio::{
    Device, NOTIFY_OFFSET, Registers, Transport, Worker, Workers, eventfd,
};
use crate::error::{Error, Result};
use crate::layout::{VIRTIO_BASE, VIRTIO_GSIS, VIRTIO_STRIDE};
use crate::memory::GuestMemory;
use crate::port::{Leftover, PortStream};

/// The host's ends of the ports.
pub(super) type Ports = Vec<(String, Option<PortStream>)>;

/// The devices of a VM and what stays with its user.
#[derive(Debug)]
pub(super) struct Models {
    pub(super) models: Vec<Card>,
    pub(super) ports: Ports,
    pub(super) counters: CardCounters,
}

/// The devices that `config` asks for.
pub(super) fn models(config: &Config) -> Result<Models> {
    let (mut ports, mut guest) = (Ports::new(), Vec::new());
    for name in &config.ports {
        let (host, device) = UnixStream::pair().map_err(Error::system("create a socket pair"))?;
        let leftover = Leftover::default();
        let stream = PortStream::with_leftover(host, leftover.clone());
        ports.push((name.clone(), Some(stream)));
        guest.push((name.clone(), device, leftover));
    }
    let console = Console::new(guest).map_err(Error::system("set a port up"))?;
    let model = |name: &str, device: Box<dyn Device>| Card {
        name: name.to_owned(),
        device,
    };
    let mut models = vec![
        model("console", Box::new(console)),
        model("rng", Box::new(Entropy)),
    ];
    let (cards, counters) = cards(&config.disks, &config.nets)?;
    models.extend(cards);
    Ok(Models {
        models,
        ports,
        counters,
    })
}

/// A place for each device.
pub(super) fn places(models: &[Card]) -> Result<Vec<VirtioPlace>> {
    if models.len() > VIRTIO_GSIS.len() {
        return Err(Error::Refused {
            what: format!("attach {} devices", models.len()),
            reason: format!("there are interrupts for {}", VIRTIO_GSIS.len()),
        });
    }
    let place = |(index, gsi): (u32, u32)| VirtioPlace {
        base: VIRTIO_BASE + index * VIRTIO_STRIDE,
        len: VIRTIO_STRIDE,
        gsi,
    };
    Ok((0..)
        .zip(VIRTIO_GSIS)
        .take(models.len())
        .map(place)
        .collect())
}

/// Devices in their places, their threads not started yet.
#[derive(Debug)]
pub(super) struct Attached {
    pub(super) registers: Vec<Registers>,
    pub(super) workers: Arc<Workers>,
    pub(super) threads: Vec<Worker>,
}

/// Connects each device's registers, kicks and interrupt.
pub(super) fn attach(
    models: Vec<Card>,
    places: &[VirtioPlace],
    machine: &Machine,
    memory: &GuestMemory,
) -> Result<Attached> {
    let names = models.iter().map(|model| model.name.clone()).collect();
    let mut attached = Attached {
        registers: Vec::new(),
        workers: Arc::new(Workers::new(names)?),
        threads: Vec::new(),
    };
    for (index, (model, place)) in models.into_iter().zip(places).enumerate() {
        let line = machine.interrupt(place.gsi)?;
        let mut kicks = Vec::new();
        for queue in 0..u32::try_from(model.device.queue_sizes().len()).unwrap_or(u32::MAX) {
            let kick = eventfd()?;
            let address = IoEventAddress::Mmio(u64::from(place.base) + NOTIFY_OFFSET);
            machine
                .vm
                .register_ioevent(&kick, &address, queue)
                .map_err(failed("connect a queue's kick"))?;
            kicks.push(kick);
        }
        let clones = kicks
            .iter()
            .map(|kick| kick.try_clone().map_err(Error::system("share an eventfd")))
            .collect::<Result<_>>()?;
        let transport = Transport::new(model.device, memory.mapping()?.clone(), line, clones);
        let transport = transport.map_err(|error| Error::Refused {
            what: format!("attach {}", model.name),
            reason: error.to_string(),
        })?;
        let registers = Registers::new(transport);
        attached.threads.push(Worker {
            transport: registers.transport(),
            kicks,
            workers: Arc::clone(&attached.workers),
            index,
            cpus: None,
        });
        attached.registers.push(registers);
    }
    Ok(attached)
}
