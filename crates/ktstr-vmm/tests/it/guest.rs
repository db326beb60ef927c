//! A small guest: busybox and a script as init.

use std::path::{Path, PathBuf};
use std::time::Duration;

use ktstr_initramfs::Builder;
use ktstr_vmm::{EngineChoice, Initrd, Vm, VmBuilder};

/// What every script begins with.
const PROLOGUE: &str = "#!/bin/busybox sh\nbb=/bin/busybox\n$bb mkdir -p /proc /sys /dev /tmp\n\
    $bb mount -t proc p /proc; $bb mount -t sysfs s /sys; $bb mount -t devtmpfs d /dev\n\
    port() { for p in /sys/class/virtio-ports/*; do [ \"$($bb cat $p/name)\" = \"$1\" ] && echo /dev/${p##*/}; done; }\n";

/// The newest kernel of ktstr's cache, or the one that `KTSTR_TEST_IMAGE` names.
pub(crate) fn kernel() -> PathBuf {
    if let Some(image) = std::env::var_os("KTSTR_TEST_IMAGE") {
        return image.into();
    }
    let cache = std::env::var_os("XDG_CACHE_HOME").map_or_else(
        || PathBuf::from(std::env::var_os("HOME").expect("HOME is set")).join(".cache"),
        PathBuf::from,
    );
    let newest = ktstr_kernel::Cache::at(cache.join("ktstr/kernels")).newest();
    let kernel = newest.expect("the cache can be read");
    kernel
        .expect("no test kernel; run `cargo xtask kernel`")
        .image
}

/// A guest that runs `script` and powers off.
pub(crate) fn guest(script: &str) -> VmBuilder {
    guest_with(Builder::new(), script)
}

/// The same with what else `builder` holds.
pub(crate) fn guest_with(mut builder: Builder, script: &str) -> VmBuilder {
    builder
        .file("/bin/busybox", Path::new("/bin/busybox"), 0o755)
        .unwrap();
    let init = format!("{PROLOGUE}{script}\n$bb poweroff -f\n");
    builder.bytes("/init", init.into_bytes(), 0o755).unwrap();
    let initramfs = builder
        .build()
        .expect("busybox-static is installed; run `cargo xtask setup`");
    Vm::builder()
        .kernel(kernel())
        .initrd(Initrd::Opened(initramfs.file()))
        .cmdline("console=ttyS0 rdinit=/init panic=-1 loglevel=4 nokaslr")
        .engine(EngineChoice::Tcg)
        .memory_mib(192)
        .deadline(Duration::from_secs(120))
}
