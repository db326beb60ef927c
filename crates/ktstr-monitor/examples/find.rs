//! Finds the kernel in a vmcore and says where it is: `find VMCORE [VMLINUX]`.
#![expect(clippy::print_stdout, reason = "an example talks to its user")]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use ktstr_monitor::phys::Vmcore;
use ktstr_monitor::{Attach, Kva};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args_os().skip(1);
    let core = args.next().ok_or("usage: find VMCORE [VMLINUX]")?;
    let start = Instant::now();
    let mut attach = Attach::new(Arc::new(Vmcore::open(&PathBuf::from(core))?));
    if let Some(vmlinux) = args.next() {
        attach = attach.vmlinux(vmlinux);
    }
    let kernel = attach.attach()?;
    println!("found in {:?}", start.elapsed());
    println!("text {} slide {:?}", kernel.text(), kernel.slide());
    println!(
        "image {:?}, page offset {}",
        kernel.image(),
        kernel.page_offset()
    );
    println!("build id {:02x?}", kernel.build_id());
    println!(
        "{} symbols, {} types",
        kernel.symbols().len(),
        kernel.btf().end_id()
    );
    let banner = kernel.read_text(kernel.symbol("linux_banner")?, 256)?;
    println!("{}", banner.trim_end());
    println!(
        "cpus {:?} of {:?}",
        kernel.online_cpus(),
        kernel.possible_cpus()
    );
    println!(
        "{:?}",
        kernel.symbols().symbolize(Kva(kernel.text().0 + 0x1234))
    );
    Ok(())
}
