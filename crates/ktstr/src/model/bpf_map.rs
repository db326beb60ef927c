//! Numbers in a scheduler's maps: those that a test sets before it begins, and those that every sample of the monitor holds.

/// A number that is written into one of the scheduler's maps once it is attached and before the scenario: `bpf_map_write` takes
/// constants of this type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BpfMapWrite {
    /// The map's name, or a data section's suffix such as `.bss`.
    pub map: &'static str,
    /// Dotted path of the number in the map's first element.
    pub field: &'static str,
    /// What is written; one that the number's bytes do not hold is refused.
    pub value: u64,
}

impl BpfMapWrite {
    /// `BpfMapWrite::new(".bss", "faults.starve_pct", 7)`. A number that needs more than four bytes goes into the field `value`.
    #[must_use]
    pub const fn new(map: &'static str, field: &'static str, value: u32) -> Self {
        Self {
            map,
            field,
            value: value as u64,
        }
    }
}

/// How often a watched number is there, and whether its value or its growth counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum BpfMapAgg {
    /// Once, and its value counts.
    #[default]
    Scalar,
    /// Once, and what it grows by counts.
    ScalarCounter,
    /// Once for each CPU, and their values count.
    PerCpu,
    /// Once for each CPU, and what they grow by counts.
    PerCpuCounter,
}

impl BpfMapAgg {
    /// Whether each CPU has one of its own, as in a per-CPU array.
    #[must_use]
    pub const fn is_per_cpu(self) -> bool {
        matches!(self, Self::PerCpu | Self::PerCpuCounter)
    }

    /// Whether its growth counts.
    #[must_use]
    pub const fn is_counter(self) -> bool {
        matches!(self, Self::ScalarCounter | Self::PerCpuCounter)
    }
}

/// A number in one of the scheduler's maps that every sample of the monitor holds: `watch_bpf_maps` takes constants of this type.
///
/// [`SampleSeries::watched`](super::series::SampleSeries::watched) has it over time by its label, of a number of each CPU by the
/// label with the CPU in brackets: `hits[2]`. [`VmResult::run_metric`](super::result::VmResult::run_metric) has what it amounts to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WatchBpfMap {
    /// The map's name, or a data section's suffix such as `.bss`.
    pub map: &'static str,
    /// Dotted path of the number in the map's first element.
    pub field: &'static str,
    /// How often it is there, and what of it counts.
    pub agg: BpfMapAgg,
    /// What to call it.
    pub label: &'static str,
}

impl WatchBpfMap {
    /// `WatchBpfMap::new(".bss", "stats.dispatched", BpfMapAgg::ScalarCounter, "dispatched")`
    #[must_use]
    pub const fn new(
        map: &'static str,
        field: &'static str,
        agg: BpfMapAgg,
        label: &'static str,
    ) -> Self {
        Self {
            map,
            field,
            agg,
            label,
        }
    }

    /// What its samples are called, on a CPU if each has one.
    pub(crate) fn label_of(&self, cpu: Option<u32>) -> String {
        match cpu {
            None => self.label.to_owned(),
            Some(cpu) => format!("{}[{cpu}]", self.label),
        }
    }
}

/// What is wrong with the watched numbers of one test, in words.
pub(crate) fn faults_of(watches: &[&WatchBpfMap]) -> Vec<String> {
    let mut faults = Vec::new();
    for (index, watch) in watches.iter().enumerate() {
        let label = watch.label;
        if label.is_empty() || label.contains('[') {
            faults.push(format!(
                "watch_bpf_maps: the label {label:?} of {}.{} is empty or has a bracket, which is for CPUs",
                watch.map, watch.field
            ));
        }
        if watches[..index]
            .iter()
            .any(|earlier| earlier.label == label)
        {
            faults.push(format!(
                "watch_bpf_maps has two numbers with the label {label:?}"
            ));
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_names_of_one_number_each() {
        const A: WatchBpfMap = WatchBpfMap::new(".bss", "a", BpfMapAgg::Scalar, "a");
        const BAD: WatchBpfMap = WatchBpfMap { label: "a[0]", ..A };
        assert!(faults_of(&[&A]).is_empty());
        let faults = faults_of(&[&A, &A, &BAD]).join("; ");
        for needle in ["two numbers with the label \"a\"", "has a bracket"] {
            assert!(faults.contains(needle), "{faults}");
        }
        assert_eq!(A.label_of(None), "a");
        assert_eq!(A.label_of(Some(3)), "a[3]");
    }

    #[test]
    fn each_aggregate_is_of_one_or_of_all_cpus_and_a_value_or_a_growth() {
        use BpfMapAgg::{PerCpu, PerCpuCounter, Scalar, ScalarCounter};
        let per_cpu = [Scalar, ScalarCounter, PerCpu, PerCpuCounter].map(BpfMapAgg::is_per_cpu);
        assert_eq!(per_cpu, [false, false, true, true]);
        let counter = [Scalar, ScalarCounter, PerCpu, PerCpuCounter].map(BpfMapAgg::is_counter);
        assert_eq!(counter, [false, true, false, true]);
    }
}
