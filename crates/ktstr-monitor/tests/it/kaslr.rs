//! Twenty boots with KASLR: the slide is found each time, from memory, with and without a CR3.

use std::collections::BTreeSet;
use std::sync::Arc;

use ktstr_monitor::Attach;

use crate::facts::Facts;
use crate::initrd::{Initrd, tool};
use crate::lab::scratch;
use crate::qemu::{Machine, Qemu};

const BOOTS: usize = 20;

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
    let machine = Machine {
        smp: "1",
        memory_mib: 256,
        cmdline: "quiet",
    };
    let mut texts = BTreeSet::new();
    for boot in 0..BOOTS {
        for name in ["facts", "console", "qmp", "talk"] {
            let _ = std::fs::remove_file(dir.join(name));
        }
        let mut qemu = Qemu::boot(&dir, &initrd, &machine);
        let facts = Facts::parse(&qemu.wait_for("@@READY"));
        qemu.stop();
        let cr3 = qemu.cr3();
        let memory = Arc::new(qemu.memory());
        // Without a CR3 memory is searched, which takes a debug build seconds: every fifth time.
        let roots = if boot % 5 == 0 {
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
            texts.insert(text);
        }
    }
    assert!(
        texts.len() > BOOTS / 2,
        "KASLR chose only {} places",
        texts.len()
    );
}
