//! `cargo ktstr perf-delta`: is revision B faster or slower than A?

mod report;
pub(crate) mod revisions;
mod rng;
mod statistics;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use ktstr::host::evidence::artifacts::write_atomic;
use ktstr::host::evidence::sidecar::{Sidecar, collect_pool};
use ktstr::model::verdict::Outcome;

use crate::engine::{self, EngineChoice, TimeChoice};
use crate::exit::Exit;
use crate::kernel::{self, Resolved};
use crate::project::Project;
use crate::results::{Polarity, declared_polarities, metrics_of, polarity};
use crate::test::Selection;
use crate::test::cargo::{self, Binary};
use crate::{interrupt, output, runs, test};

use revisions::Side;
use rng::Rng;
use statistics::{Delta, Finding, Pairs, Rules, compare, fewest_pairs, judge, more_pairs};

/// What to compare, and how sure to be.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Runs A and B in pairs, next to each other and in random order, so that drift of the host meets both.\n\n\
    Exit codes: 0 no regression, 1 a regression, a metric that B lacks, or a failing test, 2 nothing regressed but something \
    could not be told, such as with too few pairs (--allow-unsure makes that 0)."
)]
pub(crate) struct Options {
    /// The base: a revision, or . for the working tree.
    a: String,
    /// The revision to judge.
    #[arg(default_value = revisions::WORKTREE)]
    b: String,
    #[command(flatten)]
    selection: Selection,
    /// Pairs of runs; by default as many as it takes for a finding to be possible, at least 10, in virtual time 5.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(2..))]
    pairs: Option<u16>,
    /// A metric to compare [default: iterations_per_s and wake_p99_ns].
    #[arg(long = "metric", short, value_name = "NAME")]
    metrics: Vec<String>,
    /// Smallest change that matters, in percent.
    #[arg(long, value_name = "PERCENT", default_value_t = 5.0)]
    threshold: f64,
    /// Smallest change that matters, in the metric's unit; both thresholds must be passed.
    #[arg(long, value_name = "AMOUNT", default_value_t = 0.0)]
    threshold_abs: f64,
    /// Chance of any false alarm if A and B are the same [default: 0.05; 0.0625 in virtual time, where five pairs can tell].
    #[arg(long, value_name = "SHARE")]
    alpha: Option<f64>,
    /// The kernel to test on.
    #[arg(long, short)]
    kernel: Option<String>,
    /// What runs the VMs.
    #[arg(long, value_parser = engine::parser(), value_name = "ENGINE")]
    engine: Option<EngineChoice>,
    /// Whose time passes in guests; auto is the host's. In virtual time both runs of a pair have one seed, and what does not change differs by 0.
    #[arg(long, value_parser = engine::time_parser(), value_name = "CLOCK")]
    time: Option<TimeChoice>,
    /// Unsure is good enough.
    #[arg(long)]
    allow_unsure: bool,
    /// Repeat the order of an earlier comparison.
    #[arg(long)]
    seed: Option<u64>,
    /// As JSON.
    #[arg(long)]
    json: bool,
}

/// What is compared when nothing is said, where a test has it.
const DEFAULT_METRICS: [&str; 2] = ["iterations_per_s", "wake_p99_ns"];
/// Fewer pairs tell only large changes.
const LEAST_PAIRS: usize = 10;
/// In virtual time a pair differs by what was changed, and by what that changed of the interleaving.
const LEAST_SEEDS: usize = 5;
const ALPHA: f64 = 0.05;
/// Five pairs that all changed in one direction are one case of sixteen.
const ALPHA_OF_SEEDS: f64 = 0.0625;
/// Figures of the host, which virtual time does not control.
const OF_THE_HOST: [&str; 4] = ["boot_ms", "cleanup_ms", "initramfs_ms", "total_ms"];

/// One question and its answer.
#[derive(Debug, serde::Serialize)]
pub(crate) struct Row {
    pub(crate) test: String,
    pub(crate) metric: String,
    pub(crate) polarity: Polarity,
    /// Absent where fewer than two pairs have the metric on both sides.
    #[serde(flatten)]
    pub(crate) delta: Option<Delta>,
    /// Pairs in which only A had the metric.
    pub(crate) only_a: usize,
    /// Pairs in which only B had it.
    pub(crate) only_b: usize,
    pub(crate) verdict: Verdict,
    /// This many more pairs would tell a change of the threshold's size.
    pub(crate) more_pairs: Option<usize>,
}

/// A finding with its direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Verdict {
    Regression,
    Improvement,
    /// Changed, and which way is better is unknown.
    Changed,
    Same,
    Unsure,
    /// A has it, and B does not: what A measures is measured no more.
    Vanished,
    /// B has it, and A does not.
    Appeared,
}

/// All values, by test and metric.
type Values = BTreeMap<(String, String), Pairs>;

/// Compares and tells.
pub(crate) fn run(options: &Options) -> Result<Exit> {
    options.selection.check()?;
    options.selection.refuse_expressions("perf-delta")?;
    let rules = rules(options)?;
    let project = Project::find(options.selection.manifest_path.as_deref())?;
    let named: Vec<String> = options.kernel.iter().cloned().collect();
    let kernels = test::kernels(&named)?;
    let [kernel] = kernels.as_slice() else {
        bail!(
            "--kernel names {} kernels; compare on one at a time",
            kernels.len()
        );
    };
    let seed = options
        .seed
        .unwrap_or_else(|| runs::now() << 16 ^ u64::from(std::process::id()));
    let id = runs::new_run_id();
    let mut bench = Bench {
        options,
        sides: [
            Side::prepare(&options.a, &project)?,
            Side::prepare(&options.b, &project)?,
        ],
        env: environment(options, kernel),
        // Not among the runs: neither side is the last one, and trends are not of two revisions at once.
        dir: project
            .target_directory
            .join("ktstr-perf")
            .join("runs")
            .join(id),
        rng: Rng::new(seed),
        failures: Vec::new(),
        declared: BTreeMap::new(),
    };
    bench.note_order(seed)?;
    let common = bench.build()?;
    let (pairs, values) = bench.measure(&common, &rules)?;
    let rows = answer(&values, &rules, &bench.declared, &mut bench.rng);
    let exit = exit(&rows, &bench.failures, options);
    let report = report::Report {
        schema: "ktstr.perf-delta/1",
        a: bench.sides[0].label(),
        b: bench.sides[1].label(),
        kernel: kernel.label.clone(),
        pairs,
        seed,
        alpha: rules.alpha,
        threshold: rules.relative,
        directory: bench.dir,
        failures: bench.failures,
        rows,
    };
    if options.json {
        output::print_json(&report)?;
    } else {
        output::print(&report::render(&report))?;
    }
    Ok(interrupt::requested().map_or(exit, Exit::Interrupted))
}

fn rules(options: &Options) -> Result<Rules> {
    let usual = if options.is_virtual() {
        ALPHA_OF_SEEDS
    } else {
        ALPHA
    };
    let alpha = options.alpha.unwrap_or(usual);
    if !(alpha > 0.0 && alpha < 0.5) {
        bail!("--alpha is {alpha}; expected a share between 0 and 0.5, such as 0.05");
    }
    if !(options.threshold >= 0.0 && options.threshold_abs >= 0.0) {
        bail!("thresholds are sizes; expected 0 or more");
    }
    Ok(Rules {
        alpha,
        relative: options.threshold / 100.0,
        absolute: options.threshold_abs,
    })
}

fn environment(options: &Options, kernel: &Resolved) -> Vec<(&'static str, OsString)> {
    let mut env: Vec<(&'static str, OsString)> = Vec::new();
    if let Some(value) = &kernel.value {
        env.extend(kernel::environment(value));
    }
    if let Some(engine) = options.engine {
        env.push(("KTSTR_ENGINE", engine.as_str().into()));
    }
    // Not left to each test: sides are compared in one clock, and pairs have seeds in virtual time alone.
    let time = match options.is_virtual() {
        true => TimeChoice::Virtual,
        false => TimeChoice::Host,
    };
    env.push(("KTSTR_TIME", time.as_str().into()));
    env
}

impl Options {
    fn is_virtual(&self) -> bool {
        self.time == Some(TimeChoice::Virtual)
    }
}

/// One test on both sides.
#[derive(Debug)]
struct Common {
    name: String,
    binaries: [Binary; 2],
}

struct Bench<'a> {
    options: &'a Options,
    sides: [Side; 2],
    env: Vec<(&'static str, OsString)>,
    dir: PathBuf,
    rng: Rng,
    /// Tests that failed, and how; they are left out.
    failures: Vec<String>,
    /// Which way is better, of metrics whose payload says it.
    declared: BTreeMap<String, Polarity>,
}

impl Bench<'_> {
    /// Leaves a note of what is compared beside the records, and learns before the builds whether there is room for any.
    fn note_order(&self, seed: u64) -> Result<()> {
        let sides = self.sides.each_ref().map(Side::label);
        let note =
            serde_json::json!({ "schema": "ktstr.perf-order/1", "sides": sides, "seed": seed });
        let path = self.dir.join(".order.json");
        write_atomic(&path, note.to_string().as_bytes()).with_context(|| {
            format!(
                "the comparison's directory {} cannot be written; is the disk full?",
                self.dir.display()
            )
        })
    }

    /// Builds both sides and finds the tests that both have.
    fn build(&self) -> Result<Vec<Common>> {
        let mut lists: Vec<BTreeMap<(String, String), Binary>> = Vec::new();
        for side in &self.sides {
            eprintln!("cargo ktstr: building {}", side.label());
            let selection = Selection {
                manifest_path: None,
                ..self.options.selection.clone()
            };
            let place = cargo::Place {
                root: &side.root,
                target: &side.target,
            };
            let Some(binaries) = cargo::build(&selection, Some(&place))? else {
                bail!(
                    "{} does not build; see the compiler output above",
                    side.label()
                );
            };
            let mut list = BTreeMap::new();
            for binary in binaries {
                for name in cargo::list(&binary, &selection)? {
                    list.insert((binary.name.clone(), name), binary.clone());
                }
            }
            lists.push(list);
        }
        let [a, b] = lists.as_slice() else {
            bail!("two sides were built")
        };
        let common: Vec<Common> = a
            .iter()
            .filter_map(|(key, binary)| {
                Some(Common {
                    name: key.1.clone(),
                    binaries: [binary.clone(), b.get(key)?.clone()],
                })
            })
            .collect();
        let alone = a.len() + b.len() - 2 * common.len();
        if alone > 0 {
            eprintln!("cargo ktstr: {alone} tests exist on one side only and are left out");
        }
        if common.is_empty() {
            bail!("no test matches on both sides; ignored ones need --include-ignored");
        }
        Ok(common)
    }

    /// One run that does not count per side (it also builds schedulers), then the pairs.
    fn measure(&mut self, common: &[Common], rules: &Rules) -> Result<(usize, Values)> {
        let mut values = Values::new();
        let mut chosen: Vec<(&Common, Vec<String>)> = Vec::new();
        for test in common {
            eprintln!("cargo ktstr: warming up {}", test.name);
            let first = self.pair(test, "warm-up", [0, 1], 0)?;
            if let Some([a, b]) = first {
                let metrics = self.choose(&test.name, &a, &b)?;
                chosen.push((test, metrics));
            }
            if interrupt::requested().is_some() {
                return Ok((0, values));
            }
        }
        let questions: usize = chosen.iter().map(|(_, metrics)| metrics.len()).sum();
        if questions == 0 && !chosen.is_empty() {
            bail!(
                "none of the tests has {}; name what to compare with --metric (`cargo ktstr stats list-metrics` lists all)",
                DEFAULT_METRICS.join(" or ")
            );
        }
        if questions == 0 && self.failures.is_empty() {
            bail!(
                "no test that was run leaves a sidecar with figures; perf-delta compares tests of ktstr only"
            );
        }
        if questions == 0 {
            // Nothing passed on both sides, which the report says of each test.
            return Ok((0, values));
        }
        let least = fewest_pairs(questions, rules.alpha);
        let pairs = self
            .options
            .pairs
            .map_or_else(|| self.usual_pairs(least), usize::from);
        if pairs < least {
            eprintln!(
                "cargo ktstr: {pairs} pairs are too few for {questions} comparisons; use at least {least}"
            );
        }
        let mut done = 0;
        for pair in 0..pairs {
            eprintln!("cargo ktstr: pair {} of {pairs}", pair + 1);
            for (test, metrics) in &chosen {
                let order = if self.rng.coin() { [0, 1] } else { [1, 0] };
                let name = format!("pair-{:03}", pair + 1);
                let Some(both) = self.pair(test, &name, order, pair as u64)? else {
                    continue;
                };
                add(&mut values, &test.name, metrics, &both);
            }
            if interrupt::requested().is_some() {
                break;
            }
            done += 1;
        }
        Ok((done, values))
    }

    /// As many as it takes for a finding to be possible, and some more where runs scatter by themselves.
    fn usual_pairs(&self, least: usize) -> usize {
        if self.options.is_virtual() {
            LEAST_SEEDS.max(least)
        } else {
            LEAST_PAIRS.max(least + 2)
        }
    }

    /// Runs a test on both sides in this order, in virtual time under this seed; `None` when either did not pass.
    fn pair(
        &mut self,
        test: &Common,
        name: &str,
        order: [usize; 2],
        seed: u64,
    ) -> Result<Option<[BTreeMap<String, f64>; 2]>> {
        let mut found: [Option<BTreeMap<String, f64>>; 2] = [None, None];
        for index in order {
            let (Some(side), Some(binary)) = (self.sides.get(index), test.binaries.get(index))
            else {
                continue;
            };
            let dir = self
                .dir
                .join(format!("{name}-{}", if index == 0 { "a" } else { "b" }));
            let mut env = self.env.clone();
            env.push(("KTSTR_SIDECAR_DIR", dir.clone().into()));
            env.push(("CARGO_TARGET_DIR", side.target.clone().into()));
            if self.options.is_virtual() {
                env.push(("KTSTR_SEED", seed.to_string().into()));
            }
            std::fs::create_dir_all(&dir)
                .with_context(|| format!("failed to create {}", dir.display()))?;
            cargo::run_alone(binary, &test.name, &env)?;
            if interrupt::requested().is_some() {
                return Ok(None);
            }
            match record(&dir, &test.name)? {
                Some(sidecar) if sidecar.verdict == Outcome::Pass => {
                    self.declared.extend(declared_polarities(&sidecar));
                    if let Some(slot) = found.get_mut(index) {
                        *slot = Some(metrics_of(&sidecar));
                    }
                }
                Some(sidecar) => {
                    let text = format!(
                        "{} on {}: {} ({name})",
                        test.name,
                        side.label(),
                        sidecar.verdict
                    );
                    self.failures.push(text);
                }
                None => self.failures.push(format!(
                    "{} on {}: no record ({name})",
                    test.name,
                    side.label()
                )),
            }
        }
        let [a, b] = found;
        Ok(a.zip(b).map(|(a, b)| [a, b]))
    }

    /// The metrics to compare: those asked for, which must exist on a side at least, or those of the usual ones that do.
    fn choose(
        &self,
        test: &str,
        a: &BTreeMap<String, f64>,
        b: &BTreeMap<String, f64>,
    ) -> Result<Vec<String>> {
        let either = |name: &&String| a.contains_key(*name) || b.contains_key(*name);
        let of_host = |name: &&String| OF_THE_HOST.contains(&name.as_str());
        if self.options.is_virtual()
            && let Some(name) = self.options.metrics.iter().find(of_host)
        {
            bail!(
                "{name} measures the host's time, which virtual time does not control; compare it with --time host"
            );
        }
        if self.options.metrics.is_empty() {
            let usual = DEFAULT_METRICS.map(str::to_owned);
            return Ok(usual.iter().filter(either).cloned().collect());
        }
        if let Some(missing) = self.options.metrics.iter().find(|name| !either(name)) {
            let have: BTreeSet<&str> = a.keys().chain(b.keys()).map(String::as_str).collect();
            let have: Vec<&str> = have.into_iter().collect();
            bail!(
                "test '{test}' has no metric '{missing}'; it has {}",
                have.join(", ")
            );
        }
        Ok(self.options.metrics.clone())
    }
}

fn record(dir: &Path, test: &str) -> Result<Option<Sidecar>> {
    let pool = collect_pool(dir).with_context(|| format!("failed to list {}", dir.display()))?;
    Ok(pool
        .sidecars
        .into_iter()
        .find(|sidecar| sidecar.test == test))
}

fn add(values: &mut Values, test: &str, metrics: &[String], both: &[BTreeMap<String, f64>; 2]) {
    let [a, b] = both;
    for metric in metrics {
        let pairs = values.entry((test.to_owned(), metric.clone())).or_default();
        pairs.add(a.get(metric).copied(), b.get(metric).copied());
    }
}

fn answer(
    values: &Values,
    rules: &Rules,
    declared: &BTreeMap<String, Polarity>,
    rng: &mut Rng,
) -> Vec<Row> {
    // What vanished or appeared is no question of statistics.
    let compared: Vec<(&(String, String), Delta)> = values
        .iter()
        .filter(|(_, pairs)| !pairs.vanished() && !pairs.appeared())
        .filter_map(|(key, pairs)| Some((key, compare(pairs, rules.alpha, rng)?)))
        .collect();
    let deltas: Vec<Delta> = compared.iter().map(|(_, delta)| delta.clone()).collect();
    let mut judged: BTreeMap<&(String, String), (Delta, Finding)> = compared
        .into_iter()
        .zip(judge(&deltas, rules))
        .map(|((key, delta), finding)| (key, (delta, finding)))
        .collect();
    let row = |(key, pairs): (&(String, String), &Pairs)| {
        let (test, metric) = key;
        let known = declared.get(metric).copied();
        let polarity = known.unwrap_or_else(|| polarity(metric));
        let (delta, verdict) = match judged.remove(key) {
            Some((delta, finding)) => {
                let verdict = verdict(finding, polarity, delta.change);
                (Some(delta), verdict)
            }
            None if pairs.vanished() => (None, Verdict::Vanished),
            None if pairs.appeared() => (None, Verdict::Appeared),
            None => (None, Verdict::Unsure),
        };
        let more = delta
            .as_ref()
            .filter(|_| verdict == Verdict::Unsure)
            .and_then(|delta| more_pairs(delta, deltas.len(), rules));
        Row {
            test: test.clone(),
            metric: metric.clone(),
            polarity,
            delta,
            only_a: pairs.only_a,
            only_b: pairs.only_b,
            verdict,
            more_pairs: more,
        }
    };
    values.iter().map(row).collect()
}

fn verdict(finding: Finding, polarity: Polarity, change: f64) -> Verdict {
    match (finding, polarity) {
        (Finding::Same, _) => Verdict::Same,
        (Finding::Unsure, _) => Verdict::Unsure,
        (Finding::Changed, Polarity::Unknown) => Verdict::Changed,
        (Finding::Changed, Polarity::Higher) if change < 0.0 => Verdict::Regression,
        (Finding::Changed, Polarity::Lower) if change > 0.0 => Verdict::Regression,
        (Finding::Changed, _) => Verdict::Improvement,
    }
}

fn exit(rows: &[Row], failures: &[String], options: &Options) -> Exit {
    let any = |verdict: Verdict| rows.iter().any(|row| row.verdict == verdict);
    if any(Verdict::Regression) || any(Verdict::Vanished) || !failures.is_empty() {
        Exit::Fail
    } else if (any(Verdict::Unsure) || rows.is_empty()) && !options.allow_unsure {
        Exit::Inconclusive
    } else {
        Exit::Pass
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The command's own arguments.
    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    /// What twelve pairs say, in each of which B is 10 % slower: by chance alone, one side wins all in 2 of 4096 cases.
    fn twelve_pairs_under(args: &[&str]) -> (Rules, Finding) {
        let words = ["perf-delta", "HEAD"].iter().chain(args);
        let line = <Line as clap::Parser>::try_parse_from(words).unwrap();
        let rules = rules(&line.options).unwrap();
        let mut pairs = Pairs::default();
        for number in 0..12 {
            let a = 1000.0 + f64::from(number);
            pairs.add(Some(a), Some(a * 0.9));
        }
        let delta = compare(&pairs, rules.alpha, &mut Rng::new(1)).unwrap();
        (rules, judge(&[delta], &rules)[0])
    }

    #[test]
    fn a_smaller_alpha_makes_a_difference_unsure() {
        let (rules, finding) = twelve_pairs_under(&[]);
        assert_eq!((rules.alpha, finding), (ALPHA, Finding::Changed));
        let (_, finding) = twelve_pairs_under(&["--alpha", "0.0005"]);
        assert_eq!(finding, Finding::Changed);
        let (rules, finding) = twelve_pairs_under(&["--alpha", "0.0004"]);
        assert_eq!((rules.alpha, finding), (0.0004, Finding::Unsure));
    }
}
