//! What executes a guest.

use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

pub(crate) mod kvm;
pub(crate) mod tcg;

use crate::config::Config;
use crate::console::ConsoleLog;
use crate::devices::virtio::cards::CardCounters;
use crate::error::Result;
use crate::exit::{ExitReason, VcpuRegs, VmExit};
use crate::gate::{RunOnly, Stop, no_gate};
use crate::memory::GuestMemory;
use crate::port::PortStream;
use crate::probe::Engine;
use crate::saved::Saved;
use crate::vcpu_time::VcpuClocks;
use crate::watch::{Watch, WatchHit, WatchId, WatchMechanism, WatchSupport};
use ktstr_wire::gate::UntilState;

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

    /// Only tcg has saved guests.
    pub(crate) fn start_saved(engine: Engine, config: &Config, saved: &Saved) -> Result<Self> {
        match engine {
            Engine::Kvm => Err(no_gate()),
            Engine::Tcg => tcg::TcgVm::start_saved(config, saved).map(Self::Tcg),
        }
    }

    pub(crate) fn save(&self, dir: &Path, said: &[u8]) -> Result<Saved> {
        match self {
            Self::Kvm(_) => Err(no_gate()),
            Self::Tcg(vm) => vm.save(dir, said),
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

    pub(crate) fn vcpus(&self) -> usize {
        both!(self, vm => vm.vcpus())
    }

    pub(crate) fn vcpu_clocks(&self) -> VcpuClocks {
        both!(self, vm => vm.vcpu_clocks())
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
            Self::Tcg(vm) if vm.is_virtual() => WatchSupport {
                write: WatchMechanism::Plugin,
                exec: WatchMechanism::Plugin,
                why: String::from("the emulator's plugin sees every instruction"),
            },
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

    pub(crate) fn next_stop(&self) -> Result<Option<Stop>> {
        match self {
            Self::Kvm(_) => Err(no_gate()),
            Self::Tcg(vm) => vm.next_stop(),
        }
    }

    pub(crate) fn go_on(&self, answer: &[u8], wake: Option<Duration>) -> Result<()> {
        match self {
            Self::Kvm(_) => Err(no_gate()),
            Self::Tcg(vm) => vm.go_on(answer, wake),
        }
    }

    pub(crate) fn tell_waiting(&self, state: UntilState) -> Result<()> {
        match self {
            Self::Kvm(_) => Err(no_gate()),
            Self::Tcg(vm) => vm.gate()?.tell_waiting(state),
        }
    }

    pub(crate) fn waits_for(&self) -> Result<u32> {
        match self {
            Self::Kvm(_) => Err(no_gate()),
            Self::Tcg(vm) => vm.gate()?.waits_for(),
        }
    }

    pub(crate) fn run_only(&self, who: RunOnly) -> Result<()> {
        match self {
            Self::Kvm(_) => Err(no_gate()),
            Self::Tcg(vm) => {
                vm.gate()?.run_only(who);
                Ok(())
            }
        }
    }

    pub(crate) fn debug(&self, answer: &[u8]) -> Result<(UnixStream, Duration)> {
        match self {
            Self::Kvm(_) => Err(no_gate()),
            Self::Tcg(vm) => vm.debug(answer),
        }
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
