//! The plugin inside the emulator: joins the rules of `turns` with QEMU's callbacks.
//!
//! Built by the crate's build script into a shared object. With icount all vCPUs share one thread, in which QEMU translates,
//! executes and calls back; so there is one state that is not shared.

mod alone;
#[path = "../src/gate.rs"]
#[allow(dead_code, reason = "the emulator's side only sends stops and reads releases")]
mod gate;
mod hold;
#[path = "../src/options.rs"]
#[allow(dead_code, reason = "the emulator's side only reads options")]
mod options;
mod qemu;
mod registers;
#[path = "../src/report.rs"]
#[allow(dead_code, reason = "the emulator's side only writes reports")]
mod report;
mod turns;

use std::cell::UnsafeCell;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::time::Duration;

use alone::Lead;
use gate::{Cause, KNOCK, MARK};
use hold::Hold;
use options::Options;
use qemu::{Info, PluginId, Private, Tb, WorkData};
use report::End;
use turns::Turns;

/// PAUSE. QEMU leaves its execution loop at each.
const PAUSE: &[u8] = &[0xf3, 0x90];
const HLT: &[u8] = &[0xf4];
/// OUT to the port in DX, of 8, 32 and 16 bits.
const OUTS: [&[u8]; 3] = [&[0xee], &[0xef], &[0x66, 0xef]];

/// How often a guest that is to be stopped looks whether the emulator was told so.
const STOP_POLL: Duration = Duration::from_micros(200);

struct State {
    turns: Turns,
    options: Options,
    qemu: Private,
    /// QEMU's vCPU objects, looked up at each one's first block.
    cpus: Vec<*mut c_void>,
    /// The clock at the current turn's start, and how far the turn has moved it.
    time_ns: u64,
    turn_ns: i64,
    /// How long after the turn's start the next timer is due; 0 where none is, or it is past.
    timer_ns: u64,
    /// The way to the host, where the guest has a gate.
    hold: Option<Hold>,
    /// The vCPU that goes on alone.
    lead: Lead,
    /// The guest is a copy that the host has not let go yet.
    awaits_release: bool,
    /// A port was written, by which a guest may have powered off.
    port_written: bool,
}

struct Slot(UnsafeCell<Option<State>>);

// SAFETY: with -icount QEMU runs all vCPUs in one thread, which makes every callback but `install` and `finished`; `install`
// runs before that thread exists, and `finished` while all vCPUs are stopped.
unsafe impl Sync for Slot {}

static STATE: Slot = Slot(UnsafeCell::new(None));

/// The plugin API that this is built against (QEMU 7.2: 1).
#[unsafe(no_mangle)]
pub static qemu_plugin_version: c_int = 1;

/// Called by QEMU once, with the machine made and no vCPU started; anything but 0 ends QEMU.
///
/// # Safety
/// As QEMU calls it: `info` is valid, `argv` has `argc` strings.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qemu_plugin_install(
    id: PluginId,
    info: *const Info,
    argc: c_int,
    argv: *const *const c_char,
) -> c_int {
    // SAFETY: QEMU passes a valid description that outlives the call.
    let vcpus = unsafe { (*info).vcpus };
    let arguments: Vec<String> = (0..usize::try_from(argc).unwrap_or(0))
        .map(|index| {
            // SAFETY: QEMU passes `argc` valid strings.
            let argument = unsafe { *argv.add(index) };
            // SAFETY: as above; each ends with a NUL.
            unsafe { CStr::from_ptr(argument) }
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    match prepare(vcpus, &arguments) {
        Ok(state) => {
            // SAFETY: no callback is registered yet, so nothing else refers to the state.
            unsafe { *STATE.0.get() = Some(state) };
            qemu::on_translation(id, translated);
            qemu::at_exit(id, finished);
            0
        }
        Err(fault) => {
            eprintln!("ktstr's plugin: {fault}");
            1
        }
    }
}

fn prepare(vcpus: c_int, arguments: &[String]) -> Result<State, String> {
    let options = Options::parse(arguments.iter().map(String::as_str))?;
    let count = usize::try_from(vcpus).unwrap_or(0);
    if count == 0 {
        return Err(String::from("the machine has no vCPUs"));
    }
    if options.insn_ns < vcpus.unsigned_abs() {
        return Err(format!(
            "insn_ns={} is too short for {count} vCPUs; expected {count} or more",
            options.insn_ns
        ));
    }
    turns::check(&options)?;
    let hold = options.gate.map(Hold::new).transpose()?;
    if options.forked && hold.is_none() {
        return Err(String::from("forked=1 needs gate=FD: a copy stands still at its gate"));
    }
    Ok(State {
        awaits_release: options.forked,
        turns: Turns::new(count, &options),
        options,
        hold,
        lead: Lead::default(),
        turn_ns: 0,
        timer_ns: 0,
        qemu: Private::find()?,
        cpus: vec![std::ptr::null_mut(); count],
        time_ns: 0,
        port_written: false,
    })
}

/// # Safety
/// Only from QEMU's callbacks (see [`Slot`]), and no two results at once.
unsafe fn state() -> Option<&'static mut State> {
    // SAFETY: callbacks come one at a time and from one thread.
    unsafe { (*STATE.0.get()).as_mut() }
}

/// A block that does more than compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    Plain,
    Pause,
    PortWrite,
}

/// What a block's callback knows of it, in the width of a pointer: 14 bits of instructions (a block has at most 512), two of its
/// ending, and the low 48 bits of its address.
fn pack(count: usize, ending: Ending, address: u64) -> *mut c_void {
    let packed = (address << 16) | ((ending as u64) << 14) | (count as u64 & turns::BLOCK);
    std::ptr::without_provenance_mut(packed as usize)
}

fn address_data(address: u64) -> *mut c_void {
    std::ptr::without_provenance_mut(address as usize)
}

/// A block was translated: it reports itself each time it is about to run, and its HLT does.
extern "C" fn translated(_: PluginId, tb: *mut Tb) {
    let count = qemu::instructions(tb);
    let mut last: &[u8] = &[];
    // SAFETY: a callback of QEMU's, which ends before the next one comes.
    let state = unsafe { state() };
    let hold = state.and_then(|state| state.hold.as_ref());
    let tells_stores = hold.is_some_and(Hold::watches_stores);
    for index in 0..count {
        let Some(instruction) = qemu::translated(tb, index) else {
            break;
        };
        last = instruction.bytes;
        if last == KNOCK {
            instruction.on_execution(knock, address_data(instruction.address()));
        }
        if last == MARK {
            instruction.on_execution(mark, address_data(instruction.address()));
        }
        if tells_stores {
            instruction.on_store(stored, address_data(instruction.address()));
        }
    }
    let ending = match last {
        PAUSE => Ending::Pause,
        last if OUTS.contains(&last) => Ending::PortWrite,
        _ => Ending::Plain,
    };
    qemu::on_execution(tb, block, pack(count, ending, qemu::address(tb)));
    if last == HLT {
        qemu::on_execution(tb, halt, std::ptr::null_mut());
    }
}

extern "C" fn block(vcpu: c_uint, data: *mut c_void) {
    // SAFETY: a callback of QEMU's, which ends before the next one comes.
    let Some(state) = (unsafe { state() }) else {
        return;
    };
    let vcpu = vcpu as usize;
    let packed = data.addr() as u64;
    let (count, ending, address) = (packed & turns::BLOCK, (packed >> 14) & 3, packed >> 16);
    if state.awaits_release {
        state.await_release(vcpu);
    }
    let begins = state.turns.begins(vcpu);
    if begins || state.port_written {
        state.end_if_requested();
    }
    if begins {
        state.begin(vcpu, address);
    }
    state.hold_at(vcpu, address);
    let extra = if ending == Ending::Pause as u64 {
        u64::from(state.options.pause_ns)
    } else {
        0
    };
    state.port_written = ending == Ending::PortWrite as u64;
    let step = state.turns.block(vcpu, count, extra);
    state.qemu.move_clock(step.bias_ns);
    state.turn_ns += step.bias_ns + i64::try_from(count).unwrap_or(0);
    let held_back = state.hold_back(vcpu);
    if (step.ends_turn || held_back)
        && let Some(cpu) = state.cpus.get(vcpu)
    {
        state.qemu.end_turn(*cpu);
    }
}

impl State {
    /// Ends the turn of a vCPU while another one goes on alone. Where that one halts, the clock moves to the next timer, which may
    /// be the one that wakes it: the others shall not use the time. QEMU runs timers once per round, so that a vCPU may be
    /// woken already and not have had its turn.
    fn hold_back(&mut self, vcpu: usize) -> bool {
        if self.lead.vcpu().is_none() {
            return false;
        }
        let now = self.now_ns();
        if !self.lead.holds_back(vcpu, now) {
            return false;
        }
        self.turns.cut();
        let halts = self.lead.vcpu().is_some_and(|lead| !self.turns.runs(lead));
        if self.lead.may_skip(halts, 2 * self.cpus.len()) {
            let due = self.time_ns.saturating_add(self.timer_ns);
            let skipped = i64::try_from(due.saturating_sub(now)).unwrap_or(0);
            self.qemu.move_clock(skipped);
            self.turn_ns += skipped;
        }
        true
    }

    fn begin(&mut self, vcpu: usize, address: u64) {
        if let Some(cpu) = self.cpus.get_mut(vcpu)
            && cpu.is_null()
        {
            *cpu = self.qemu.cpu(vcpu);
        }
        let (now, timer) = self.qemu.time();
        self.time_ns = now;
        self.turn_ns = 0;
        self.end_past_deadline(now);
        self.timer_ns = timer.unwrap_or(0);
        self.turns.begin(vcpu, address, timer);
    }

    /// The clock, at a block's start.
    fn now_ns(&self) -> u64 {
        self.time_ns.saturating_add_signed(self.turn_ns)
    }

    /// Stands still before a block that the host wants to be told of.
    fn hold_at(&mut self, vcpu: usize, address: u64) {
        let now = self.now_ns();
        let Some(hold) = &self.hold else { return };
        if hold.is_watched(address) {
            self.stand_still(Cause::Watch, vcpu, address, 0);
        } else if hold.is_due(now) {
            self.stand_still(Cause::Timer, vcpu, address, 0);
        }
    }

    /// Nothing is executed until the host lets the guest go on. A host that is gone ends it.
    fn stand_still(&mut self, cause: Cause, vcpu: usize, at: u64, place: u64) {
        let now = self.now_ns();
        let Some(hold) = &mut self.hold else { return };
        for (index, cpu) in self.cpus.iter_mut().enumerate() {
            if cpu.is_null() {
                *cpu = self.qemu.cpu(index);
            }
        }
        let told_stores = hold.watches_stores();
        if hold.stop(cause, vcpu, at, now, place, &self.cpus).is_err() {
            self.end(End::Emulator);
        }
        self.lead.follow(hold.alone(), now);
        // An idle guest has no block that it could end: it is let go to the next one.
        if hold.stops() && cause != Cause::Idle {
            self.stop_with_emulator(vcpu);
        }
        let tells_stores = self.hold.as_ref().is_some_and(Hold::watches_stores);
        if tells_stores != told_stores
            && let Some(cpu) = self.cpus.get(vcpu)
        {
            self.qemu.translate_anew(*cpu);
        }
    }

    /// A copy stands still where the guest was saved.
    fn await_release(&mut self, vcpu: usize) {
        self.awaits_release = false;
        let Some(hold) = &mut self.hold else { return };
        if hold.wait_for_release().is_err() {
            self.end(End::Emulator);
        }
        if self.hold.as_ref().is_some_and(Hold::watches_stores) {
            self.qemu.translate_anew(self.qemu.cpu(vcpu));
        }
    }

    /// Lets the vCPU go to the end of its block, once no other block can follow.
    fn stop_with_emulator(&self, vcpu: usize) {
        while self.qemu.is_running() {
            std::thread::sleep(STOP_POLL);
        }
        if let Some(cpu) = self.cpus.get(vcpu) {
            self.qemu.end_turn(*cpu);
        }
    }

    /// The guest is past its time, whatever it is doing.
    fn end_past_deadline(&self, now: u64) {
        if now >= self.options.deadline_ns {
            self.end(End::Deadline);
        }
    }

    /// QEMU's main loop stops a guest that has powered off when the host lets it; until then the guest would run on.
    fn end_if_requested(&self) {
        if let Some(end) = self.qemu.requested_end() {
            self.end(end);
        }
    }

    /// Ends the emulator at this instruction; consoles and report are in files.
    fn end(&self, end: End) -> ! {
        self.write_report(end);
        qemu::exit_now();
    }

    /// No vCPU has anything to do: the clock moves to the next timer that wakes one.
    ///
    /// QEMU's main loop would move it as well, when the host lets that thread run: early or late, which decides what is stopped
    /// and started again meanwhile (the kick timer) and which vCPU runs first. Here it is done where the vCPU is accounted, with the
    /// big lock held, so that the main loop never sees an idle machine.
    fn jump(&mut self, vcpu: usize) {
        // vCPUs that were told to stop look idle.
        while self.qemu.is_running() && self.qemu.all_idle() {
            self.time_ns = self.qemu.now();
            self.turn_ns = 0;
            let wake = self.hold.as_ref().map_or(u64::MAX, Hold::wake_ns);
            let until = self.options.deadline_ns.min(wake);
            let left = until.saturating_sub(self.time_ns);
            // Where no timer is set, nothing will happen but what the host does.
            self.time_ns = self.qemu.jump(left).unwrap_or_else(|| {
                self.qemu.move_clock(i64::try_from(left).unwrap_or(i64::MAX));
                until
            });
            self.end_past_deadline(self.time_ns);
            if self.time_ns >= wake {
                self.stand_still(Cause::Idle, vcpu, 0, 0);
            }
        }
    }

    fn write_report(&self, end: End) {
        let report = self.turns.report(self.time_ns, end).to_text();
        if let Err(error) = std::fs::write(&self.options.report, report) {
            eprintln!(
                "ktstr's plugin: failed to write {}: {error}",
                self.options.report
            );
        }
    }
}

/// A vCPU halts. The work that is queued on it is done once its instructions are counted; until then it is not idle, and
/// QEMU's main loop does not move the clock.
extern "C" fn halt(vcpu: c_uint, _: *mut c_void) {
    // SAFETY: a callback of QEMU's, which ends before the next one comes.
    let Some(state) = (unsafe { state() }) else {
        return;
    };
    state.turns.halt(vcpu as usize);
    state.lead.halt(vcpu as usize);
    if let Some(cpu) = state.cpus.get(vcpu as usize) {
        state.qemu.queue(*cpu, halted);
    }
}

/// The work of [`halt`]: in the vCPUs' thread, with the big lock held and no vCPU executing.
extern "C" fn halted(cpu: *mut c_void, _: WorkData) {
    // SAFETY: QEMU does queued work between executions, when no callback is running.
    if let Some(state) = unsafe { state() } {
        let vcpu = state.cpus.iter().position(|known| *known == cpu);
        state.jump(vcpu.unwrap_or(0));
    }
}

/// The guest stops itself.
extern "C" fn knock(vcpu: c_uint, data: *mut c_void) {
    // SAFETY: a callback of QEMU's, which ends before the next one comes.
    if let Some(state) = unsafe { state() } {
        state.stand_still(Cause::Knock, vcpu as usize, data.addr() as u64, 0);
    }
}

/// A guest that was waited for acts, or has acted.
extern "C" fn mark(vcpu: c_uint, data: *mut c_void) {
    // SAFETY: a callback of QEMU's, which ends before the next one comes.
    if let Some(state) = unsafe { state() } {
        state.lead.mark(vcpu as usize);
        state.stand_still(Cause::Mark, vcpu as usize, data.addr() as u64, 0);
    }
}

/// The guest has written to memory.
extern "C" fn stored(vcpu: c_uint, info: u32, address: u64, data: *mut c_void) {
    // SAFETY: a callback of QEMU's, which ends before the next one comes.
    let Some(state) = (unsafe { state() }) else {
        return;
    };
    let hold = state.hold.as_ref();
    let place = hold.and_then(|hold| hold.stored(address, qemu::length(info)));
    if let Some(place) = place {
        state.stand_still(Cause::Store, vcpu as usize, data.addr() as u64, place);
    }
}

extern "C" fn finished(_: PluginId, _: *mut c_void) {
    // SAFETY: QEMU calls this when its vCPUs are stopped.
    if let Some(state) = unsafe { state() } {
        state.write_report(End::Emulator);
    }
}
