//! The one line of a scheduler's log that its author can act on.

use crate::host::judge::text::strip_ansi;

/// What a line has that tells why a scheduler left.
const MARKS: [&str; 4] = [
    "scx_bpf_error",
    "runtime error",
    "runnable task stall",
    "EXIT: ",
];
/// How a loader's own error begins: anyhow's and clap's.
const LOADER_ERRORS: [&str; 2] = ["Error:", "error:"];
/// Between these, libbpf prints what the verifier said (libbpf's `bpf_object_load_prog`). The source lines in it are no events.
const VERIFIER_BEGINS: &str = "-- BEGIN PROG LOAD LOG --";
const VERIFIER_ENDS: &str = "-- END PROG LOAD LOG --";

/// The first line that a scheduler author can act on: what `scx_bpf_error` said or the kernel's reason for the exit, else
/// why the verifier refused a program, else the loader's own error.
pub(in crate::host) fn bug_summary<'a>(texts: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let (mut refusal, mut panic, mut error) = (None, None, None);
    for text in texts {
        let clean = strip_ansi(text);
        let (events, refusals) = split(&clean);
        if let Some(event) = events.iter().find(|line| is_event(line)) {
            return Some((*event).to_owned());
        }
        refusal = refusal.or_else(|| refusals.iter().find_map(Refusal::words));
        panic = panic.or_else(|| panic_line(&events));
        error = error.or_else(|| {
            events
                .into_iter()
                .find(|line| LOADER_ERRORS.iter().any(|mark| line.starts_with(mark)))
                .map(str::to_owned)
        });
    }
    refusal.or(panic).or(error)
}

/// What the kernel or the scheduler's own `scx_bpf_error` says of the exit, if any line does.
pub(in crate::host) fn event_line<'a>(texts: impl IntoIterator<Item = &'a str>) -> Option<String> {
    texts.into_iter().find_map(|text| {
        let clean = strip_ansi(text);
        let (events, _) = split(&clean);
        events
            .into_iter()
            .find(|line| is_event(line))
            .map(str::to_owned)
    })
}

/// A Rust program's panic in one line: the place, and its text, which is on the next one.
fn panic_line(events: &[&str]) -> Option<String> {
    let at = events
        .iter()
        .position(|line| line.starts_with("thread '") && line.contains("panicked at "))?;
    let place = events.get(at)?.split_once("panicked at ")?.1;
    let text = events.get(at + 1).copied().unwrap_or_default();
    Some(
        format!("the scheduler panicked at {place} {text}")
            .trim_end()
            .to_owned(),
    )
}

/// The text without what the verifier printed, in which any word of a scheduler's source may stand.
pub(in crate::host) fn without_verifier_logs(text: &str) -> String {
    split(text).0.join("\n")
}

fn is_event(line: &str) -> bool {
    MARKS.iter().any(|mark| line.contains(mark)) && !line.contains("unregistered from user space")
}

/// A program that did not load.
#[derive(Debug, Default)]
struct Refusal<'a> {
    program: &'a str,
    /// The verifier's last words.
    reason: &'a str,
    /// `file:line` of the source that it had come to.
    place: Option<&'a str>,
}

impl Refusal<'_> {
    fn words(&self) -> Option<String> {
        let Self {
            program,
            reason,
            place,
        } = self;
        let place = place
            .map(|place| format!(" at {place}"))
            .unwrap_or_default();
        (!reason.is_empty()).then(|| format!("the verifier refused '{program}'{place}: {reason}"))
    }
}

/// Lines that are not empty, without those of verifier logs, and what these say.
fn split(text: &str) -> (Vec<&str>, Vec<Refusal<'_>>) {
    let (mut events, mut refusals) = (Vec::new(), Vec::new());
    let mut open: Option<Refusal<'_>> = None;
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        if let Some((head, _)) = line.split_once(VERIFIER_BEGINS) {
            let program = head.split('\'').nth(1).unwrap_or("a program");
            refusals.extend(open.replace(Refusal {
                program,
                ..Refusal::default()
            }));
        } else if line.contains(VERIFIER_ENDS) {
            refusals.extend(open.take());
        } else if let Some(refusal) = &mut open {
            if let Some(source) = line.strip_prefix(';') {
                refusal.place = source.rsplit_once(" @ ").map(|(_, place)| place);
            } else if !line.starts_with("processed ") {
                refusal.reason = line;
            }
        } else {
            events.push(line);
        }
    }
    refusals.extend(open);
    (events, refusals)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(log: &str, expected: Option<&str>) {
        assert_eq!(bug_summary([log]).as_deref(), expected);
    }

    #[test]
    fn it_is_the_first_line_that_an_author_can_act_on() {
        check(
            "starting\n\u{1b}[31mEXIT: scx_bpf_error (queue 7 is gone)\u{1b}[0m\nEXIT: later",
            Some("EXIT: scx_bpf_error (queue 7 is gone)"),
        );
        check("EXIT: unregistered from user space", None);
        check("Error: no such map\n", Some("Error: no such map"));
        check(
            "hello\nerror: unexpected argument '--no-such-flag' found\n\nUsage: s [OPTIONS]\n",
            Some("error: unexpected argument '--no-such-flag' found"),
        );
    }

    #[test]
    fn a_panic_of_the_schedulers_program_is_one_line() {
        let log = "thread 'main' (71) panicked at src/main.rs:12:5:\ncalled `unwrap()` on None\nnote: run with RUST_BACKTRACE=1\nError: later";
        check(
            log,
            Some("the scheduler panicked at src/main.rs:12:5: called `unwrap()` on None"),
        );
        // What the kernel said comes first: a loader often panics over it.
        let event = format!("{log}\nEXIT: runtime error (x)");
        check(&event, Some("EXIT: runtime error (x)"));
    }

    /// Of scx_lavd 1.1.4 on Linux 6.12, shortened.
    const REFUSED: &str = r#"
WARN libbpf: prog 'lavd_enqueue': BPF program load failed: -EACCES
WARN libbpf: prog 'lavd_enqueue': -- BEGIN PROG LOAD LOG --
; scx_bpf_error("Failed to lookup cpu_ctx %d", cpu); @ main.bpf.c:945
4828: (56) if w3 != 0x1 goto pc+5     ; frame2: R3=1
; case 8: *(volatile __u64_alias_t *) p = *(__u64_alias_t *) res; break; @ common.bpf.h:796
4829: (7a) *(u64 *)(r2 +840) = 1
only read is supported
processed 770 insns (limit 1000000) max_states_per_insn 1 total_states 81 peak_states 81 mark_read 41
-- END PROG LOAD LOG --
WARN libbpf: prog 'lavd_enqueue': failed to load: -13
Error: Failed to load BPF program
"#;

    #[test]
    fn a_refused_program_is_named_with_the_verifiers_reason() {
        let reason =
            "the verifier refused 'lavd_enqueue' at common.bpf.h:796: only read is supported";
        check(REFUSED, Some(reason));
        // The loader came to an end without it.
        let cut = REFUSED.split("processed").next().unwrap();
        check(cut, Some(reason));
        // What was refused and then tried in another way is not what a running scheduler died of.
        let later = format!("{REFUSED}\nEXIT: runnable task stall (a[7] failed to run for 5.0s)");
        check(
            &later,
            Some("EXIT: runnable task stall (a[7] failed to run for 5.0s)"),
        );
    }

    #[test]
    fn a_verifiers_log_is_no_place_to_look_for_errors() {
        let rest = without_verifier_logs(REFUSED);
        assert!(!rest.contains("Failed to lookup"), "{rest}");
        assert!(rest.contains("Failed to load BPF program"), "{rest}");
    }
}
