//! QEMU never outlives its parent, however the parent ends.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::guest::guest;

/// Set in the child that plays the parent of QEMU.
const CHILD: &str = "KTSTR_VMM_ORPHAN_TEST";

#[test]
fn a_killed_parent_takes_its_emulator_along() {
    if std::env::var_os(CHILD).is_some() {
        let mut vm = guest("while :; do :; done")
            .build()
            .unwrap()
            .start()
            .unwrap();
        println!("\nengine {}", vm.engine_pid());
        vm.wait().unwrap();
        return;
    }
    let mut parent = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "orphan::a_killed_parent_takes_its_emulator_along",
            "--nocapture",
        ])
        .env(CHILD, "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(parent.stdout.take().unwrap()).lines();
    let pid: i32 = lines
        .map_while(Result::ok)
        .find_map(|line| line.strip_prefix("engine ")?.parse().ok())
        .expect("the child tells QEMU's process id");
    let qemu = pidfd_open(Pid::from_raw(pid).unwrap(), PidfdFlags::empty()).unwrap();
    // SIGKILL: the parent cannot clean up.
    parent.kill().unwrap();
    parent.wait().unwrap();
    let deadline = Timespec::try_from(Duration::from_secs(30)).unwrap();
    let ready = poll(&mut [PollFd::new(&qemu, PollFlags::IN)], Some(&deadline)).unwrap();
    assert_eq!(ready, 1, "QEMU {pid} still runs");
}
