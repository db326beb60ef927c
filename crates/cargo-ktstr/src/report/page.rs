//! One self-contained page: no scripts, styles, fonts or pictures from elsewhere.

use std::collections::BTreeMap;
use std::path::Path;

use ktstr::model::verdict::Outcome;

use super::html::{element, escape, link};
use super::{Run, Shown, charts};
use crate::output::shell_word;
use crate::results::{metrics_of, unit};
use crate::runs::date;
use crate::stats::number;
use crate::test::rerun;

const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("script.js");

/// The whole page; links to artifacts work from `base`.
pub(super) fn render(run: &Run, base: &Path) -> String {
    let mut html = format!(
        "<!doctype html>\n<html lang=en>\n<head>\n<meta charset=utf-8>\n\
         <meta name=viewport content=\"width=device-width, initial-scale=1\">\n\
         <meta name=color-scheme content=\"light dark\">\n<title>ktstr {}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n\
         <a class=jump href=#tests>Skip to the tests</a>\n",
        escape(&run.id)
    );
    html.push_str(&header(run));
    html.push_str("<main>\n");
    html.push_str(&matrix(run));
    html.push_str(&filters());
    html.push_str("<section id=tests aria-label=Tests>\n");
    for (index, shown) in run.tests.iter().enumerate() {
        html.push_str(&test(index, shown, base));
    }
    html.push_str("</section>\n</main>\n");
    html.push_str(
        "<footer>Keys: <kbd>j</kbd> next, <kbd>k</kbd> previous, <kbd>f</kbd> next failure, <kbd>Enter</kbd> open or close, \
         <kbd>/</kbd> filter</footer>\n",
    );
    html.push_str(&format!("<script>{SCRIPT}</script>\n</body>\n</html>\n"));
    html
}

fn header(run: &Run) -> String {
    let mut facts: Vec<(&str, String)> = Vec::new();
    if let Some(manifest) = run.dirs.first().and_then(|dir| dir.manifest.as_ref()) {
        facts.push(("started", format!("{} UTC", date(manifest.started_at))));
        if let Some(commit) = &manifest.commit {
            let dirty = if manifest.dirty { ", with changes" } else { "" };
            facts.push((
                "revision",
                format!("{}{dirty}", commit.get(..12).unwrap_or(commit)),
            ));
        }
        let host = &manifest.host;
        facts.push((
            "host",
            format!("{}, {} CPUs, Linux {}", host.cpu, host.cpus, host.kernel),
        ));
    }
    let mut engines: Vec<&str> = run
        .tests
        .iter()
        .filter_map(|shown| shown.case.sidecar.as_ref()?.engine.as_deref())
        .collect();
    engines.sort_unstable();
    engines.dedup();
    facts.push((
        "engine",
        if engines.is_empty() {
            String::from("none")
        } else {
            engines.join(", ")
        },
    ));
    let mut html = format!("<header>\n<h1>{}</h1>\n<p class=totals>", escape(&run.id));
    for verdict in [
        Outcome::Fail,
        Outcome::Inconclusive,
        Outcome::Pass,
        Outcome::Skip,
    ] {
        let count = run
            .tests
            .iter()
            .filter(|shown| shown.case.verdict == verdict)
            .count();
        html.push_str(&format!(
            "<span class=\"badge {v}\" data-count={count}>{} {count} {v}</span> ",
            sign(verdict),
            v = verdict.as_str()
        ));
    }
    html.push_str("</p>\n<dl>");
    for (name, value) in facts {
        html.push_str(&format!(
            "<div>{}{}</div>",
            element("dt", "", name),
            element("dd", "", &value)
        ));
    }
    html.push_str("</dl>\n</header>\n");
    html
}

/// A shape per verdict, so that colour is never alone.
fn sign(verdict: Outcome) -> char {
    match verdict {
        Outcome::Pass => '✓',
        Outcome::Fail => '✗',
        Outcome::Inconclusive => '?',
        Outcome::Skip => '–',
    }
}

fn id(index: usize) -> String {
    format!("t{index}")
}

/// Tests down, kernels and presets across.
fn matrix(run: &Run) -> String {
    let split = |name: &str| -> (String, String) {
        let (test, preset) = name.split_once('@').unwrap_or((name, "as declared"));
        (test.to_owned(), preset.to_owned())
    };
    let mut columns: Vec<(String, String)> = Vec::new();
    let mut rows: BTreeMap<String, BTreeMap<usize, usize>> = BTreeMap::new();
    for (index, shown) in run.tests.iter().enumerate() {
        let (test, preset) = split(&shown.case.name);
        let column = (shown.case.kernel.clone(), preset);
        let place = columns
            .iter()
            .position(|have| *have == column)
            .unwrap_or_else(|| {
                columns.push(column);
                columns.len() - 1
            });
        rows.entry(test).or_default().insert(place, index);
    }
    let mut html = String::from(
        "<section aria-label=\"Matrix of verdicts\" class=scroll tabindex=0>\n<table class=matrix>\n<thead><tr><th scope=col>test</th>",
    );
    for (kernel, preset) in &columns {
        html.push_str(&format!(
            "<th scope=col>{}<br><small>{}</small></th>",
            escape(kernel),
            escape(preset)
        ));
    }
    html.push_str("</tr></thead>\n<tbody>\n");
    for (test, cells) in &rows {
        html.push_str(&format!("<tr>{}", element("th", "scope=row", test)));
        for place in 0..columns.len() {
            match cells
                .get(&place)
                .and_then(|index| Some((*index, run.tests.get(*index)?)))
            {
                Some((index, shown)) => html.push_str(&format!(
                    "<td class={v}><a href=\"#{}\">{} {v}</a></td>",
                    id(index),
                    sign(shown.case.verdict),
                    v = shown.case.verdict.as_str()
                )),
                None => html.push_str("<td></td>"),
            }
        }
        html.push_str("</tr>\n");
    }
    html.push_str("</tbody>\n</table>\n</section>\n");
    html
}

fn filters() -> String {
    String::from(
        "<form id=filters role=search><label>Filter <input id=filter type=search autocomplete=off></label>\
         <label><input id=bad type=checkbox> failures only</label> <output id=shown></output></form>\n",
    )
}

fn test(index: usize, shown: &Shown, base: &Path) -> String {
    let case = &shown.case;
    let open = if case.is_bad() { " open" } else { "" };
    let mut html = format!(
        "<details id={} class=\"test {v}\" data-verdict={v}{open}>\n<summary><span class=\"badge {v}\">{} {v}</span> \
         <strong>{}</strong> <span class=quiet>{} · {:.1} s</span> <span class=why>{}</span></summary>\n",
        id(index),
        sign(case.verdict),
        escape(&case.name),
        escape(&case.kernel),
        case.seconds,
        escape(&case.headline()),
        v = case.verdict.as_str()
    );
    html.push_str(&facts(shown));
    if !case.message.is_empty() {
        html.push_str(&element("pre", "class=message tabindex=0", &case.message));
    }
    if let Some(sidecar) = &case.sidecar {
        let stats = &sidecar.result.stats;
        if let Some(timeline) = &shown.timeline {
            html.push_str(&charts::timeline(timeline, stats));
        }
        html.push_str(&charts::fairness(&stats.cgroups));
        html.push_str(&charts::latencies(&stats.cgroups));
        if !sidecar.result.info_notes.is_empty() {
            let notes: String = sidecar
                .result
                .info_notes
                .iter()
                .map(|note| element("li", "", note))
                .collect();
            html.push_str(&format!("<h3>Notes</h3><ul>{notes}</ul>\n"));
        }
        html.push_str(&figures(shown));
    }
    html.push_str(&artifacts(shown, base));
    html.push_str("</details>\n");
    html
}

fn facts(shown: &Shown) -> String {
    let mut facts: Vec<(&str, String)> = Vec::new();
    if let Some(sidecar) = &shown.case.sidecar {
        facts.push((
            "scheduler",
            sidecar
                .scheduler
                .clone()
                .unwrap_or_else(|| String::from("the kernel's own")),
        ));
        facts.push(("topology", sidecar.topology.clone()));
        if let Some(engine) = &sidecar.engine {
            let why = sidecar.engine_why.clone().unwrap_or_default();
            facts.push(("engine", format!("{engine} ({why})")));
        }
        if let Some(release) = &sidecar.kernel_release {
            facts.push(("kernel", release.clone()));
        }
        if let Some(stage) = &sidecar.stage {
            facts.push(("reached", stage.clone()));
        }
        if let Some(exit) = &sidecar.exit_reason {
            facts.push(("VM ended by", exit.clone()));
        }
    }
    let items: String = facts
        .iter()
        .map(|(name, value)| {
            format!(
                "<div>{}{}</div>",
                element("dt", "", name),
                element("dd", "", value)
            )
        })
        .collect();
    format!("<dl>{items}</dl>\n")
}

fn figures(shown: &Shown) -> String {
    let Some(sidecar) = &shown.case.sidecar else {
        return String::new();
    };
    let mut rows = String::new();
    for (name, value) in metrics_of(sidecar) {
        rows.push_str(&format!(
            "<tr>{}<td>{}</td><td>{}</td></tr>",
            element("th", "scope=row", &name),
            escape(&number(value)),
            unit(&name)
        ));
    }
    format!(
        "<details class=figures><summary>All figures</summary><div class=scroll tabindex=0><table>{rows}</table></div></details>\n"
    )
}

fn artifacts(shown: &Shown, base: &Path) -> String {
    let files: String = shown
        .case
        .artifacts
        .iter()
        .map(|path| {
            let name = path
                .file_name()
                .map(|name| name.to_string_lossy().into_owned())
                .unwrap_or_default();
            format!(
                "<li><a href=\"{}\">{}</a></li>",
                escape(&link(path, base)),
                escape(&name)
            )
        })
        .collect();
    let mut html = format!("<h3>Files</h3><ul class=files>{files}</ul>\n");
    if shown.case.sidecar.is_some() {
        html.push_str(&format!(
            "<h3>Again</h3>{}\n",
            element("pre", "class=again tabindex=0", &rerun(&shown.case))
        ));
    } else {
        html.push_str(&element(
            "p",
            "class=quiet",
            &format!("{} left no record.", shell_word(&shown.case.name)),
        ));
    }
    html
}
