//! Looks into a dump of a Linux guest's memory: `ktstr-monitor inspect --help`.
#![expect(clippy::print_stdout, reason = "its output is what it is for")]

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use ktstr_monitor::phys::{Vmcore, open_raw};
use ktstr_monitor::{
    Attach, DumpOptions, Error, FailureDumpReport, Kernel, PhysMem, Problems, VcpuRegisters, Walk,
};
use serde_json::{Value, json};

mod text;

const USAGE: &str = "usage: ktstr-monitor inspect VMCORE WHAT [--json] [--vmlinux PATH] [--cr3 HEX] [--btf-cache DIR]";

const HELP: &str = "\
Looks into a dump of a Linux guest's memory. Nothing but the dump is needed: the kernel, its types and its
symbols are found in it.

usage: ktstr-monitor inspect VMCORE WHAT [options]

VMCORE  an ELF dump, as QEMU's dump-guest-memory and kdump write it; with --cr3 also a raw image of memory
WHAT    one of
  where       where the kernel lies, its build, how far KASLR moved it
  runqueues   each CPU's runqueue
  domains     each CPU's scheduling domains
  tasks       all threads
  scx         sched_ext: state, scheduler, exit, event counters
  dsqs        sched_ext's dispatch queues and the tasks in them
  maps        BPF maps with their contents
  programs    BPF programs
  dmesg       the kernel's log
  dump        all of it as one report, JSON

options
  --json           JSON on standard output, errors too
  --vmlinux PATH   the kernel's ELF image; refused when it is of another build than the kernel in the dump
  --cr3 HEX        one vCPU's page table root, for images that do not tell
  --btf-cache DIR  keep indexed types here, for the next time
  -h, --help       this text

exit status: 0 when it was read, 3 when parts of it could not be read (named on standard error), 1 when nothing
could be read, 2 for a mistake on the command line";

/// What may be asked for.
const ALL: [&str; 10] = [
    "where",
    "runqueues",
    "domains",
    "tasks",
    "scx",
    "dsqs",
    "maps",
    "programs",
    "dmesg",
    "dump",
];
/// Problems told on standard error; JSON has them all.
const SHOWN: usize = 10;

type AnyError = Box<dyn std::error::Error>;

#[derive(Debug, Default)]
struct Args {
    core: PathBuf,
    vmlinux: Option<PathBuf>,
    btf_cache: Option<PathBuf>,
    cr3: u64,
    what: String,
    json: bool,
}

/// What the command line asks for.
enum Asked {
    Help,
    Inspect(Args),
}

fn main() -> ExitCode {
    let args = match parse(std::env::args_os().skip(1)) {
        Ok(Asked::Inspect(args)) => args,
        Ok(Asked::Help) => {
            println!("{HELP}");
            return ExitCode::SUCCESS;
        }
        Err(mistake) => {
            complain(&format!(
                "{mistake}\n{USAGE}\n`ktstr-monitor --help` tells more"
            ));
            return ExitCode::from(2);
        }
    };
    match run(&args) {
        Ok(problems) if problems.is_empty() => ExitCode::SUCCESS,
        Ok(problems) => {
            for problem in problems.iter().take(SHOWN) {
                complain(&format!("{}: {}", problem.what, problem.why));
            }
            let kept = problems.iter().count() as u64;
            let more = (kept + problems.dropped()).saturating_sub(SHOWN as u64);
            if more > 0 {
                complain(&format!("and {more} more problems"));
            }
            ExitCode::from(3)
        }
        Err(error) => {
            let reason = explain(&*error);
            if args.json {
                println!("{:#}", failure(&args.what, &reason));
            }
            complain(&reason);
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stderr, reason = "errors go there")]
fn complain(text: &str) {
    eprintln!("ktstr-monitor: {text}");
}

/// The chain of causes, and what to do about it where that is known.
fn explain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut chain = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        chain = format!("{chain}: {cause}");
        source = cause.source();
    }
    match error.downcast_ref() {
        Some(Error::BadVmcore { .. }) => format!(
            "{chain}\nwanted: an ELF dump (QEMU: `dump-guest-memory FILE`, paging off), or a raw image with --cr3"
        ),
        Some(Error::NoKernel { .. }) => format!(
            "{chain}\ntry: --cr3 with a vCPU's page table root (QEMU: `info registers`), or --vmlinux; a kernel needs \
             CONFIG_KALLSYMS and CONFIG_DEBUG_INFO_BTF, and must have left early boot"
        ),
        _ => chain,
    }
}

/// What a reader of JSON gets instead of a report.
fn failure(what: &str, reason: &str) -> Value {
    match what {
        "dump" => json!(FailureDumpReport::placeholder(reason)),
        _ => json!({ "error": reason }),
    }
}

fn parse(mut words: impl Iterator<Item = std::ffi::OsString>) -> Result<Asked, String> {
    let mut args = Args::default();
    let mut places = Vec::new();
    while let Some(word) = words.next() {
        let mut value = |name: &str| words.next().ok_or(format!("{name} wants a value"));
        match word.to_str() {
            Some("-h" | "--help") => return Ok(Asked::Help),
            Some("--json") => args.json = true,
            Some("--vmlinux") => args.vmlinux = Some(value("--vmlinux")?.into()),
            Some("--btf-cache") => args.btf_cache = Some(value("--btf-cache")?.into()),
            Some("--cr3") => args.cr3 = parse_cr3(&value("--cr3")?)?,
            Some(option) if option.starts_with("--") => {
                return Err(format!("unknown option {option}"));
            }
            _ => places.push(word),
        }
    }
    let Ok([verb, core, what]) = <[_; 3]>::try_from(places) else {
        return Err("`inspect`, a dump and what to look at are wanted".to_owned());
    };
    if verb != "inspect" {
        let verb = verb.display();
        return Err(format!("unknown command {verb}, expected `inspect`"));
    }
    args.core = core.into();
    args.what = what.to_string_lossy().into_owned();
    if !ALL.contains(&&*args.what) {
        let all = ALL.join(", ");
        return Err(format!("cannot look at `{}`, only at {all}", args.what));
    }
    Ok(Asked::Inspect(args))
}

fn parse_cr3(word: &std::ffi::OsStr) -> Result<u64, String> {
    let text = word.to_str().unwrap_or("");
    let digits = text.strip_prefix("0x").unwrap_or(text);
    u64::from_str_radix(digits, 16).map_err(|error| {
        format!(
            "--cr3 {}: {error}, expected hex as 0x1c0a000",
            word.display()
        )
    })
}

fn attach(args: &Args) -> Result<Kernel, AnyError> {
    let memory: Arc<dyn PhysMem> = match Vmcore::open(&args.core) {
        Ok(core) => {
            if core.missing() > 0 {
                complain(&format!(
                    "{} was cut short: {} KiB of memory that its headers promise are missing",
                    args.core.display(),
                    core.missing().div_ceil(1024),
                ));
            }
            Arc::new(core)
        }
        // A CR3 says that this is a raw image of memory.
        Err(Error::BadVmcore { .. }) if args.cr3 != 0 => Arc::new(open_raw(&args.core)?),
        Err(error) => return Err(error.into()),
    };
    let mut attach = Attach::new(memory).cr3(args.cr3);
    if let Some(vmlinux) = &args.vmlinux {
        attach = attach.vmlinux(vmlinux);
    }
    if let Some(dir) = &args.btf_cache {
        attach = attach.btf_cache(dir);
    }
    Ok(attach.attach()?)
}

/// Prints what was asked for; what could not be read is returned.
fn run(args: &Args) -> Result<Problems, AnyError> {
    let kernel = attach(args)?;
    let (report, problems) = report(&args.what, &kernel)?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{}", text::show(&args.what, &kernel, &report));
    }
    Ok(problems)
}

fn report(what: &str, kernel: &Kernel) -> Result<(Value, Problems), AnyError> {
    Ok(match what {
        "where" => (place(kernel), Problems::new()),
        "runqueues" => walked(kernel.runqueues())?,
        "domains" => walked(kernel.sched_domains())?,
        "tasks" => walked(kernel.tasks())?,
        "dsqs" => walked(kernel.dispatch_queues())?,
        "programs" => walked(kernel.programs())?,
        "dmesg" => walked(kernel.dmesg())?,
        "scx" => {
            let scx = kernel.scx()?;
            let problems = scx.as_ref().map(|scx| scx.problems.clone());
            (serde_json::to_value(scx)?, problems.unwrap_or_default())
        }
        "maps" => {
            let dump = capture(kernel);
            (serde_json::to_value(dump.maps)?, dump.problems)
        }
        _ => {
            let dump = capture(kernel);
            (serde_json::to_value(&dump)?, dump.problems)
        }
    })
}

fn walked<T: serde::Serialize>(walk: Walk<T>) -> Result<(Value, Problems), AnyError> {
    Ok((serde_json::to_value(&walk)?, walk.problems))
}

fn place(kernel: &Kernel) -> Value {
    json!({
        "text": kernel.text().to_string(),
        "slide": kernel.slide(),
        "image": kernel.image(),
        "phys_base": format!("{:#x}", kernel.phys_base()),
        "page_offset": kernel.page_offset().to_string(),
        "address_space": kernel.address_space(),
        "build_id": kernel.build_id().map(hex),
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn capture(kernel: &Kernel) -> FailureDumpReport {
    let registers: Vec<VcpuRegisters> = (0..)
        .zip(kernel.memory().hints().vcpus)
        .map(|(vcpu, hint)| VcpuRegisters {
            vcpu,
            rip: hint.rip,
            rsp: hint.rsp,
            rflags: hint.rflags,
            cr3: hint.cr3,
        })
        .collect();
    FailureDumpReport::capture(kernel, &registers, &DumpOptions::default())
}
