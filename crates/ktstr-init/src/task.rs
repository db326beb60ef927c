//! What this guest is to do, asked of the host at the gate.
//!
//! Up to here every test's guest is the same: it can be saved, and a copy of it be given another task.

use std::fs::{self, File};
use std::path::Path;
use std::time::Duration;

use ktstr_wire::{Message, SendError, Task};

use crate::outbox::Outbox;
use crate::plan::Plan;
use crate::watch::{Heard, wait_for_answer};

/// Asks for the task and follows it as far as its files; the plan, or why there is none.
pub(crate) fn ask(
    outbox: &mut Outbox,
    replies: &mut File,
    deadline: Duration,
) -> Result<Result<Plan, String>, SendError> {
    outbox.send(&Message::TaskRequest)?;
    let pick = |message| match message {
        Message::Task(task) => Some(task),
        _ => None,
    };
    let heard = wait_for_answer(replies, deadline, pick);
    // What was heard may have left something in the mailbox that has room now.
    outbox.pass_answers()?;
    Ok(match heard {
        Heard::Answer(task) => take(&task),
        Heard::HungUp => Err(String::from("the host hung up before it gave a task")),
        Heard::Silence => Err(format!(
            "the host gave no task within {} s",
            deadline.as_secs()
        )),
    })
}

fn take(task: &Task) -> Result<Plan, String> {
    let path = Path::new(&task.test_plan_path);
    fs::write(path, &task.test_plan)
        .map_err(|error| format!("failed to write {}: {error}", path.display()))?;
    let plan = Plan::parse(&task.plan, String::from("of the host"));
    let plan = plan.map_err(|error| error.to_string())?;
    if plan.at_gate {
        return Err(String::from("the host's plan is none"));
    }
    Ok(plan)
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;

    use ktstr_wire::{Assembler, Event, FrameWriter};

    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    /// What init makes of `answer`, or of a host that hangs up.
    fn asked(answer: Option<&Message>) -> Result<Plan, String> {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        if let Some(answer) = answer {
            FrameWriter::new(&theirs).send(answer, 0).unwrap();
        } else {
            theirs.shutdown(std::net::Shutdown::Write).unwrap();
        }
        let mut port = File::from(OwnedFd::from(ours));
        let mut outbox = Outbox::new(port.try_clone().unwrap());
        let plan = ask(&mut outbox, &mut port, LONG).unwrap();
        drop((outbox, port));
        let mut said = Vec::new();
        theirs.read_to_end(&mut said).unwrap();
        let mut assembler = Assembler::new();
        assembler.push(&said);
        let Some(Event::Frame(frame)) = assembler.next_event() else {
            panic!("{said:?}")
        };
        assert_eq!(frame.decode().unwrap(), Message::TaskRequest);
        plan
    }

    #[test]
    fn the_hosts_task_is_followed_and_a_wrong_one_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("test.json");
        let task = |plan: &str, path: &Path| {
            Message::Task(Task {
                plan: plan.as_bytes().to_vec(),
                test_plan: b"{}".to_vec(),
                test_plan_path: path.display().to_string(),
            })
        };
        let plan = asked(Some(&task(r#"{"test": ["/init", "x"]}"#, &path))).unwrap();
        assert_eq!(plan.test, ["/init", "x"]);
        assert_eq!(fs::read(&path).unwrap(), b"{}");
        for (plan, needle) in [
            ("{", "does not parse"),
            (r#"{"test": []}"#, "names no program"),
            (r#"{"test": [], "at_gate": true}"#, "is none"),
        ] {
            let told = asked(Some(&task(plan, &path))).unwrap_err();
            assert!(told.contains(needle), "{told}");
        }
        let nowhere = asked(Some(&task("{}", Path::new("/no/such/dir")))).unwrap_err();
        assert!(nowhere.contains("/no/such/dir"), "{nowhere}");
        assert!(asked(None).unwrap_err().contains("hung up"));
    }
}
