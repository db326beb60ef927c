//! The `main` of every test binary: finds out which part this process plays, and plays it.

use std::ffi::OsString;
use std::process::ExitCode;

use crate::model::role::{Role, role_of};

/// What `ktstr::test_main!()` calls. `manifest_dir` is the package that the tests belong to.
#[must_use]
pub fn test_main(manifest_dir: &'static str) -> ExitCode {
    guest_main().unwrap_or_else(|| crate::host::runner::run_host(manifest_dir))
}

/// Plays this process's part in a guest to its end; `None` on a host. For programs that boot guests from themselves.
#[must_use]
pub fn guest_main() -> Option<ExitCode> {
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    // A container's own PID 1 may run tests on a host; only a ktstr guest has a plan.
    match role_of(std::process::id(), &args) {
        Role::Init if ktstr_init::is_pid1() => ktstr_init::run(),
        Role::GuestTest(name) => Some(ExitCode::from(crate::guest::dispatch::run_test(&name))),
        Role::GuestShell => Some(ExitCode::from(crate::guest::shell::run())),
        Role::Init | Role::Host => None,
    }
}
