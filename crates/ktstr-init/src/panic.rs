//! Last words on COM2, written synchronously: every byte is on its way before the next instruction.

use std::backtrace::Backtrace;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::fd::IntoRawFd as _;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, Ordering};

use crate::power;

/// The second UART.
const COM2: &str = "/dev/ttyS1";

/// COM2's descriptor for signal handlers; -1 until known. Publishes nothing but itself.
static COM2_FD: AtomicI32 = AtomicI32::new(-1);

/// Signals that end a process by its own fault.
const FATAL: [libc::c_int; 5] = [
    libc::SIGSEGV,
    libc::SIGBUS,
    libc::SIGILL,
    libc::SIGFPE,
    libc::SIGABRT,
];

/// What was done at each of [`FATAL`] before init had its own way: the Rust runtime tells of a stack's overflow.
static BEFORE: OnceLock<[libc::sigaction; 5]> = OnceLock::new();

fn com2() -> Option<File> {
    OpenOptions::new().write(true).open(COM2).ok()
}

/// Writes `PANIC: <text>` to COM2.
pub fn last_words(text: &str) {
    if let Some(mut com2) = com2() {
        // There is no way left to report that this failed too.
        let _ = writeln!(com2, "PANIC: {text}");
        let _ = rustix::termios::tcdrain(&com2);
    }
}

/// Makes a panic of this process write its message and backtrace to COM2; `then_power_off` ends the guest as well.
pub fn install_hook(then_power_off: bool) {
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        last_words(&format!("{info}\n{}", Backtrace::force_capture()));
        default(info);
        if then_power_off {
            power::off();
        }
    }));
}

/// Makes a fatal signal to init write its number to COM2 and power the guest off.
pub(crate) fn install_signal_handlers() {
    if let Some(file) = com2() {
        COM2_FD.store(file.into_raw_fd(), Ordering::Relaxed);
    }
    let before = FATAL.map(|signal| {
        let handler: extern "C" fn(libc::c_int) = on_fatal;
        // SAFETY: all-zero bytes are a valid sigaction: no flags, an empty mask, the default handler.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        let mut before = action;
        action.sa_sigaction = handler as usize;
        action.sa_flags = libc::SA_ONSTACK | libc::SA_RESETHAND;
        // SAFETY: both live across the call, and `action` holds a handler of the right type.
        unsafe { libc::sigaction(signal, &raw const action, &raw mut before) };
        before
    });
    // Only the first call's old actions are not init's own.
    let _ = BEFORE.set(before);
}

/// Takes init's ways to die from a copy of it: its panics and fatal signals are its own affair and end no guest.
pub(crate) fn forget_init() {
    drop(std::panic::take_hook());
    for (signal, before) in FATAL.into_iter().zip(BEFORE.get().into_iter().flatten()) {
        // SAFETY: `before` is what sigaction(2) gave for this very signal; a null old action is allowed.
        unsafe { libc::sigaction(signal, before, std::ptr::null_mut()) };
    }
}

/// Only async-signal-safe calls: write(2), tcdrain(3), reboot(2), _exit(2).
extern "C" fn on_fatal(signal: libc::c_int) {
    let mut text = *b"PANIC: init was killed by signal 00\n";
    let number = u8::try_from(signal).unwrap_or(0);
    let [.., tens, ones, _] = &mut text;
    *tens = b'0' + number / 10 % 10;
    *ones = b'0' + number % 10;
    let fd = COM2_FD.load(Ordering::Relaxed);
    // SAFETY: `text` is valid for its length; a bad descriptor is an error return.
    unsafe { libc::write(fd, text.as_ptr().cast(), text.len()) };
    // SAFETY: a bad descriptor is an error return.
    unsafe { libc::tcdrain(fd) };
    // SAFETY: reboot takes a command number and touches no memory of ours.
    unsafe { libc::reboot(libc::RB_POWER_OFF) };
    // SAFETY: _exit has no preconditions and does not return.
    unsafe { libc::_exit(128 + signal) }
}
