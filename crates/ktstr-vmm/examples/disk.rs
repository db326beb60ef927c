//! Boots a kernel with a throttled disk in memory and shows what it counted: `disk KERNEL INITRD [BYTES_PER_SECOND]`.
//! The initrd finds the disk as /dev/vda. Needs a genuine /dev/kvm, or `cargo xtask lab`.
#![expect(clippy::print_stdout, reason = "an example talks to its user")]

use std::time::Duration;

use ktstr_vmm::{Disk, DiskSource, EngineChoice, Initrd, Throttle, Vm};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let usage = "usage: disk KERNEL INITRD [BYTES_PER_SECOND]";
    let (kernel, initrd) = (args.next().ok_or(usage)?, args.next().ok_or(usage)?);
    let throttle = match args.next() {
        Some(rate) => Throttle::NONE.bytes_per_second(rate.parse()?),
        None => Throttle::NONE,
    };
    let exit = Vm::builder()
        .kernel(kernel)
        .initrd(Initrd::File(initrd.into()))
        .cmdline("console=ttyS0 panic=-1 rdinit=/init")
        .engine(EngineChoice::Kvm)
        .memory_mib(512)
        .deadline(Duration::from_secs(120))
        .disk(Disk::new(DiskSource::Memory(64 << 20)).throttle(throttle))
        .build()?
        .run()?;
    println!("{}", String::from_utf8_lossy(&exit.com1));
    println!("{:#?}", exit.blk_counters);
    println!("ended by {} after {:?}", exit.reason, exit.duration);
    Ok(())
}
