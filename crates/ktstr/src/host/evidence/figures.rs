//! What the host measured of a run, as the record keeps it: monitor, devices, KVM, captures.
//!
//! Each part is absent when it was not measured; none is ever a zero that was not counted.

use std::collections::BTreeMap;

use ktstr_monitor::sampler::{MonitorReport, MonitorSummary};
use ktstr_monitor::sched::WatchdogOverride;
use ktstr_vmm::{BlkCounters, NetCounters};
use serde::{Deserialize, Serialize};

use crate::model::result::{KvmStatsTotals, VmResult};

/// Optional fields of a sidecar.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// Runqueues, events, schedstat and program run times, condensed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub monitor: Option<MonitorFigures>,
    /// KVM's statistics per vCPU; absent on tcg.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kvm_stats: Option<KvmStatsTotals>,
    /// What the guest's disk did; absent without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<BlkCounters>,
    /// What each network card did, in the order of the test's `networks`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub networks: Vec<NetCounters>,
    /// Periodic captures; absent for a test that asks for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub periodic: Option<PeriodicFigures>,
    /// The KASLR slide; absent when it is off or unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kern_kaslr_offset: Option<u64>,
    /// What was written over the scheduler's watchdog time-out, jiffies; absent when nothing was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watchdog: Option<WatchdogOverride>,
}

/// What the monitor's samples amount to.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct MonitorFigures {
    /// CPUs that were sampled.
    pub cpus: usize,
    /// Peaks, averages and growth.
    pub summary: MonitorSummary,
    /// The numbers that `watch_bpf_maps` names, by label.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub watched: BTreeMap<String, WatchedFigures>,
}

/// One watched number over the run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatchedFigures {
    /// The first value that could be read.
    pub first: u64,
    /// The last one.
    pub last: u64,
    /// The smallest one.
    pub min: u64,
    /// The largest one.
    pub max: u64,
}

/// Periodic captures of one run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeriodicFigures {
    /// Asked for.
    pub target: u32,
    /// Fired, placeholders included.
    pub fired: u32,
    /// With real content.
    pub real: u32,
}

impl Figures {
    /// What was measured of this run.
    #[must_use]
    pub fn of(vm: &VmResult) -> Self {
        Self {
            monitor: vm.monitor.as_ref().and_then(MonitorFigures::of),
            kvm_stats: vm.kvm_stats.clone(),
            disk: vm.virtio_blk_counters,
            networks: vm.virtio_net_counters.clone(),
            periodic: (vm.periodic_target > 0).then_some(PeriodicFigures {
                target: vm.periodic_target,
                fired: vm.periodic_fired,
                real: vm.periodic_real,
            }),
            kern_kaslr_offset: vm.kaslr_enabled().then_some(vm.kern_kaslr_offset),
            watchdog: vm.watchdog_observation(),
        }
    }
}

impl MonitorFigures {
    /// `None` without a single valid sample: then nothing was measured.
    fn of(report: &MonitorReport) -> Option<Self> {
        if report.summary.valid_samples == 0 {
            return None;
        }
        let cpus = report.samples.iter().map(|sample| sample.cpus.len());
        let mut watched = BTreeMap::new();
        for (index, field) in report.watched.iter().enumerate() {
            let values = report
                .samples
                .iter()
                .filter_map(|sample| sample.watched.get(index).copied().flatten());
            for value in values {
                watched
                    .entry(field.label.clone())
                    .and_modify(|seen: &mut WatchedFigures| seen.add(value))
                    .or_insert(WatchedFigures {
                        first: value,
                        last: value,
                        min: value,
                        max: value,
                    });
            }
        }
        Some(Self {
            cpus: cpus.max().unwrap_or(0),
            summary: report.summary.clone(),
            watched,
        })
    }
}

impl WatchedFigures {
    fn add(&mut self, value: u64) {
        self.last = value;
        self.min = self.min.min(value);
        self.max = self.max.max(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ktstr_monitor::sampler::{CpuSnapshot, MonitorSample, WatchedField};

    fn sample(number: u64, watched: Option<u64>) -> MonitorSample {
        let cpu = |cpu: u32| CpuSnapshot {
            cpu,
            nr_running: cpu + 1,
            rq_clock: number * 1000 + u64::from(cpu),
            ..CpuSnapshot::default()
        };
        MonitorSample {
            elapsed_ms: number,
            cpus: vec![cpu(0), cpu(1)],
            watched: vec![watched],
            ..MonitorSample::default()
        }
    }

    #[test]
    fn what_was_not_measured_is_absent() {
        let figures = Figures::of(&VmResult::test_fixture());
        assert_eq!(figures, Figures::default());
        assert_eq!(serde_json::to_string(&figures).unwrap(), "{}");
        let blind = VmResult {
            monitor: Some(MonitorReport::new(vec![MonitorSample::default()], 1000)),
            ..VmResult::test_fixture()
        };
        assert_eq!(Figures::of(&blind).monitor, None, "no sample is valid");
    }

    #[test]
    fn everything_measured_survives_the_record() {
        let mut report = MonitorReport::new(
            vec![sample(1, None), sample(2, Some(7)), sample(3, Some(3))],
            1000,
        );
        report.watched = vec![WatchedField::gauge("dispatched")];
        let vm = VmResult {
            monitor: Some(report),
            kvm_stats: Some(KvmStatsTotals {
                per_vcpu: vec![[("exits".to_owned(), 6)].into()],
            }),
            virtio_blk_counters: Some(BlkCounters::default()),
            virtio_net_counters: vec![NetCounters::default()],
            periodic_target: 4,
            periodic_fired: 3,
            periodic_real: 2,
            kern_kaslr_offset: 0x20_0000,
            watchdog: Some(WatchdogOverride {
                previous: 1,
                wanted: 2,
                observed: 2,
            }),
            ..VmResult::test_fixture()
        };
        let figures = Figures::of(&vm);
        let json = serde_json::to_string(&figures).unwrap();
        assert_eq!(serde_json::from_str::<Figures>(&json).unwrap(), figures);
        let monitor = figures.monitor.unwrap();
        assert_eq!(monitor.cpus, 2);
        assert_eq!(
            monitor.watched["dispatched"],
            WatchedFigures {
                first: 7,
                last: 3,
                min: 3,
                max: 7
            }
        );
        assert_eq!(figures.periodic.unwrap().real, 2);
        assert!(figures.disk.is_some() && figures.networks.len() == 1);
    }
}
