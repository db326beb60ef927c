//! What was declared of the machine, checked in the guest before anything else begins.

use std::fs;
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use crate::mount;
use crate::plan::Plan;

/// Kernel log that is searched for the kernel's word on its command line: it stands at the very beginning.
const MAX_LOG: usize = 256 * 1024;
/// The kernel's words on parameters that it does not know (init/main.c: `print_unknown_bootoptions`).
const UNKNOWN: &str = "Unknown kernel command line parameters \"";
/// Controllers that schedulers manage cgroups with.
const CONTROLLERS: [&str; 2] = ["cpuset", "cpu"];

/// What the guest lacks of the plan.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Lacks {
    /// The test must not begin.
    pub(crate) faults: Vec<String>,
    /// Worth a line in the output.
    pub(crate) notes: Vec<String>,
}

/// Applies what the plan declares of the machine, and checks that the kernel took it.
pub(crate) fn apply(plan: &Plan) -> Lacks {
    let mut lacks = Lacks::default();
    let refused = mount::apply_sysctls(Path::new("/proc/sys"), &plan.sysctls);
    lacks.faults.extend(refused.into_iter().map(|text| {
        format!("{text}; the scheduler's `sysctls` name it, and this kernel does not take it")
    }));
    if let Some(declared) = plan.cpus {
        let online = fs::read_to_string("/sys/devices/system/cpu/online").unwrap_or_default();
        lacks.faults.extend(offline(online.trim(), declared));
    }
    let log = read_log();
    let (faults, notes) = unknown_parameters(&log, &plan.kargs);
    lacks.faults.extend(faults);
    lacks.notes.extend(notes);
    for cgroup in &plan.cgroups {
        if let Err(error) = make_cgroup(Path::new("/sys/fs/cgroup"), cgroup) {
            lacks.faults.push(error);
        }
    }
    lacks
}

/// A fault unless CPUs 0 to `declared - 1` are all in the kernel's list.
fn offline(list: &str, declared: u32) -> Option<String> {
    let ranges: Vec<(u32, u32)> = list
        .split(',')
        .filter_map(|part| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            Some((first.parse().ok()?, last.parse().ok()?))
        })
        .collect();
    let is_online = |cpu: u32| {
        ranges
            .iter()
            .any(|(first, last)| (*first..=*last).contains(&cpu))
    };
    let missing: Vec<String> = (0..declared)
        .filter(|cpu| !is_online(*cpu))
        .map(|cpu| cpu.to_string())
        .collect();
    (!missing.is_empty()).then(|| {
        format!(
            "{declared} CPUs are declared, and online are {list}: CPU {} not; look for maxcpus, nr_cpus or nosmt in the kernel \
             command line, and in the console for why a CPU did not come up",
            missing.join(", ")
        )
    })
}

/// What the kernel said of parameters that it does not know: faults for the test's own, notes for others.
fn unknown_parameters(log: &str, own: &[String]) -> (Vec<String>, Vec<String>) {
    let (mut faults, mut notes) = (Vec::new(), Vec::new());
    let lists = log
        .split(UNKNOWN)
        .skip(1)
        .filter_map(|rest| rest.split_once('"'));
    for parameter in lists.flat_map(|(list, _)| list.split_ascii_whitespace()) {
        // The kernel's own marks for what comes from a boot loader.
        if parameter.starts_with("BOOT_IMAGE=") {
            continue;
        }
        if own.iter().any(|karg| karg == parameter) {
            faults.push(format!(
                "this kernel does not know the parameter '{parameter}' of the scheduler's `kargs`: it is misspelt, or the kernel was \
                 configured without it"
            ));
        } else {
            notes.push(format!(
                "this kernel does not know its parameter '{parameter}'"
            ));
        }
    }
    (faults, notes)
}

fn read_log() -> String {
    let Ok(mut kmsg) = fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open("/dev/kmsg")
    else {
        return String::new();
    };
    let mut text = Vec::new();
    let mut record = [0; 8192];
    while let Ok(len @ 1..) = kmsg.read(&mut record) {
        text.extend_from_slice(record.get(..len).unwrap_or_default());
        if text.len() > MAX_LOG {
            break;
        }
    }
    String::from_utf8_lossy(&text).into_owned()
}

/// Makes a cgroup and those above it, with the controllers on for what is made inside.
fn make_cgroup(root: &Path, cgroup: &str) -> Result<(), String> {
    let mut dir = root.to_owned();
    enable_controllers(&dir);
    for part in cgroup.split('/').filter(|part| !part.is_empty()) {
        dir.push(part);
        match fs::create_dir(&dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(format!("making the cgroup {}: {error}", dir.display()));
            }
            _ => {}
        }
        enable_controllers(&dir);
    }
    Ok(())
}

/// One by one: a kernel without one of them still has the others.
fn enable_controllers(dir: &Path) {
    for controller in CONTROLLERS {
        let _ = fs::write(dir.join("cgroup.subtree_control"), format!("+{controller}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpus_that_are_not_online_are_named() {
        assert_eq!(offline("0-3", 4), None);
        assert_eq!(offline("0-1,2-7", 4), None);
        let text = offline("0-1", 4).unwrap();
        assert!(
            text.contains("CPU 2, 3 not") && text.contains("maxcpus"),
            "{text}"
        );
        assert!(offline("", 1).is_some(), "what cannot be read is no pass");
    }

    #[test]
    fn only_the_tests_own_unknown_parameters_are_faults() {
        let log = "5,77,1,-;Unknown kernel command line parameters \"isolcpus=1 mad other=2\", will be passed to user space.\n";
        let own = ["isolcpus=1".to_owned(), "mad".to_owned()];
        let (faults, notes) = unknown_parameters(log, &own);
        assert_eq!((faults.len(), notes.len()), (2, 1));
        assert!(faults[0].contains("'isolcpus=1'"), "{}", faults[0]);
        assert!(notes[0].contains("'other=2'"), "{}", notes[0]);
        assert_eq!(unknown_parameters("all fine", &own), (vec![], vec![]));
    }

    #[test]
    fn a_cgroup_is_made_with_those_above_it() {
        let root = tempfile::tempdir().unwrap();
        make_cgroup(root.path(), "/cells/one").unwrap();
        assert!(root.path().join("cells/one").is_dir());
        fs::write(root.path().join("file"), "").unwrap();
        let error = make_cgroup(root.path(), "/file/below").unwrap_err();
        assert!(error.contains("file/below"), "{error}");
    }
}
