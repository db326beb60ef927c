//! Whose time passes in a test's guest, and under which seed.

use anyhow::bail;
use ktstr_vmm::{Clock, Engine, EngineChoice};

use crate::host::plan::choice::TimeChoice;
use crate::host::plan::config::{HostConfig, Variable};
use crate::model::entry::KtstrTestEntry;

/// The clock of one run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::host) struct Time {
    pub(in crate::host) clock: Clock,
    pub(in crate::host) why: String,
    /// Has an effect in virtual time only.
    pub(in crate::host) seed: u64,
}

impl Time {
    /// The clock that `config` gives `entry`.
    ///
    /// # Errors
    /// When virtual time is asked for and this test or engine cannot have it.
    pub(in crate::host) fn of(entry: &KtstrTestEntry, config: &HostConfig) -> anyhow::Result<Self> {
        let (variable, seed) = (Variable::Time.name(), Variable::Seed.name());
        let why = match (config.time, config.seed, entry.time) {
            (TimeChoice::Host, Some(_), _) => {
                bail!("{variable}=host and {seed} exclude each other: only virtual time has seeds")
            }
            (TimeChoice::Host, None, _) if entry.has_speeds() => {
                bail!(
                    "{variable}=host has no speeds: this test's speeds and smt_factor are virtual time's"
                )
            }
            (TimeChoice::Host, None, _) => return Ok(Self::host(&format!("{variable}=host"))),
            (TimeChoice::Virtual, ..) => format!("{variable}=virtual"),
            (TimeChoice::Auto, _, Some(Clock::Host)) => return Ok(Self::host("the test needs it")),
            (TimeChoice::Auto, Some(_), _) => format!("{seed} is set"),
            (TimeChoice::Auto, None, Some(Clock::Virtual)) => String::from("the test needs it"),
            (TimeChoice::Auto, None, None) if entry.seeds > 0 => String::from("the test has seeds"),
            (TimeChoice::Auto, None, None) if entry.has_speeds() => {
                String::from("the test has speeds")
            }
            (TimeChoice::Auto, None, None) => match stays_in_host_time(entry, config) {
                Some(why) => return Ok(Self::host(&why)),
                None => String::from("the engine is tcg"),
            },
        };
        if config.engine == EngineChoice::Kvm {
            let engine = Variable::Engine.name();
            bail!("{engine}=kvm has no virtual time ({why}); leave out {engine}, or use host time");
        }
        if let Some(reason) = hindrance(entry) {
            bail!("this test cannot have virtual time ({why}): {reason}; use host time");
        }
        Ok(Self {
            clock: Clock::Virtual,
            why,
            seed: config.seed.unwrap_or(0),
        })
    }

    fn host(why: &str) -> Self {
        Self {
            clock: Clock::Host,
            why: why.to_owned(),
            seed: 0,
        }
    }

    pub(in crate::host) fn is_virtual(&self) -> bool {
        self.clock == Clock::Virtual
    }
}

/// The most vCPUs for which virtual time is chosen unasked. One host thread executes all of them, so that larger guests take
/// longer than in host time.
const QUICK_VCPUS: u32 = 16;

/// Why a test for which no clock was asked for has the host's.
fn stays_in_host_time(entry: &KtstrTestEntry, config: &HostConfig) -> Option<String> {
    let vcpus = entry.topology.total_cpus();
    if entry.host_only {
        return Some(String::from("host_only boots no VM"));
    }
    if let Some(reason) = hindrance(entry) {
        return Some(reason.to_owned());
    }
    if vcpus > QUICK_VCPUS {
        return Some(format!(
            "{vcpus} vCPUs; unasked, virtual time is for up to {QUICK_VCPUS}"
        ));
    }
    let engine = config.engine.resolve();
    if engine.engine == Engine::Kvm {
        return Some(String::from("the engine is kvm"));
    }
    ktstr_vmm::check_virtual_time(config.qemu.as_deref())
        .err()
        .map(|error| error.to_string())
}

/// What of a test works by the host's time.
fn hindrance(entry: &KtstrTestEntry) -> Option<&'static str> {
    if entry.disk.is_some() || !entry.networks.is_empty() {
        Some("its disk and network cards answer at times of the host's")
    } else if entry.performance_mode {
        Some("performance mode is about the host's CPUs")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::device::DiskConfig;
    use crate::model::topology::TopologySpec;

    fn of(vars: &[(Variable, &str)], entry: &KtstrTestEntry) -> Result<Time, String> {
        let config = HostConfig::from_lookup(|variable| {
            let found = vars.iter().find(|(candidate, _)| *candidate == variable);
            found.map(|(_, value)| value.into())
        });
        Time::of(entry, &config.unwrap()).map_err(|error| error.to_string())
    }

    const PLAIN: KtstrTestEntry = KtstrTestEntry::DEFAULT;

    #[test]
    fn a_seed_asks_for_virtual_time() {
        let time = of(&[(Variable::Seed, "7")], &PLAIN).unwrap();
        assert_eq!((time.clock, time.seed), (Clock::Virtual, 7));
        let time = of(&[(Variable::Time, "virtual")], &PLAIN).unwrap();
        assert_eq!((time.clock, time.seed), (Clock::Virtual, 0));
        assert_eq!(
            of(&[(Variable::Time, "host")], &PLAIN).unwrap().clock,
            Clock::Host
        );
    }

    /// This machine has an emulator that fits; the engine is named, since it may have KVM as well.
    #[test]
    fn a_small_guest_of_tcg_has_virtual_time_unasked() {
        let tcg = |more: &[(Variable, &str)], entry: &KtstrTestEntry| {
            let mut vars = vec![(Variable::Engine, "tcg")];
            vars.extend(more);
            let time = of(&vars, entry).unwrap();
            (time.clock, time.why)
        };
        let (clock, why) = tcg(&[], &PLAIN);
        assert_eq!((clock, why.as_str()), (Clock::Virtual, "the engine is tcg"));
        let of_cpus = |llcs| KtstrTestEntry {
            topology: TopologySpec {
                llcs,
                cores: 4,
                threads: 1,
                ..TopologySpec::DEFAULT
            },
            ..PLAIN
        };
        assert_eq!(tcg(&[], &of_cpus(4)).0, Clock::Virtual);
        let (clock, why) = tcg(&[], &of_cpus(5));
        assert!(clock == Clock::Host && why.contains("20 vCPUs"), "{why}");
        let alone = KtstrTestEntry {
            host_only: true,
            ..PLAIN
        };
        assert_eq!(tcg(&[], &alone).0, Clock::Host);
        let (clock, why) = tcg(&[(Variable::Qemu, "/bin/true")], &PLAIN);
        assert!(clock == Clock::Host && why.contains("QEMU 7.2"), "{why}");
        let kvm = of(&[(Variable::Engine, "kvm")], &PLAIN).unwrap();
        assert_eq!(kvm.why, "the engine is kvm");
    }

    #[test]
    fn a_test_may_need_one_clock() {
        let host = KtstrTestEntry {
            time: Some(Clock::Host),
            ..PLAIN
        };
        let seed = [(Variable::Seed, "7")];
        assert_eq!(of(&seed, &host).unwrap().clock, Clock::Host);
        let asked = [(Variable::Time, "virtual")];
        assert_eq!(of(&asked, &host).unwrap().clock, Clock::Virtual);
        let slow = KtstrTestEntry {
            speeds: &[0.5],
            ..PLAIN
        };
        assert_eq!(of(&[], &slow).unwrap().clock, Clock::Virtual);
        let refused = of(&[(Variable::Time, "host")], &slow).unwrap_err();
        assert!(refused.contains("has no speeds"), "{refused}");
        let seeds = KtstrTestEntry { seeds: 3, ..PLAIN };
        assert_eq!(of(&[], &seeds).unwrap().clock, Clock::Virtual);
        assert_eq!(of(&seed, &seeds).unwrap().seed, 7);
    }

    #[test]
    fn what_cannot_be_had_together_is_refused() {
        let of = |vars: &[(Variable, &str)]| of(vars, &PLAIN).unwrap_err();
        let both = of(&[(Variable::Time, "host"), (Variable::Seed, "1")]);
        assert!(both.contains("KTSTR_SEED"), "{both}");
        let kvm = of(&[(Variable::Engine, "kvm"), (Variable::Seed, "1")]);
        assert!(
            kvm.contains("KTSTR_ENGINE=kvm has no virtual time"),
            "{kvm}"
        );
    }

    #[test]
    fn a_test_with_a_disk_stays_in_host_time() {
        let entry = KtstrTestEntry {
            disk: Some(DiskConfig::DEFAULT),
            ..PLAIN
        };
        assert_eq!(of(&[], &entry).unwrap().clock, Clock::Host);
        let refused = of(&[(Variable::Seed, "1")], &entry).unwrap_err();
        assert!(refused.contains("disk"), "{refused}");
    }
}
