//! Operations that the host carries out, and those of the next step that are done ahead.

use crate::model::scenario::{KernelTarget, KernelValue, KernelValueWidth, Op};
use crate::model::transport::{HostAct, HostRequest, KernelBatch, KernelEntries};

/// Operations of the next step that are done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Ahead {
    /// Those before are the host's, and are still asked for: it gives what came of them.
    pub(super) from: usize,
    /// Those from `from` to here are done.
    pub(super) to: usize,
}

/// Whether the host carries it out.
pub(super) fn is_by_host(op: &Op) -> bool {
    host_act(std::slice::from_ref(op)).is_some()
}

/// What the host does for the first of these, and for how many of them; `None` where the first is the guest's.
pub(super) fn host_act(ops: &[Op]) -> Option<(HostAct, usize)> {
    let read = |tag: &String, target: &KernelTarget, width: &KernelValueWidth, cold| {
        HostAct::Kernel(KernelBatch {
            tag: tag.clone(),
            cold,
            entries: KernelEntries::Read(vec![(target.clone(), *width)]),
        })
    };
    let act = match ops.first()? {
        Op::CaptureSnapshot { name } => {
            HostAct::Request(HostRequest::Capture { tag: name.clone() })
        }
        Op::WatchSnapshot { symbol } => HostAct::Request(HostRequest::Watch {
            symbol: symbol.clone(),
        }),
        Op::ReadKernelHot { tag, target, width } => read(tag, target, width, false),
        Op::ReadKernelCold { tag, target, width } => read(tag, target, width, true),
        Op::WriteKernelHot { writes } => HostAct::Kernel(write_batch(writes.clone(), false)),
        Op::WriteKernelCold { .. } => {
            let cold = ops.iter().map_while(|op| match op {
                Op::WriteKernelCold { writes } => Some(writes.clone()),
                _ => None,
            });
            let all: Vec<Vec<(KernelTarget, KernelValue)>> = cold.collect();
            let count = all.len();
            return Some((HostAct::Kernel(write_batch(all.concat(), true)), count));
        }
        _ => return None,
    };
    Some((act, 1))
}

fn write_batch(writes: Vec<(KernelTarget, KernelValue)>, cold: bool) -> KernelBatch {
    KernelBatch {
        tag: "write".to_owned(),
        cold,
        entries: KernelEntries::Write(writes),
    }
}

/// What the host does of these at the very moment, and how many operations that is.
pub(super) fn host_acts(ops: &[Op]) -> (Vec<HostAct>, usize) {
    let (mut acts, mut count) = (Vec::new(), 0);
    while let Some((act, len)) = host_act(ops.get(count..).unwrap_or_default()) {
        acts.push(act);
        count += len;
    }
    (acts, count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_operations_at_the_front_are_known_beforehand() {
        let write = || Op::write_kernel_cold(KernelTarget::symbol("a"), KernelValue::u32(1));
        let ops = [
            Op::capture_snapshot("x"),
            write(),
            write(),
            Op::freeze_cgroup("a"),
            Op::capture_snapshot("y"),
        ];
        let (acts, count) = host_acts(&ops);
        assert_eq!(count, 3);
        let [HostAct::Request(capture), HostAct::Kernel(writes)] = acts.as_slice() else {
            panic!("{acts:?}")
        };
        let tag = String::from("x");
        assert_eq!(*capture, HostRequest::Capture { tag });
        assert!(writes.cold && format!("{:?}", writes.entries).matches("Symbol").count() == 2);
        assert_eq!(host_acts(&ops[3..]), (Vec::new(), 0));
    }
}
