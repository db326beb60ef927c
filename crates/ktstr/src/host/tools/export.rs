//! One test as a file that runs it on bare metal: a shell script with the programs behind it.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use ktstr_vmm::elf::closure;
use liblzma::write::XzEncoder;

use crate::host::boot::session;
use crate::host::evidence::artifacts::write_atomic;
use crate::host::plan::config::HostConfig;
use crate::host::plan::scheduler::resolve_scheduler;
use crate::model::entry::{KtstrTestEntry, SchedulerSpec};

/// Names the file to write: a test binary that has it exports the test that its filter names.
pub const EXPORT_ENV: &str = "KTSTR_EXPORT";
const SCRIPT: &str = include_str!("export.sh");
/// Fast, and half as large as nothing: most of it is code.
const XZ_LEVEL: u32 = 1;
/// Parts of the C library: the machine's own belong to its loader and kernel.
const OF_LIBC: [&str; 7] = [
    "ld-linux",
    "libc.so",
    "libm.so",
    "libpthread.so",
    "libdl.so",
    "librt.so",
    "libgcc_s.so",
];

/// Writes the test as a self-extracting script.
///
/// # Errors
/// When it cannot run outside of a VM, a program is missing, or the file cannot be written.
pub fn run(entry: &KtstrTestEntry, manifest_dir: &Path, path: &Path) -> Result<()> {
    entry.validate()?;
    if entry.host_only {
        bail!(
            "'{}' runs on the host already; run the test binary itself",
            entry.name
        );
    }
    let spec = entry.scheduler_spec();
    if matches!(spec, SchedulerSpec::KernelBuiltin { .. }) {
        bail!(
            "'{}' switches a scheduler of its kernel, which another machine's kernel does not have",
            entry.name
        );
    }
    if !entry.bpf_map_write.is_empty() {
        bail!(
            "'{}' has the host write into its scheduler's maps (bpf_map_write), which on bare metal nobody does",
            entry.name
        );
    }
    let (scheduler, _) = resolve_scheduler(spec, &HostConfig::from_env()?, manifest_dir)?;
    let script = script(entry, scheduler.is_some());
    let mut bytes = script.into_bytes();
    bytes.extend(payload(entry, scheduler.as_deref())?);
    write_atomic(path, &bytes)
        .with_context(|| format!("the export cannot be written to {}", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
        .with_context(|| format!("failed to make {} executable", path.display()))
}

fn script(entry: &KtstrTestEntry, has_scheduler: bool) -> String {
    let topology = entry.topology;
    let scheduler = entry
        .scheduler_name()
        .filter(|_| has_scheduler)
        .unwrap_or_default();
    let declared = entry.scheduler.map_or(&[][..], |one| one.sched_args);
    let args: Vec<String> = declared
        .iter()
        .chain(entry.extra_sched_args)
        .map(|arg| quote(arg))
        .collect();
    // Last, because the line count is that of the finished script.
    let lines = SCRIPT.lines().count() + 1;
    let title = if scheduler.is_empty() {
        entry.name.to_owned()
    } else {
        format!("{} under {scheduler}", entry.name)
    };
    [
        ("@TITLE@", title.replace('\n', " ")),
        ("@NAME@", entry.registered_name().to_owned()),
        ("@SCHEDULER@", scheduler.replace('\'', "")),
        ("@CPUS@", topology.total_cpus().to_string()),
        ("@LLCS@", topology.llcs.to_string()),
        ("@NODES@", topology.numa_nodes.to_string()),
        ("@THREADS@", topology.threads.to_string()),
        ("@ARGS@", args.join(" ")),
        ("@PAYLOAD@", lines.to_string()),
    ]
    .iter()
    .fold(SCRIPT.to_owned(), |text, (mark, value)| {
        text.replace(mark, value)
    })
}

fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

fn payload(entry: &KtstrTestEntry, scheduler: Option<&Path>) -> Result<Vec<u8>> {
    let exe = std::env::current_exe().context("failed to find this test binary")?;
    let mut plan = session::test_plan(entry);
    // No host looks in.
    plan.answers_requests = false;
    plan.waits_for_host = false;
    let plan = serde_json::to_vec(&plan).context("failed to serialise the plan")?;
    let mut files: BTreeMap<String, PathBuf> = BTreeMap::new();
    let programs = [
        ("bin/test", Some(exe.as_path())),
        ("bin/scheduler", scheduler),
    ];
    for (name, program) in programs {
        let Some(program) = program else { continue };
        files.insert(name.to_owned(), program.to_owned());
        for library in closure(program)?.into_values() {
            let name = library
                .file_name()
                .map(|name| name.to_string_lossy().into_owned())
                .unwrap_or_default();
            if !OF_LIBC.iter().any(|part| name.starts_with(part)) {
                files.insert(format!("lib/{name}"), library);
            }
        }
    }
    pack(&files, &plan).context("failed to pack the programs")
}

fn pack(files: &BTreeMap<String, PathBuf>, plan: &[u8]) -> io::Result<Vec<u8>> {
    let mut archive = tar::Builder::new(XzEncoder::new(Vec::new(), XZ_LEVEL));
    for (name, path) in files {
        let mut file = fs::File::open(path)?;
        let mut header = tar::Header::new_gnu();
        header.set_size(file.metadata()?.len());
        header.set_mode(0o755);
        archive.append_data(&mut header, name, &mut file)?;
    }
    let mut header = tar::Header::new_gnu();
    header.set_size(u64::try_from(plan.len()).unwrap_or(u64::MAX));
    header.set_mode(0o644);
    archive.append_data(&mut header, "plan.json", plan)?;
    archive.into_inner()?.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::entry::Scheduler;
    use std::process::Command;

    static SCHEDULER: Scheduler = Scheduler {
        name: "s",
        spec: SchedulerSpec::Discover("scx_s"),
        sched_args: &["--slice", "it's 5"],
        ..Scheduler::DEFAULT
    };

    fn entry() -> KtstrTestEntry {
        KtstrTestEntry {
            name: "t@4cpu-1llc-nosmt",
            scheduler: Some(&SCHEDULER),
            ..KtstrTestEntry::DEFAULT
        }
    }

    #[test]
    fn the_script_is_a_script_and_knows_where_it_ends() {
        let text = script(&entry(), true);
        assert!(!text.contains('@') || text.contains("t@4cpu"), "{text}");
        assert!(text.contains(r"'--slice' 'it'\''s 5'"), "{text}");
        assert!(
            text.contains("NAME='t' SCHEDULER='s' CPUS=2 LLCS=1"),
            "{text}"
        );
        let payload = format!("PAYLOAD={}", text.lines().count() + 1);
        assert!(text.contains(&payload), "{payload} is not in {text}");
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.sh");
        fs::write(&path, &text).unwrap();
        let checked = Command::new("sh").arg("-n").arg(&path).output().unwrap();
        assert!(
            checked.status.success(),
            "{}",
            String::from_utf8_lossy(&checked.stderr)
        );
    }

    #[test]
    fn what_needs_its_own_kernel_is_refused() {
        static BUILTIN: Scheduler = Scheduler {
            name: "b",
            spec: SchedulerSpec::KernelBuiltin {
                enable: &[],
                disable: &[],
            },
            ..Scheduler::DEFAULT
        };
        let entry = KtstrTestEntry {
            scheduler: Some(&BUILTIN),
            ..entry()
        };
        let error = run(&entry, Path::new("."), Path::new("/nowhere"))
            .unwrap_err()
            .to_string();
        assert!(error.contains("its kernel"), "{error}");
    }
}
