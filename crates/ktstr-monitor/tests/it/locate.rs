//! Where the kernel is, by every way to find it.

use std::path::Path;
use std::sync::Arc;

use ktstr_monitor::locate::SlideEvidence;
use ktstr_monitor::phys::{Hints, Vmcore};
use ktstr_monitor::{Attach, Error, Gpa, PhysMem, Range, Result};

use crate::lab::lab;
use crate::qemu::vmlinux;

/// A dump that has forgotten its notes.
#[derive(Debug)]
struct NoHints(Vmcore);

impl PhysMem for NoHints {
    fn read(&self, gpa: Gpa, buffer: &mut [u8]) -> Result<()> {
        self.0.read(gpa, buffer)
    }

    fn ranges(&self) -> Vec<Range> {
        self.0.ranges()
    }
}

/// A dump with one byte that is always 0xff.
#[derive(Debug)]
struct Damaged(Vmcore, Gpa);

impl PhysMem for Damaged {
    fn read(&self, gpa: Gpa, buffer: &mut [u8]) -> Result<()> {
        self.0.read(gpa, buffer)?;
        let at = self.1.0.checked_sub(gpa.0).map(usize::try_from);
        if let Some(byte) = at.and_then(|at| buffer.get_mut(at.ok()?)) {
            *byte = 0xff;
        }
        Ok(())
    }

    fn ranges(&self) -> Vec<Range> {
        self.0.ranges()
    }

    fn hints(&self) -> Hints {
        self.0.hints()
    }
}

/// The kind of the first type lies 31 bytes into the BTF.
#[test]
fn damaged_types_are_taken_from_the_vmlinux() {
    let lab = lab();
    let start = lab.kernel.symbol("__start_BTF").unwrap();
    let (gpa, _) = lab.kernel.translate(start.wrapping_add(31)).unwrap();
    let attach = || {
        let core = Vmcore::open(&lab.vmcore).unwrap();
        Attach::new(Arc::new(Damaged(core, gpa)))
    };
    let refusal = attach().attach().unwrap_err().to_string();
    assert!(
        refusal.contains("its types in memory are damaged"),
        "{refusal}"
    );
    assert!(refusal.contains("give its vmlinux"), "{refusal}");
    let Some(vmlinux) = vmlinux() else { return };
    let kernel = attach().vmlinux(vmlinux).attach().unwrap();
    assert_eq!(kernel.runqueues(), lab.kernel.runqueues());
}

#[test]
fn symbols_and_build_id_are_the_guests() {
    let lab = lab();
    for name in [
        "_text",
        "init_task",
        "prb",
        "runqueues",
        "map_idr",
        "init_top_pgt",
    ] {
        let found = lab.kernel.symbol(name).unwrap().0;
        assert_eq!(found, lab.facts.symbol(name), "{name}");
    }
    let id: String = lab
        .kernel
        .build_id()
        .unwrap()
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    assert!(lab.facts.text("notes").contains(&id), "{id}");
    let banner = lab
        .kernel
        .read_text(lab.kernel.symbol("linux_banner").unwrap(), 400)
        .unwrap();
    assert_eq!(banner.trim(), lab.facts.text("banner").trim());
}

#[test]
fn the_physical_place_is_the_guests() {
    let lab = lab();
    let line = lab
        .facts
        .text("iomem")
        .lines()
        .find(|line| line.contains("Kernel code"))
        .unwrap();
    let start = line.trim().split('-').next().unwrap();
    let (gpa, _) = lab.kernel.translate(lab.kernel.text()).unwrap();
    assert_eq!(gpa.0, u64::from_str_radix(start, 16).unwrap());
}

#[test]
fn memory_alone_leads_to_the_same_kernel() {
    let lab = lab();
    let memory = Arc::new(NoHints(Vmcore::open(&lab.vmcore).unwrap()));
    let found = Attach::new(memory).attach().unwrap();
    assert_eq!(found.text(), lab.kernel.text());
    assert_eq!(found.image().gpa, lab.kernel.image().gpa);
    assert_eq!(found.slide(), lab.kernel.slide());
    let names = |kernel: &ktstr_monitor::Kernel| {
        let tasks = kernel.tasks().found;
        tasks
            .into_iter()
            .map(|task| (task.pid, task.comm))
            .collect::<Vec<_>>()
    };
    assert_eq!(names(&found), names(&lab.kernel));
}

/// A dump as kdump makes it: it knows the kernel's VMCOREINFO and no vCPU.
#[derive(Debug)]
struct KdumpHints(Vmcore, String);

impl PhysMem for KdumpHints {
    fn read(&self, gpa: Gpa, buffer: &mut [u8]) -> Result<()> {
        self.0.read(gpa, buffer)
    }

    fn ranges(&self) -> Vec<Range> {
        self.0.ranges()
    }

    fn hints(&self) -> Hints {
        Hints {
            cr3: Vec::new(),
            vmcoreinfo: Some(self.1.clone()),
            vcpus: Vec::new(),
        }
    }
}

#[test]
fn a_vmcoreinfo_leads_to_the_page_tables() {
    let lab = lab();
    let note = lab.kernel.vmcoreinfo().unwrap();
    let core = Vmcore::open(&lab.vmcore).unwrap();
    let found = Attach::new(Arc::new(KdumpHints(core, note)))
        .attach()
        .unwrap();
    assert_eq!(found.text(), lab.kernel.text());
    let root = lab.kernel.symbol("init_top_pgt").unwrap();
    let (root, _) = lab.kernel.translate(root).unwrap();
    assert_eq!(found.address_space().root, root);
}

#[test]
fn a_vmlinux_agrees_with_what_memory_says() {
    let lab = lab();
    let core = || Arc::new(Vmcore::open(&lab.vmcore).unwrap());
    let Some(vmlinux) = vmlinux() else { return };
    let found = Attach::new(core()).vmlinux(vmlinux).attach().unwrap();
    assert_eq!(found.slide().evidence, SlideEvidence::Vmlinux);
    assert_eq!(found.slide().bytes, lab.kernel.slide().bytes);
    assert_eq!(lab.kernel.slide().evidence, SlideEvidence::Vmcoreinfo);
    // A program of this machine is an ELF file with a build id of its own.
    let other = std::env::current_exe().unwrap();
    let refusal = Attach::new(core()).vmlinux(other).attach().unwrap_err();
    assert!(
        matches!(
            refusal,
            Error::BadVmlinux { .. } | Error::WrongVmlinux { .. }
        ),
        "{refusal}"
    );
}

#[test]
fn a_vmlinux_of_another_build_is_refused_by_name() {
    let lab = lab();
    let Some(vmlinux) = vmlinux() else { return };
    let bytes = std::fs::read(vmlinux).unwrap();
    let id = lab.kernel.build_id().unwrap();
    let at = memchr::memmem::find(&bytes, id).unwrap();
    let mut bytes = bytes;
    bytes[at] ^= 0xff;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    let core = Arc::new(Vmcore::open(&lab.vmcore).unwrap());
    let refusal = Attach::new(core).vmlinux(file.path()).attach().unwrap_err();
    let text = refusal.to_string();
    assert!(matches!(refusal, Error::WrongVmlinux { .. }), "{text}");
    assert!(text.contains(&format!("{:02x}", id[0])), "{text}");
}

/// A process's table is freed with it; the kernel's own stays.
#[test]
fn the_page_tables_are_the_kernels_own_whatever_cr3_led_there() {
    let lab = lab();
    let core = Vmcore::open(&lab.vmcore).unwrap();
    let own = lab.kernel.symbol("init_top_pgt").unwrap();
    let (own, _) = lab.kernel.translate(own).unwrap();
    let hints = core.hints().cr3;
    assert!(hints.iter().any(|cr3| cr3 & !0xfff != own.0), "{hints:x?}");
    for cr3 in hints {
        let memory = NoHints(Vmcore::open(&lab.vmcore).unwrap());
        let kernel = Attach::new(Arc::new(memory)).cr3(cr3).attach().unwrap();
        assert_eq!(kernel.address_space().root, own, "{cr3:#x}");
    }
}

/// With an image that has no kallsyms the vmlinux leads to the page tables, and its build id proves it.
#[test]
fn a_vmlinux_alone_leads_to_the_kernel() {
    let lab = lab();
    let memory = NoHints(Vmcore::open(&lab.vmcore).unwrap());
    let tokens = lab.kernel.symbol("kallsyms_token_table").unwrap();
    let (gpa, _) = lab.kernel.translate(tokens.wrapping_add(300)).unwrap();
    let memory = Arc::new(Blind(memory, gpa));
    let refusal = Attach::new(Arc::clone(&memory) as _).attach().unwrap_err();
    assert!(matches!(refusal, Error::NoKernel { .. }), "{refusal}");
    let Some(vmlinux) = vmlinux() else { return };
    let found = Attach::new(memory).vmlinux(vmlinux).attach().unwrap();
    assert_eq!(found.text(), lab.kernel.text());
    assert_eq!(found.tasks().found, lab.kernel.tasks().found);
}

/// Memory in which one page is lost.
#[derive(Debug)]
struct Blind(NoHints, Gpa);

impl PhysMem for Blind {
    fn read(&self, gpa: Gpa, buffer: &mut [u8]) -> Result<()> {
        self.0.read(gpa, buffer)?;
        let page = self.1.0 & !4095;
        for (at, byte) in (gpa.0..).zip(buffer) {
            if (page..page + 4096).contains(&at) {
                *byte = 0;
            }
        }
        Ok(())
    }

    fn ranges(&self) -> Vec<Range> {
        self.0.ranges()
    }
}

/// Types come from a vmlinux, are cached, and serve later readers without one; what memory says is not cached.
#[test]
fn the_btf_cache_is_used_and_right() {
    let lab = lab();
    let dir = tempfile::tempdir().unwrap();
    let attach = |vmlinux: Option<&Path>| {
        let core = Arc::new(Vmcore::open(&lab.vmcore).unwrap());
        let mut attach = Attach::new(core).btf_cache(dir.path());
        if let Some(vmlinux) = vmlinux {
            attach = attach.vmlinux(vmlinux);
        }
        attach.attach().unwrap()
    };
    let of_memory = attach(None);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    let Some(vmlinux) = vmlinux() else { return };
    let first = attach(Some(&vmlinux));
    assert_eq!(first.btf().bytes(), of_memory.btf().bytes());
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    let second = attach(None);
    assert_eq!(first.btf().bytes(), second.btf().bytes());
    assert_eq!(
        first.btf().member_of("rq", "scx.local_dsq.nr"),
        second.btf().member_of("rq", "scx.local_dsq.nr")
    );
}
