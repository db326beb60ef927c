//! The monitor's speed: reads, walks, BTF, samples and whole dumps.
//!
//! What needs a real kernel uses the vmcore that the tests leave behind (`cargo test -p ktstr-monitor --test it`); without
//! it those benchmarks are left out, with a line that says so.
#![expect(clippy::unwrap_used, reason = "a benchmark fails by panicking")]

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ktstr_monitor::btf::{Blob, Btf, load_cached, store_cached};
use ktstr_monitor::locate::{ImageSpan, Located, Slide, SlideEvidence};
use ktstr_monitor::paging::{AddressSpace, PagingMode, TranslationCache};
use ktstr_monitor::phys::{MappedMem, Piece, Vmcore};
use ktstr_monitor::{
    Attach, DumpOptions, FailureDumpReport, Gpa, Kernel, Kva, PhysMem, Sampler, Symbols,
};

const MIB: u64 = 1 << 20;

/// Zeroed memory in a file, as a guest's is.
fn memory(mib: u64) -> MappedMem {
    let file = tempfile::tempfile().unwrap();
    file.set_len(mib * MIB).unwrap();
    let whole = Piece {
        gpa: Gpa(0),
        offset: 0,
        len: mib * MIB,
    };
    MappedMem::shared(&file, &[whole]).unwrap()
}

fn put(memory: &dyn PhysMem, gpa: u64, value: u64) {
    memory.write(Gpa(gpa), &value.to_le_bytes()).unwrap();
}

/// A walk through all of memory in which no place follows from the last.
fn scattered(mask: u64) -> impl FnMut() -> u64 {
    let mut state = 1_u64;
    move || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 20) & mask & !7
    }
}

fn reads(c: &mut Criterion) {
    let memory = memory(256);
    for gpa in (0..256 * MIB).step_by(4096) {
        put(&memory, gpa, gpa);
    }
    let mut group = c.benchmark_group("read");
    group.throughput(Throughput::Elements(1));
    group.bench_function("u64 hot", |b| {
        b.iter(|| memory.read_u64(black_box(Gpa(0x1000))).unwrap());
    });
    let mut next = scattered(256 * MIB - 1);
    group.bench_function("u64 random", |b| {
        b.iter(|| memory.read_u64(Gpa(next())).unwrap());
    });
    let mut page = vec![0; 4096];
    group.throughput(Throughput::Bytes(4096));
    group.bench_function("page", |b| {
        b.iter(|| memory.read(black_box(Gpa(0x8000)), &mut page).unwrap());
    });
    group.finish();
}

/// 512 small pages at the start of vmalloc space.
fn walks(c: &mut Criterion) {
    let memory = memory(8);
    let base = 0xffff_c900_0000_0000_u64;
    put(&memory, 0x1000 + ((base >> 39) & 511) * 8, 0x2003);
    put(&memory, 0x2000, 0x3003);
    put(&memory, 0x3000, 0x4003);
    for page in 0..512 {
        put(&memory, 0x4000 + page * 8, 0x10_0003 + page * 4096);
    }
    let space = AddressSpace::from_cr3(0x1000, PagingMode::X86FourLevel);
    let cache = TranslationCache::new(space);
    let mut group = c.benchmark_group("walk");
    group.throughput(Throughput::Elements(1));
    let mut next = scattered(2 * MIB - 1);
    group.bench_function("four levels", |b| {
        b.iter(|| space.walk(&memory, Kva(base + next())).unwrap());
    });
    group.bench_function("cached", |b| {
        b.iter(|| cache.translate(&memory, Kva(base + next())).unwrap());
    });
    group.finish();
}

fn vmcore() -> Option<PathBuf> {
    let exe = std::env::current_exe().ok()?;
    let target = exe.ancestors().nth(3)?;
    let left = ["debug", "release"].map(|profile| {
        target
            .join(profile)
            .join("ktstr-monitor-tests/guest/vmcore")
    });
    let found = left.into_iter().find(|path| path.is_file());
    if found.is_none() {
        eprintln!("no vmcore: run the crate's tests first");
    }
    found
}

fn attach(path: &Path) -> Kernel {
    let core = Arc::new(Vmcore::open(path).unwrap());
    Attach::new(core).attach().unwrap()
}

/// Structs that kernels of the last years have: what readers of a kernel ask for, forty of them.
const STRUCTS: [&str; 40] = [
    "rq",
    "cfs_rq",
    "rt_rq",
    "dl_rq",
    "task_struct",
    "sched_entity",
    "sched_domain",
    "sched_group",
    "sched_class",
    "signal_struct",
    "css_set",
    "cgroup",
    "cgroup_subsys_state",
    "kernfs_node",
    "mm_struct",
    "vm_area_struct",
    "vm_struct",
    "page",
    "list_head",
    "hlist_node",
    "rhashtable",
    "bucket_table",
    "idr",
    "xarray",
    "xa_node",
    "printk_ringbuffer",
    "prb_desc",
    "printk_info",
    "bpf_map",
    "bpf_array",
    "bpf_htab",
    "htab_elem",
    "bpf_prog",
    "bpf_prog_aux",
    "bpf_prog_stats",
    "bpf_ringbuf",
    "bpf_local_storage_map",
    "bpf_local_storage_elem",
    "btf",
    "btf_header",
];

fn types(c: &mut Criterion) {
    let host = std::fs::read("/sys/kernel/btf/vmlinux").ok();
    if let Some(host) = host.filter(|bytes| bytes.len() >= 5_000_000) {
        btf(c, "btf of the host", &host);
    } else {
        eprintln!("this host's own BTF is smaller than 5 MB, or missing: that row is left out");
    }
    if let Some(path) = vmcore() {
        btf(c, "btf of the guest", attach(&path).btf().bytes());
    }
}

/// The same job for three libraries: open a file, find forty structs by name.
fn btf(c: &mut Criterion, name: &str, bytes: &[u8]) {
    let mut group = c.benchmark_group(name);
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    group.sample_size(30);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    let look = |btf: &Btf| {
        let found = STRUCTS
            .iter()
            .filter(|name| btf.find_struct(name).is_some());
        assert_eq!(found.count(), STRUCTS.len());
    };
    group.bench_function("cold", |b| {
        b.iter(|| look(&Btf::new(Blob::map(file.path()).unwrap()).unwrap()));
    });
    let dir = tempfile::tempdir().unwrap();
    let ours = Btf::from_bytes(bytes.to_vec()).unwrap();
    store_cached(dir.path(), &[1], &ours).unwrap();
    group.bench_function("cached", |b| {
        b.iter(|| look(&load_cached(dir.path(), &[1]).unwrap()));
    });
    group.bench_function("libbpf", |b| {
        b.iter(|| {
            let theirs = libbpf_rs::btf::Btf::from_path(file.path()).unwrap();
            let found = STRUCTS.iter().filter(|name| {
                theirs
                    .type_by_name::<libbpf_rs::btf::types::Struct<'_>>(name)
                    .is_some()
            });
            assert_eq!(found.count(), STRUCTS.len());
        });
    });
    group.sample_size(10);
    group.bench_function("btf-rs", |b| {
        b.iter(|| btf_rs::Btf::from_bytes(black_box(bytes)).unwrap());
    });
    group.finish();
}

fn kernels(c: &mut Criterion) {
    let Some(path) = vmcore() else { return };
    let kernel = Arc::new(attach(&path));
    let mut group = c.benchmark_group("kernel");
    group.sample_size(20);
    group.bench_function("found", |b| b.iter(|| attach(&path)));
    group.bench_function("symbol by name", |b| {
        b.iter(|| kernel.symbol(black_box("map_idr")).unwrap());
    });
    let schedule = Kva(kernel.symbol("schedule").unwrap().0 + 5);
    group.bench_function("symbol by address", |b| {
        b.iter(|| kernel.describe(black_box(schedule)));
    });
    group.bench_function("runqueues", |b| b.iter(|| kernel.runqueues()));
    group.bench_function("tasks", |b| b.iter(|| kernel.tasks()));
    group.bench_function("maps", |b| b.iter(|| kernel.maps()));
    group.bench_function("programs", |b| b.iter(|| kernel.programs()));
    group.bench_function("dispatch queues", |b| b.iter(|| kernel.dispatch_queues()));
    group.bench_function("dmesg", |b| b.iter(|| kernel.dmesg()));
    group.bench_function("full dump", |b| {
        b.iter(|| FailureDumpReport::capture(&kernel, &[], &DumpOptions::default()));
    });
    let mut sampler = Sampler::new(Arc::clone(&kernel)).unwrap();
    group.bench_function("sample", |b| {
        b.iter(|| sampler.sample(black_box(1), &[]).unwrap());
    });
    group.finish();
}

/// A kernel of `cpus` CPUs in empty memory: real types, and just the symbols that a sampler asks for.
fn many_cpus(btf: &Btf, cpus: u64) -> Arc<Kernel> {
    const TEXT: u64 = 0xffff_ffff_8100_0000;
    const DIRECT: u64 = 0xffff_8880_0000_0000;
    let memory = memory(64);
    put(&memory, 0x1000, cpus);
    for word in 0..cpus.div_ceil(64) {
        let bits = (cpus - word * 64).min(64);
        put(&memory, 0x2000 + word * 8, u64::MAX >> (64 - bits));
    }
    for cpu in 0..cpus {
        put(&memory, 0x3000 + cpu * 8, DIRECT + MIB + cpu * 0x4_0000);
    }
    let symbols = [
        ("nr_cpu_ids", TEXT + 0x1000),
        ("__cpu_online_mask", TEXT + 0x2000),
        ("__cpu_possible_mask", TEXT + 0x2000),
        ("__per_cpu_offset", TEXT + 0x3000),
        ("runqueues", 0x2_cc00),
    ];
    let located = Located {
        space: AddressSpace::from_cr3(0, PagingMode::X86FourLevel),
        text: Kva(TEXT),
        image: ImageSpan {
            kva: Kva(TEXT),
            gpa: Gpa(0),
            len: MIB,
        },
        slide: Slide {
            bytes: 0,
            evidence: SlideEvidence::DefaultLinkAddress,
        },
        build_id: None,
        symbols: Symbols::collect(
            symbols
                .iter()
                .map(|(name, at)| (b'd', name.as_bytes(), *at)),
        ),
        btf: Btf::from_bytes(btf.bytes().to_vec()).unwrap(),
    };
    Arc::new(Kernel::from_located(Arc::new(memory), located))
}

fn samples(c: &mut Criterion) {
    let Some(path) = vmcore() else { return };
    let real = attach(&path);
    let mut group = c.benchmark_group("sample");
    for cpus in [4, 32, 128] {
        let mut sampler = Sampler::new(many_cpus(real.btf(), cpus)).unwrap();
        group.throughput(Throughput::Elements(cpus));
        group.bench_function(format!("{cpus} CPUs"), |b| {
            b.iter(|| sampler.sample(black_box(1), &[]).unwrap());
        });
    }
    group.finish();
}

criterion_group!(benches, reads, walks, types, kernels, samples);
criterion_main!(benches);
