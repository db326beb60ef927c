//! The command line.

use std::path::PathBuf;

/// A fair global-vtime scheduler with switchable faults.
#[derive(Debug, clap::Parser)]
#[command(version)]
pub(crate) struct Args {
    /// Never dispatch one user task: the kernel's watchdog ejects the scheduler.
    #[arg(long)]
    pub(crate) stall: bool,
    /// Let tasks wait this long before that.
    #[arg(long, value_name = "MS", default_value_t = 5000, value_parser = clap::value_parser!(u32).range(1..=30_000))]
    pub(crate) watchdog_ms: u32,
    /// Serve this share of the user tasks only every 1.5 s.
    #[arg(long, value_name = "PERCENT", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=100))]
    pub(crate) starve_pct: u32,
    /// Call scx_bpf_error with this text (63 bytes at most).
    #[arg(long, value_name = "TEXT")]
    pub(crate) error: Option<String>,
    /// Be two schedulers, a root and one for a child cgroup; the child calls scx_bpf_error with this text at its third task
    /// (Linux 7.3 and later). Of the faults only --fault-after-ms counts then.
    #[arg(long, value_name = "TEXT", conflicts_with_all = ["stall", "starve_pct", "error", "ignore_cpusets", "slow_pct"])]
    pub(crate) child_error: Option<String>,
    /// Dispatch tasks to CPUs that their cpuset forbids: the kernel ejects the scheduler.
    #[arg(long)]
    pub(crate) ignore_cpusets: bool,
    /// Run user tasks on these CPUs only, one bit each, as 0x7; the others stay idle. 0 is all of them.
    #[arg(long, value_name = "MASK", default_value = "0", value_parser = mask)]
    pub(crate) serve_cpus: u64,
    /// Count waiting tasks without a lock, with so many steps between read and write; a CPU that finds more tasks than are
    /// counted calls scx_bpf_error. 0 is off.
    #[arg(long, value_name = "STEPS", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=1000))]
    pub(crate) race_window: u32,
    /// Take this share of every task's time.
    #[arg(long, value_name = "PERCENT", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=90))]
    pub(crate) slow_pct: u32,
    /// Leave after this time, by choice.
    #[arg(long, value_name = "SECONDS")]
    pub(crate) exit_after_s: Option<u64>,
    /// Load a program that the verifier refuses.
    #[arg(long)]
    pub(crate) fail_verify: bool,
    /// Schedule the tasks of SCHED_EXT alone (SCX_OPS_SWITCH_PARTIAL).
    #[arg(long)]
    pub(crate) partial: bool,
    /// Faults begin this long after the attach.
    #[arg(long, value_name = "MS", default_value_t = 0)]
    pub(crate) fault_after_ms: u64,
    /// Read this file and say what is in it.
    #[arg(long, value_name = "PATH")]
    pub(crate) config: Option<PathBuf>,
    /// End with this status after a request to stop.
    #[arg(long, value_name = "STATUS", default_value_t = 0)]
    pub(crate) stop_status: u8,
    /// What to do after a request to stop, instead of leaving.
    #[arg(long, value_enum, value_name = "WHAT")]
    pub(crate) at_stop: Option<AtStop>,
    /// Leave a process behind at the end.
    #[arg(long)]
    pub(crate) leave_child: bool,
    /// Be such a process.
    #[arg(long, hide = true)]
    pub(crate) linger: bool,
    /// Leave the kernel and attach again after this time, once, as schedulers do after a CPU went off or on.
    #[arg(long, value_name = "MS")]
    pub(crate) restart_after_ms: Option<u64>,
    /// Answer stats requests on this unix socket, in the manner of scx_stats.
    #[arg(long, value_name = "PATH")]
    pub(crate) stats_socket: Option<PathBuf>,
}

/// A bad end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum AtStop {
    /// Panic the kernel.
    Panic,
    /// Abort.
    Abort,
    /// Stay.
    Hang,
}

fn mask(text: &str) -> Result<u64, String> {
    let hex = text.strip_prefix("0x").unwrap_or(text);
    u64::from_str_radix(hex, 16).map_err(|error| format!("{error}; expected a mask such as 0x7"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    #[test]
    fn faults_are_off_by_default() {
        let args = Args::parse_from(["scx-fixture"]);
        assert!(!args.stall && args.starve_pct == 0 && args.error.is_none() && !args.fail_verify);
    }

    #[test]
    fn a_mask_is_hexadecimal() {
        let args = Args::parse_from(["scx-fixture", "--serve-cpus", "0x1f"]);
        assert_eq!(args.serve_cpus, 31);
        assert!(Args::try_parse_from(["scx-fixture", "--serve-cpus", "x"]).is_err());
    }

    #[test]
    fn a_share_above_the_whole_is_refused() {
        assert!(Args::try_parse_from(["scx-fixture", "--starve-pct", "101"]).is_err());
    }
}
