//! What executes a guest.

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

pub(crate) mod kvm;
pub(crate) mod tcg;

use crate::console::ConsoleLog;
use crate::devices::virtio::cards::CardCounters;
use crate::error::Result;
use crate::memory::GuestMemory;
use crate::port::PortStream;
use crate::probe::Engine;
use crate::vm::{Config, ExitReason, VcpuRegs, VmExit};
use crate::watch::{Watch, WatchHit, WatchId, WatchMechanism, WatchSupport};

/// A started VM of either engine: what both can do.
#[derive(Debug)]
pub(crate) enum EngineVm {
    Kvm(kvm::KvmVm),
    Tcg(tcg::TcgVm),
}

/// Both engines have the method under the same name.
macro_rules! both {
    ($self:ident, $vm:ident => $call:expr) => {
        match $self {
            Self::Kvm($vm) => $call,
            Self::Tcg($vm) => $call,
        }
    };
}

impl EngineVm {
    pub(crate) fn start(engine: Engine, config: &Config) -> Result<Self> {
        match engine {
            Engine::Kvm => kvm::KvmVm::start(config).map(Self::Kvm),
            Engine::Tcg => tcg::TcgVm::start(config).map(Self::Tcg),
        }
    }

    pub(crate) fn take_port(&mut self, name: &str) -> Option<PortStream> {
        both!(self, vm => vm.take_port(name))
    }

    pub(crate) fn com1(&self) -> ConsoleLog {
        both!(self, vm => vm.com1())
    }

    pub(crate) fn com2(&self) -> ConsoleLog {
        both!(self, vm => vm.com2())
    }

    pub(crate) fn memory(&self) -> GuestMemory {
        both!(self, vm => vm.memory())
    }

    pub(crate) fn pid(&self) -> u32 {
        both!(self, vm => vm.pid())
    }

    pub(crate) fn exit_fd(&self) -> BorrowedFd<'_> {
        both!(self, vm => vm.exit_fd())
    }

    pub(crate) fn stop(&self, deadline: Duration) -> Result<()> {
        both!(self, vm => vm.stop(deadline))
    }

    pub(crate) fn cont(&self, deadline: Duration) -> Result<()> {
        both!(self, vm => vm.cont(deadline))
    }

    pub(crate) fn registers(&self, deadline: Duration) -> Result<Vec<VcpuRegs>> {
        both!(self, vm => vm.registers(deadline))
    }

    pub(crate) fn watch(&self, watch: Watch, hold: bool) -> Result<WatchId> {
        both!(self, vm => vm.watch(watch, hold))
    }

    pub(crate) fn watch_support(&self) -> WatchSupport {
        match self {
            Self::Kvm(_) => kvm::mechanism(),
            Self::Tcg(_) => WatchSupport {
                write: WatchMechanism::GdbStub,
                exec: WatchMechanism::GdbStub,
                why: String::from("QEMU's gdb stub sees plain stores, not atomic ones (QEMU 7.2)"),
            },
        }
    }

    pub(crate) fn release_hit(&self, deadline: Duration) -> Result<()> {
        both!(self, vm => vm.release_hit(deadline))
    }

    pub(crate) fn unwatch(&self, id: WatchId) -> Result<()> {
        both!(self, vm => vm.unwatch(id))
    }

    pub(crate) fn next_watch_hit(&self, deadline: Duration) -> Option<WatchHit> {
        both!(self, vm => vm.next_watch_hit(deadline))
    }

    pub(crate) fn card_counters(&self) -> &CardCounters {
        both!(self, vm => vm.card_counters())
    }

    pub(crate) fn ended_by(&self) -> Option<ExitReason> {
        both!(self, vm => vm.ended_by())
    }

    pub(crate) fn kill(&self) {
        both!(self, vm => vm.kill());
    }

    pub(crate) fn wait_until(&self, until: Instant) -> bool {
        both!(self, vm => vm.wait_until(until))
    }

    pub(crate) fn wait(&mut self) -> Result<VmExit> {
        both!(self, vm => vm.wait())
    }
}
