//! The thread of one vCPU: gate, guest, exit, again.

use std::sync::Arc;

use kvm_ioctls::{VcpuExit, VcpuFd};

use super::control::{Control, End};
use super::debug::InMemory;
use super::failure;
use super::kick::Kickable;
use super::own_debug;
use super::step::{self, BREAKPOINT, BREAKPOINT_PORT};
use super::translate::page_of;
use super::turns::Turn;
use crate::devices::gate::Pass;
use crate::devices::power::PowerRequest;
use crate::exit::VcpuRegs;

const RFLAGS_RF: u64 = 1 << 16;

/// What one run in the guest asks of its thread.
#[derive(Debug)]
enum Next {
    Run,
    /// The exit is a port or memory access that KVM completes at the next entry.
    Complete,
    /// A breakpoint of ours was met, and KVM completes its instruction at the next entry.
    Breakpoint(InMemory),
    /// A debug register matched, or a step is done.
    Debug {
        dr6: u64,
        pc: u64,
    },
    /// The guest wrote where it may not, and KVM completes that at the next entry.
    Written {
        gpa: u64,
        bytes: [u8; 8],
        len: usize,
    },
    End(End),
}

/// Runs `vcpu` until the VM ends. Whatever happens, the gate learns that the thread is gone.
pub(super) fn run(control: &Arc<Control>, index: u32, mut vcpu: VcpuFd) {
    let place = usize::try_from(index).unwrap_or(usize::MAX);
    let _goodbye = Goodbye { control, place };
    let exit = &raw mut vcpu.get_kvm_run().immediate_exit;
    // SAFETY: the byte lies in the mapping of `vcpu`, which outlives the guard; this thread is the only one that runs it.
    let entered = unsafe { control.kicker.enter(place, exit) };
    let kickable = match entered {
        Ok(kickable) => kickable,
        Err(error) => {
            control.end(End::Broken(format!(
                "vCPU {index} cannot be kicked: {error}"
            )));
            return;
        }
    };
    let mut thread = Thread {
        control,
        index,
        place,
        armed: 0,
        tsc_taken: 0,
        breakpoint: None,
        kickable,
    };
    if let Err(end) = thread.follow(&mut vcpu) {
        control.end(end);
    }
}

struct Goodbye<'c> {
    control: &'c Control,
    place: usize,
}

impl Drop for Goodbye<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.control
                .end(End::Broken(String::from("a vCPU thread panicked")));
        }
        self.control.turns.withdraw(self.place);
        self.control.gate.leave(self.place);
    }
}

struct Thread<'c> {
    control: &'c Control,
    index: u32,
    place: usize,
    /// The watches' epoch that is in the debug registers.
    armed: u32,
    /// What of the freezes its TSC was set back by.
    tsc_taken: u64,
    /// It stands at a breakpoint instruction of ours, which it is to be let over.
    breakpoint: Option<InMemory>,
    kickable: Kickable<'c>,
}

impl Thread<'_> {
    /// `Ok` when it was told to leave.
    fn follow(&mut self, vcpu: &mut VcpuFd) -> Result<(), End> {
        let mut complete = false;
        loop {
            // In this order: a kick after the clearing is kept, one before it has closed the gate.
            self.kickable.set_immediate_exit(false);
            if complete && self.control.gate.is_closed() {
                self.complete(vcpu);
                complete = false;
            }
            let index = self.index;
            match self
                .control
                .gate
                .pass(self.place, || registers(index, vcpu))
            {
                Pass::Leave => return Ok(()),
                Pass::Resumed => {
                    // Tells the guest's watchdogs that it was stopped; guests without kvm-clock refuse.
                    let _ = vcpu.kvmclock_ctrl();
                }
                Pass::Run => {}
            }
            let control = self.control;
            if let Some(tsc) = &control.tsc {
                tsc.catch_up(vcpu, &mut self.tsc_taken)
                    .map_err(|error| End::Broken(format!("vCPU {index}: its TSC: {error}")))?;
            }
            let _turn = match control.turns.ask(self.place) {
                Turn::Later(running) => {
                    running
                        .into_iter()
                        .for_each(|vcpu| control.kicker.kick(vcpu));
                    continue;
                }
                turn => turn,
            };
            let next = self.go(vcpu)?;
            complete = self.follow_up(vcpu, next)?;
        }
    }

    /// Enters the guest, over a breakpoint if it stands at one.
    fn go(&mut self, vcpu: &mut VcpuFd) -> Result<Next, End> {
        let at = self.breakpoint.take();
        // One that was taken away meanwhile is no obstacle.
        let at = at.and_then(|at| self.control.watches.breakpoint_at(at.watch.gva));
        let Some(at) = at else {
            self.arm(vcpu);
            return Ok(self.enter(vcpu));
        };
        if step::over_nothing(self.control, vcpu, &at) {
            self.arm(vcpu);
            return Ok(self.enter(vcpu));
        }
        self.armed = self.armed.wrapping_sub(1);
        let next = step::over_breakpoint(self.control, vcpu, &at, |vcpu| self.enter(vcpu))?;
        if vcpu.get_regs().is_ok_and(|regs| regs.rip == at.watch.gva) {
            // A kick came first.
            self.breakpoint = Some(at);
        }
        Ok(next)
    }

    /// What an exit asks for; whether KVM has something to complete.
    fn follow_up(&mut self, vcpu: &mut VcpuFd, next: Next) -> Result<bool, End> {
        match next {
            Next::Run => {}
            Next::Complete => return Ok(true),
            Next::Breakpoint(breakpoint) => self.stopped_at(vcpu, breakpoint)?,
            Next::Debug { dr6, pc, .. } => {
                let hit = self.control.watches.hit(self.index, dr6, pc);
                if hit.executed {
                    step_over(vcpu);
                }
                // A step may be one of ours, over a breakpoint in memory.
                let armed = self.control.watches.in_memory().is_empty();
                if let Some(causes) = own_debug::of_guest(dr6).filter(|_| armed) {
                    self.give_back(vcpu, causes, pc)?;
                }
                self.control.hold(hit.holds);
            }
            Next::Written { gpa, bytes, len } => {
                self.written(vcpu, gpa, bytes.get(..len).unwrap_or_default())?;
                return Ok(true);
            }
            Next::End(end) => return Err(end),
        }
        Ok(false)
    }

    /// The breakpoint that the vCPU is at, or has just passed: KVM moves on before or after the exit.
    fn breakpoint_at(&self, vcpu: &VcpuFd) -> Option<InMemory> {
        let rip = vcpu.get_regs().ok()?.rip;
        let len = u64::try_from(BREAKPOINT.len()).ok()?;
        let watches = &self.control.watches;
        let at = watches.breakpoint_at(rip);
        at.or_else(|| watches.breakpoint_at(rip.checked_sub(len)?))
    }

    /// Tells of a breakpoint, with the vCPU before its instruction.
    fn stopped_at(&mut self, vcpu: &mut VcpuFd, breakpoint: InMemory) -> Result<(), End> {
        self.complete(vcpu);
        let gva = breakpoint.watch.gva;
        step::set_rip(vcpu, gva)
            .map_err(|error| End::Broken(format!("vCPU {}: a breakpoint: {error}", self.index)))?;
        self.breakpoint = Some(breakpoint);
        let hit = self
            .control
            .watches
            .hit_in_memory(self.index, breakpoint.id, gva);
        self.control.hold(hit.holds);
        Ok(())
    }

    /// Performs a write that the guest may not, and reports a hit of a watch.
    fn written(&self, vcpu: &VcpuFd, gpa: u64, bytes: &[u8]) -> Result<(), End> {
        let control = self.control;
        control.memory.write(gpa, bytes).map_err(|error| {
            End::Broken(format!("vCPU {}: a watched page: {error}", self.index))
        })?;
        let rip = vcpu.get_regs().map_or(0, |regs| regs.rip);
        let len = u64::try_from(bytes.len()).unwrap_or(0);
        let hit = control.watches.written(self.index, gpa, len, rip);
        control.hold(hit.holds);
        Ok(())
    }

    /// Lets the guest have a debug exception that is its own.
    fn give_back(&mut self, vcpu: &VcpuFd, causes: u64, pc: u64) -> Result<(), End> {
        let control = self.control;
        let code = failure::code_at(vcpu, &control.memory, pc);
        own_debug::give_back(vcpu, &control.watches, &mut self.armed, causes, &code).map_err(
            |error| {
                End::Broken(format!(
                    "vCPU {}: a debug exception of the guest's own is lost: {error}",
                    self.index
                ))
            },
        )
    }

    fn broken(&self, vcpu: &VcpuFd, reason: &str) -> End {
        let rip = vcpu.get_regs().map_or(0, |regs| regs.rip);
        let code = failure::code_at(vcpu, &self.control.memory, rip);
        End::Broken(format!(
            "vCPU {} stopped at {rip:#x}: {reason}; code there: {}",
            self.index,
            failure::hex(&code)
        ))
    }

    /// Lets KVM finish the instruction that exited, so that registers are those after it (api.rst, KVM_RUN: pending I/O).
    fn complete(&self, vcpu: &mut VcpuFd) {
        self.kickable.set_immediate_exit(true);
        // It returns EINTR by design; a real error shows at the next entry.
        let _ = vcpu.run();
        self.kickable.set_immediate_exit(false);
    }

    fn arm(&mut self, vcpu: &VcpuFd) {
        let Some(debug) = self.control.watches.to_arm(&mut self.armed) else {
            return;
        };
        if let Err(error) = vcpu.set_guest_debug(&debug) {
            tracing::warn!(vcpu = self.index, %error, "debug registers cannot be armed");
        }
    }

    /// One stay in the guest and what its exit needs.
    fn enter(&self, vcpu: &mut VcpuFd) -> Next {
        let control = self.control;
        let bus = &control.bus;
        let reason = match vcpu.run() {
            Ok(VcpuExit::IoOut(BREAKPOINT_PORT, _)) => {
                return self
                    .breakpoint_at(vcpu)
                    .map_or(Next::Complete, Next::Breakpoint);
            }
            Ok(VcpuExit::IoOut(port, data)) => {
                return match bus.write_port(port, data) {
                    None => Next::Complete,
                    Some(PowerRequest::Off) => Next::End(End::PowerOff),
                    Some(PowerRequest::Reset) => Next::End(End::Reset),
                };
            }
            Ok(VcpuExit::IoIn(port, data)) => {
                bus.read_port(port, data);
                return Next::Complete;
            }
            Ok(VcpuExit::MmioWrite(gpa, data))
                if control.watches.pages().contains(&page_of(gpa)) =>
            {
                let mut bytes = [0; 8];
                let len = data.len().min(bytes.len());
                for (slot, byte) in bytes.iter_mut().zip(data) {
                    *slot = *byte;
                }
                return Next::Written { gpa, bytes, len };
            }
            Ok(VcpuExit::MmioWrite(gpa, data)) => {
                bus.write_memory(gpa, data);
                return Next::Complete;
            }
            Ok(VcpuExit::MmioRead(gpa, data)) => {
                bus.read_memory(gpa, data);
                return Next::Complete;
            }
            Ok(VcpuExit::Debug(debug)) => {
                return Next::Debug {
                    dr6: debug.dr6,
                    pc: debug.pc,
                };
            }
            Ok(VcpuExit::InternalError) if !control.watches.pages().is_empty() => String::from(
                "KVM could not emulate an instruction, probably a write to a page with a watch; watch another address",
            ),
            Ok(VcpuExit::Shutdown) => return Next::End(End::TripleFault),
            Ok(VcpuExit::SystemEvent(kind, _)) => return Next::End(system_event(kind)),
            Ok(VcpuExit::Hlt | VcpuExit::Intr | VcpuExit::IrqWindowOpen | VcpuExit::SetTpr) => {
                return Next::Run;
            }
            Ok(VcpuExit::InternalError) => failure::internal_error(vcpu),
            Ok(VcpuExit::FailEntry(reason, cpu)) => failure::failed_entry(reason, cpu),
            Ok(other) => format!("{other:?}"),
            // EAGAIN: a vCPU was started by INIT and SIPI.
            Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => return Next::Run,
            Err(error) => format!("KVM_RUN failed: {error}"),
        };
        Next::End(self.broken(vcpu, &reason))
    }
}

fn system_event(kind: u32) -> End {
    match kind {
        kvm_bindings::KVM_SYSTEM_EVENT_SHUTDOWN => End::PowerOff,
        kvm_bindings::KVM_SYSTEM_EVENT_RESET => End::Reset,
        kvm_bindings::KVM_SYSTEM_EVENT_CRASH => End::Panic,
        other => End::Broken(format!("unknown system event {other}")),
    }
}

/// An execution breakpoint is hit before its instruction: the resume flag lets that run (Intel SDM 3, "Instruction-Breakpoint Exception Condition").
fn step_over(vcpu: &VcpuFd) {
    let stepped = vcpu.get_regs().and_then(|mut regs| {
        regs.rflags |= RFLAGS_RF;
        vcpu.set_regs(&regs)
    });
    if let Err(error) = stepped {
        tracing::warn!(%error, "a breakpoint cannot be stepped over");
    }
}

/// Zeros stand for what KVM refuses to tell.
fn registers(index: u32, vcpu: &VcpuFd) -> VcpuRegs {
    let regs = vcpu.get_regs().unwrap_or_default();
    let sregs = vcpu.get_sregs().unwrap_or_default();
    VcpuRegs {
        vcpu: index,
        rip: regs.rip,
        rsp: regs.rsp,
        rbp: regs.rbp,
        rflags: regs.rflags,
        cr0: sregs.cr0,
        cr2: sregs.cr2,
        cr3: sregs.cr3,
        cr4: sregs.cr4,
        rax: regs.rax,
        rbx: regs.rbx,
        rcx: regs.rcx,
        rdx: regs.rdx,
        rsi: regs.rsi,
        rdi: regs.rdi,
        r8_15: [
            regs.r8, regs.r9, regs.r10, regs.r11, regs.r12, regs.r13, regs.r14, regs.r15,
        ],
    }
}
