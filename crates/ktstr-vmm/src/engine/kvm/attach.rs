//! The virtio devices of a VM: which there are, where they sit, which thread serves them.

use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};

use kvm_ioctls::IoEventAddress;

use super::layout::{VIRTIO_BASE, VIRTIO_GSIS, VIRTIO_STRIDE};
use super::machine::{Machine, failed};
use crate::acpi::VirtioPlace;
use crate::devices::virtio::cards::{Card, CardCounters, cards};
use crate::devices::virtio::console::Console;
use crate::devices::virtio::rng::Entropy;
use crate::devices::virtio::{Device, NOTIFY_OFFSET, Transport, Worker, Workers, eventfd};
use crate::error::{Error, Result};
use crate::memory::GuestMemory;
use crate::port::PortStream;
use crate::vm::Config;

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
        ports.push((name.clone(), Some(PortStream::new(host))));
        guest.push((name.clone(), device));
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
    pub(super) transports: Vec<Arc<Mutex<Transport>>>,
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
        transports: Vec::new(),
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
        let transport = Transport::new(model.device, memory.inner().clone(), line, clones);
        let transport = transport.map_err(|error| Error::Refused {
            what: format!("attach {}", model.name),
            reason: error.to_string(),
        })?;
        let transport = Arc::new(Mutex::new(transport));
        attached.transports.push(Arc::clone(&transport));
        attached.threads.push(Worker {
            transport,
            kicks,
            workers: Arc::clone(&attached.workers),
            index,
        });
    }
    Ok(attached)
}
