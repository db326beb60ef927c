//! The steps of a long command: how long each took, and which failed.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// What has passed and what has failed, and how long each took.
#[derive(Debug)]
pub(crate) struct Steps {
    began: Instant,
    failed: Vec<String>,
    took: Vec<(String, Duration)>,
}

impl Default for Steps {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            failed: Vec::new(),
            took: Vec::new(),
        }
    }
}

impl Steps {
    /// Two lists of steps, one beside the other.
    pub(crate) fn beside(
        &mut self,
        first: impl FnOnce(&mut Self),
        second: impl FnOnce(&mut Self) + Send,
    ) {
        let mut others = Self::default();
        thread::scope(|scope| {
            scope.spawn(|| second(&mut others));
            first(self);
        });
        self.failed.append(&mut others.failed);
        self.took.append(&mut others.took);
    }

    pub(crate) fn time<T>(&mut self, name: &str, step: impl FnOnce() -> T) -> T {
        let started = Instant::now();
        let done = step();
        self.took.push((name.to_owned(), started.elapsed()));
        done
    }

    pub(crate) fn note(&mut self, name: &str, step: impl FnOnce() -> Result<()>) {
        if let Err(error) = self.time(name, step) {
            eprintln!("{name}: {error:#}");
            self.failed.push(name.to_owned());
        }
    }

    /// One line for each step and one for all, which took `whole`.
    fn summary(&self, whole: Duration) -> String {
        let mut text = String::new();
        for (name, took) in &self.took {
            let mark = if self.failed.contains(name) {
                "  FAILED"
            } else {
                ""
            };
            text.push_str(&format!("{name:<16} {:>8}{mark}\n", minutes(*took)));
        }
        let passed = self.took.len() - self.failed.len();
        let failed = self.failed.len();
        text.push_str(&format!(
            "{passed} passed, {failed} failed, in {}",
            minutes(whole)
        ));
        text
    }

    pub(crate) fn finish(self) -> Result<()> {
        println!("{}", self.summary(self.began.elapsed()));
        if self.failed.is_empty() {
            Ok(())
        } else {
            bail!("failed: {}", self.failed.join(", "))
        }
    }
}

fn minutes(took: Duration) -> String {
    format!("{}:{:02} min", took.as_secs() / 60, took.as_secs() % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_step_is_told_with_its_time_and_its_failure() {
        let mut steps = Steps::default();
        steps.note("tidy", || Ok(()));
        steps.note("clippy", || bail!("no"));
        steps.took[1].1 = Duration::from_secs(125);
        assert_eq!(
            steps.summary(Duration::from_secs(126)),
            "tidy             0:00 min\nclippy           2:05 min  FAILED\n1 passed, 1 failed, in 2:06 min"
        );
        assert!(
            steps
                .finish()
                .unwrap_err()
                .to_string()
                .contains("failed: clippy")
        );
    }

    #[test]
    fn steps_beside_each_other_are_all_told() {
        let mut steps = Steps::default();
        let (sender, met) = std::sync::mpsc::channel();
        steps.beside(
            // Ends only if the other list runs at the same time.
            |steps| steps.note("first", || Ok(met.recv()?)),
            |steps| steps.note("second", || bail!("no, {:?}", sender.send(()))),
        );
        let names: Vec<_> = steps.took.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["first", "second"]);
        assert_eq!(steps.failed, ["second"]);
    }
}
