//! The disks and network cards of a configuration: the same models on every engine, and what they count.

use std::sync::Arc;

use super::Device;
use super::blk::{self, BlkCounters, Block, Disk};
use super::net::{self, Loopback, Net, NetCounters};
use crate::error::{Error, Result};

/// A device with a name for its thread.
#[derive(Debug)]
pub(crate) struct Card {
    pub(crate) name: String,
    pub(crate) device: Box<dyn Device>,
}

/// What is counted, in the order of the builder.
#[derive(Debug, Default)]
pub(crate) struct CardCounters {
    disks: Vec<Arc<blk::Counters>>,
    nets: Vec<Arc<net::Counters>>,
}

impl CardCounters {
    pub(crate) fn disks(&self) -> Vec<BlkCounters> {
        self.disks.iter().map(|disk| disk.snapshot()).collect()
    }

    pub(crate) fn nets(&self) -> Vec<NetCounters> {
        self.nets.iter().map(|net| net.snapshot()).collect()
    }
}

/// A device for each: disks first, then cards.
///
/// # Errors
/// When a disk's file cannot be opened.
pub(crate) fn cards(disks: &[Disk], nets: &[Net]) -> Result<(Vec<Card>, CardCounters)> {
    let (mut cards, mut counters) = (Vec::new(), CardCounters::default());
    for (index, disk) in disks.iter().enumerate() {
        let counts = Arc::new(blk::Counters::default());
        let block = Block::new(disk, Arc::clone(&counts)).map_err(Error::system("open a disk"))?;
        cards.push(Card {
            name: format!("blk{index}"),
            device: Box::new(block),
        });
        counters.disks.push(counts);
    }
    for (index, net) in nets.iter().enumerate() {
        let counts = Arc::new(net::Counters::default());
        cards.push(Card {
            name: format!("net{index}"),
            device: Box::new(Loopback::new(net, Arc::clone(&counts))),
        });
        counters.nets.push(counts);
    }
    Ok((cards, counters))
}
