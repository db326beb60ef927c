//! A scheduler's watchdog, given another time-out from outside (kernel/sched/ext.c, `scx_watchdog_workfn` and `scx_tick`).

use std::collections::HashMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::scx::{ScxLayout, ScxPlaces};
use crate::{Error, Kernel, Kva, Optional as _, Problems, Result};

/// What an override of the watchdog did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatchdogOverride {
    /// Jiffies that were there.
    pub previous: u64,
    /// Jiffies that were written.
    pub wanted: u64,
    /// Jiffies that were read back.
    pub observed: u64,
}

/// Holds the watchdog of whichever scheduler is attached at one time-out.
///
/// A scheduler brings its own time-out along, and the kernel has by then set the time of its first look at the tasks: half of
/// that time-out later. A shorter one would find the watchdog itself late, and eject the scheduler for that. So until the
/// kernel has looked for the first time, or should have, each [`apply`](Self::apply) renews the time of the last look.
#[derive(Debug, Clone)]
pub struct WatchdogHold {
    wanted: u64,
    /// The scheduler's own, once it was replaced.
    own: Option<u64>,
    /// The same of the schedulers below it: a task waits for as long as its own scheduler says.
    below: HashMap<Kva, u64>,
    last_look: LastLook,
}

/// Where the time of the last look at the tasks is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LastLook {
    /// The kernel.
    Kernels,
    /// This hold, which wrote this, if it did yet; until the kernel's own look is due. All in jiffies.
    Ours { written: Option<u64>, until: u64 },
}

impl WatchdogHold {
    /// For a kernel with `hz` ticks a second.
    ///
    /// # Errors
    /// [`Error::Implausible`] for a time-out that has no count of ticks.
    pub fn new(timeout: Duration, hz: u32) -> Result<Self> {
        let jiffies = timeout.as_millis() * u128::from(hz) / 1000;
        let wanted = u64::try_from(jiffies).map_err(|_| Error::Implausible {
            what: "watchdog timeout",
            value: timeout.as_secs(),
        })?;
        Ok(Self {
            wanted,
            own: None,
            below: HashMap::new(),
            last_look: LastLook::Kernels,
        })
    }

    /// Does what is due now; to be called more often than the time-out. None while no scheduler is attached.
    ///
    /// # Errors
    /// When memory cannot be read or written.
    pub fn apply(&mut self, kernel: &Kernel) -> Result<Option<WatchdogOverride>> {
        let Some((places, kva)) = timeout_of_attached(kernel)? else {
            return Ok(None);
        };
        let previous = kernel.read_u64(kva)?;
        if previous != self.wanted {
            self.own = Some(previous);
            self.last_look = if previous > self.wanted {
                LastLook::Ours {
                    written: None,
                    until: kernel.jiffies()?.saturating_add(previous / 2),
                }
            } else {
                LastLook::Kernels
            };
        }
        // Before the time-out: no tick in between may find the look late.
        self.renew(kernel, &places)?;
        if previous != self.wanted {
            kernel.write(kva, &self.wanted.to_le_bytes())?;
            // Later kernels keep the pace of looks apart.
            if let Some(interval) = kernel.symbol("scx_watchdog_interval").optional()? {
                kernel.write(interval, &(self.wanted / 2).to_le_bytes())?;
            }
        }
        for below in timeouts_below(kernel, &places, kva) {
            let own = kernel.read_u64(below)?;
            if own != self.wanted {
                self.below.insert(below, own);
                kernel.write(below, &self.wanted.to_le_bytes())?;
            }
        }
        Ok(Some(WatchdogOverride {
            previous,
            wanted: self.wanted,
            observed: kernel.read_u64(kva)?,
        }))
    }

    /// Gives the scheduler its own time-out back if the kernel has not looked since: the hold is not renewed from now on.
    ///
    /// # Errors
    /// When memory cannot be read or written.
    pub fn let_go(&mut self, kernel: &Kernel) -> Result<()> {
        if let Some((places, kva)) = timeout_of_attached(kernel)? {
            self.renew(kernel, &places)?;
            if let (LastLook::Ours { .. }, Some(own)) = (self.last_look, self.own) {
                kernel.write(kva, &own.to_le_bytes())?;
                let below = timeouts_below(kernel, &places, kva).into_iter();
                for (below, own) in below.filter_map(|kva| Some((kva, self.below.get(&kva)?))) {
                    kernel.write(below, &own.to_le_bytes())?;
                }
            }
        }
        self.last_look = LastLook::Kernels;
        Ok(())
    }

    fn renew(&mut self, kernel: &Kernel, places: &ScxPlaces) -> Result<()> {
        let LastLook::Ours { written, until } = self.last_look else {
            return Ok(());
        };
        let now = kernel.jiffies()?;
        let place = places.number(kernel, "scx_watchdog_timestamp", ("watchdog_timestamp", 8))?;
        let found = place.map(|(kva, _)| kernel.read_u64(kva)).transpose()?;
        let has_looked = written.is_some() && written != found;
        self.last_look = match place {
            // One that is overdue for longer than the time-out is the kernel's to complain about.
            Some((kva, _)) if !has_looked && now <= until => {
                kernel.write(kva, &now.to_le_bytes())?;
                LastLook::Ours {
                    written: Some(now),
                    until,
                }
            }
            _ => LastLook::Kernels,
        };
        Ok(())
    }
}

/// Where the time-out of the scheduler lies that is attached.
fn timeout_of_attached(kernel: &Kernel) -> Result<Option<(ScxPlaces, Kva)>> {
    let Some(places) = ScxPlaces::find(kernel)? else {
        return Ok(None);
    };
    // Global variables are there without a scheduler, too.
    let is_attached = match places.layout {
        ScxLayout::Globals => kernel.scx_enable_state()? != "disabled",
        ScxLayout::Root => places.sched(kernel)?.is_some(),
    };
    if !is_attached {
        return Ok(None);
    }
    let place = places.number(kernel, "scx_watchdog_timeout", ("watchdog_timeout", 8))?;
    Ok(place.map(|(kva, _)| (places, kva)))
}

/// Where the time-outs of all schedulers but the root lie, whose is at `root`.
fn timeouts_below(kernel: &Kernel, places: &ScxPlaces, root: Kva) -> Vec<Kva> {
    places
        .schedulers(kernel, &mut Problems::new())
        .iter()
        .filter_map(|sched| sched.address_of("watchdog_timeout").ok())
        .filter(|&kva| kva != root)
        .collect()
}

impl Kernel {
    /// Gives runnable tasks this long before the watchdog ejects the scheduler, and reads back what took effect. `hz` is the
    /// kernel's tick rate. None while no scheduler is attached.
    ///
    /// A time-out that is shorter than the scheduler's own wants [`WatchdogHold`], and one that outlives the scheduler too.
    ///
    /// # Errors
    /// When memory cannot be written, or the limit does not fit.
    pub fn override_watchdog(
        &self,
        timeout: Duration,
        hz: u32,
    ) -> Result<Option<WatchdogOverride>> {
        WatchdogHold::new(timeout, hz)?.apply(self)
    }
}
