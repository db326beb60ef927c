//! The threads of a VM, which end when it does, unless the host's kernel keeps one.

use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// What is left of threads that were to end.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Joined {
    All,
    /// This one had not ended in time; it, and others with it, may go on.
    Left(String),
}

/// Waits for the threads' ends, until `until` at most. A thread that does not end is left alone.
pub(super) fn join_until(threads: Vec<JoinHandle<()>>, until: Instant) -> Joined {
    // Those that have ended are joined here: none of them is given up for a deadline that has passed.
    let (over, threads): (Vec<_>, Vec<_>) = threads.into_iter().partition(JoinHandle::is_finished);
    for thread in over {
        // A panic there was printed there, and ended the VM.
        let _ = thread.join();
    }
    let names: Vec<String> = threads
        .iter()
        .map(|thread| thread.thread().name().unwrap_or("?").to_owned())
        .collect();
    let (tell, told) = mpsc::channel();
    let join = move || {
        for thread in threads {
            let _ = thread.join();
            if tell.send(()).is_err() {
                return;
            }
        }
    };
    // Its handle is dropped: it must not be waited for.
    if thread::Builder::new()
        .name(String::from("ktstr-join"))
        .spawn(join)
        .is_err()
    {
        return Joined::Left(names.join(", "));
    }
    for name in names {
        let left = until.saturating_duration_since(Instant::now());
        // One that has ended meanwhile is not given up for a deadline that has just passed.
        let left = left.max(Duration::from_millis(200));
        if told.recv_timeout(left).is_err() {
            return Joined::Left(name);
        }
    }
    Joined::All
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_does_not_end_is_named_and_left() {
        let (release, released) = mpsc::channel::<()>();
        let named = |name: &str, body: Box<dyn FnOnce() + Send>| {
            thread::Builder::new()
                .name(name.into())
                .spawn(body)
                .unwrap()
        };
        let threads = vec![
            named("ends", Box::new(|| ())),
            named("hangs", Box::new(move || assert!(released.recv().is_err()))),
        ];
        while !threads[0].is_finished() {
            thread::yield_now();
        }
        let began = Instant::now();
        let joined = join_until(threads, began + Duration::from_millis(300));
        assert_eq!(joined, Joined::Left(String::from("hangs")));
        assert!(began.elapsed() < Duration::from_secs(20));
        drop(release);
    }

    #[test]
    fn threads_that_have_ended_are_joined_after_the_deadline_too() {
        let threads: Vec<_> = (0..3).map(|_| thread::spawn(|| ())).collect();
        while !threads.iter().all(JoinHandle::is_finished) {
            thread::yield_now();
        }
        assert_eq!(join_until(threads, Instant::now()), Joined::All);
    }
}
