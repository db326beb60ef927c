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
use qemu::{Info, Instruction, PluginId, Private, Tb, WorkData};
use turns::Turns;

/// PAUSE: F3 90. QEMU leaves its execution loop at each.
const PAUSE: &[u8] = &[0xf3, 0x90];
/// HLT: F4.
const HLT: &[u8] = &[0xf4];

struct State {
    turns: Turns,
    options: Options,
    qemu: Private,
    /// QEMU's vCPU objects, looked up at each one's first block.
    cpus: Vec<*mut c_void>,
    time_ns: u64,
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
    })
}

/// # Safety
/// Only from QEMU's callbacks (see [`Slot`]), and no two results at once.
unsafe fn state() -> Option<&'static mut State> {
    // SAFETY: callbacks come one at a time and from one thread.
    unsafe { (*STATE.0.get()).as_mut() }
}

/// What a block's callback knows of it, in the width of a pointer: 16 bits of instructions, whether it ends with PAUSE, and the
/// low 47 bits of its address.
fn pack(count: usize, pause: bool, address: u64) -> *mut c_void {
    let packed = (address << 17) | (u64::from(pause) << 16) | (count as u64 & 0xffff);
    std::ptr::without_provenance_mut(packed as usize)
}

/// A block was translated: it reports itself each time it is about to run, and its HLT does.
extern "C" fn translated(_: PluginId, tb: *mut Tb) {
    let count = qemu::instructions(tb);
    let Some(last) = count.checked_sub(1) else {
        return;
    };
    let last: *const Instruction = qemu::instruction(tb, last);
    let packed = pack(count, qemu::is(last, PAUSE), qemu::address(tb));
    qemu::on_execution(tb, block, packed);
    if qemu::is(last, HLT) {
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
    let (count, pause, address) = (packed & 0xffff, packed & 0x1_0000 != 0, packed >> 17);
    if state.turns.begins(vcpu) {
        state.begin(vcpu, address);
    }
    let extra = if pause {
        u64::from(state.options.pause_ns)
    } else {
        0
    };
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
        if now >= self.options.deadline_ns {
            self.write_report(true);
            // The guest is past its time, whatever it is doing; consoles and report are in files.
            qemu::exit_now();
        }
        self.turns.begin(vcpu, address, timer);
    }

    fn write_report(&self, past_deadline: bool) {
        let report = self.turns.report(self.time_ns, past_deadline).to_text();
        if let Err(error) = std::fs::write(&self.options.report, report) {
            eprintln!(
                "ktstr's plugin: failed to write {}: {error}",
                self.options.report
            );
        }
    }
}

/// QEMU's main loop may move an idle clock as soon as HLT has halted the last vCPU, before that one's instructions are
/// counted. Work queued on the vCPU makes it not idle until they are.
extern "C" fn halt(vcpu: c_uint, _: *mut c_void) {
    extern "C" fn nothing(_: *mut c_void, _: WorkData) {}
    // SAFETY: a callback of QEMU's, which ends before the next one comes.
    let Some(state) = (unsafe { state() }) else {
        return;
    };
    state.turns.halt(vcpu as usize);
    if let Some(cpu) = state.cpus.get(vcpu as usize) {
        state.qemu.queue(*cpu, nothing);
    }
}

extern "C" fn finished(_: PluginId, _: *mut c_void) {
    // SAFETY: QEMU calls this when its vCPUs are stopped.
    if let Some(state) = unsafe { state() } {
        state.write_report(false);
    }
}
