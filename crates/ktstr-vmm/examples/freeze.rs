//! Boots a kernel and shows every vCPU's registers ten times a second: `freeze KERNEL [INITRD [TOPOLOGY]]`.
#![expect(clippy::print_stdout, reason = "an example talks to its user")]

use std::time::{Duration, Instant};

use ktstr_vmm::{Initrd, Topology, Vm};

const EVERY: Duration = Duration::from_millis(100);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let kernel = args
        .next()
        .ok_or("usage: freeze KERNEL [INITRD [TOPOLOGY]]")?;
    let mut builder = Vm::builder()
        .kernel(kernel)
        .cmdline("console=ttyS0 panic=-1")
        .memory_mib(512);
    if let Some(initrd) = args.next() {
        builder = builder.initrd(Initrd::File(initrd.into()));
    }
    if let Some(shape) = args.next() {
        builder = builder.topology(shape.parse::<Topology>()?);
    }
    let mut vm = builder.build()?.start()?;
    let exit = loop {
        if let Some(exit) = vm.wait_until(Instant::now() + EVERY)? {
            break exit;
        }
        let began = Instant::now();
        // The guest may end between the wait and the freeze.
        let Ok(frozen) = vm.freeze(Duration::from_secs(10)) else {
            continue;
        };
        let registers = frozen.registers()?;
        frozen.resume()?;
        println!("frozen for {:?}", began.elapsed());
        for regs in registers {
            println!(
                "  vCPU {:3}  rip {:#018x}  rsp {:#018x}  cr3 {:#x}",
                regs.vcpu, regs.rip, regs.rsp, regs.cr3
            );
        }
    };
    println!("ended by {} after {:?}", exit.reason, exit.duration);
    Ok(())
}
