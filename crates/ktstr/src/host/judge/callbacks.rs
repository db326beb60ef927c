//! The functions that a test asks to be called with its VM's result.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::model::call::panic_text;
use crate::model::claim::{Inconclusive, collect_dropped};
use crate::model::entry::{KtstrTestEntry, PostVm};
use crate::model::post_vm::PostVmSkip;
use crate::model::result::VmResult;
use crate::model::verdict::{AssertDetail, AssertResult, DetailKind};

/// What the callbacks had to say.
#[derive(Debug, Clone, Default)]
pub(in crate::host) struct Called {
    /// Their findings.
    pub(in crate::host) found: AssertResult,
    /// Why one of them says that this run cannot be judged.
    pub(in crate::host) skip: Option<String>,
}

/// Calls both: `post_vm` unless the guest reported a failure, `post_vm_unconditional` always. Each one's error, panic or
/// verdict is told by name, and none keeps the other from being called.
pub(in crate::host) fn call(
    entry: &KtstrTestEntry,
    vm: &VmResult,
    guest: Option<&AssertResult>,
) -> Called {
    let guest_failed = guest.is_some_and(AssertResult::is_fail);
    let callbacks = [
        ("post_vm", entry.post_vm.filter(|_| !guest_failed)),
        ("post_vm_unconditional", entry.post_vm_unconditional),
    ];
    let mut called = Called::default();
    for (name, callback) in callbacks {
        if let Some(callback) = callback {
            take(&mut called, name, callback, vm);
        }
    }
    called
}

fn take(called: &mut Called, name: &str, callback: PostVm, vm: &VmResult) {
    let fail = |text: String| AssertDetail::fail(DetailKind::PostVm, format!("{name}: {text}"));
    let (returned, dropped) = collect_dropped(|| catch_unwind(AssertUnwindSafe(|| callback(vm))));
    for detail in dropped {
        called.found.push(AssertDetail {
            kind: DetailKind::PostVm,
            message: format!("{name}: {}", detail.message),
            ..detail
        });
    }
    match returned {
        Ok(Ok(result)) if result.is_skip() => {
            let reasons: Vec<&str> = result
                .skip_details()
                .map(|detail| detail.message.as_str())
                .collect();
            called.skip = Some(format!("{name}: {}", reasons.join("; ")));
        }
        Ok(Ok(mut result)) => {
            for detail in &mut result.details {
                detail.message = format!("{name}: {}", detail.message);
                // What a callback judged is never an expected failure of the guest's.
                if detail.kind == DetailKind::Other {
                    detail.kind = DetailKind::PostVm;
                }
            }
            called.found.merge(result);
        }
        Ok(Err(error)) => match error.downcast_ref::<PostVmSkip>() {
            Some(skip) => called.skip = Some(format!("{name}: {skip}")),
            None if error.downcast_ref::<Inconclusive>().is_some() => {
                let text = format!("{name}: {error:#}");
                let detail = AssertDetail::inconclusive(DetailKind::PostVm, text);
                called.found.push(detail);
            }
            None => called.found.push(fail(format!("{error:#}"))),
        },
        Err(payload) => {
            let text = format!("panicked: {}", panic_text(payload.as_ref()));
            called.found.push(fail(text));
        }
    }
}
