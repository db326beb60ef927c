//! Pictures of one test: when what happened, how fair it was, how late wake-ups were. All marks have their words beside
//! them; colour alone never carries anything.

use ktstr::host::evidence::timeline::{DepthSample, MarkKind, Timeline};
use ktstr::model::stats::{CgroupStats, ScenarioStats};

use super::html::{element, escape};
use crate::stats::number;

/// Columns of a heat strip; more samples than that share a column, which shows their highest.
const COLUMNS: usize = 240;
/// Longest time without a sample over which the last one is drawn on, in columns.
const HOLD: usize = 12;

/// Phases, queue depths per CPU, and marks, on one axis in milliseconds since the VM's start.
pub(super) fn timeline(timeline: &Timeline, stats: &ScenarioStats) -> String {
    let span = timeline.duration_ms.max(1.0);
    let mut html = String::from(
        "<figure class=timeline><figcaption>Timeline, ms since the VM started</figcaption>",
    );
    html.push_str(&axis(span));
    if let Some(start) = timeline.scenario_start_ms {
        let bars: Vec<(f64, f64, String)> = stats
            .phases
            .iter()
            .map(|phase| {
                let rate = phase
                    .iteration_rate()
                    .map(|rate| format!(", {} iterations/s", number(rate)));
                let text = format!("{}{}", phase.name, rate.unwrap_or_default());
                (
                    start + phase.start_ms as f64,
                    start + phase.end_ms as f64,
                    text,
                )
            })
            .collect();
        html.push_str(&bar_row("phases", &bars, span));
    }
    html.push_str(&mark_rows(timeline, span));
    html.push_str(&depth_rows(
        "runnable",
        &timeline.samples,
        span,
        |sample, cpu| sample.nr_running.get(cpu).copied(),
    ));
    html.push_str(&depth_rows(
        "local DSQ",
        &timeline.samples,
        span,
        |sample, cpu| sample.local_dsq.get(cpu).copied().flatten(),
    ));
    if timeline.samples.is_empty() {
        html.push_str("<p class=quiet>No queue samples: the monitor was off, or could not read this kernel.</p>");
    }
    html.push_str("</figure>");
    html
}

fn axis(span: f64) -> String {
    let step = nice_step(span / 8.0);
    let mut ticks = String::new();
    let mut at = 0.0;
    while at <= span {
        // A label near the end would leave the page on its right: it stands left of its tick.
        let side = if at / span > 0.8 { " class=end" } else { "" };
        ticks.push_str(&format!(
            "<i{side} style=\"left:{:.3}%\">{}</i>",
            at / span * 100.0,
            number(at)
        ));
        at += step;
    }
    format!("<div class=row><b></b><div class=\"track axis\">{ticks}</div></div>")
}

/// 1, 2 or 5 times a power of ten, not below `least`.
fn nice_step(least: f64) -> f64 {
    let power = 10f64.powf(least.max(1e-9).log10().floor());
    [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .map(|times| times * power)
        .find(|step| *step >= least)
        .unwrap_or(power)
}

fn bar_row(label: &str, bars: &[(f64, f64, String)], span: f64) -> String {
    let mut track = String::new();
    for (from, to, text) in bars {
        let left = from / span * 100.0;
        let width = ((to - from) / span * 100.0).max(0.2);
        let title = format!("{text}: {} to {} ms", number(*from), number(*to));
        track.push_str(&format!(
            "<span class=bar style=\"left:{left:.3}%;width:{width:.3}%\" title=\"{}\">{}</span>",
            escape(&title),
            escape(text)
        ));
    }
    format!(
        "<div class=row>{}<div class=track>{track}</div></div>",
        element("b", "", label)
    )
}

fn mark_rows(timeline: &Timeline, span: f64) -> String {
    let kinds = [
        (MarkKind::Stage, "stages", "▾"),
        (MarkKind::Capture, "captures", "◆"),
        (MarkKind::Scheduler, "scheduler", "✖"),
        (MarkKind::Crash, "crash", "✖"),
    ];
    let mut html = String::new();
    for (kind, label, sign) in kinds {
        let marks: Vec<_> = timeline
            .marks
            .iter()
            .filter(|mark| mark.kind == kind)
            .collect();
        if marks.is_empty() {
            continue;
        }
        let mut track = String::new();
        for mark in marks {
            let title = format!("{} at {} ms", mark.text, number(mark.at_ms));
            track.push_str(&format!(
                "<span class=mark style=\"left:{:.3}%\" title=\"{title}\" role=img aria-label=\"{title}\">{sign}</span>",
                mark.at_ms / span * 100.0,
                title = escape(&title)
            ));
        }
        html.push_str(&format!(
            "<div class=row>{}<div class=track>{track}</div></div>",
            element("b", "", label)
        ));
    }
    html
}

/// One heat strip per CPU; the deeper the colour, the longer the queue.
fn depth_rows(
    what: &str,
    samples: &[DepthSample],
    span: f64,
    depth: impl Fn(&DepthSample, usize) -> Option<u32>,
) -> String {
    let cpus = samples
        .iter()
        .map(|sample| sample.nr_running.len())
        .max()
        .unwrap_or(0);
    let all = || {
        samples
            .iter()
            .flat_map(|sample| (0..cpus).filter_map(|cpu| depth(sample, cpu)))
    };
    let Some(deepest) = all().max() else {
        return String::new();
    };
    let mut html = format!(
        "<p class=quiet>{} per CPU, deepest {deepest}</p>",
        escape(what)
    );
    for cpu in 0..cpus {
        let mut columns: Vec<Option<u32>> = vec![None; COLUMNS];
        for (index, sample) in samples.iter().enumerate() {
            let from = column_of(sample.at_ms, span);
            // A depth holds until the next sample, unless that one is far off.
            let next = samples
                .get(index + 1)
                .map_or(from, |next| column_of(next.at_ms, span));
            let to = next.clamp(from + 1, from + HOLD);
            let Some(found) = depth(sample, cpu) else {
                continue;
            };
            for slot in columns.iter_mut().take(to).skip(from) {
                *slot = Some(slot.unwrap_or(0).max(found));
            }
        }
        if columns.iter().all(Option::is_none) {
            continue;
        }
        let mut cells = String::new();
        for (x, column) in columns.iter().enumerate() {
            if let Some(found) = column.filter(|found| *found > 0) {
                let share = f64::from(found) / f64::from(deepest.max(1));
                cells.push_str(&format!(
                    "<rect x={x} width=1 height=1 fill-opacity={:.2}><title>{found}</title></rect>",
                    0.15 + 0.85 * share
                ));
            }
        }
        let label = format!("{what}, CPU {cpu}");
        html.push_str(&format!(
            "<div class=row><b>CPU {cpu}</b><svg class=strip viewBox=\"0 0 {COLUMNS} 1\" preserveAspectRatio=none role=img \
             aria-label=\"{}\">{cells}</svg></div>",
            escape(&label)
        ));
    }
    html
}

/// Which column of a strip a time falls into.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the share is clamped to 0..1 first"
)]
fn column_of(at_ms: f64, span: f64) -> usize {
    let share = (at_ms / span).clamp(0.0, 1.0);
    ((share * COLUMNS as f64) as usize).min(COLUMNS - 1)
}

/// Off-CPU shares of the workers of each cgroup: equal workers have a short bar.
pub(super) fn fairness(cgroups: &[CgroupStats]) -> String {
    let mut rows = String::new();
    for cgroup in cgroups {
        let (Some(low), Some(high)) = (cgroup.min_off_cpu_pct, cgroup.max_off_cpu_pct) else {
            continue;
        };
        let words = format!(
            "{low:.1} % to {high:.1} % off CPU, spread {:.1}",
            high - low
        );
        rows.push_str(&format!(
            "<div class=row>{}<div class=track><span class=range style=\"left:{:.2}%;width:{:.2}%\" title=\"{}\"></span></div>\
             <em>{}</em></div>",
            element("b", "", &cgroup.name),
            low.clamp(0.0, 100.0),
            (high - low).clamp(0.5, 100.0),
            escape(&words),
            escape(&words)
        ));
    }
    if rows.is_empty() {
        return String::new();
    }
    format!(
        "<figure class=fairness><figcaption>Fairness: the workers' time off CPU, 0 to 100 %</figcaption>{rows}</figure>"
    )
}

/// Percentiles on a logarithmic scale, one row per cgroup and kind of latency.
pub(super) fn latencies(cgroups: &[CgroupStats]) -> String {
    let mut series: Vec<(String, Vec<(&str, u64)>)> = Vec::new();
    for cgroup in cgroups {
        let wake = [("p50", cgroup.wake_p50_ns), ("p99", cgroup.wake_p99_ns)];
        let wake: Vec<(&str, u64)> = wake
            .into_iter()
            .filter_map(|(name, ns)| Some((name, ns?)))
            .collect();
        if !wake.is_empty() {
            series.push((format!("{} wake-up", cgroup.name), wake));
        }
        for latency in &cgroup.latencies {
            let points = vec![("p50", latency.p50_ns), ("p99", latency.p99_ns)];
            series.push((format!("{} {}", cgroup.name, latency.name), points));
        }
    }
    let values = || {
        series
            .iter()
            .flat_map(|(_, points)| points.iter().map(|(_, ns)| (*ns).max(1) as f64))
    };
    let (Some(low), Some(high)) = (values().reduce(f64::min), values().reduce(f64::max)) else {
        return String::new();
    };
    let (low, high) = (low.log10().floor(), high.log10().ceil());
    let place = |ns: u64| {
        (((ns.max(1) as f64).log10() - low) / (high - low).max(1.0) * 100.0).clamp(0.0, 100.0)
    };
    let mut rows = String::new();
    for (label, points) in &series {
        let mut track = String::new();
        let mut words = Vec::new();
        for (name, ns) in points {
            let text = format!("{name} {}", duration(*ns));
            track.push_str(&format!(
                "<span class=dot style=\"left:{:.2}%\" title=\"{}\"></span>",
                place(*ns),
                escape(&text)
            ));
            words.push(text);
        }
        rows.push_str(&format!(
            "<div class=row>{}<div class=track>{track}</div>{}</div>",
            element("b", "", label),
            element("em", "", &words.join(", "))
        ));
    }
    format!(
        "<figure class=latencies><figcaption>Latencies, logarithmic</figcaption>{rows}</figure>"
    )
}

/// Nanoseconds for people.
fn duration(ns: u64) -> String {
    let ns = ns as f64;
    match ns {
        _ if ns >= 1e9 => format!("{:.2} s", ns / 1e9),
        _ if ns >= 1e6 => format!("{:.2} ms", ns / 1e6),
        _ if ns >= 1e3 => format!("{:.1} us", ns / 1e3),
        _ => format!("{ns:.0} ns"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_of_an_axis_are_round() {
        assert_eq!(
            [nice_step(0.7), nice_step(130.0), nice_step(5.1)],
            [1.0, 200.0, 10.0]
        );
    }

    #[test]
    fn strips_keep_the_deepest_of_a_column() {
        let sample = |at_ms, depth| DepthSample {
            at_ms,
            nr_running: vec![depth],
            local_dsq: vec![None],
        };
        let samples = [sample(10.0, 1), sample(10.1, 7), sample(10.2, 2)];
        let html = depth_rows("runnable", &samples, 1000.0, |sample, cpu| {
            sample.nr_running.get(cpu).copied()
        });
        assert!(
            html.contains("<title>7</title>") && !html.contains("<title>1</title>"),
            "{html}"
        );
        let none = depth_rows("dsq", &samples, 1000.0, |sample, cpu| {
            sample.local_dsq.get(cpu).copied().flatten()
        });
        assert_eq!(none, "", "without sched_ext there are no local DSQs");
    }

    #[test]
    fn latencies_span_decades() {
        let cgroup = CgroupStats {
            name: String::from("a"),
            wake_p50_ns: Some(1_000),
            wake_p99_ns: Some(1_000_000),
            ..CgroupStats::default()
        };
        let html = latencies(&[cgroup]);
        assert!(html.contains("p50 1.0 us, p99 1.00 ms"), "{html}");
        assert!(
            html.contains("left:0.00%") && html.contains("left:100.00%"),
            "{html}"
        );
        assert_eq!(latencies(&[CgroupStats::default()]), "");
    }
}
