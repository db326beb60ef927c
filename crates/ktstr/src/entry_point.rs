//! The `main` of every test binary: finds out which part this process plays, and plays it.

use std::ffi::OsString;
use std::process::ExitCode;

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
    let role = role_of(std::process::id(), &args);
    // A container's own PID 1 may run tests on a host; only a ktstr guest has a plan.
    if role == Role::Init && ktstr_init::is_pid1() {
        ktstr_init::run(started_by_init);
    }
    play(&role).map(ExitCode::from)
}

/// The test's process, which init made of itself.
fn started_by_init(args: &[String]) -> u8 {
    let words: Vec<OsString> = args.iter().map(OsString::from).collect();
    play(&role_of(std::process::id(), &words)).unwrap_or_else(|| {
        eprintln!("ktstr: the plan's arguments are of no guest's part: {args:?}");
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
