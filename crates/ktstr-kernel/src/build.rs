//! From a source to a cache entry.

use std::fmt;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use sha2::{Digest as _, Sha256};

use crate::cache::{Cache, Metadata, WorkDir, sha256};
use crate::config::{FRAGMENT, defines, dropped};
use crate::edit::Changes;
use crate::kept::KeptTree;
use crate::mirror::{self, Release};
use crate::{IMAGE, Kernel, KernelError, VMLINUX, VMLINUX_DEBUG, failed_to};

/// Where a kernel's source comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Source {
    /// The archive of a distribution's source package.
    Archive(PathBuf),
    /// A source tree; it is built outside of itself and stays clean.
    Tree(PathBuf),
    /// A release from a kernel.org-style mirror.
    Mirror {
        /// Base address, without the directory of the major version.
        base: String,
        /// Which release.
        release: Release,
    },
}

impl fmt::Display for Source {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Archive(path) | Self::Tree(path) => write!(out, "{}", path.display()),
            Self::Mirror { base, release } => write!(out, "Linux {} from {base}", release.as_str()),
        }
    }
}

impl Source {
    /// Debian's `linux-source-6.12`.
    #[must_use]
    pub fn debian() -> Self {
        Self::Archive(PathBuf::from("/usr/src/linux-source-6.12.tar.xz"))
    }
}

/// How to build.
#[derive(Debug, Clone)]
pub struct BuildOptions {
    /// Jobs of make.
    pub jobs: usize,
    /// Where the build's output goes.
    pub log: PathBuf,
    /// Refuse to begin with less free space than this in the cache's file system.
    pub min_free_bytes: u64,
}

impl BuildOptions {
    /// What a build of Linux 6.12 takes at its largest, source and objects together: 3.1 GB measured, and some room.
    pub const MIN_FREE_BYTES: u64 = 4 << 30;
}

/// Progress callback of a kernel build.
pub trait Progress {
    /// A step begins.
    fn step(&mut self, text: &str);
    /// One more file was compiled.
    fn tick(&mut self);
    /// Whether the user wants it to stop; asked between steps and within downloads.
    fn cancelled(&self) -> bool {
        false
    }
}

/// The cached kernel of `source`, built if it is not there or damaged.
///
/// # Errors
/// When the source is missing, an option does not stick, or a step fails; the message names the log.
pub fn build(
    cache: &Cache,
    source: &Source,
    options: &BuildOptions,
    progress: &mut dyn Progress,
) -> Result<Kernel, KernelError> {
    found_or_made(cache, source, &Changes::default(), progress, |progress| {
        check_space(cache.root(), options.min_free_bytes)?;
        let work = WorkDir::new_in(cache.root(), ".build-")
            .map_err(failed_to("create a build directory in", cache.root()))?;
        let mut steps = Steps::new(options, progress)?;
        let tree = match source {
            Source::Tree(tree) => tree.clone(),
            _ => {
                let tree = work.path().join("source");
                fs::create_dir(&tree).map_err(failed_to("create", &tree))?;
                steps.unpack(source, cache, &tree)?;
                tree
            }
        };
        let out = work.path().join("out");
        let release = steps.make_kernel(&tree, &out)?;
        let files = work.path().join("files");
        steps.collect(&out, &files)?;
        Ok((work, files, release))
    })
}

/// The same with changes of the source, by way of a tree that is kept with its objects: the next build from this source makes
/// only what differs. Without changes it is the entry that [`build`] makes. A user's tree is copied, and only read.
///
/// # Errors
/// As [`build`], and when a change does not fit the source.
pub fn build_changed(
    cache: &Cache,
    source: &Source,
    changes: &Changes,
    options: &BuildOptions,
    progress: &mut dyn Progress,
) -> Result<Kernel, KernelError> {
    found_or_made(cache, source, changes, progress, |progress| {
        let trees = cache.trees();
        let key = tree_key(source, &compiler())?;
        let _lock = trees.lock_exclusive(&key, || {
            progress.step("waiting for another build in the same tree")
        })?;
        let kept = KeptTree::at(trees.root().join(&key));
        let mut steps = Steps::new(options, progress)?;
        if !kept.is_ready() {
            check_space(trees.root(), options.min_free_bytes)?;
            kept.begin()?;
            if !matches!(source, Source::Tree(_)) {
                steps.unpack(source, cache, &kept.source())?;
            }
            kept.finish()?;
        }
        if let Source::Tree(tree) = source {
            steps
                .progress
                .step("copying what differs in the source tree");
            kept.follow(tree)?;
        }
        kept.change(changes)?;
        let release = steps.make_kernel(&kept.source(), &kept.out())?;
        let work = WorkDir::new_in(cache.root(), ".build-")
            .map_err(failed_to("create a build directory in", cache.root()))?;
        let files = work.path().join("files");
        steps.collect(&kept.out(), &files)?;
        Ok((work, files, release))
    })
}

/// The entry, or what `make` leaves for it: a directory that goes away after it, the entry's files in it, and the release.
fn found_or_made(
    cache: &Cache,
    source: &Source,
    changes: &Changes,
    progress: &mut dyn Progress,
    make: impl FnOnce(&mut dyn Progress) -> Result<(WorkDir, PathBuf, String), KernelError>,
) -> Result<Kernel, KernelError> {
    let compiler = compiler();
    let key = key(source, changes, &compiler)?;
    if let Some(kernel) = cache.entry(&key)? {
        return Ok(kernel);
    }
    let lock = cache.lock_exclusive(&key, || {
        progress.step("waiting for another build of the same kernel")
    })?;
    // Another builder may have been faster.
    if cache.inspect(&key).is_err() {
        let (_work, files, release) = make(progress)?;
        let metadata = Metadata {
            source: source.to_string(),
            release,
            compiler,
            image_bytes: 0,
            vmlinux_bytes: 0,
            image_sha256: String::new(),
            changes: changes.names(),
        };
        cache.publish(&key, &files, metadata)?;
    }
    drop(lock);
    cache.entry(&key)?.ok_or_else(|| KernelError::None {
        cache: cache.root().to_owned(),
    })
}

/// Better told before than after twenty minutes.
fn check_space(path: &Path, need: u64) -> Result<(), KernelError> {
    let space = rustix::fs::statvfs(path)
        .map_err(|errno| failed_to("ask for the free space of", path)(errno.into()))?;
    let free = space.f_bavail.saturating_mul(space.f_frsize);
    if free >= need {
        return Ok(());
    }
    Err(KernelError::NoSpace {
        path: path.to_owned(),
        free_mib: free >> 20,
        need_mib: need >> 20,
    })
}

fn create_log(path: &Path) -> Result<File, KernelError> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).map_err(failed_to("create the directory of", path))?;
    }
    File::create(path).map_err(failed_to("create the log", path))
}

fn compiler() -> String {
    let output = Command::new("gcc").arg("--version").output();
    let text = output
        .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
        .unwrap_or_default();
    text.lines().next().unwrap_or("no compiler").to_owned()
}

/// Which files an entry has, and of what kind: a build that leaves other ones is another entry.
const LAYOUT: &str = "whole vmlinux.debug";

/// Source, changes, configuration and compiler, in sixteen hex digits behind a readable name.
fn key(source: &Source, changes: &Changes, compiler: &str) -> Result<String, KernelError> {
    let (name, identity) = identity(source)?;
    if changes.is_empty() {
        return Ok(key_of(&name, &[identity.as_bytes()], compiler));
    }
    let name = format!("{name}-changed");
    Ok(key_of(
        &name,
        &[identity.as_bytes(), &changes.identity()],
        compiler,
    ))
}

/// Of the kept tree, which follows what a user writes in theirs.
fn tree_key(source: &Source, compiler: &str) -> Result<String, KernelError> {
    let (name, mut whose) = identity(source)?;
    if let Source::Tree(path) = source {
        whose = std::path::absolute(path)
            .map_err(failed_to("find", path))?
            .display()
            .to_string();
    }
    Ok(key_of(&name, &[whose.as_bytes()], compiler))
}

fn key_of(name: &str, parts: &[&[u8]], compiler: &str) -> String {
    let mut hash = Sha256::new();
    let rest = [FRAGMENT, compiler, LAYOUT].map(str::as_bytes);
    // In the order in which entries of older versions were named.
    let [first, more @ ..] = parts else {
        return crate::sanitize_kernel_label(name);
    };
    for part in std::iter::once(first).chain(&rest).chain(more) {
        hash.update(part);
        hash.update([0]);
    }
    let digest = format!("{:x}", hash.finalize());
    format!(
        "{}-{}",
        crate::sanitize_kernel_label(name),
        digest.get(..16).unwrap_or_default()
    )
}

/// A readable name of a source, and what tells it from any other.
fn identity(source: &Source) -> Result<(String, String), KernelError> {
    Ok(match source {
        Source::Archive(path) => {
            if !path.is_file() {
                let hint = "install it (Debian: `apt-get install linux-source-6.12`), or name another kernel";
                return Err(KernelError::NoSource {
                    path: path.clone(),
                    hint,
                });
            }
            let name = path
                .file_name()
                .map(|name| name.to_string_lossy().into_owned())
                .unwrap_or_default();
            let name = name.split(".tar").next().unwrap_or_default().to_owned();
            (name, sha256(path).map_err(failed_to("read", path))?)
        }
        Source::Tree(path) => {
            let makefile = path.join("Makefile");
            if !makefile.is_file() {
                return Err(KernelError::NoSource {
                    path: path.clone(),
                    hint: "name a Linux source tree",
                });
            }
            let name = path
                .file_name()
                .map(|name| name.to_string_lossy().into_owned())
                .unwrap_or_default();
            let head = git_head(path).unwrap_or_else(|| {
                format!(
                    "{:?}",
                    makefile.metadata().ok().and_then(|m| m.modified().ok())
                )
            });
            (name, format!("{} {head}", path.display()))
        }
        // A release never changes, wherever it comes from.
        Source::Mirror { release, .. } => {
            let name = format!("linux-{}", release.as_str());
            (name, format!("release {}", release.as_str()))
        }
    })
}

fn git_head(tree: &Path) -> Option<String> {
    let git = |args: &[&str]| {
        let output = Command::new("git")
            .arg("-C")
            .arg(tree)
            .args(args)
            .output()
            .ok()?;
        output
            .status
            .success()
            .then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    };
    Some(format!(
        "{} {}",
        git(&["rev-parse", "HEAD"])?,
        git(&["diff", "HEAD"])?
    ))
}

/// Ends the command when the thread that starts it ends, killed or not: make passes the signal on to what it has started.
/// The thread waits for the command, so it does not end before it by itself.
fn end_with_parent(command: &mut Command) {
    let parent = std::process::id();
    let in_child = move || {
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM))?;
        // It may have ended before this process asked.
        let now = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get().unsigned_abs());
        if now == Some(parent) {
            Ok(())
        } else {
            Err(std::io::Error::from(rustix::io::Errno::SRCH))
        }
    };
    // SAFETY: prctl and getppid are system calls that are allowed between fork and exec; nothing is allocated or locked.
    unsafe { command.pre_exec(in_child) };
}

struct Steps<'a> {
    options: &'a BuildOptions,
    progress: &'a mut dyn Progress,
    log: File,
}

impl<'a> Steps<'a> {
    fn new(options: &'a BuildOptions, progress: &'a mut dyn Progress) -> Result<Self, KernelError> {
        Ok(Self {
            options,
            progress,
            log: create_log(&options.log)?,
        })
    }

    /// Runs one command, its output into the log; a tick per line.
    fn run(&mut self, step: &str, command: &mut Command) -> Result<(), KernelError> {
        if self.progress.cancelled() {
            return Err(KernelError::Cancelled);
        }
        self.progress.step(step);
        let failed = |status: String, options: &BuildOptions| {
            let text = fs::read_to_string(&options.log).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            let tail = lines
                .get(lines.len().saturating_sub(15)..)
                .unwrap_or_default()
                .join("\n");
            KernelError::Build {
                step: step.to_owned(),
                status,
                log: options.log.clone(),
                tail,
            }
        };
        let errors = self
            .log
            .try_clone()
            .map_err(failed_to("share the log", &self.options.log))?;
        end_with_parent(command);
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(errors)
            .spawn();
        let mut child = child.map_err(|error| failed(error.to_string(), self.options))?;
        if let Some(stdout) = child.stdout.take() {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                // A log that cannot be written costs only the log.
                let _ = writeln!(self.log, "{line}");
                self.progress.tick();
            }
        }
        let status = child
            .wait()
            .map_err(|error| failed(error.to_string(), self.options))?;
        if status.success() {
            Ok(())
        } else if self.progress.cancelled() {
            Err(KernelError::Cancelled)
        } else {
            Err(failed(status.to_string(), self.options))
        }
    }

    /// The source's files into the directory `tree`; a tree has them where they are.
    fn unpack(&mut self, source: &Source, cache: &Cache, tree: &Path) -> Result<(), KernelError> {
        let archive = match source {
            Source::Tree(_) => return Ok(()),
            Source::Archive(archive) => archive.clone(),
            Source::Mirror { base, release } => {
                mirror::fetch(base, release, &cache.sources(), self.progress)?
            }
        };
        let mut tar = Command::new("tar");
        tar.arg("-xf")
            .arg(archive)
            .arg("-C")
            .arg(tree)
            .arg("--strip-components=1");
        self.run("unpacking the kernel source", &mut tar)
    }

    /// Configures and builds; returns the kernel's release.
    fn make_kernel(&mut self, tree: &Path, out: &Path) -> Result<String, KernelError> {
        fs::create_dir_all(out).map_err(failed_to("create", out))?;
        let fragment = out.join("ktstr.kconfig");
        fs::write(&fragment, FRAGMENT).map_err(failed_to("write", &fragment))?;
        let make = |targets: &[&str]| {
            let mut make = Command::new("make");
            make.arg("-C")
                .arg(tree)
                .arg(format!("O={}", out.display()))
                .args(targets);
            make
        };
        let mut configure = make(&["allnoconfig"]);
        configure.env("KCONFIG_ALLCONFIG", &fragment);
        self.run("configuring the kernel", &mut configure)?;
        let config = out.join(".config");
        let text = fs::read_to_string(&config).map_err(failed_to("read", &config))?;
        let options = dropped(FRAGMENT, &text, |option| defines(tree, option));
        if !options.is_empty() {
            let kept = self.options.log.with_extension("config");
            // The build directory goes away; the configuration is what the user needs to see.
            let path = if fs::copy(&config, &kept).is_ok() {
                kept
            } else {
                config
            };
            return Err(KernelError::Config { options, path });
        }
        let jobs = format!("-j{}", self.options.jobs.max(1));
        self.run(
            "building the kernel",
            &mut make(&[&jobs, "bzImage", "vmlinux"]),
        )?;
        let release = out.join("include/config/kernel.release");
        Ok(fs::read_to_string(&release)
            .unwrap_or_default()
            .trim()
            .to_owned())
    }

    /// The files of an entry: vmlinux with BTF and symbols, which is what we read, and a whole one with DWARF for those who
    /// open a vmcore. Both drgn and crash want code and sections in it: a file of debug information alone makes drgn move
    /// per-CPU variables by KASLR's slide.
    fn collect(&mut self, out: &Path, files: &Path) -> Result<(), KernelError> {
        fs::create_dir(files).map_err(failed_to("create", files))?;
        for (from, to) in [("arch/x86/boot/bzImage", IMAGE), (".config", "config")] {
            fs::copy(out.join(from), files.join(to)).map_err(failed_to("copy", &out.join(from)))?;
        }
        let objcopy = |args: &[&str], to: &str| {
            let mut command = Command::new("objcopy");
            command
                .args(args)
                .arg(out.join(VMLINUX))
                .arg(files.join(to));
            command
        };
        self.run(
            "keeping vmlinux's debug information",
            &mut objcopy(&["--compress-debug-sections"], VMLINUX_DEBUG),
        )?;
        self.run(
            "stripping vmlinux",
            &mut objcopy(&["--strip-debug"], VMLINUX),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Quiet;

    impl Progress for Quiet {
        fn step(&mut self, _: &str) {}
        fn tick(&mut self) {}
    }

    /// The fragment as a configuration that took all of it: options that are off are not written as `=n`.
    fn kept() -> String {
        let lines = FRAGMENT.lines().filter(|line| !line.ends_with("=n"));
        lines.map(|line| format!("{line}\n")).collect()
    }

    /// A tree whose Makefile does what Linux's does, in miniature.
    fn fake_tree(dir: &Path, config: &str) -> PathBuf {
        let tree = dir.join("linux-mini");
        fs::create_dir_all(&tree).unwrap();
        fs::write(tree.join("config.in"), config).unwrap();
        let makefile = "allnoconfig:\n\tcp config.in $(O)/.config\nbzImage:\n\tmkdir -p $(O)/arch/x86/boot \
            $(O)/include/config\n\techo image > $(O)/arch/x86/boot/bzImage\n\techo 9.9 > $(O)/include/config/kernel.release\n\
            vmlinux:\n\tcp /bin/true $(O)/vmlinux\n";
        fs::write(tree.join("Makefile"), makefile).unwrap();
        tree
    }

    #[track_caller]
    fn build_fake(config: &str) -> (Result<Kernel, KernelError>, tempfile::TempDir, Cache) {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path().join("cache"));
        fs::create_dir_all(cache.root()).unwrap();
        let source = Source::Tree(fake_tree(dir.path(), config));
        let options = BuildOptions {
            jobs: 1,
            log: dir.path().join("build.log"),
            min_free_bytes: 1,
        };
        let built = build(&cache, &source, &options, &mut Quiet);
        (built, dir, cache)
    }

    #[test]
    fn a_tree_becomes_an_entry_and_stays_clean() {
        let (built, dir, cache) = build_fake(&kept());
        let kernel = built.unwrap();
        assert_eq!(fs::read(&kernel.image).unwrap(), b"image\n");
        assert_eq!(cache.keys().len(), 1);
        assert!(
            cache.keys()[0].starts_with("linux-mini-"),
            "{:?}",
            cache.keys()
        );
        assert_eq!(
            fs::read_dir(dir.path().join("linux-mini")).unwrap().count(),
            2
        );
        let left = fs::read_dir(cache.root())
            .unwrap()
            .filter(|e| {
                e.as_ref()
                    .unwrap()
                    .file_name()
                    .to_string_lossy()
                    .starts_with(".build")
            })
            .count();
        assert_eq!(left, 0, "the build directory goes away");
    }

    #[test]
    fn an_option_that_did_not_stick_is_an_error_that_names_it() {
        let config = kept().replace("CONFIG_SCHED_CLASS_EXT=y\n", "");
        let (built, _dir, cache) = build_fake(&config);
        let error = built.unwrap_err().to_string();
        assert!(
            error.contains("CONFIG_SCHED_CLASS_EXT=y") && error.contains("build.config"),
            "{error}"
        );
        assert!(cache.keys().is_empty());
    }

    #[test]
    fn a_full_disk_is_told_before_the_build() {
        let dir = tempfile::tempdir().unwrap();
        let error = check_space(dir.path(), u64::MAX).unwrap_err().to_string();
        assert!(
            error.contains("free") && error.contains("KTSTR_CACHE_DIR"),
            "{error}"
        );
    }

    #[test]
    fn a_missing_source_says_how_to_get_it() {
        let error = identity(&Source::Archive("/no/such.tar.xz".into()))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("/no/such.tar.xz")
                && error.contains("apt-get install linux-source-6.12"),
            "{error}"
        );
    }
}
