//! A tree of two schedulers, of which the child fails: for what the kernel says of sub-schedulers (Linux 7.3 and later).

use std::fs;
use std::mem::MaybeUninit;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use libbpf_rs::skel::{OpenSkel as _, SkelBuilder as _};

use crate::tree_skel::{TreeSkel, TreeSkelBuilder};
use crate::{LOOK_EVERY, SCX_EXIT_UNREG, text};

/// Tasks of the child: one more than it bears.
const TASKS: usize = 4;

/// The child's cgroup with its tasks; both go with it.
struct Group {
    path: PathBuf,
    tasks: Vec<Child>,
}

impl Group {
    fn new() -> Result<Self> {
        let path = PathBuf::from("/sys/fs/cgroup/scx-fixture-child");
        fs::create_dir_all(&path)
            .with_context(|| format!("failed to create {}", path.display()))?;
        Ok(Self {
            path,
            tasks: Vec::new(),
        })
    }

    /// What the kernel calls it.
    fn id(&self) -> Result<u64> {
        let meta = self.path.metadata();
        Ok(meta
            .with_context(|| format!("failed to look at {}", self.path.display()))?
            .ino())
    }

    /// Processes that wake up all the time.
    fn populate(&mut self) -> Result<()> {
        for _ in 0..TASKS {
            let task = Command::new(std::env::current_exe()?)
                .arg("--linger")
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .context("failed to start a task of the child")?;
            let procs = self.path.join("cgroup.procs");
            let pid = task.id().to_string();
            self.tasks.push(task);
            fs::write(&procs, pid)
                .with_context(|| format!("failed to write {}", procs.display()))?;
        }
        Ok(())
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        for task in &mut self.tasks {
            // One that has ended is fine.
            let _ = task.kill();
            let _ = task.wait();
        }
        let _ = fs::remove_dir(&self.path);
    }
}

/// From attach to detach of both; whether the kernel ejected one.
pub(crate) fn serve(error: &str, fault_after: Duration, stop: &AtomicBool) -> Result<bool> {
    let mut group = Group::new()?;
    let mut storage = MaybeUninit::uninit();
    let mut open = TreeSkelBuilder::default()
        .open(&mut storage)
        .context("failed to open the BPF object")?;
    open.struct_ops.child_ops_mut().sub_cgroup_id = group.id()?;
    let rodata = open
        .maps
        .rodata_data
        .as_deref_mut()
        .context("the BPF object has no .rodata")?;
    crate::put_text(&mut rodata.error_text, error);
    let mut skel = open
        .load()
        .context("failed to load the BPF object; sched_ext_ops_cid is in Linux 7.3 and later")?;
    let root = skel
        .maps
        .root_ops
        .attach_struct_ops()
        .context("failed to attach the root scheduler")?;
    let child = skel
        .maps
        .child_ops
        .attach_struct_ops()
        .context("failed to attach the child's scheduler")?;
    println!("fixture: attached, and a child");
    let fault_at = Instant::now() + fault_after;
    while !stop.load(Ordering::Relaxed) && exit_kinds(&skel) == [0, 0] {
        if group.tasks.is_empty() && Instant::now() >= fault_at {
            group.populate()?;
        }
        thread::park_timeout(LOOK_EVERY);
    }
    let ejected = exit_kinds(&skel).iter().any(|kind| *kind > SCX_EXIT_UNREG);
    drop(child);
    drop(root);
    if let Some(bss) = skel.maps.bss_data.as_deref() {
        for (who, exit) in [("root", &bss.root_exit), ("child", &bss.child_exit)] {
            println!(
                "EXIT of the {who}: {} ({})",
                text(&exit.reason),
                text(&exit.msg)
            );
        }
    }
    Ok(ejected)
}

/// Of the root and the child.
fn exit_kinds(skel: &TreeSkel<'_>) -> [u32; 2] {
    let Some(bss) = skel.maps.bss_data.as_deref() else {
        return [0, 0];
    };
    [
        &raw const bss.root_exit.kind,
        &raw const bss.child_exit.kind,
    ]
    .map(|kind| {
        // SAFETY: both are four bytes in a live mapping of the map; the kernel writes them, so they are read volatile.
        unsafe { std::ptr::read_volatile(kind) }
    })
}
