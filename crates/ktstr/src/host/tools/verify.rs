//! Every declared scheduler on every preset, as tests of their own: loaded, attached, scheduling.

use crate::host::tools::describe::all_presets;
use crate::model::checks::Assert;
use crate::model::entry::{
    KTSTR_SCHEDULERS, KTSTR_TESTS, KtstrTestEntry, Scheduler, SchedulerSpec, TopologySpec,
};
use crate::model::role::VERIFIER_CELL;

/// Asks for the cells of the verifier's sweep.
pub(in crate::host) const VERIFIER_ENV: &str = "KTSTR_VERIFIER";
/// The kernel's watchdog in a cell; it looks every half of that.
const WATCHDOG_S: u32 = 5;
/// How long the workers of a cell run: a task that is lost at their start is found by the watchdog before their end.
const DURATION_S: u32 = 8;
/// Longest time without progress of any worker. Emulated CPUs of a busy host make short ones.
const MAX_GAP_MS: u64 = 4_000;
/// Every worker gets on; how fairly is the scheduler's business.
const PROGRESS: Assert = Assert::NO_OVERRIDES
    .max_gap_ms(MAX_GAP_MS)
    .min_work_rate_wall(1.0);
/// Schedulers map much and early; a test says itself what it needs.
const MEMORY_MIB: u32 = 512;

/// The cells are listed only on request: by the variable, or by naming one.
pub(in crate::host) fn wants_cells(filters: &[String]) -> bool {
    let asked = std::env::var_os(VERIFIER_ENV).is_some_and(|value| !value.is_empty());
    asked
        || filters
            .iter()
            .any(|filter| filter.starts_with(VERIFIER_CELL))
}

/// `verify-<scheduler>` on the declared topology and `verify-<scheduler>@<preset>` for each preset that it does not exclude, all
/// ignored.
pub(in crate::host) fn cells() -> Vec<&'static KtstrTestEntry> {
    let schedulers = KTSTR_SCHEDULERS.iter().copied();
    schedulers
        .filter(|scheduler| scheduler.spec != SchedulerSpec::Eevdf)
        .flat_map(cells_of)
        .collect()
}

fn cells_of(scheduler: &'static Scheduler) -> Vec<&'static KtstrTestEntry> {
    let declared = scheduler.topology.unwrap_or(TopologySpec::DEFAULT);
    let on_presets = all_presets()
        .filter(|(preset, _)| !scheduler.verifier_exclude_topologies.contains(preset))
        .map(|(preset, shape)| cell(scheduler, Some(preset), shape));
    std::iter::once(cell(scheduler, None, declared))
        .chain(on_presets)
        .collect()
}

/// Made once per process and kept to its end, as registered entries are.
fn cell(
    scheduler: &'static Scheduler,
    preset: Option<&str>,
    topology: TopologySpec,
) -> &'static KtstrTestEntry {
    let at = preset
        .map(|preset| format!("@{preset}"))
        .unwrap_or_default();
    // What its tests say, if they have to: the first of them.
    let mut of_tests = KTSTR_TESTS
        .iter()
        .filter(|test| test.scheduler_name() == Some(scheduler.name));
    let base = KtstrTestEntry {
        config: of_tests.find_map(|test| test.config),
        name: format!("{VERIFIER_CELL}{}{at}", scheduler.name).leak(),
        scheduler: Some(scheduler),
        duration_s: DURATION_S,
        watchdog_timeout_s: WATCHDOG_S,
        assert: PROGRESS,
        memory_mib: MEMORY_MIB,
        auto_repro: false,
        ignore: true,
        ..KtstrTestEntry::DEFAULT
    };
    Box::leak(Box::new(KtstrTestEntry { topology, ..base }))
}

#[cfg(test)]
mod tests {
    use super::*;

    static SCHEDULER: Scheduler = Scheduler {
        name: "my-sched",
        spec: SchedulerSpec::Discover("scx_my"),
        ..Scheduler::DEFAULT
    };

    #[test]
    fn a_cell_is_a_valid_test_that_the_guest_knows_by_its_scheduler() {
        let shape = TopologySpec {
            llcs: 4,
            ..TopologySpec::DEFAULT
        };
        let entry = cell(&SCHEDULER, Some("8cpu"), shape);
        assert_eq!(entry.validate(), Ok(()));
        assert_eq!(
            (entry.name, entry.registered_name()),
            ("verify-my-sched@8cpu", "verify-my-sched")
        );
        assert!(entry.guest_memory_mib() >= MEMORY_MIB);
        assert!(
            2 * entry.duration_s > 3 * entry.watchdog_timeout_s,
            "the watchdog looks every half of its time-out"
        );
        let assert = entry.merged_assert();
        assert!(assert.max_gap_ms.is_some() && assert.min_work_rate_wall > Some(0.0));
    }

    #[test]
    fn presets_that_a_scheduler_excludes_are_no_cells() {
        static CHOOSY: Scheduler = Scheduler::named("choosy")
            .binary_discover("scx_my")
            .verifier_exclude_topologies(&["4cpu-2llc-nosmt"]);
        let names = |scheduler| -> Vec<&str> {
            let cells = cells_of(scheduler).into_iter();
            cells
                .map(|cell| cell.name.trim_start_matches("verify-choosy"))
                .map(|name| name.trim_start_matches("verify-my-sched"))
                .collect()
        };
        let (all, some) = (names(&SCHEDULER), names(&CHOOSY));
        assert_eq!(all.len(), some.len() + 1);
        assert!(all.contains(&"@4cpu-2llc-nosmt") && !some.contains(&"@4cpu-2llc-nosmt"));
        static MISSPELT: Scheduler =
            Scheduler::named("misspelt").verifier_exclude_topologies(&["4cpu-2lc"]);
        let faults = cell(&MISSPELT, None, TopologySpec::DEFAULT)
            .validate()
            .unwrap_err();
        let text = faults.to_string();
        assert!(
            text.contains("'4cpu-2lc' in verifier_exclude_topologies is not a preset"),
            "{text}"
        );
    }

    #[test]
    fn cells_are_listed_for_those_who_ask() {
        assert!(wants_cells(&["a".into(), "verify-fixture".into()]));
        assert!(!wants_cells(&["my_test".into()]));
    }
}
