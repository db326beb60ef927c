//! What a VM of this engine has in virtual time alone, put together.

use std::fs::File;
use std::os::fd::{AsRawFd as _, RawFd};

use super::gate::{Ends, Gate};
use super::save::{self, Sources};
use super::virtual_time::Files;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::memory::Backing;
use crate::saved::Saved;

/// What a VM has in virtual time alone.
#[derive(Debug, Default)]
pub(super) struct Parts {
    pub(super) files: Option<Files>,
    pub(super) gate: Option<Gate>,
    /// The emulator's ends of the gate.
    pub(super) ends: Option<Ends>,
    pub(super) mailbox: Option<File>,
    /// Of a guest with a gate that is no copy itself.
    pub(super) sources: Option<Sources>,
    /// What the emulator inherits for all that.
    pub(super) inherited: Vec<RawFd>,
}

impl Parts {
    /// For a guest, or for a copy of a saved one with its state.
    pub(super) fn new(
        config: &Config,
        backings: &[Backing],
        saved: Option<(&Saved, &File)>,
    ) -> Result<Self> {
        let Some(time) = &config.virtual_time else {
            return Ok(Self::default());
        };
        let files = Files::new(time, config, saved.map(|(saved, _)| saved))?;
        if let Some((saved, _)) = saved {
            save::check_machine(saved, config, files.options())?;
        }
        let mut inherited = files.fds().to_vec();
        inherited.extend(saved.map(|(_, state)| state.as_raw_fd()));
        if !time.gate {
            return Ok(Self {
                files: Some(files),
                inherited,
                ..Self::default()
            });
        }
        let (gate, ends) = Gate::new()?;
        inherited.extend(ends.fds());
        let share = Error::system("share a descriptor");
        let mailbox = ends.mailbox.try_clone().map_err(share)?;
        let sources = match saved {
            Some(_) => None,
            None => Some(Sources::new(config, backings, &files)?),
        };
        Ok(Self {
            files: Some(files),
            gate: Some(gate),
            ends: Some(ends),
            mailbox: Some(mailbox),
            sources,
            inherited,
        })
    }
}
