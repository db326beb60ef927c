//! Getting a thread out of KVM_RUN: a signal whose handler sets `immediate_exit`.
//!
//! The handler runs on the kicked thread, so a kick that arrives just before KVM_RUN is not lost: KVM_RUN then returns
//! EINTR at once (Documentation/virt/kvm/api.rst, `immediate_exit`). While no VM of this process lives, the signal
//! has the action that it had before.

use std::cell::Cell;
use std::io;
use std::ptr;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use libc::c_int;
use vmm_sys_util::signal::{SIGRTMIN, unblock_signal};

thread_local! {
    /// `immediate_exit` of the vCPU that this thread runs. Constant-initialised and without a destructor, so that the
    /// signal handler may read it.
    static IMMEDIATE_EXIT: Cell<*const AtomicU8> = const { Cell::new(ptr::null()) };
}

/// Users of the signal, and the action to restore after the last.
static ACTION: Mutex<(usize, Option<libc::sigaction>)> = Mutex::new((0, None));

extern "C" fn on_kick(_: c_int) {
    let exit = IMMEDIATE_EXIT.get();
    // SAFETY: the pointer is null or was set by this thread to a live byte of its kvm_run, and is cleared before that goes.
    if let Some(exit) = unsafe { exit.as_ref() } {
        exit.store(1, Ordering::Relaxed);
    }
}

fn action() -> MutexGuard<'static, (usize, Option<libc::sigaction>)> {
    ACTION.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The kick signal is ours while this lives.
#[derive(Debug)]
pub(crate) struct KickSignal(());

impl KickSignal {
    /// Installs the handler, unless another VM of this process has done so.
    pub(crate) fn install() -> io::Result<Self> {
        let mut users = action();
        if users.0 == 0 {
            // SAFETY: all zeros is a valid `sigaction`.
            let mut new: libc::sigaction = unsafe { std::mem::zeroed() };
            new.sa_sigaction = on_kick as *const () as usize;
            // No SA_RESTART: KVM_RUN must return.
            // SAFETY: as above.
            let mut old: libc::sigaction = unsafe { std::mem::zeroed() };
            // SAFETY: both structures live through the call; the handler is async-signal-safe (it stores one byte).
            if unsafe { libc::sigaction(SIGRTMIN(), &raw const new, &raw mut old) } != 0 {
                return Err(io::Error::last_os_error());
            }
            users.1 = Some(old);
        }
        users.0 += 1;
        Ok(Self(()))
    }
}

impl Drop for KickSignal {
    fn drop(&mut self) {
        let mut users = action();
        users.0 -= 1;
        if let (0, Some(old)) = *users {
            // SAFETY: `old` is what sigaction gave for this signal.
            unsafe { libc::sigaction(SIGRTMIN(), &raw const old, ptr::null_mut()) };
            users.1 = None;
        }
    }
}

/// The threads to kick, by vCPU.
#[derive(Debug)]
pub(crate) struct Kicker(Mutex<Vec<Option<libc::pid_t>>>);

impl Kicker {
    pub(crate) fn new(vcpus: usize) -> Self {
        Self(Mutex::new(vec![None; vcpus]))
    }

    fn set(&self, vcpu: usize, thread: Option<libc::pid_t>) {
        let mut threads = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = threads.get_mut(vcpu) {
            *slot = thread;
        }
    }

    /// Makes the calling thread kickable for `vcpu`, whose `immediate_exit` byte outlives the guard.
    ///
    /// # Safety
    /// `immediate_exit` stays valid until the guard is dropped, and it is accessed meanwhile only by this thread and the
    /// kernel.
    pub(crate) unsafe fn enter(
        &self,
        vcpu: usize,
        immediate_exit: *mut u8,
    ) -> io::Result<Kickable<'_>> {
        unblock_signal(SIGRTMIN()).map_err(|error| io::Error::other(format!("{error:?}")))?;
        IMMEDIATE_EXIT.set(immediate_exit.cast::<AtomicU8>().cast_const());
        // SAFETY: gettid has no preconditions.
        let thread = unsafe { libc::gettid() };
        self.set(vcpu, Some(thread));
        Ok(Kickable { kicker: self, vcpu })
    }

    /// The threads of all vCPUs, in order; none as long as one has none.
    pub(crate) fn threads(&self) -> Vec<libc::pid_t> {
        let threads = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let all: Option<Vec<_>> = threads.iter().copied().collect();
        all.unwrap_or_default()
    }

    /// Kicks the thread that runs `vcpu`, if one does.
    pub(crate) fn kick(&self, vcpu: usize) {
        let threads = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        threads.get(vcpu).into_iter().flatten().for_each(signal);
    }

    /// Kicks every thread that runs a vCPU.
    pub(crate) fn kick_all(&self) {
        let threads = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        threads.iter().flatten().for_each(signal);
    }
}

/// For a thread that cannot end meanwhile: it clears its slot first, whose lock the caller holds.
fn signal(thread: &libc::pid_t) {
    // SAFETY: tgkill takes three numbers; a number without a thread would be an error, not undefined.
    unsafe { libc::syscall(libc::SYS_tgkill, std::process::id(), *thread, SIGRTMIN()) };
}

/// The calling thread can be kicked while this lives.
#[derive(Debug)]
pub(crate) struct Kickable<'k> {
    kicker: &'k Kicker,
    vcpu: usize,
}

impl Kickable<'_> {
    /// Makes the next KVM_RUN return at once, or not.
    #[expect(
        clippy::unused_self,
        reason = "the guard proves that the byte is alive"
    )]
    pub(crate) fn set_immediate_exit(&self, on: bool) {
        let exit = IMMEDIATE_EXIT.get();
        // SAFETY: set by `enter`, whose caller keeps the byte alive for the guard's life.
        if let Some(exit) = unsafe { exit.as_ref() } {
            exit.store(u8::from(on), Ordering::Relaxed);
        }
    }
}

impl Drop for Kickable<'_> {
    fn drop(&mut self) {
        self.kicker.set(self.vcpu, None);
        IMMEDIATE_EXIT.set(ptr::null());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use std::thread;
    use std::time::{Duration, Instant};

    fn handler() -> usize {
        // SAFETY: all zeros is a valid `sigaction`.
        let mut now: libc::sigaction = unsafe { std::mem::zeroed() };
        // SAFETY: only asks for the action.
        unsafe { libc::sigaction(SIGRTMIN(), ptr::null(), &raw mut now) };
        now.sa_sigaction
    }

    #[test]
    fn a_kick_sets_the_byte_of_its_thread_and_the_old_action_returns() {
        let signal = KickSignal::install().unwrap();
        let second = KickSignal::install().unwrap();
        let kicker = Kicker::new(1);
        let (ready, is_ready) = mpsc::channel();
        thread::scope(|scope| {
            let kicker = &kicker;
            scope.spawn(move || {
                let byte = AtomicU8::new(0);
                // SAFETY: the byte outlives the guard, and only the handler writes it.
                let guard = unsafe { kicker.enter(0, byte.as_ptr()) }.unwrap();
                ready.send(()).unwrap();
                let until = Instant::now() + Duration::from_secs(20);
                while byte.load(Ordering::Relaxed) == 0 {
                    assert!(Instant::now() < until, "no kick came");
                    thread::yield_now();
                }
                drop(guard);
            });
            is_ready.recv().unwrap();
            kicker.kick_all();
        });
        drop(signal);
        assert_eq!(handler(), on_kick as *const () as usize);
        drop(second);
        // Another test of this process may hold the signal meanwhile; a kick without a target must do nothing.
        kicker.kick_all();
    }
}
