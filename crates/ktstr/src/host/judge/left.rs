//! What a run left, as far as it decides the verdict: plain data, which a test makes up as well as a VM does.

use ktstr_monitor::sched::ScxExit;
use ktstr_vmm::ExitReason;
use ktstr_wire::{Message, SchedExit};

use crate::host::judge::captures::Periodic;
use crate::host::plan::deadlines::Deadlines;
use crate::host::watch::coordinator::{BooksSeen, Failure};
use crate::host::watch::lost_time::LostTime;
use crate::model::result::VmResult;
use crate::model::verdict::AssertResult;

/// What one run left.
#[derive(Debug, Clone)]
pub(in crate::host) struct Left {
    /// Of the VM: frames, consoles, how it ended.
    pub(in crate::host) vm: VmResult,
    /// What it was allowed.
    pub(in crate::host) deadlines: Deadlines,
    /// How sched_ext itself says that its scheduler left, where that was captured.
    pub(in crate::host) exit: Option<CapturedExit>,
    /// When the host let a vCPU wait.
    pub(in crate::host) lost: LostTime,
    /// How the periodic captures went.
    pub(in crate::host) periodic: Periodic,
    /// What the kernel's own books were like.
    pub(in crate::host) books: Option<BooksSeen>,
}

/// A scheduler's exit as the kernel recorded it (`struct scx_exit_info`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::host) struct CapturedExit {
    /// `enum scx_exit_kind`.
    pub(in crate::host) kind: u64,
    /// The same in words.
    pub(in crate::host) name: String,
    /// The kernel's reason and the scheduler's message.
    pub(in crate::host) texts: Vec<String>,
}

impl CapturedExit {
    /// The exit in a captured state, if there was one.
    pub(in crate::host) fn of(failure: Option<&Failure>) -> Option<Self> {
        let leaving = failure?.report.scx.as_ref()?.leaving()?;
        let texts = leaving
            .exit
            .map(|exit| exit.reason.iter().chain(&exit.msg).cloned().collect());
        Some(Self {
            kind: leaving.kind,
            name: leaving.kind_name.unwrap_or_default().to_owned(),
            texts: texts.unwrap_or_default(),
        })
    }

    /// The kernel ejected the scheduler; it did not leave by itself or on request.
    pub(in crate::host) fn is_error(&self) -> bool {
        self.kind >= ScxExit::ERROR
    }

    /// `error_stall (runnable task stall: a[7] failed to run for 5.0s)`.
    pub(in crate::host) fn words(&self) -> String {
        let name = if self.name.is_empty() {
            format!("exit kind {}", self.kind)
        } else {
            self.name.clone()
        };
        let said: Vec<&str> = self
            .texts
            .iter()
            .map(String::as_str)
            .filter(|text| !text.is_empty())
            .collect();
        if said.is_empty() {
            name
        } else {
            format!("{name} ({})", said.join(": "))
        }
    }
}

impl Left {
    /// The kernel ejected the scheduler.
    pub(in crate::host) fn thrown_out(&self) -> Option<&CapturedExit> {
        self.exit.as_ref().filter(|exit| exit.is_error())
    }

    /// Success: the guest's own verdict is a pass, and it ended by an Exit frame and power-off.
    pub(in crate::host) fn succeeded(&self) -> bool {
        guest_result(&self.vm).is_some_and(|result| result.is_pass()) && self.ended_well()
    }

    /// The guest said that it was done, and powered off.
    pub(in crate::host) fn ended_well(&self) -> bool {
        let vm = &self.vm;
        let said_so = exit_frame(vm).is_some();
        let clean = vm.crash_message.is_none() && !vm.timed_out;
        said_so && clean && vm.exit_reason == ExitReason::PowerOff
    }
}

/// The status of the test's process, as init reported it at the guest's end.
pub(in crate::host) fn exit_frame(vm: &VmResult) -> Option<i32> {
    messages(vm)
        .filter_map(|message| match message {
            Message::Exit(code) => Some(code),
            _ => None,
        })
        .last()
}

/// The guest's own verdict: the last undamaged TestResult frame that can be read.
#[must_use]
pub(crate) fn guest_result(vm: &VmResult) -> Option<AssertResult> {
    messages(vm)
        .filter_map(|message| match message {
            Message::TestResult(body) => serde_json::from_slice(&body.body).ok(),
            _ => None,
        })
        .last()
}

/// How the scheduler process ended, when it did so by itself.
#[must_use]
pub(crate) fn scheduler_exit(vm: &VmResult) -> Option<SchedExit> {
    messages(vm)
        .filter_map(|message| match message {
            Message::SchedExit(exit) if exit.stop.is_none() => Some(exit),
            _ => None,
        })
        .last()
}

/// The decodable messages, in order.
pub(in crate::host) fn messages(vm: &VmResult) -> impl Iterator<Item = Message> + '_ {
    let frames = vm.guest_messages.iter();
    frames
        .flat_map(|frames| frames.messages())
        .map(|(_, message)| message)
}
