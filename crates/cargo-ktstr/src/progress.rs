//! A spinner on a terminal, plain lines in a pipe.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use ktstr_kernel::Progress;

use crate::interrupt;

/// Shows how a kernel build gets on; stops it when a signal came.
#[derive(Debug)]
pub(crate) struct Bar(ProgressBar);

impl Bar {
    pub(crate) fn new() -> Self {
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} ({pos} steps, {elapsed})")
        {
            bar.set_style(style);
        }
        if !bar.is_hidden() {
            bar.enable_steady_tick(Duration::from_millis(200));
        }
        Self(bar)
    }

    pub(crate) fn finish(&self) {
        self.0.finish_and_clear();
    }
}

impl Progress for Bar {
    fn step(&mut self, text: &str) {
        if self.0.is_hidden() {
            eprintln!("  {text} …");
        }
        self.0.set_position(0);
        self.0.set_message(text.to_owned());
    }

    fn tick(&mut self) {
        self.0.inc(1);
    }

    fn cancelled(&self) -> bool {
        interrupt::requested().is_some()
    }
}
