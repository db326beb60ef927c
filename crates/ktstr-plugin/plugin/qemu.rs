//! QEMU as the plugin sees it: the plugin API of 7.2 (`include/qemu/qemu-plugin.h`), and the few symbols beyond it that an
//! emulator built with exported symbols has.

use std::cell::OnceCell;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};

use crate::report::End;

pub(crate) type PluginId = u64;

/// `qemu_info_t` up to what is used of it.
#[repr(C)]
pub(crate) struct Info {
    target: *const c_char,
    version_min: c_int,
    version_cur: c_int,
    system_emulation: bool,
    pub(crate) vcpus: c_int,
    max_vcpus: c_int,
}

/// `struct qemu_plugin_tb`.
#[repr(C)]
pub(crate) struct Tb {
    _opaque: [u8; 0],
}

/// `struct qemu_plugin_insn`.
#[repr(C)]
pub(crate) struct Instruction {
    _opaque: [u8; 0],
}

/// `run_on_cpu_data`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) union WorkData {
    pub(crate) pointer: *mut c_void,
}

pub(crate) type Work = extern "C" fn(*mut c_void, WorkData);
type OnTranslation = extern "C" fn(PluginId, *mut Tb);
type OnExecution = extern "C" fn(c_uint, *mut c_void);
type OnStore = extern "C" fn(c_uint, u32, u64, *mut c_void);
type AtExit = extern "C" fn(PluginId, *mut c_void);

/// `QEMU_PLUGIN_CB_NO_REGS`.
const NO_REGISTERS: c_int = 0;
/// `QEMU_PLUGIN_CB_R_REGS`: what translated code holds of the registers is stored before the call.
const READ_REGISTERS: c_int = 1;
/// `QEMU_PLUGIN_MEM_W`.
const WRITES: c_int = 2;

unsafe extern "C" {
    fn qemu_plugin_register_vcpu_tb_trans_cb(id: PluginId, callback: OnTranslation);
    fn qemu_plugin_register_vcpu_tb_exec_cb(
        tb: *mut Tb,
        callback: OnExecution,
        flags: c_int,
        data: *mut c_void,
    );
    fn qemu_plugin_register_vcpu_insn_exec_cb(
        instruction: *const Instruction,
        callback: OnExecution,
        flags: c_int,
        data: *mut c_void,
    );
    fn qemu_plugin_register_vcpu_mem_cb(
        instruction: *const Instruction,
        callback: OnStore,
        flags: c_int,
        accesses: c_int,
        data: *mut c_void,
    );
    fn qemu_plugin_mem_size_shift(info: u32) -> c_uint;
    fn qemu_plugin_insn_vaddr(instruction: *const Instruction) -> u64;
    fn qemu_plugin_register_atexit_cb(id: PluginId, callback: AtExit, data: *mut c_void);
    fn qemu_plugin_tb_n_insns(tb: *const Tb) -> usize;
    fn qemu_plugin_tb_vaddr(tb: *const Tb) -> u64;
    fn qemu_plugin_tb_get_insn(tb: *const Tb, index: usize) -> *const Instruction;
    fn qemu_plugin_insn_data(instruction: *const Instruction) -> *const u8;
    fn qemu_plugin_insn_size(instruction: *const Instruction) -> usize;
    fn _exit(status: c_int) -> !;
    fn dlsym(handle: *mut c_void, name: *const c_char) -> *mut c_void;
}

/// Ends the emulator at this instruction: no vCPU runs on, no handler of QEMU's does.
pub(crate) fn exit_now() -> ! {
    // SAFETY: _exit has no preconditions.
    unsafe { _exit(0) }
}

pub(crate) fn on_translation(id: PluginId, callback: OnTranslation) {
    // SAFETY: QEMU only stores the function, which lives as long as the plugin.
    unsafe { qemu_plugin_register_vcpu_tb_trans_cb(id, callback) }
}

pub(crate) fn at_exit(id: PluginId, callback: AtExit) {
    // SAFETY: as above; the callback does not use its data.
    unsafe { qemu_plugin_register_atexit_cb(id, callback, std::ptr::null_mut()) }
}

pub(crate) fn on_execution(tb: *mut Tb, callback: OnExecution, data: *mut c_void) {
    // SAFETY: `tb` comes from the translation callback that is running; the data is a number, never dereferenced.
    unsafe { qemu_plugin_register_vcpu_tb_exec_cb(tb, callback, NO_REGISTERS, data) }
}

pub(crate) fn instructions(tb: *const Tb) -> usize {
    // SAFETY: `tb` comes from the translation callback that is running.
    unsafe { qemu_plugin_tb_n_insns(tb) }
}

pub(crate) fn address(tb: *const Tb) -> u64 {
    // SAFETY: as above.
    unsafe { qemu_plugin_tb_vaddr(tb) }
}

/// The instruction at `index`, which is below [`instructions`].
fn instruction(tb: *const Tb, index: usize) -> *const Instruction {
    // SAFETY: as above; the caller counts.
    unsafe { qemu_plugin_tb_get_insn(tb, index) }
}

/// An instruction of the block that is being translated, and its bytes.
pub(crate) struct Translated<'t> {
    instruction: *const Instruction,
    pub(crate) bytes: &'t [u8],
}

impl Translated<'_> {
    pub(crate) fn address(&self) -> u64 {
        // SAFETY: QEMU gave this pointer in the translation callback that is running.
        unsafe { qemu_plugin_insn_vaddr(self.instruction) }
    }

    /// Calls back after each write that it makes, atomic ones too.
    pub(crate) fn on_store(&self, callback: OnStore, data: *mut c_void) {
        // SAFETY: as above; the data is a number, never dereferenced.
        unsafe {
            qemu_plugin_register_vcpu_mem_cb(
                self.instruction,
                callback,
                READ_REGISTERS,
                WRITES,
                data,
            );
        }
    }

    /// Calls back each time it is about to be executed, with its registers stored.
    pub(crate) fn on_execution(&self, callback: OnExecution, data: *mut c_void) {
        // SAFETY: as above; the data is a number, never dereferenced.
        unsafe {
            qemu_plugin_register_vcpu_insn_exec_cb(
                self.instruction,
                callback,
                READ_REGISTERS,
                data,
            );
        }
    }
}

/// Bytes that an access has written.
pub(crate) fn length(info: u32) -> u64 {
    // SAFETY: the function only computes with its argument.
    1 << unsafe { qemu_plugin_mem_size_shift(info) }
}

/// The instruction at `index` of the block that is being translated; `None` beyond its end.
pub(crate) fn translated<'t>(tb: *const Tb, index: usize) -> Option<Translated<'t>> {
    if index >= instructions(tb) {
        return None;
    }
    let instruction = instruction(tb, index);
    if instruction.is_null() {
        return None;
    }
    // SAFETY: QEMU gave this pointer in the translation callback that is running.
    let size = unsafe { qemu_plugin_insn_size(instruction) };
    // SAFETY: as above.
    let data = unsafe { qemu_plugin_insn_data(instruction) };
    // SAFETY: QEMU keeps the instruction's bytes, `size` of them, while the block is being translated.
    let bytes = unsafe { std::slice::from_raw_parts(data, size) };
    Some(Translated { instruction, bytes })
}

/// Where `TimersState` (`softmmu/timers-state.h`) has its members in 7.2 on x86-64.
const BIAS_AT: usize = 0x28;
const SHIFT_AT: usize = 0x1a;
/// `QEMU_CLOCK_VIRTUAL` of `enum QEMUClockType`.
const VIRTUAL: c_int = 1;
/// `QEMU_TIMER_ATTR_ALL`: timers of every kind.
const ALL_TIMERS: c_int = -1;

/// What the plugin API does not offer; Debian's builds export these symbols.
pub(crate) struct Private {
    cpu_exit: extern "C" fn(*mut c_void),
    get_cpu: extern "C" fn(c_int) -> *mut c_void,
    async_run_on_cpu: extern "C" fn(*mut c_void, Work, WorkData),
    icount_get: extern "C" fn() -> i64,
    deadline: extern "C" fn(c_int, c_int) -> i64,
    run_timers: extern "C" fn(c_int) -> bool,
    all_idle: extern "C" fn() -> bool,
    shutdown_requested: extern "C" fn() -> c_int,
    is_running: extern "C" fn() -> bool,
    tb_flush: extern "C" fn(*mut c_void),
    /// `timers_state.qemu_icount_bias`.
    bias: *mut i64,
    /// `current_cpu` of the vCPUs' thread: thread-local, so looked up at that thread's first turn.
    current: OnceCell<*mut *mut c_void>,
}

impl Private {
    /// Finds the symbols and proves that the clock lies where this expects it.
    pub(crate) fn find() -> Result<Self, String> {
        let timers = symbol(c"timers_state")?.cast::<u8>();
        // Each thread has its own; that there is one is known here.
        symbol(c"current_cpu")?;
        // SAFETY: each symbol is a function of this signature in 7.2 (include/hw/core/cpu.h, include/sysemu/cpus.h,
        // include/sysemu/cpu-timers.h, include/sysemu/runstate.h, include/qemu/timer.h).
        let private = unsafe {
            Self {
                cpu_exit: std::mem::transmute::<*mut c_void, extern "C" fn(*mut c_void)>(symbol(
                    c"cpu_exit",
                )?),
                get_cpu: std::mem::transmute::<*mut c_void, extern "C" fn(c_int) -> *mut c_void>(
                    symbol(c"qemu_get_cpu")?,
                ),
                async_run_on_cpu: std::mem::transmute::<
                    *mut c_void,
                    extern "C" fn(*mut c_void, Work, WorkData),
                >(symbol(c"async_run_on_cpu")?),
                icount_get: std::mem::transmute::<*mut c_void, extern "C" fn() -> i64>(symbol(
                    c"icount_get",
                )?),
                deadline: std::mem::transmute::<*mut c_void, extern "C" fn(c_int, c_int) -> i64>(
                    symbol(c"qemu_clock_deadline_ns_all")?,
                ),
                run_timers: std::mem::transmute::<*mut c_void, extern "C" fn(c_int) -> bool>(
                    symbol(c"qemu_clock_run_timers")?,
                ),
                all_idle: std::mem::transmute::<*mut c_void, extern "C" fn() -> bool>(symbol(
                    c"all_cpu_threads_idle",
                )?),
                shutdown_requested: std::mem::transmute::<*mut c_void, extern "C" fn() -> c_int>(
                    symbol(c"qemu_shutdown_requested_get")?,
                ),
                is_running: std::mem::transmute::<*mut c_void, extern "C" fn() -> bool>(symbol(
                    c"runstate_is_running",
                )?),
                tb_flush: std::mem::transmute::<*mut c_void, extern "C" fn(*mut c_void)>(symbol(
                    c"tb_flush",
                )?),
                bias: timers.add(BIAS_AT).cast(),
                current: OnceCell::new(),
            }
        };
        // SAFETY: within the object that `timers_state` names.
        let shift = unsafe { timers.add(SHIFT_AT).cast::<i16>().read_volatile() };
        if shift != 0 {
            return Err(format!("-icount shift={shift}; expected shift=0"));
        }
        private.prove_bias()?;
        Ok(private)
    }

    /// QEMU's own reading of the clock must follow what is written to the bias.
    fn prove_bias(&self) -> Result<(), String> {
        const PROOF: i64 = 0x1234_5678;
        let before = (self.icount_get)();
        self.move_clock(PROOF);
        let moved = (self.icount_get)() - before;
        self.move_clock(-PROOF);
        if moved == PROOF && (self.icount_get)() == before {
            return Ok(());
        }
        Err(format!(
            "this emulator keeps its clock elsewhere: {moved} ns instead of {PROOF}; it is not the QEMU 7.2 that this is made for"
        ))
    }

    pub(crate) fn move_clock(&self, ns: i64) {
        // SAFETY: the bias is an aligned 64-bit member of QEMU's, proven at the start; QEMU's main loop only writes it while
        // all vCPUs are idle, and then this thread is not in a callback.
        unsafe {
            let now = self.bias.read_volatile();
            self.bias.write_volatile(now.wrapping_add(ns));
        }
    }

    pub(crate) fn cpu(&self, index: usize) -> *mut c_void {
        (self.get_cpu)(c_int::try_from(index).unwrap_or(-1))
    }

    /// Ends the vCPU's turn after the block that is about to run.
    pub(crate) fn end_turn(&self, cpu: *mut c_void) {
        if !cpu.is_null() {
            (self.cpu_exit)(cpu);
        }
    }

    /// Forgets all translated blocks once the running one is left, so that they are translated anew.
    pub(crate) fn translate_anew(&self, cpu: *mut c_void) {
        if !cpu.is_null() {
            (self.tb_flush)(cpu);
        }
    }

    /// False once the emulator was told to stop; from then on no vCPU begins to execute.
    pub(crate) fn is_running(&self) -> bool {
        (self.is_running)()
    }

    /// Whether no vCPU has anything to do. Only in queued work, which holds QEMU's big lock.
    pub(crate) fn all_idle(&self) -> bool {
        (self.all_idle)()
    }

    /// Moves the clock to the next timer, at most by `most_ns`, and runs what is due. Only in queued work, which holds QEMU's big
    /// lock and in which no vCPU is executing. Returns the clock; `None` where no timer is set.
    pub(crate) fn jump(&self, most_ns: u64) -> Option<u64> {
        let until = u64::try_from((self.deadline)(VIRTUAL, ALL_TIMERS)).ok()?;
        self.move_clock(i64::try_from(until.min(most_ns)).unwrap_or(i64::MAX));
        (self.run_timers)(VIRTUAL);
        Some(self.now())
    }

    /// The virtual clock. Only in queued work.
    pub(crate) fn now(&self) -> u64 {
        u64::try_from((self.icount_get)()).unwrap_or(0)
    }

    /// What the guest asked for last, if that ends the emulator.
    pub(crate) fn requested_end(&self) -> Option<End> {
        // `ShutdownCause` of qapi/run-state.json.
        match (self.shutdown_requested)() {
            6 => Some(End::Shutdown),
            7 => Some(End::Reset),
            8 => Some(End::Panic),
            _ => None,
        }
    }

    /// Queues work that the vCPU does before it runs or sleeps again.
    pub(crate) fn queue(&self, cpu: *mut c_void, work: Work) {
        if !cpu.is_null() {
            let data = WorkData {
                pointer: std::ptr::null_mut(),
            };
            (self.async_run_on_cpu)(cpu, work, data);
        }
    }

    /// The virtual clock at the start of the current slice, and how long after it the next timer is due.
    ///
    /// QEMU refuses to read the clock inside a block ("Bad icount read") because the running vCPU's instructions are not
    /// counted yet. Without a current vCPU it reads what is counted.
    pub(crate) fn time(&self) -> (u64, Option<u64>) {
        let current = *self.current.get_or_init(|| {
            // `find` has seen it; a null pointer is never followed.
            symbol(c"current_cpu").map_or(std::ptr::null_mut(), <*mut c_void>::cast)
        });
        if current.is_null() {
            return (0, None);
        }
        // SAFETY: `current_cpu` is this thread's own pointer; it is put back before anything of QEMU's runs but the two calls.
        let cpu = unsafe { current.replace(std::ptr::null_mut()) };
        let now = (self.icount_get)();
        let timer = (self.deadline)(VIRTUAL, ALL_TIMERS);
        // SAFETY: as above.
        unsafe { current.write(cpu) };
        (u64::try_from(now).unwrap_or(0), u64::try_from(timer).ok())
    }
}

pub(crate) fn symbol(name: &CStr) -> Result<*mut c_void, String> {
    // SAFETY: a null handle is RTLD_DEFAULT; the name ends with a NUL.
    let found = unsafe { dlsym(std::ptr::null_mut(), name.as_ptr()) };
    if found.is_null() {
        let name = name.to_string_lossy();
        return Err(format!(
            "this emulator does not export {name}; Debian's QEMU 7.2 does"
        ));
    }
    Ok(found)
}
