//! Pressure stall information: the flags of tasks.

use super::Found;
use super::books::Books;

/// `TSK_*` (`include/linux/psi_types.h`).
const RUNNING: u64 = 1 << 2;
const ON_CPU: u64 = 1 << 4;
pub(super) fn flags(books: &Books, found: &mut Found<'_>) {
    if !books.psi {
        return;
    }
    for (task, cpu) in books.judged_tasks() {
        let Some(flags) = task.psi_flags else {
            continue;
        };
        if task.on_rq > 1 {
            continue;
        }
        let runs = task.on_rq == 1 && !task.entity.is_delayed();
        let is_curr = cpu.curr == task.kva;
        let wrong = (flags & RUNNING != 0) != runs || (flags & ON_CPU != 0) != is_curr;
        if wrong {
            found.push(
                cpu.cpu,
                &task.name,
                format_args!(
                    "psi_flags with TSK_RUNNING = {} and TSK_ONCPU = {}",
                    u8::from(runs),
                    u8::from(is_curr)
                ),
                format_args!(
                    "psi_flags = {flags:#x}; on_rq = {}, sched_delayed = {}",
                    task.on_rq,
                    u8::from(task.entity.is_delayed())
                ),
            );
        }
    }
}
