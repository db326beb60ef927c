//! Which kernels a scheduler is declared for: a filter of the author's over release names, nothing that the code itself asks.

use std::cmp::Ordering;

/// One element of a scheduler's `kernels`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelFilter {
    from: Vec<u32>,
    to: Vec<u32>,
}

/// Text that is no filter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "invalid kernel version '{text}'; expected a version such as 6.12.30, a series such as 6.12, or a range such as 6.12..6.14"
)]
pub struct KernelFilterError {
    text: String,
}

impl KernelFilter {
    /// Reads one filter.
    ///
    /// # Errors
    /// When it is not a version, a series or a range of them.
    pub fn parse(text: &str) -> Result<Self, KernelFilterError> {
        let (from, to) = text.split_once("..").unwrap_or((text, text));
        let part = |part: &str| {
            let numbers: Option<Vec<u32>> = part.split('.').map(|n| n.parse().ok()).collect();
            numbers.filter(|numbers| (1..=3).contains(&numbers.len()))
        };
        match (part(from), part(to.trim_start_matches('='))) {
            (Some(from), Some(to)) => Ok(Self { from, to }),
            _ => Err(KernelFilterError {
                text: text.to_owned(),
            }),
        }
    }

    /// Whether a kernel of this release (`uname -r`) is meant. A series holds all of its versions.
    #[must_use]
    pub fn admits(&self, release: &str) -> bool {
        let version = version_of(release);
        let upto = |limit: &[u32]| {
            version
                .get(..limit.len().min(version.len()))
                .cmp(&Some(limit))
        };
        !version.is_empty()
            && upto(&self.from) != Ordering::Less
            && upto(&self.to) != Ordering::Greater
    }
}

/// The leading numbers of a release: `6.12.30-rt1` is 6, 12, 30.
fn version_of(release: &str) -> Vec<u32> {
    let end = release
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(release.len());
    let numbers = release.get(..end).unwrap_or_default().split('.');
    let mut version: Vec<u32> = numbers.map_while(|number| number.parse().ok()).collect();
    if !version.is_empty() {
        // A first release has no third number.
        version.resize(3, 0);
    }
    version
}

/// Why a kernel of this release is none of `filters`; `None` when it is one, or when there are no filters.
#[must_use]
pub fn refusal(filters: &[&str], release: &str) -> Option<String> {
    let meant = |text: &&str| KernelFilter::parse(text).is_ok_and(|filter| filter.admits(release));
    (!filters.is_empty() && !filters.iter().any(meant)).then(|| filters.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(filter: &str, release: &str, admitted: bool) {
        let filter = KernelFilter::parse(filter).unwrap();
        assert_eq!(filter.admits(release), admitted, "{filter:?} {release}");
    }

    #[test]
    fn versions_series_and_ranges() {
        check("6.12.117", "6.12.117", true);
        check("6.12.117", "6.12.11", false);
        check("6.12", "6.12.117-custom", true);
        check("6.12", "6.1.2", false);
        check("6.12", "6.12.0-rc1", true);
        check("6", "6.12.1", true);
        check("6.10..6.12", "6.12.200", true);
        check("6.10..6.12", "6.13.0", false);
        check("6.12.5..6.13", "6.12.4", false);
        check("6.12.5..=6.13", "6.13.9", true);
        check("6.15", "6.15", true);
        check("6.15", "unknown", false);
    }

    #[test]
    fn what_is_no_filter_is_told_with_examples() {
        for text in ["", "new", "6.", "6.12..", ">=6.12", "1.2.3.4"] {
            let error = KernelFilter::parse(text).unwrap_err().to_string();
            assert!(error.contains("6.12..6.14"), "{error}");
        }
    }

    #[test]
    fn one_filter_that_admits_is_enough() {
        assert_eq!(refusal(&[], "6.12.1"), None);
        assert_eq!(refusal(&["6.11", "6.12"], "6.12.1"), None);
        assert_eq!(
            refusal(&["6.11", "7.0"], "6.12.1").as_deref(),
            Some("6.11, 7.0")
        );
    }
}
