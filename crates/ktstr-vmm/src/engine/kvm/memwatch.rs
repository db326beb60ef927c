//! Watches that lie in guest memory: how they get there and away, while every vCPU stands still.

use std::time::Duration;

use super::debug::InMemory;
use super::mechanism::can_step;
use super::step::{BREAKPOINT, nothing_at};
use super::translate::{page_of, translate};
use super::vm::KvmVm;
use crate::error::{Error, Result};
use crate::watch::{Watch, WatchId, WatchKind};

/// How long vCPUs may take to park.
const PARK_DEADLINE: Duration = Duration::from_secs(20);

impl KvmVm {
    /// Runs `change` while every vCPU is parked.
    pub(super) fn still<T>(&self, change: impl FnOnce() -> Result<T>) -> Result<T> {
        self.stop(PARK_DEADLINE)?;
        let changed = change();
        let resumed = self.cont(PARK_DEADLINE);
        let changed = changed?;
        resumed.map(|()| changed)
    }

    /// Puts a watch into guest memory.
    pub(super) fn set_in_memory(&self, watch: Watch, hold: bool) -> Result<WatchId> {
        let refused = |reason: String| Error::Refused {
            what: format!("watch {:#x}", watch.gva),
            reason,
        };
        let control = &self.control;
        let mut why = String::from("no vCPU is there");
        let mut found = None;
        // The kernel's half is the same in all page tables, and the first vCPU that knows the address will do.
        for regs in control.gate.registers() {
            match translate(&control.memory, &regs, watch.gva) {
                Ok(translation) => {
                    found = Some(translation);
                    break;
                }
                Err(reason) => why = reason,
            }
        }
        let found = found.ok_or_else(|| refused(why))?;
        if watch.kind == WatchKind::Write && found.tables.contains(&page_of(found.gpa)) {
            let reason = "it lies in a page table, which CPUs write without an instruction";
            return Err(refused(reason.into()));
        }
        let mut original = [0; 2];
        if watch.kind == WatchKind::Exec {
            if page_of(found.gpa) != page_of(found.gpa + 1) {
                let reason = "its instruction is the last byte of a page, and two are needed";
                return Err(refused(reason.into()));
            }
            let doubly = control.watches.breakpoint_at(watch.gva);
            match doubly {
                Some(earlier) => original = earlier.original,
                None => control.memory.read(found.gpa, &mut original)?,
            }
            if !can_step() && nothing_at(control, found.gpa, original).is_none() {
                let reason = "this host's KVM cannot step over the instruction there; use the entry of a function that begins with endbr64 or a no-op, as traceable ones do";
                return Err(refused(reason.into()));
            }
        }
        let id = control
            .watches
            .add_in_memory(watch, found.gpa, original, hold)?;
        self.apply()?;
        if watch.kind == WatchKind::Exec {
            control.memory.write(found.gpa, &BREAKPOINT)?;
        }
        Ok(id)
    }

    /// Takes a watch out of guest memory.
    pub(super) fn unset_in_memory(&self, id: WatchId) -> Result<()> {
        let control = &self.control;
        if let Some(InMemory {
            watch,
            gpa,
            original,
            ..
        }) = control.watches.remove(id)?
        {
            let still_there = control.watches.breakpoint_at(watch.gva).is_some();
            if watch.kind == WatchKind::Exec && !still_there {
                control.memory.write(gpa, &original)?;
            }
        }
        self.apply()
    }

    fn apply(&self) -> Result<()> {
        let control = &self.control;
        control.slots.protect(&control.watches.pages())?;
        control
            .turns
            .need(control.gate.len() > 1 && !control.watches.in_memory().is_empty());
        Ok(())
    }
}
