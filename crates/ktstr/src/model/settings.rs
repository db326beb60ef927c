//! What the schedulers of one test need of its kernel: settings and parameters. The test's own scheduler and those that it may
//! put in its place run on one kernel, so each has what it needs from the start.

use super::entry::{KtstrTestEntry, Scheduler, Sysctl};

impl KtstrTestEntry {
    /// Its scheduler, then the staged ones.
    pub(crate) fn schedulers(&self) -> impl Iterator<Item = &'static Scheduler> + use<> {
        let staged = self.staged_schedulers.iter().copied();
        self.scheduler.into_iter().chain(staged)
    }

    /// The settings that its schedulers need, each once.
    pub(crate) fn sysctls(&self) -> Vec<Sysctl> {
        once(self.schedulers().flat_map(|scheduler| scheduler.sysctls))
    }

    /// The parameters that its schedulers need, each once.
    pub(crate) fn kargs(&self) -> Vec<&'static str> {
        once(self.schedulers().flat_map(|scheduler| scheduler.kargs))
    }

    /// Schedulers that want one setting to be two things: one of them would run without what it needs.
    pub(super) fn setting_faults(&self) -> Vec<String> {
        let mut wanted: Vec<(&str, &str, &str)> = Vec::new();
        let mut faults = Vec::new();
        for scheduler in self.schedulers() {
            let sysctls = scheduler.sysctls.iter().map(|one| (one.key, one.value));
            let kargs = scheduler
                .kargs
                .iter()
                .filter_map(|karg| karg.split_once('='));
            for (key, value) in sysctls.chain(kargs) {
                let other = wanted.iter().find(|(known, other, by)| {
                    *known == key && *other != value && *by != scheduler.name
                });
                if let Some((_, other, by)) = other {
                    faults.push(format!(
                        "scheduler '{by}' needs {key} = {other}, and '{}' needs it to be {value}: one kernel cannot have both; leave one of the two out of this test",
                        scheduler.name
                    ));
                }
                wanted.push((key, value, scheduler.name));
            }
        }
        faults
    }
}

fn once<T: Copy + PartialEq + 'static>(all: impl Iterator<Item = &'static T>) -> Vec<T> {
    let mut kept = Vec::new();
    for one in all {
        if !kept.contains(one) {
            kept.push(*one);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    static OWN: Scheduler = Scheduler::named("own")
        .binary_discover("scx_own")
        .sysctls(&[Sysctl::new("a.b", "1")])
        .kargs(&["quiet", "nohz_full=1"]);
    static STAGED: Scheduler = Scheduler::named("staged")
        .binary_discover("scx_staged")
        .sysctls(&[Sysctl::new("a.b", "1"), Sysctl::new("c.d", "2")])
        .kargs(&["quiet", "preempt=full"]);
    static OTHER: Scheduler = Scheduler::named("other")
        .binary_discover("scx_other")
        .sysctls(&[Sysctl::new("c.d", "3")])
        .kargs(&["nohz_full=2"]);

    fn entry(staged_schedulers: &'static [&'static Scheduler]) -> KtstrTestEntry {
        KtstrTestEntry {
            name: "t",
            scheduler: Some(&OWN),
            staged_schedulers,
            ..KtstrTestEntry::DEFAULT
        }
    }

    #[test]
    fn staged_schedulers_have_what_they_need_too() {
        let entry = entry(const { &[&STAGED] });
        assert_eq!(
            entry.sysctls(),
            [Sysctl::new("a.b", "1"), Sysctl::new("c.d", "2")]
        );
        assert_eq!(entry.kargs(), ["quiet", "nohz_full=1", "preempt=full"]);
        assert_eq!(entry.validate(), Ok(()));
    }

    #[test]
    fn one_setting_cannot_be_two_things() {
        let error = entry(const { &[&STAGED, &OTHER] }).validate().unwrap_err();
        assert_eq!(error.faults.len(), 2, "{error}");
        for needle in [
            "'staged' needs c.d = 2, and 'other' needs it to be 3",
            "'own' needs nohz_full = 1, and 'other' needs it to be 2",
        ] {
            assert!(error.to_string().contains(needle), "{error}");
        }
    }
}
