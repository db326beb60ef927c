//! The three parts that one test binary plays, and how it tells which.

use std::ffi::OsString;

/// First argument of the guest-side process of one test; the second is the test's name.
pub const GUEST_TEST_ARG: &str = "--ktstr-guest-test";

/// Begins the name of a test that only loads a declared scheduler and sees whether it schedules: `verify-<scheduler>`. No
/// function of Rust can have such a name.
pub const VERIFIER_CELL: &str = "verify-";

/// First argument of the guest-side end of an interactive shell.
pub const GUEST_SHELL_ARG: &str = "--ktstr-guest-shell";
/// The port that carries the shell's terminal.
pub const SHELL_PORT: &str = "ktstr.shell";

/// What this process is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// PID 1 of a guest.
    Init,
    /// The process of this test, in a guest.
    GuestTest(String),
    /// The end of an interactive shell, in a guest.
    GuestShell,
    /// The runner on the host.
    Host,
}

/// Tells the role from the process id and the arguments after the program's name.
#[must_use]
pub fn role_of(pid: u32, args: &[OsString]) -> Role {
    match args {
        [flag, name] if flag == GUEST_TEST_ARG => {
            Role::GuestTest(name.to_string_lossy().into_owned())
        }
        [flag] if flag == GUEST_SHELL_ARG => Role::GuestShell,
        _ if pid == 1 => Role::Init,
        _ => Role::Host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles() {
        let guest = [OsString::from(GUEST_TEST_ARG), OsString::from("t")];
        assert_eq!(role_of(7, &guest), Role::GuestTest("t".into()));
        assert_eq!(role_of(1, &[]), Role::Init);
        assert_eq!(role_of(7, &[OsString::from("--list")]), Role::Host);
    }
}
