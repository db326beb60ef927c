//! Boots a kernel with an initrd and shows its console: `boot KERNEL [INITRD|- [TOPOLOGY [auto|kvm|tcg [CMDLINE]]]]`.
#![expect(clippy::print_stdout, reason = "an example talks to its user")]

use std::io::Write as _;
use std::time::{Duration, Instant};

use ktstr_vmm::{EngineChoice, Initrd, Topology, Vm};

/// How often new console output is shown.
const SHOW_EVERY: Duration = Duration::from_millis(50);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let kernel = args
        .next()
        .ok_or("usage: boot KERNEL [INITRD|- [TOPOLOGY [auto|kvm|tcg [CMDLINE]]]]")?;
    let mut builder = Vm::builder()
        .kernel(kernel)
        .deadline(Duration::from_secs(120))
        .memory_mib(512);
    if let Some(initrd) = args.next().filter(|initrd| initrd != "-") {
        builder = builder.initrd(Initrd::File(initrd.into()));
    }
    if let Some(shape) = args.next() {
        builder = builder.topology(shape.parse::<Topology>()?);
    }
    builder = builder.engine(match args.next().as_deref() {
        Some("kvm") => EngineChoice::Kvm,
        Some("tcg") => EngineChoice::Tcg,
        _ => EngineChoice::Auto,
    });
    let cmdline = args.next();
    builder = builder.cmdline(cmdline.as_deref().unwrap_or("console=ttyS0 panic=-1"));
    let vm = builder.build()?;
    println!("engine {}: {}", vm.engine(), vm.engine_why());
    let mut running = vm.start()?;
    let console = running.com1();
    let mut shown = 0;
    let mut show = || {
        let bytes = console.snapshot();
        let new = bytes.get(shown..).unwrap_or_default();
        shown += new.len();
        std::io::stdout().write_all(new)
    };
    let exit = loop {
        let exit = running.wait_until(Instant::now() + SHOW_EVERY)?;
        show()?;
        if let Some(exit) = exit {
            break exit;
        }
    };
    println!("ended by {} after {:?}", exit.reason, exit.duration);
    Ok(())
}
