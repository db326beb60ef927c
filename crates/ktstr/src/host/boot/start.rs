//! The second stage of a run: its VM starts.

use std::path::Path;

use crate::host::boot::session::{Booted, Ingredients, Session};
use crate::host::plan::admission::Pause;
use crate::host::plan::planned::{NoRun, Planned, Test};

/// Boots as soon as no other VM in performance mode holds what this one needs. A failing guest's memory goes to `vmcore`.
///
/// # Errors
/// When the VM cannot start, or this host cannot give what performance mode needs.
pub(in crate::host) fn boot(
    test: &Test<'_>,
    planned: &Planned,
    vmcore: &Path,
) -> Result<Booted, NoRun> {
    let mut pause = Pause::new(test.entry.name);
    let ingredients = Ingredients {
        entry: test.entry,
        config: test.config,
        kernel: &planned.kernel,
        programs: &planned.programs,
        time: &planned.time,
        vmcore: test.config.vmcore.then_some(vmcore),
    };
    let attempt = || Session::started(ingredients);
    let booted = until_free(attempt, |error| {
        pause.until_a_change(&format!("{error:#}"), &mut |line| {
            eprintln!("ktstr: {line}");
        });
    });
    booted.map_err(|error| match unavailable(&error) {
        Some(reason) => NoRun::skip(reason),
        None => NoRun::from(error),
    })
}

/// The first result that is not that another VM holds something; `pause` is called before each further attempt.
fn until_free<T>(
    mut attempt: impl FnMut() -> anyhow::Result<T>,
    mut pause: impl FnMut(&anyhow::Error),
) -> anyhow::Result<T> {
    loop {
        match attempt() {
            Err(error) if is_resource_contention(&error) => pause(&error),
            done => return done,
        }
    }
}

/// What performance mode lacks on this host, when that is why a VM did not start.
fn unavailable(error: &anyhow::Error) -> Option<String> {
    let ours = error.chain().filter_map(|cause| cause.downcast_ref());
    ours.filter(|ours| matches!(ours, ktstr_vmm::Error::PerfModeUnavailable { .. }))
        .map(ktstr_vmm::Error::to_string)
        .next()
}

/// Whether another VM in performance mode holds what this one needs, so that the same test may run later.
#[must_use]
pub fn is_resource_contention(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        matches!(
            cause.downcast_ref(),
            Some(ktstr_vmm::Error::ResourceContention { .. })
        )
    })
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn what_a_host_lacks_is_a_skip_and_what_another_holds_an_error_of_its_own() {
        let lacking = ktstr_vmm::Error::PerfModeUnavailable {
            what: "host CPUs",
            needed: 8,
            found: 2,
        };
        let held = ktstr_vmm::Error::ResourceContention {
            resource: String::from("/tmp/ktstr-llc-0.lock"),
        };
        let wrapped = |error| Err::<(), _>(error).context("failed to start the VM");
        let (lacking, held) = (wrapped(lacking).unwrap_err(), wrapped(held).unwrap_err());
        let reason = unavailable(&lacking).unwrap();
        assert!(reason.contains("8 host CPUs"), "{reason}");
        assert!(!is_resource_contention(&lacking));
        assert!(is_resource_contention(&held));
        assert_eq!(unavailable(&held), None);
    }

    #[test]
    fn a_vm_waits_for_what_another_holds_and_for_nothing_else() {
        let held = || {
            anyhow::Error::from(ktstr_vmm::Error::ResourceContention {
                resource: String::from("/tmp/ktstr-llc-0.lock"),
            })
        };
        let mut answers = vec![Ok(7), Err(held()), Err(held())];
        let mut pauses = 0;
        let done = until_free(|| answers.pop().unwrap(), |_| pauses += 1);
        assert_eq!((done.unwrap(), pauses), (7, 2));
        let other = || Err::<(), _>(anyhow::anyhow!("no such file"));
        let failed = until_free(other, |_| panic!("no resource is held"));
        assert_eq!(failed.unwrap_err().to_string(), "no such file");
    }
}
