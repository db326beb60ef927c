//! Booted guests that are kept for copies: damaged, half made, made by two at once, on a full disk, copied many times.
//!
//! `KTSTR_FORK_RUNS` says how many copies of one guest are run in a row, `KTSTR_KILLS` how many makers are killed; CI takes few.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ktstr::host::evidence::clock::ClockFigures;
use ktstr::host::plan::config::HostConfig;
use ktstr::host::plan::kernel::resolve_test_kernel;
use ktstr::host::run::run_test;
use ktstr::model::entry::find_test;
use ktstr::prelude::*;
use ktstr_tests::CaseRun;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

#[path = "../../crates/ktstr-vmm/tests/shared/program.rs"]
mod program;

use program::write_program;

const CASES: &str = env!("CARGO_BIN_EXE_cases");
const CASE: &str = "smallest";
/// The files of a kept guest (`ktstr_vmm::Saved`).
const FILES: [&str; 6] = ["com1", "com2", "ram0", "said", "saved", "state"];

#[ktstr_test(topology = "1n1l1c1t", time = "virtual", duration_s = 1, ignore)]
fn copied(ctx: &Ctx) -> Result<AssertResult> {
    execute_defs(ctx, vec![CgroupDef::named("only").workers(1)])
}

/// A cache of its own, and a program that no build replaces meanwhile: a template is of one program.
struct Place {
    cache: tempfile::TempDir,
    kernel: String,
    programs: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let kernel = resolve_test_kernel().expect("a test kernel");
        // Beside the built one, for a link cannot leave its file system.
        let built = Path::new(CASES).parent().expect("the target directory");
        let place = Self {
            cache: tempfile::tempdir().expect("a directory"),
            kernel: kernel.image.display().to_string(),
            programs: tempfile::tempdir_in(built).expect("a directory"),
        };
        fs::hard_link(CASES, place.cases()).expect("a link");
        place
    }

    fn cases(&self) -> PathBuf {
        self.programs.path().join("cases")
    }

    fn env(&self) -> [(&str, &str); 5] {
        [
            (
                "KTSTR_CACHE_DIR",
                self.cache.path().to_str().expect("a plain path"),
            ),
            ("KTSTR_KERNEL", &self.kernel),
            ("KTSTR_TEST_KERNEL", ""),
            ("KTSTR_TIME", "virtual"),
            ("RUST_LOG", "warn"),
        ]
    }

    fn run(&self) -> CaseRun {
        let cases = self.cases();
        let cases = cases.to_str().expect("a plain path");
        CaseRun::new(cases, CASE, &self.env()).expect("the case runs")
    }

    fn names(&self) -> BTreeSet<String> {
        let entries = fs::read_dir(self.cache.path().join("templates"));
        let names = entries.into_iter().flatten().filter_map(|entry| {
            let name = entry.ok()?.file_name().into_string().ok()?;
            (!name.ends_with(".lock")).then_some(name)
        });
        names.collect()
    }

    /// The directory of the only guest that is kept; nothing half made lies beside it.
    #[track_caller]
    fn only(&self) -> PathBuf {
        let names = self.names();
        assert_eq!(names.len(), 1, "{names:?}");
        let name = names.first().expect("one name");
        assert!(!name.starts_with('.'), "{name}");
        self.cache.path().join("templates").join(name)
    }

    /// Processes that were started with this cache.
    fn processes(&self) -> Vec<String> {
        let mark = format!("KTSTR_CACHE_DIR={}\0", self.cache.path().display());
        let entries = fs::read_dir("/proc").expect("/proc");
        let pids = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let ours = |pid: &String| {
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            String::from_utf8_lossy(&environment).contains(&mark)
        };
        pids.filter(ours).collect()
    }
}

#[track_caller]
fn clock(run: &CaseRun) -> &ClockFigures {
    &run.exits(0).sidecar.as_ref().expect("a record").clock
}

#[track_caller]
fn is_copy(run: &CaseRun) {
    let clock = clock(run);
    assert_eq!(clock.forked, Some(true), "{:?}", clock.fork_why);
}

/// Changes a byte in the middle.
fn damage(file: &Path) {
    let mut file = File::options()
        .read(true)
        .write(true)
        .open(file)
        .expect("a file of the kept guest");
    let middle = file.metadata().expect("its length").len() / 2;
    let mut byte = [0];
    file.seek(SeekFrom::Start(middle)).expect("a place in it");
    // One that is empty gets its first byte.
    let _ = file.read(&mut byte).expect("its bytes");
    file.seek(SeekFrom::Start(middle)).expect("a place in it");
    file.write_all(&[!byte[0]]).expect("another byte");
}

/// What is made again is equal, so that the run is the same one.
#[test]
fn a_damaged_file_is_noticed_and_all_is_made_anew() {
    let place = Place::new();
    let first = place.run();
    is_copy(&first);
    let found: BTreeSet<_> = fs::read_dir(place.only())
        .expect("the kept guest")
        .map(|entry| entry.expect("its files").file_name().into_string())
        .collect();
    assert_eq!(found, FILES.map(|name| Ok(name.to_owned())).into());
    let truncate = |file: &Path| {
        let file = File::options().write(true).open(file).expect("a file");
        file.set_len(4096).expect("less of it");
    };
    let remove = |file: &Path| fs::remove_file(file).expect("no file");
    let others = [
        ("ram0", truncate as fn(&Path)),
        ("state", remove),
        ("saved", remove),
    ];
    let flips = FILES.map(|name| (name, damage as fn(&Path)));
    for (name, harm) in flips.into_iter().chain(others) {
        let kept = place.only();
        harm(&kept.join(name));
        let again = place.run();
        is_copy(&again);
        assert_eq!(place.only(), kept, "a template of another key");
        let file = format!("/{name}' is damaged");
        again.says(&["the template is made again", &file]);
        assert_eq!(clock(&again), clock(&first), "after harm to {name}");
    }
}

/// At moments that lie evenly in the time that a making takes.
#[test]
fn a_killed_maker_is_in_no_ones_way() {
    let kills: u32 = number("KTSTR_KILLS", 5);
    let whole = {
        let began = Instant::now();
        is_copy(&Place::new().run());
        began.elapsed()
    };
    let place = Place::new();
    for kill in 0..kills {
        let mut child = Command::new(place.cases())
            .args(["--exact", CASE, "--include-ignored"])
            .envs(place.env())
            .env("KTSTR_SIDECAR_DIR", place.cache.path().join("records"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the case starts");
        let ended = pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).expect("a pidfd");
        let moment = whole * (kill + 1) / (kills + 2);
        let moment = Timespec::try_from(moment).expect("a short time");
        poll(&mut [PollFd::new(&ended, PollFlags::IN)], Some(&moment)).expect("poll");
        child.kill().expect("it is killed, or has ended");
        child.wait().expect("it has ended");
        wait_for("the killed maker's guest to end", || {
            place.processes().is_empty()
        });
    }
    is_copy(&place.run());
    place.only();
}

/// Waits by looking again, for what has no event.
#[track_caller]
fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(Instant::now() < deadline, "waited a minute for {what}");
        std::thread::yield_now();
    }
}

#[test]
fn two_makers_at_once_make_one() {
    let place = Place::new();
    let runs = std::thread::scope(|scope| {
        let all = [(); 3].map(|()| scope.spawn(|| place.run()));
        all.map(|run| run.join().expect("the case runs"))
    });
    for run in &runs {
        is_copy(run);
        assert_eq!(clock(run), clock(&runs[0]));
    }
    place.only();
}

/// The script stands in the place of a program that it calls.
fn script(dir: &Path, name: &str, text: &str) -> String {
    let path = dir.join(name);
    write_program(&path, &format!("#!/bin/sh\n{text}\n"));
    path.display().to_string()
}

#[test]
fn where_the_disk_is_full_the_guest_boots() {
    let place = Place::new();
    let scripts = tempfile::tempdir().expect("a directory");
    let text = format!(
        r#"exec unshare -rm sh -c '
            mount -t tmpfs -o size=16m none "$KTSTR_CACHE_DIR" || exit 70
            "$@"
            code=$?
            echo "left: $(ls -A "$KTSTR_CACHE_DIR/templates" | grep -v lock)."
            exit $code' sh {} "$@""#,
        place.cases().display()
    );
    let exe = script(scripts.path(), "on-a-full-disk", &text);
    let run = CaseRun::new(&exe, CASE, &place.env()).expect("the case runs");
    let clock = clock(&run);
    assert_eq!(clock.forked, Some(false));
    let why = clock.fork_why.clone().unwrap_or_default();
    assert!(why.contains("No space left on device"), "{why}");
    run.says(&["left: ."]);
}

#[test]
fn where_a_copy_does_not_start_the_guest_boots() {
    let place = Place::new();
    let qemu = std::env::var("KTSTR_QEMU").unwrap_or_default();
    let qemu = match qemu.as_str() {
        "" => "qemu-system-x86_64",
        named => named,
    };
    let text = format!(
        r#"case " $* " in *" -incoming "*) echo "no copies today" >&2; exit 1;; esac
        exec {qemu} "$@""#
    );
    let exe = script(place.cache.path(), "qemu", &text);
    let env = [&place.env()[..], &[("KTSTR_QEMU", &exe)]].concat();
    let run = CaseRun::new(CASES, CASE, &env).expect("the case runs");
    let clock = clock(&run);
    assert_eq!(clock.forked, Some(false));
    let why = clock.fork_why.clone().unwrap_or_default();
    let told = why.contains("a copy did not start") && why.contains("no copies today");
    assert!(told, "{why}");
}

fn number<N: std::str::FromStr>(variable: &str, usual: N) -> N {
    let asked = std::env::var(variable).ok();
    asked.and_then(|text| text.parse().ok()).unwrap_or(usual)
}

/// Open files, threads and children of this process.
fn counts() -> [usize; 3] {
    let count = |path: &str| fs::read_dir(path).map_or(0, Iterator::count);
    let pid = std::process::id();
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    let children = children.unwrap_or_default().split_whitespace().count();
    [count("/proc/self/fd"), count("/proc/self/task"), children]
}

/// Alone in its process: other tests would open files beside it.
#[test]
fn copies_leave_no_file_thread_or_process() {
    const ALONE: &str = "KTSTR_TEMPLATES_ALONE";
    if std::env::var_os(ALONE).is_none() {
        let exe = std::env::current_exe().expect("this program");
        let name = "copies_leave_no_file_thread_or_process";
        let alone = Command::new(exe)
            .args(["--exact", name, "--nocapture"])
            .env(ALONE, "1")
            .output()
            .expect("this program again");
        let text = String::from_utf8_lossy(&alone.stdout);
        let errors = String::from_utf8_lossy(&alone.stderr);
        assert!(alone.status.success(), "{text}{errors}");
        assert!(text.contains("1 passed"), "{text}");
        return;
    }
    let entry = find_test("copied").expect("it is declared above");
    let run = || {
        let dir = tempfile::tempdir().expect("a directory");
        let config = HostConfig {
            sidecar_dir: Some(dir.path().to_owned()),
            ..HostConfig::from_env().expect("a good environment")
        };
        let report = run_test(entry, &config, Path::new(env!("CARGO_MANIFEST_DIR")));
        assert_eq!(report.outcome, Outcome::Pass, "{}", report.text);
        assert_eq!(report.sidecar.clock.forked, Some(true), "{}", report.text);
        report.sidecar.clock.fingerprint
    };
    let first = run();
    let before = counts();
    let runs: u32 = number("KTSTR_FORK_RUNS", 5);
    for _ in 0..runs {
        assert_eq!(run(), first);
    }
    assert_eq!(
        counts(),
        before,
        "open files, threads, children after {runs} copies"
    );
}
