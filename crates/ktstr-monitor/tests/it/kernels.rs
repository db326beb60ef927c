//! Readers with the types of other kernels, in memory that holds next to nothing: what a kernel lacks is absent, and
//! costs nothing else.

use std::sync::Arc;

use ktstr_monitor::btf::Btf;
use ktstr_monitor::locate::{ImageSpan, Located, Slide, SlideEvidence};
use ktstr_monitor::paging::{AddressSpace, PagingMode};
use ktstr_monitor::phys::SparseMem;
use ktstr_monitor::{DumpOptions, FailureDumpReport, Gpa, Kernel, Kva, Sampler, Symbols};

use crate::btf::others;

const TEXT: u64 = 0xffff_ffff_8100_0000;
const DIRECT: u64 = 0xffff_8880_0000_0000;
const CPUS: u64 = 3;
/// Where things are in memory, from the image's start or the linear map's.
const INIT_TASK: u64 = 0x1_0000;
const TASK: u64 = 0x4_0000;
const SIGNAL: u64 = 0x2_0000;
const AREAS: u64 = 0x10_0000;
const AREA: u64 = 0x2_0000;
const RUNQUEUES: u64 = 0x4000;

/// A machine with one task beside the first, which each CPU runs.
fn machine(btf: Btf) -> Arc<Kernel> {
    let memory = SparseMem::new();
    memory.populate(Gpa(0), AREAS + CPUS * AREA);
    let put = |at: u64, value: u64| memory.put(Gpa(at), &value.to_le_bytes());
    let place = |ty: &str, path: &str| {
        let id = btf.find_struct(ty).unwrap().id();
        btf.member(id, path).unwrap().offset
    };
    put(0x100, CPUS);
    put(0x108, (1 << CPUS) - 1);
    let [first, second] = [INIT_TASK, TASK].map(|task| task + place("task_struct", "tasks"));
    put(first, DIRECT + second);
    put(second, TEXT + first);
    put(TASK + place("task_struct", "signal"), DIRECT + SIGNAL);
    let threads = SIGNAL + place("signal_struct", "thread_head");
    let node = TASK + place("task_struct", "thread_node");
    put(threads, DIRECT + node);
    put(node, DIRECT + threads);
    put(TASK + place("task_struct", "cpus_ptr"), TEXT + 0x108);
    memory.put(Gpa(TASK + place("task_struct", "comm")), b"worker\0");
    for cpu in 0..CPUS {
        put(0x200 + cpu * 8, DIRECT + AREAS + cpu * AREA);
        let rq = AREAS + cpu * AREA + RUNQUEUES;
        put(rq + place("rq", "clock"), 1000 + cpu);
        put(rq + place("rq", "curr"), DIRECT + TASK);
        memory.put(
            Gpa(rq + place("rq", "nr_running")),
            &u32::try_from(cpu + 1).unwrap().to_le_bytes(),
        );
    }
    let symbols = [
        ("_text", TEXT),
        ("nr_cpu_ids", TEXT + 0x100),
        ("__cpu_online_mask", TEXT + 0x108),
        ("__cpu_possible_mask", TEXT + 0x108),
        ("__per_cpu_offset", TEXT + 0x200),
        ("init_task", TEXT + INIT_TASK),
        ("map_idr", TEXT + 0x8000),
        ("prog_idr", TEXT + 0x8100),
        ("runqueues", RUNQUEUES),
    ];
    let located = Located {
        space: AddressSpace::from_cr3(0, PagingMode::X86FourLevel),
        text: Kva(TEXT),
        image: ImageSpan {
            kva: Kva(TEXT),
            gpa: Gpa(0),
            len: AREAS,
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
        btf,
    };
    Arc::new(Kernel::from_located(Arc::new(memory), located))
}

#[test]
fn what_a_kernel_lacks_costs_nothing_else() {
    for (name, bytes) in others() {
        let btf = Btf::from_bytes(bytes).unwrap();
        let has_scx = btf.find_struct("scx_rq").is_some();
        let kernel = machine(btf);
        let report = FailureDumpReport::capture(&kernel, &[], &DumpOptions::default());
        // It has no log, and that is all that went wrong.
        let wrong: Vec<_> = report.problems.iter().map(|problem| &problem.why).collect();
        assert_eq!(wrong, ["this kernel has no symbol prb"], "{name}");
        let queues = &report.runqueues;
        assert_eq!(queues.len(), 3, "{name}");
        assert_eq!(
            (queues[2].nr_running, queues[2].clock),
            (Some(3), Some(1002)),
            "{name}"
        );
        assert_eq!(queues[2].cfs_nr_running, Some(0), "{name}");
        assert!(
            queues[2].rt_nr_running.is_some() && queues[2].nr_switches.is_some(),
            "{name}"
        );
        assert_eq!(queues[2].curr.as_ref().unwrap().comm, "worker");
        assert_eq!(queues[2].scx.is_some(), has_scx, "{name}");
        let [task] = &report.tasks[..] else {
            panic!("{name}: {:?}", report.tasks);
        };
        assert_eq!(
            (task.comm.as_str(), task.state),
            ("worker", Some('R')),
            "{name}"
        );
        assert_eq!(task.cpus_allowed.as_deref(), Some(&[0, 1, 2][..]), "{name}");
        assert!(
            task.prio.is_some() && task.policy.is_some() && task.cpu.is_some(),
            "{name}"
        );
        assert_eq!(task.scx.is_some(), has_scx, "{name}");
        let mut sampler = Sampler::new(Arc::clone(&kernel)).unwrap();
        let sample = sampler.sample(1, &[]).unwrap();
        assert_eq!(
            (sample.cpus[1].nr_running, sample.cpus[1].rq_clock),
            (2, 1001),
            "{name}"
        );
        assert_eq!(sample.cpus[1].scx_nr_running.is_some(), has_scx, "{name}");
    }
}
