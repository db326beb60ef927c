//! What a test binary does first: finds out which part this process plays, and plays it.

use std::ffi::{OsStr, OsString};
use std::panic::catch_unwind;
use std::process::ExitCode;

use crate::host::libtest;
use crate::model::entry::{KTSTR_SCHEDULERS, KTSTR_TESTS, LIBTEST_TESTS, TEST_MAINS};
use crate::model::role::{Role, role_of};

/// What `ktstr::test_main!()` calls. `manifest_dir` is where the tests' package lies, `package` its name.
#[must_use]
pub fn test_main(manifest_dir: &'static str, package: &str) -> ExitCode {
    guest_main().unwrap_or_else(|| crate::host::runner::run_host(manifest_dir, package))
}

/// Plays this process's part in a guest to its end; `None` on a host. For programs that boot guests from themselves.
#[must_use]
pub fn guest_main() -> Option<ExitCode> {
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    guest_part(&args).map(ExitCode::from)
}

fn guest_part(args: &[OsString]) -> Option<u8> {
    let role = role_of(std::process::id(), args);
    // A container's own PID 1 may run tests on a host; only a ktstr guest has a plan.
    if role == Role::Init && ktstr_init::is_pid1() {
        ktstr_init::run(started_by_init);
    }
    play(&role)
}

/// The test's process, which init made of itself.
fn started_by_init(args: &[String]) -> u8 {
    let words: Vec<OsString> = args.iter().map(OsString::from).collect();
    play(&role_of(std::process::id(), &words)).unwrap_or_else(|| {
        eprintln!("ktstr: unknown guest role in the plan: {args:?}");
        NO_PART
    })
}

/// Exit status for a plan that this binary cannot carry out: host and guest are not of one build.
const NO_PART: u8 = 1;

/// Plays a part that ends; `None` for one that is not in a guest's test.
fn play(role: &Role) -> Option<u8> {
    match role {
        Role::GuestTest(name) => Some(crate::guest::dispatch::run_test(name)),
        Role::GuestShell => Some(crate::guest::shell::run()),
        Role::Init | Role::Host => None,
    }
}

/// Called by the C library before `main`, which is libtest's in a test binary of the default harness and knows nothing of guests.
///
/// It stands among the constructors without a priority, behind those with one, so that the standard library has the arguments.
// SAFETY: `.init_array` holds pointers to C functions, and this is one; glibc calls each once, on the main thread, with three
// arguments in registers that a function without parameters leaves alone.
#[used]
#[unsafe(link_section = ".init_array")]
static BEFORE_MAIN: extern "C" fn() = before_main;

extern "C" fn before_main() {
    let registers = !KTSTR_TESTS.is_empty() || !KTSTR_SCHEDULERS.is_empty();
    if !comes_first(registers, !LIBTEST_TESTS.is_empty(), !TEST_MAINS.is_empty()) {
        return;
    }
    // An unwinding panic must not reach the C library; its message was printed by the hook.
    match catch_unwind(instead_of_main) {
        Ok(None) => {}
        Ok(Some(code)) => std::process::exit(i32::from(code)),
        Err(_) => std::process::exit(PANICKED),
    }
}

/// Whether the constructor has a part in this program: not in one that only has this library, and not where `test_main!` is
/// the main. With libtest linked it is not, even if it is written: libtest's main has taken its place (a `[[bin]]` that
/// `cargo test` builds, or a forgotten `harness = false`).
fn comes_first(registers: bool, libtest: bool, test_main: bool) -> bool {
    registers && (libtest || !test_main)
}

/// As Rust's own runtime ends after a panic of the main thread.
const PANICKED: i32 = 101;

/// The exit status of a process that is not libtest's; `None` for one that is.
fn instead_of_main() -> Option<u8> {
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    if is_guest(&args) {
        ignore_sigpipe();
        return guest_part(&args);
    }
    let args: Vec<String> = args.iter().map(|arg| lossy(arg)).collect();
    libtest::before(&args)
}

fn lossy(arg: &OsStr) -> String {
    arg.to_string_lossy().into_owned()
}

fn is_guest(args: &[OsString]) -> bool {
    let role = role_of(std::process::id(), args);
    matches!(role, Role::GuestTest(_) | Role::GuestShell)
        || role == Role::Init && ktstr_init::is_pid1()
}

/// What Rust's runtime does ahead of every `main`: a pipe whose reader has gone is an error of `write`, not the process's death.
fn ignore_sigpipe() {
    // SAFETY: SIG_IGN is a disposition, not a handler: no code runs on the signal. No other thread exists yet.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_main_is_the_main_unless_libtest_is() {
        assert!(comes_first(true, true, false));
        assert!(comes_first(true, false, false), "declarations alone");
        assert!(!comes_first(true, false, true));
        assert!(
            comes_first(true, true, true),
            "a guest's init would be libtest"
        );
        assert!(!comes_first(false, false, false));
    }
}
