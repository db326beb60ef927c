//! The plugin inside the emulator: joins the rules of `turns` with QEMU's callbacks.
//!
//! Built by the crate's build script into a shared object. With icount all vCPUs share one thread, in which QEMU translates,
//! executes and calls back; so there is one state and nobody to share it with.

#[path = "../src/options.rs"]
#[allow(dead_code, reason = "the emulator's side only reads options")]
mod options;
mod qemu;
#[path = "../src/report.rs"]
#[allow(dead_code, reason = "the emulator's side only writes reports")]
mod report;
mod turns;

use std::cell::UnsafeCell;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};

use options::Options;
use qemu::{Info, PluginId, Private, Tb, WorkData};
use report::End;
use turns::Turns;

/// PAUSE. QEMU leaves its execution loop at each.
const PAUSE: &[u8] = &[0xf3, 0x90];
const HLT: &[u8] = &[0xf4];
/// OUT to the port in DX, of 8, 32 and 16 bits.
const OUTS: [&[u8]; 3] = [&[0xee], &[0xef], &[0x66, 0xef]];

struct State {
    turns: Turns,
    options: Options,
    qemu: Private,
    /// QEMU's vCPU objects, looked up at each one's first block.
    cpus: Vec<*mut c_void>,
    time_ns: u64,
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
            // SAFETY: no callback is registered yet, so nobody else looks at the state.
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
    Ok(State {
        turns: Turns::new(count, &options),
        options,
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
    let packed = (address << 16) | ((ending as u64) << 14) | (count as u64 & 0x3fff);
    std::ptr::without_provenance_mut(packed as usize)
}

/// A block was translated: it reports itself each time it is about to run, and its HLT does.
extern "C" fn translated(_: PluginId, tb: *mut Tb) {
    let count = qemu::instructions(tb);
    let last = qemu::last_instruction(tb, count);
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
    let (count, ending, address) = (packed & 0x3fff, (packed >> 14) & 3, packed >> 16);
    let begins = state.turns.begins(vcpu);
    if begins || state.port_written {
        state.end_if_requested();
    }
    if begins {
        state.begin(vcpu, address);
    }
    let extra = if ending == Ending::Pause as u64 {
        u64::from(state.options.pause_ns)
    } else {
        0
    };
    state.port_written = ending == Ending::PortWrite as u64;
    let step = state.turns.block(vcpu, count, extra);
    state.qemu.move_clock(step.bias_ns);
    if step.ends_turn
        && let Some(cpu) = state.cpus.get(vcpu)
    {
        state.qemu.end_turn(*cpu);
    }
}

impl State {
    fn begin(&mut self, vcpu: usize, address: u64) {
        if let Some(cpu) = self.cpus.get_mut(vcpu)
            && cpu.is_null()
        {
            *cpu = self.qemu.cpu(vcpu);
        }
        let (now, timer) = self.qemu.time();
        self.time_ns = now;
        self.end_past_deadline(now);
        self.turns.begin(vcpu, address, timer);
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
    /// and started again meanwhile (the kick timer) and who runs first. Here it is done where the vCPU is accounted, with the
    /// big lock held, so that the main loop never sees an idle machine.
    fn jump(&mut self) {
        while self.qemu.all_idle() {
            self.time_ns = self.qemu.now();
            let left = self.options.deadline_ns.saturating_sub(self.time_ns);
            let Some(now) = self.qemu.jump(left) else {
                // Nothing will ever happen again.
                self.time_ns = self.options.deadline_ns;
                self.end(End::Deadline);
            };
            self.time_ns = now;
            self.end_past_deadline(now);
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
    if let Some(cpu) = state.cpus.get(vcpu as usize) {
        state.qemu.queue(*cpu, halted);
    }
}

/// The work of [`halt`]: in the vCPUs' thread, with the big lock held and nobody executing.
extern "C" fn halted(_: *mut c_void, _: WorkData) {
    // SAFETY: QEMU does queued work between executions, when no callback is running.
    if let Some(state) = unsafe { state() } {
        state.jump();
    }
}

extern "C" fn finished(_: PluginId, _: *mut c_void) {
    // SAFETY: QEMU calls this when its vCPUs are stopped.
    if let Some(state) = unsafe { state() } {
        state.write_report(End::Emulator);
    }
}
