//! Which tests: packages, binaries, filters, and the k-th of n parts.

use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Result, bail};

/// Why nothing ran; the compiler has told the rest.
pub(crate) const NOT_BUILT: &str = "the tests could not be built; see the compiler output above";

/// A test that a binary has.
#[derive(Debug, Clone)]
pub(crate) struct Listed {
    pub(crate) name: String,
    pub(crate) ignored: bool,
}

/// Which tests to build and run.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct Selection {
    /// Only tests whose name contains one of these.
    #[arg(value_name = "FILTER")]
    pub(crate) filters: Vec<String>,
    /// Filters are whole names.
    #[arg(long, requires = "filters")]
    pub(crate) exact: bool,
    /// A filter expression of cargo-nextest.
    #[arg(long = "filter-expr", short = 'E', value_name = "EXPR", conflicts_with_all = ["filters", "exact"])]
    pub(crate) expressions: Vec<String>,
    /// Also run ignored tests.
    #[arg(long)]
    pub(crate) include_ignored: bool,
    /// Run ignored tests only.
    #[arg(long, conflicts_with = "include_ignored")]
    pub(crate) ignored: bool,
    /// Only this package.
    #[arg(long, short, value_name = "SPEC", help_heading = "Packages")]
    pub(crate) package: Vec<String>,
    /// All packages of the workspace.
    #[arg(long, help_heading = "Packages")]
    pub(crate) workspace: bool,
    /// Only this test target.
    #[arg(long, value_name = "NAME", help_heading = "Packages")]
    pub(crate) test: Vec<String>,
    /// Only this binary target (for test binaries that are `bin` targets).
    #[arg(long, value_name = "NAME", help_heading = "Packages")]
    pub(crate) bin: Vec<String>,
    /// Features to turn on.
    #[arg(long, short = 'F', value_name = "FEATURES", help_heading = "Packages")]
    pub(crate) features: Vec<String>,
    /// All features.
    #[arg(long, help_heading = "Packages")]
    pub(crate) all_features: bool,
    /// No default features.
    #[arg(long, help_heading = "Packages")]
    pub(crate) no_default_features: bool,
    /// Build optimised.
    #[arg(long, short, help_heading = "Packages")]
    pub(crate) release: bool,
    /// The project, when it is not here.
    #[arg(long, value_name = "PATH", help_heading = "Packages")]
    pub(crate) manifest_path: Option<PathBuf>,
    /// Build without the network.
    #[arg(long, help_heading = "Packages")]
    pub(crate) offline: bool,
    /// Cargo.lock must not change.
    #[arg(long, help_heading = "Packages")]
    pub(crate) locked: bool,
}

/// How the one test that the argument `test` names is built.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Build {
    /// Only this package.
    #[arg(long, short, value_name = "SPEC", requires = "test")]
    package: Vec<String>,
    /// Features to turn on.
    #[arg(long, short = 'F', value_name = "FEATURES", requires = "test")]
    features: Vec<String>,
    /// Build optimised.
    #[arg(long, short, requires = "test")]
    release: bool,
    /// Build without the network.
    #[arg(long, requires = "test")]
    offline: bool,
    /// The project, when it is not here.
    #[arg(long, value_name = "PATH")]
    pub(crate) manifest_path: Option<PathBuf>,
}

impl Build {
    pub(crate) fn selection(&self) -> Selection {
        Selection {
            package: self.package.clone(),
            features: self.features.clone(),
            release: self.release,
            offline: self.offline,
            manifest_path: self.manifest_path.clone(),
            ..Selection::default()
        }
    }
}

impl Selection {
    /// What clap cannot see.
    ///
    /// # Errors
    /// When a filter makes no sense.
    pub(crate) fn check(&self) -> Result<()> {
        if let Some(bad) = self
            .filters
            .iter()
            .find(|filter| filter.is_empty() || filter.starts_with('-'))
        {
            bail!(
                "invalid filter '{bad}'; a filter is part of a test's name, such as 'steady' or '@4cpu-2llc'"
            );
        }
        Ok(())
    }

    /// A name that was given as a whole one must be a test's, and one that the other flags let run.
    ///
    /// # Errors
    /// When one is not; with the names that come near it.
    pub(crate) fn check_exact(&self, listed: &[Listed]) -> Result<()> {
        if !self.exact {
            return Ok(());
        }
        for name in &self.filters {
            let mut tests = listed.iter().filter(|test| test.name == *name).peekable();
            if tests.peek().is_none() {
                bail!("there is no test '{name}' here; {}", near(name, listed));
            }
            let runs = |test: &Listed| match (self.ignored, self.include_ignored) {
                (true, _) => test.ignored,
                (_, true) => true,
                _ => !test.ignored,
            };
            if !tests.any(runs) {
                let (is, flag) = if self.ignored {
                    ("not an ignored one", "leave --ignored out")
                } else {
                    ("an ignored one", "add --include-ignored")
                };
                bail!("test '{name}' is {is}; {flag} to run it");
            }
        }
        Ok(())
    }

    /// What only a runner of tests can honour, for a command that is none.
    ///
    /// # Errors
    /// When such a flag was given.
    pub(crate) fn refuse_expressions(&self, command: &str) -> Result<()> {
        if self.expressions.is_empty() {
            return Ok(());
        }
        bail!(
            "`cargo ktstr {command}` runs test binaries by itself and cannot read filter expressions (-E); give parts of \
             names, or whole names with --exact"
        )
    }

    /// Whether only cargo-nextest can do it.
    pub(crate) fn needs_nextest(&self) -> bool {
        !self.expressions.is_empty()
    }

    /// What cargo takes to build the same: packages, targets, features.
    pub(crate) fn cargo_arguments(&self) -> Vec<String> {
        let mut args = Vec::new();
        let mut pairs = |flag: &str, values: &[String]| {
            args.extend(
                values
                    .iter()
                    .flat_map(|value| [flag.to_owned(), value.clone()]),
            );
        };
        pairs("--package", &self.package);
        pairs("--test", &self.test);
        pairs("--bin", &self.bin);
        pairs("--features", &self.features);
        let flags = [
            ("--workspace", self.workspace),
            ("--all-features", self.all_features),
            ("--no-default-features", self.no_default_features),
            ("--release", self.release),
            ("--offline", self.offline),
            ("--locked", self.locked),
        ];
        args.extend(
            flags
                .iter()
                .filter(|(_, on)| *on)
                .map(|(flag, _)| (*flag).to_owned()),
        );
        if let Some(manifest) = &self.manifest_path {
            args.extend([
                String::from("--manifest-path"),
                std::path::absolute(manifest)
                    .unwrap_or_else(|_| manifest.clone())
                    .display()
                    .to_string(),
            ]);
        }
        args
    }

    /// What a rerun of one of the tests needs to build the same.
    pub(crate) fn rerun_arguments(&self) -> Vec<String> {
        self.cargo_arguments()
    }

    /// Variables that make binaries list what is named here: tests on presets, and cells of the verifier's sweep, are listed
    /// only for those who ask.
    pub(crate) fn asks(&self) -> impl Iterator<Item = &'static str> + use<> {
        let words = || self.filters.iter().chain(&self.expressions);
        let gauntlet = words().any(|word| word.contains('@'));
        let verifier = words().any(|word| word.contains("verify-"));
        [("KTSTR_GAUNTLET", gauntlet), ("KTSTR_VERIFIER", verifier)]
            .into_iter()
            .filter(|(_, asked)| *asked)
            .map(|(name, _)| name)
    }

    /// Whether a test of that name is wanted, by the filters alone.
    pub(crate) fn matches(&self, name: &str) -> bool {
        let hit = |filter: &String| {
            if self.exact {
                name == filter
            } else {
                name.contains(filter.as_str())
            }
        };
        self.filters.is_empty() || self.filters.iter().any(hit)
    }
}

/// The tests whose names look most like a wrong one.
fn near(name: &str, listed: &[Listed]) -> String {
    if listed.is_empty() {
        return String::from("no test was found at all");
    }
    let mut known: Vec<&str> = listed.iter().map(|test| test.name.as_str()).collect();
    known.sort_unstable();
    known.dedup();
    known.sort_by(|a, b| strsim::jaro_winkler(name, b).total_cmp(&strsim::jaro_winkler(name, a)));
    let more = known.len().saturating_sub(5);
    known.truncate(5);
    let others = match more {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("there are {}{others}", known.join(", "))
}

/// The k-th of n parts, counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shard {
    pub(crate) k: usize,
    pub(crate) n: usize,
}

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text
            .split_once('/')
            .and_then(|(k, n)| Some((k.parse().ok()?, n.parse().ok()?)));
        match parts {
            Some((k, n)) if (1..=n).contains(&k) => Ok(Self { k, n }),
            _ => Err(format!(
                "invalid shard '{text}'; expected K/N with K from 1 to N, such as 1/3"
            )),
        }
    }
}

impl Shard {
    /// Whether the test at this place of the sorted list belongs to it: dealt out in turn, as nextest does.
    pub(crate) fn has(self, index: usize) -> bool {
        index % self.n == self.k - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_share_every_test_once() {
        for index in 0..20 {
            let owners = (1..=3).filter(|k| Shard { k: *k, n: 3 }.has(index)).count();
            assert_eq!(owners, 1);
        }
        for bad in ["0/3", "4/3", "1", "a/b", "1/0"] {
            assert!(bad.parse::<Shard>().unwrap_err().contains(bad));
        }
        assert_eq!("2/3".parse(), Ok(Shard { k: 2, n: 3 }));
    }

    #[test]
    fn a_whole_name_must_be_one() {
        let listed = ["steady", "left::same", "later"].map(|name| Listed {
            name: name.to_owned(),
            ignored: name == "later",
        });
        let check = |names: &[&str], ignored: bool| {
            let selection = Selection {
                filters: names.iter().map(|name| (*name).to_owned()).collect(),
                exact: true,
                ignored,
                ..Selection::default()
            };
            let checked = selection.check_exact(&listed);
            checked.map_err(|error| error.to_string())
        };
        assert_eq!(check(&["steady", "left::same"], false), Ok(()));
        let typo = check(&["steady", "steadi"], false).unwrap_err();
        assert!(
            typo.contains("'steadi'") && typo.contains("there are steady"),
            "{typo}"
        );
        let ignored = check(&["later"], false).unwrap_err();
        assert!(ignored.contains("--include-ignored"), "{ignored}");
        assert_eq!(check(&["later"], true), Ok(()));
        assert!(check(&["steady"], true).unwrap_err().contains("--ignored"));
    }

    #[test]
    fn filters_are_parts_unless_exact() {
        let mut selection = Selection {
            filters: vec!["ab".into(), "x".into()],
            ..Selection::default()
        };
        assert!(selection.matches("cabin") && selection.matches("x") && !selection.matches("y"));
        selection.exact = true;
        assert!(!selection.matches("cabin") && selection.matches("ab"));
    }
}
