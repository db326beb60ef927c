//! Tables for people.

use std::fmt::Write as _;

use ktstr_monitor::Kernel;
use ktstr_monitor::bpf::{MapContents, MapValue};
use ktstr_monitor::render::Limits;
use ktstr_monitor::sched::DsqKind;
use serde_json::Value;

/// The report as text; a table where it has one, else the JSON.
pub(crate) fn show(what: &str, kernel: &Kernel, report: &Value) -> String {
    match what {
        "runqueues" => runqueues(kernel),
        "domains" => domains(kernel),
        "tasks" => tasks(kernel),
        "scx" => scx(kernel),
        "dsqs" => dsqs(kernel),
        "maps" => maps(kernel),
        "programs" => programs(kernel),
        "dmesg" => dmesg(kernel),
        _ => format!("{report:#}\n"),
    }
}

fn number<T: std::fmt::Display>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

fn runqueues(kernel: &Kernel) -> String {
    let mut text = format!(
        "{:>4} {:>4} {:>16} {:>12} {:>4} {:>4}  {}\n",
        "cpu", "nr", "clock", "switches", "scx", "dsq", "current"
    );
    for rq in kernel.runqueues().found {
        let scx = rq.scx.as_ref();
        let _ = writeln!(
            text,
            "{:>4} {:>4} {:>16} {:>12} {:>4} {:>4}  {}",
            rq.cpu,
            number(rq.nr_running),
            number(rq.clock),
            number(rq.nr_switches),
            number(scx.and_then(|scx| scx.nr_running)),
            number(scx.and_then(|scx| scx.local_dsq_depth)),
            rq.curr.map_or_else(
                || "-".to_owned(),
                |task| format!("{} ({})", task.comm, task.pid)
            ),
        );
    }
    text
}

fn domains(kernel: &Kernel) -> String {
    let mut text = format!(
        "{:>4} {:>5} {:>5}  {:<12} flags\n",
        "cpu", "depth", "level", "span"
    );
    for domain in kernel.sched_domains().found {
        let span: Vec<String> = domain.span.iter().map(u32::to_string).collect();
        let _ = writeln!(
            text,
            "{:>4} {:>5} {:>5}  {:<12} {}",
            domain.cpu,
            domain.depth,
            number(domain.level),
            span.join(","),
            domain.flag_names.join(" "),
        );
    }
    text
}

fn scx(kernel: &Kernel) -> String {
    let Ok(Some(scx)) = kernel.scx() else {
        return "this kernel has no sched_ext\n".to_owned();
    };
    let mut text = format!(
        "state {}, scheduler {}, enabled {} times, {} tasks rejected, bypass depth {}\n",
        number(scx.state),
        number(scx.ops_name),
        number(scx.enable_seq),
        number(scx.nr_rejected),
        number(scx.bypass_depth),
    );
    let age = scx.jiffies.zip(scx.watchdog_timestamp);
    let _ = writeln!(
        text,
        "watchdog {} jiffies, last ran {} jiffies ago",
        number(scx.watchdog_timeout),
        number(age.map(|(now, then)| now.wrapping_sub(then))),
    );
    if let Some(exit) = scx.exit.filter(|exit| exit.kind != 0) {
        let _ = writeln!(
            text,
            "exit {} (code {}): {}: {}",
            exit.kind_name,
            number(exit.exit_code),
            number(exit.reason),
            number(exit.msg),
        );
        for frame in exit.backtrace {
            let _ = writeln!(text, "    {frame}");
        }
    }
    for (name, count) in scx.events.unwrap_or_default() {
        let _ = writeln!(text, "{count:>12} {name}");
    }
    text
}

fn dsqs(kernel: &Kernel) -> String {
    let mut text = String::new();
    for dsq in kernel.dispatch_queues().found {
        let kind = match dsq.kind {
            DsqKind::Local { cpu } => format!("local of CPU {cpu}"),
            DsqKind::Global { node } => format!("global of node {node}"),
            DsqKind::Bypass { cpu } => format!("bypass of CPU {cpu}"),
            DsqKind::Reject { cpu } => format!("rejected on CPU {cpu}"),
            DsqKind::Rescue { cpu } => format!("to be rescued on CPU {cpu}"),
            DsqKind::User => "user".to_owned(),
        };
        let owner = dsq
            .scheduler
            .map_or_else(String::new, |id| format!(" of scheduler {id}"));
        let id = dsq.id.map(|id| format!("{id:#x}"));
        let _ = writeln!(
            text,
            "{} {kind}{owner}: {} tasks",
            number(id),
            number(dsq.nr)
        );
        for queued in dsq.tasks {
            let _ = writeln!(
                text,
                "    {} ({}) vtime {} slice {}",
                queued.task.comm,
                queued.task.pid,
                number(queued.dsq_vtime),
                number(queued.slice),
            );
        }
    }
    text
}

fn programs(kernel: &Kernel) -> String {
    let mut text = format!(
        "{:>5} {:<12} {:>9} {:>9} {:>10} {:>14}  name\n",
        "id", "type", "verified", "jited", "runs", "ns"
    );
    for program in kernel.programs().found {
        let _ = writeln!(
            text,
            "{:>5} {:<12} {:>9} {:>9} {:>10} {:>14}  {}",
            program.id,
            program.prog_type,
            number(program.verified_insns),
            number(program.jited_len),
            number(program.run_cnt),
            number(program.run_time_ns),
            program.name,
        );
    }
    text
}

fn tasks(kernel: &Kernel) -> String {
    let mut text = format!(
        "{:>7} {:>7} S {:>4} {:>6}  {:<16} {}\n",
        "tgid", "pid", "cpu", "class", "comm", "cgroup"
    );
    for task in kernel.tasks().found {
        let _ = writeln!(
            text,
            "{:>7} {:>7} {} {:>4} {:>6}  {:<16} {}",
            task.tgid,
            task.pid,
            task.state.unwrap_or('?'),
            number(task.cpu),
            number(task.sched_class),
            task.comm,
            number(task.cgroup),
        );
    }
    text
}

fn maps(kernel: &Kernel) -> String {
    let mut text = String::new();
    for map in kernel.maps().found {
        let _ = writeln!(
            text,
            "{}: {} {} key {}B value {}B max {}",
            map.id, map.map_type, map.name, map.key_size, map.value_size, map.max_entries
        );
        match map.contents(kernel, 64, Limits::default()).found {
            MapContents::Section(value) => {
                let _ = writeln!(text, "    {value}");
            }
            MapContents::Entries(entries) => {
                for entry in entries {
                    let _ = writeln!(text, "    {}: {}", entry.key, value(&entry.value));
                }
            }
            MapContents::RingBuf(ring) => {
                let _ = writeln!(
                    text,
                    "    read up to {}, written up to {}, room for {}",
                    ring.consumer_pos, ring.producer_pos, ring.size
                );
            }
            MapContents::Arena(arena) => {
                let _ = writeln!(
                    text,
                    "    {} pages from {:#x} on",
                    arena.pages.len(),
                    arena.user_vm_start
                );
            }
            MapContents::StructOps(ops) => {
                let _ = writeln!(text, "    {}: {}", ops.state, ops.value);
            }
            MapContents::Unsupported(why) => {
                let _ = writeln!(text, "    not shown: {why}");
            }
        }
    }
    text
}

fn value(value: &MapValue) -> String {
    match value {
        MapValue::Value(value) => value.to_string(),
        MapValue::PerCpu(values) => values
            .iter()
            .map(|(cpu, value)| format!("[{cpu}]={value}"))
            .collect::<Vec<_>>()
            .join(" "),
    }
}

fn dmesg(kernel: &Kernel) -> String {
    let mut text = String::new();
    for record in kernel.dmesg().found.records {
        let seconds = record.ts_nsec / 1_000_000_000;
        let micros = record.ts_nsec / 1000 % 1_000_000;
        let _ = writeln!(text, "[{seconds:>5}.{micros:06}] {}", record.text);
    }
    text
}
