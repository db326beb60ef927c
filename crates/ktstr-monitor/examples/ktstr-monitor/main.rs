//! Looks into a dump of a Linux guest's memory:
//! `ktstr-monitor inspect VMCORE [--vmlinux PATH] [--cr3 HEX] WHAT [--json]`, WHAT being one of
//! where, runqueues, domains, tasks, scx, dsqs, maps, programs, dmesg, dump.
#![expect(clippy::print_stdout, reason = "its output is what it is for")]

use std::path::PathBuf;
use std::sync::Arc;

use ktstr_monitor::phys::{Vmcore, open_raw};
use ktstr_monitor::{Attach, DumpOptions, FailureDumpReport, Kernel, PhysMem, VcpuRegisters};

mod text;

const USAGE: &str = "usage: ktstr-monitor inspect VMCORE [--vmlinux PATH] [--cr3 HEX] [--btf-cache DIR] \
    where|runqueues|domains|tasks|scx|dsqs|maps|programs|dmesg|dump [--json]";

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

fn main() -> std::process::ExitCode {
    match parse(std::env::args_os().skip(1)).and_then(|args| run(&args)) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            let mut chain = error.to_string();
            let mut source = error.source();
            while let Some(cause) = source {
                chain = format!("{chain}: {cause}");
                source = cause.source();
            }
            #[expect(clippy::print_stderr, reason = "errors go there")]
            {
                eprintln!("ktstr-monitor: {chain}");
            }
            std::process::ExitCode::FAILURE
        }
    }
}

fn parse(mut words: impl Iterator<Item = std::ffi::OsString>) -> Result<Args, AnyError> {
    let mut args = Args::default();
    let mut places = Vec::new();
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or(USAGE);
        match word.to_str() {
            Some("--json") => args.json = true,
            Some("--vmlinux") => args.vmlinux = Some(value()?.into()),
            Some("--btf-cache") => args.btf_cache = Some(value()?.into()),
            Some("--cr3") => {
                let value = value()?;
                let digits = value.to_str().unwrap_or("").trim_start_matches("0x");
                args.cr3 = u64::from_str_radix(digits, 16)?;
            }
            _ => places.push(word),
        }
    }
    let Ok([verb, core, what]) = <[_; 3]>::try_from(places) else {
        return Err(USAGE.into());
    };
    if verb != "inspect" {
        return Err(USAGE.into());
    }
    args.core = core.into();
    args.what = what.into_string().map_err(|_| USAGE)?;
    Ok(args)
}

fn attach(args: &Args) -> Result<Kernel, AnyError> {
    let memory: Arc<dyn PhysMem> = match Vmcore::open(&args.core) {
        Ok(core) => Arc::new(core),
        // A CR3 says that this is a raw image of memory.
        Err(_) if args.cr3 != 0 => Arc::new(open_raw(&args.core)?),
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

fn run(args: &Args) -> Result<(), AnyError> {
    let kernel = attach(args)?;
    let report = match args.what.as_str() {
        "where" => serde_json::json!({
            "text": kernel.text().to_string(),
            "slide": kernel.slide(),
            "image": kernel.image(),
            "phys_base": format!("{:#x}", kernel.phys_base()),
            "page_offset": kernel.page_offset().to_string(),
            "address_space": kernel.address_space(),
            "build_id": kernel.build_id().map(hex),
        }),
        "runqueues" => serde_json::to_value(kernel.runqueues())?,
        "domains" => serde_json::to_value(kernel.sched_domains())?,
        "tasks" => serde_json::to_value(kernel.tasks())?,
        "scx" => serde_json::to_value(kernel.scx()?)?,
        "dsqs" => serde_json::to_value(kernel.dispatch_queues())?,
        "programs" => serde_json::to_value(kernel.programs())?,
        "maps" => serde_json::to_value(capture(&kernel).maps)?,
        "dmesg" => serde_json::to_value(kernel.dmesg())?,
        "dump" => serde_json::to_value(capture(&kernel))?,
        _ => return Err(USAGE.into()),
    };
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{}", text::show(&args.what, &kernel, &report));
    }
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A dump tells each vCPU's page table root and nothing more of its registers.
fn capture(kernel: &Kernel) -> FailureDumpReport {
    let registers: Vec<VcpuRegisters> = (0..)
        .zip(kernel.memory().hints().cr3)
        .map(|(vcpu, cr3)| VcpuRegisters {
            vcpu,
            cr3,
            ..VcpuRegisters::default()
        })
        .collect();
    FailureDumpReport::capture(kernel, &registers, &DumpOptions::default())
}
