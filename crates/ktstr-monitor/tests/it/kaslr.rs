//! Twenty boots with KASLR: the slide is found each time, from memory, with and without a CR3.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use ktstr_monitor::Attach;

use crate::facts::Facts;
use crate::initrd::{Initrd, tool};
use crate::lab::scratch;
use crate::qemu::{Machine, Qemu};

const BOOTS: usize = 20;
/// Guests of one CPU at a time; nothing is measured.
const AT_ONCE: usize = 2;

#[test]
fn the_slide_is_found_in_every_boot() {
    let dir = scratch("kaslr");
    let initrd = dir.join("initrd");
    Initrd::default()
        .dir("proc")
        .dir("dev")
        .file("/init", include_bytes!("guest/kaslr.sh"))
        .program("/bin/busybox", &tool("busybox"))
        .write(&initrd);
    let boots = &|worker: usize| {
        let own = dir.join(worker.to_string());
        std::fs::create_dir(&own).unwrap();
        let mine = (0..BOOTS).skip(worker).step_by(AT_ONCE);
        mine.map(|boot| boot_and_find(boot, &own, &initrd))
            .collect::<Vec<u64>>()
    };
    let texts: BTreeSet<u64> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..AT_ONCE)
            .map(|worker| scope.spawn(move || boots(worker)))
            .collect();
        let found = workers.into_iter().map(|worker| worker.join().unwrap());
        found.flatten().collect()
    });
    assert!(
        texts.len() > BOOTS / 2,
        "KASLR chose only {} places",
        texts.len()
    );
}

/// Where the kernel's text was in this boot.
fn boot_and_find(boot: usize, dir: &Path, initrd: &Path) -> u64 {
    let machine = Machine {
        smp: "1",
        memory_mib: 256,
        cmdline: "quiet",
    };
    for name in ["facts", "console", "qmp", "talk"] {
        let _ = std::fs::remove_file(dir.join(name));
    }
    let mut qemu = Qemu::boot(dir, initrd, &machine);
    let facts = Facts::parse(&qemu.wait_for("@@READY"));
    qemu.stop();
    let cr3 = qemu.cr3();
    let memory = Arc::new(qemu.memory());
    // Without a CR3 memory is searched, which takes a debug build seconds: every fifth time.
    let roots = if boot.is_multiple_of(5) {
        vec![cr3, 0]
    } else {
        vec![cr3]
    };
    for cr3 in roots {
        let kernel = Attach::new(Arc::clone(&memory) as _)
            .cr3(cr3)
            .attach()
            .unwrap();
        let text = kernel.text().0;
        assert_eq!(text, facts.symbol("_text"), "boot {boot}, CR3 {cr3:#x}");
        assert_eq!(text - kernel.slide().bytes, 0xffff_ffff_8100_0000);
        assert_eq!(
            kernel.symbol("init_task").unwrap().0,
            facts.symbol("init_task")
        );
        let code = facts
            .text("iomem")
            .lines()
            .find(|line| line.contains("Kernel code"))
            .unwrap();
        let start = code.trim().split('-').next().unwrap();
        assert_eq!(
            kernel.image().gpa.0,
            u64::from_str_radix(start, 16).unwrap()
        );
    }
    facts.symbol("_text")
}
