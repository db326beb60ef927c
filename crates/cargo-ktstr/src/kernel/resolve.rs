//! From what the user named to kernels that boot: found, fetched or built.

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use ktstr::host::plan::kernel::{mirror_base, resolve_test_kernel, wanted_kernel};
use ktstr_kernel::{
    BuildOptions, Cache, Changes, Kernel, KernelError, Release, Source, build, build_changed,
    releases, sanitize_kernel_label,
};

use super::resolved::Resolved;
use super::spec::{Bound, KernelSpec, Series};
use super::{git, logs_dir, package, series_dir};
use crate::interrupt::Unwinding;
use crate::progress::Bar;

/// The kernel that tests take by themselves.
///
/// # Errors
/// When there is none; with the command that gets one.
pub(crate) fn resolve_default() -> Result<Resolved> {
    let kernel = resolve_test_kernel()
        .context("no kernel to test on; build one with `cargo ktstr kernel build`, or name one with --kernel")?;
    let overridden = wanted_kernel();
    let mut resolved = Resolved::cached(kernel);
    if let Some(value) = overridden {
        // As the environment has it, but from everywhere: tests run in their package's directory, and a rerun anywhere.
        let path = Path::new(&value);
        let absolute = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        resolved.value = Some(absolute.display().to_string());
    }
    Ok(resolved)
}

/// Every kernel that one argument names; builds what is not there.
///
/// # Errors
/// When one cannot be had.
pub(crate) fn resolve(spec: &KernelSpec, cache: &Cache, jobs: usize) -> Result<Vec<Resolved>> {
    let one = |source: &Source| -> Result<Vec<Resolved>> {
        Ok(vec![Resolved::cached(build_source(source, cache, jobs)?)])
    };
    match spec {
        KernelSpec::Image(path) => {
            let name = path
                .file_name()
                .map(|name| name.to_string_lossy().into_owned());
            Ok(vec![Resolved::image(path, &name.unwrap_or_default())])
        }
        KernelSpec::Tree(path) => {
            let built = path.join("arch/x86/boot/bzImage");
            if built.is_file() {
                eprintln!("cargo ktstr: using the existing build {}", built.display());
                let name = path
                    .file_name()
                    .map(|name| name.to_string_lossy().into_owned());
                let mut resolved = Resolved::image(&built, &name.unwrap_or_default());
                // The tree itself, so that its vmlinux is found, too.
                resolved.value = Some(path.display().to_string());
                return Ok(vec![resolved]);
            }
            one(&Source::Tree(path.clone()))
        }
        KernelSpec::Archive(path) => one(&Source::Archive(path.clone())),
        KernelSpec::DebianSource => one(&Source::debian()),
        KernelSpec::Newest(distro) => Ok(vec![package::newest_of(*distro, cache)?]),
        KernelSpec::Package(path) => Ok(vec![package::extract(path, cache)?]),
        KernelSpec::Git { url, at } => one(&Source::Tree(git::checkout(url, at, cache)?)),
        KernelSpec::Release(release) => one(&from_mirror(release.clone())),
        KernelSpec::Series(series) => one(&from_mirror(newest_of(*series, cache)?)),
        KernelSpec::Range(from, to) => {
            let listed = releases(&mirror_base(), from.series().major)?;
            let chosen = within(&listed, from, to)?;
            let build = |release: Release| -> Result<Resolved> {
                Ok(Resolved::cached(build_source(
                    &from_mirror(release),
                    cache,
                    jobs,
                )?))
            };
            chosen.into_iter().map(build).collect()
        }
        KernelSpec::Key(key) => {
            if let Some(kernel) = cache.entry(key)? {
                return Ok(vec![Resolved::cached(kernel)]);
            }
            match series_dir(cache).entry(key)? {
                Some(kernel) => Ok(vec![Resolved::cached_elsewhere(kernel)]),
                None => bail!("{}", no_such_key(key, cache)),
            }
        }
    }
}

/// The same with changes of the source.
///
/// # Errors
/// When a kernel has no source to change, or cannot be had.
pub(super) fn resolve_changed(
    spec: &KernelSpec,
    changes: &Changes,
    cache: &Cache,
    jobs: usize,
) -> Result<Vec<Resolved>> {
    if changes.is_empty() {
        return resolve(spec, cache, jobs);
    }
    let source = match spec {
        KernelSpec::Tree(path) => Source::Tree(path.clone()),
        KernelSpec::Archive(path) => Source::Archive(path.clone()),
        KernelSpec::DebianSource => Source::debian(),
        KernelSpec::Git { url, at } => Source::Tree(git::checkout(url, at, cache)?),
        KernelSpec::Release(release) => from_mirror(release.clone()),
        KernelSpec::Series(series) => from_mirror(newest_of(*series, cache)?),
        KernelSpec::Image(_)
        | KernelSpec::Package(_)
        | KernelSpec::Newest(_)
        | KernelSpec::Key(_)
        | KernelSpec::Range(..) => bail!(
            "--edit and --patch change a source; name one: a source tree, an archive, a version, a series or git+URL"
        ),
    };
    let kernel = made(&source, cache, jobs, |options, bar| {
        build_changed(cache, &source, changes, options, bar)
    })?;
    Ok(vec![Resolved::cached(kernel)])
}

fn no_such_key(key: &str, cache: &Cache) -> String {
    let keys = cache.keys();
    let have = if keys.is_empty() {
        String::from("it is empty")
    } else {
        format!("it has {}", keys.join(", "))
    };
    let kind = if cache.all_keys().iter().any(|have| have == key) {
        "is damaged; remove it with `cargo ktstr kernel clean --damaged`"
    } else {
        "is not in the cache"
    };
    format!(
        "kernel '{key}' {kind} ({have}). --kernel takes {}",
        super::FORMS
    )
}

fn from_mirror(release: Release) -> Source {
    Source::Mirror {
        base: mirror_base(),
        release,
    }
}

/// The newest release that the mirror lists; without the mirror, the newest in the cache.
fn newest_of(series: Series, cache: &Cache) -> Result<Release> {
    let of_series = |release: &Release| {
        let (major, minor, _) = release.numbers();
        Series { major, minor } == series
    };
    let error = match releases(&mirror_base(), series.major) {
        Ok(listed) => match listed.into_iter().rfind(of_series) {
            Some(release) => return Ok(release),
            None => bail!("the mirror {} lists no release of {series}", mirror_base()),
        },
        Err(error) => error,
    };
    let cached = cache
        .keys()
        .iter()
        .filter_map(|key| Release::parse(key.strip_prefix("linux-")?.rsplit_once('-')?.0).ok())
        .filter(of_series)
        .max_by_key(Release::numbers);
    match cached {
        Some(release) => {
            eprintln!(
                "cargo ktstr: {error}; taking the newest {series} in the cache, {}",
                release.as_str()
            );
            Ok(release)
        }
        None => Err(error).with_context(|| format!("the newest release of {series} is not known")),
    }
}

/// More kernels than this are a slip, not a matrix.
const MAX_RANGE: usize = 40;

/// Between two series: the newest release of each. With an exact release at an end: every release.
fn within(listed: &[Release], from: &Bound, to: &Bound) -> Result<Vec<Release>> {
    let inside = |release: &&Release| {
        let (major, minor, _) = release.numbers();
        let series = Series { major, minor };
        let above = match from {
            Bound::Series(first) => series >= *first,
            Bound::Release(first) => release.numbers() >= first.numbers(),
        };
        let below = match to {
            Bound::Series(last) => series <= *last,
            Bound::Release(last) => release.numbers() <= last.numbers(),
        };
        above && below
    };
    let mut chosen: Vec<Release> = listed.iter().filter(inside).cloned().collect();
    chosen.sort_by_key(Release::numbers);
    if matches!((from, to), (Bound::Series(_), Bound::Series(_))) {
        // Newest first, so that each series keeps its newest.
        chosen.reverse();
        chosen.dedup_by_key(|release| (release.numbers().0, release.numbers().1));
        chosen.reverse();
    }
    match chosen.len() {
        0 => bail!(
            "the mirror {} lists no release in this range",
            mirror_base()
        ),
        1..=MAX_RANGE => Ok(chosen),
        many => bail!(
            "this range has {many} releases, at most {MAX_RANGE} are taken; give a narrower one"
        ),
    }
}

/// Builds with progress on standard error; a log is left only by a failure.
///
/// # Errors
/// When the build fails or is stopped.
pub(super) fn build_source(source: &Source, cache: &Cache, jobs: usize) -> Result<Kernel> {
    made(source, cache, jobs, |options, bar| {
        build(cache, source, options, bar)
    })
}

fn made(
    source: &Source,
    cache: &Cache,
    jobs: usize,
    build: impl FnOnce(&BuildOptions, &mut Bar) -> Result<Kernel, KernelError>,
) -> Result<Kernel> {
    let name = sanitize_kernel_label(&source.to_string());
    let log = logs_dir(cache).join(format!("{name}-{}.log", std::process::id()));
    let options = BuildOptions {
        jobs,
        log: log.clone(),
        min_free_bytes: BuildOptions::MIN_FREE_BYTES,
    };
    let _unwinding = Unwinding::begin();
    let mut bar = Bar::new();
    let built = build(&options, &mut bar);
    bar.finish();
    if !matches!(
        built,
        Err(KernelError::Build { .. } | KernelError::Config { .. })
    ) {
        // Nothing in it is needed.
        let _ = std::fs::remove_file(&log);
    }
    built.with_context(|| format!("no kernel from {source}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed() -> Vec<Release> {
        ["6.11", "6.12", "6.12.1", "6.12.30", "6.13.2", "6.14"]
            .iter()
            .map(|text| Release::parse(text).unwrap())
            .collect()
    }

    #[track_caller]
    fn check(range: &str, expected: &[&str]) {
        let Ok(KernelSpec::Range(from, to)) = KernelSpec::parse(range) else {
            panic!("{range} is not a range")
        };
        let chosen = within(&listed(), &from, &to).unwrap();
        let names: Vec<_> = chosen.iter().map(Release::as_str).collect();
        assert_eq!(names, expected);
    }

    #[test]
    fn ranges_take_the_newest_of_each_series() {
        check("6.11..6.13", &["6.11", "6.12.30", "6.13.2"]);
        check("6.12.1..6.13", &["6.12.1", "6.12.30", "6.13.2"]);
        check("6.12..6.12.1", &["6.12", "6.12.1"]);
    }

    #[test]
    fn an_unknown_key_lists_what_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path().join("kernels"));
        let error = resolve(&KernelSpec::Key("nope".into()), &cache, 1)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("nope") && error.contains("is empty") && error.contains("6.12.30"),
            "{error}"
        );
    }
}
