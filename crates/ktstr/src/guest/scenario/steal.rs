//! Steal time: how long the hypervisor says that it kept vCPUs from running.

use std::fs;

/// The kernel's unit in `/proc/stat` (`USER_HZ` is 100 on every machine of ours).
const TICK_NS: u64 = 10_000_000;

/// Steal time of each CPU since boot, in nanoseconds; empty when it cannot be read.
pub(super) fn by_cpu() -> Vec<u64> {
    fs::read_to_string("/proc/stat").map_or_else(|_| Vec::new(), |text| parse(&text))
}

/// `cpuN user nice system idle iowait irq softirq steal …` (kernel: `fs/proc/stat.c: show_stat`).
fn parse(text: &str) -> Vec<u64> {
    let cpus = text.lines().filter(|line| {
        let number = line.strip_prefix("cpu");
        number.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    });
    cpus.map(|line| {
        let steal = line.split_ascii_whitespace().nth(8);
        let ticks: u64 = steal.and_then(|ticks| ticks.parse().ok()).unwrap_or(0);
        ticks.saturating_mul(TICK_NS)
    })
    .collect()
}

/// The most that any CPU lost in between.
pub(super) fn most(before: &[u64], after: &[u64]) -> u64 {
    let pairs = before.iter().zip(after);
    let lost = pairs.map(|(before, after)| after.saturating_sub(*before));
    lost.max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_that_lost_most() {
        let text = "cpu  1 2 3 4 5 6 7 80 0 0\ncpu0 1 2 3 4 5 6 7 30 0 0\ncpu1 1 2 3 4 5 6 7 50 0 0\nintr 1\n";
        let after = parse(text);
        assert_eq!(after, [300_000_000, 500_000_000]);
        assert_eq!(most(&[0, 400_000_000], &after), 300_000_000);
        assert_eq!(most(&[], &after), 0);
    }
}
