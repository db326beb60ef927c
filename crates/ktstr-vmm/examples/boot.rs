//! Boots a kernel with an initrd and shows its console: `boot KERNEL [INITRD [TOPOLOGY]]`.
#![expect(clippy::print_stdout, reason = "an example talks to its user")]

use std::time::Duration;

use ktstr_vmm::{Initrd, Topology, Vm};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let kernel = args
        .next()
        .ok_or("usage: boot KERNEL [INITRD [TOPOLOGY]]")?;
    let mut builder = Vm::builder()
        .kernel(kernel)
        .deadline(Duration::from_secs(120));
    builder = builder.cmdline("console=ttyS0 panic=-1").memory_mib(512);
    if let Some(initrd) = args.next() {
        builder = builder.initrd(Initrd::File(initrd.into()));
    }
    if let Some(shape) = args.next() {
        builder = builder.topology(shape.parse::<Topology>()?);
    }
    let vm = builder.build()?;
    println!("engine {}: {}", vm.engine(), vm.engine_why());
    let exit = vm.run()?;
    println!("{}", String::from_utf8_lossy(&exit.com1));
    println!("ended by {} after {:?}", exit.reason, exit.duration);
    Ok(())
}
