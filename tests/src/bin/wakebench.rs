//! A wake-up benchmark in schbench's manner, as a payload: one thread wakes workers through condition variables, each notes
//! how long it took to run, does a little work and answers.
//!
//! `wakebench [--workers N] [--seconds S] [--text] [--exit CODE]`: JSON on standard output, or schbench-like text.

#![expect(clippy::print_stdout, reason = "a command-line tool")]

use std::process::ExitCode;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};
use std::{env, thread};

/// What one worker and the waker share.
#[derive(Default)]
struct Desk {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// When the waker asked; taken by the worker.
    asked: Option<Instant>,
    over: bool,
    waits_us: Vec<f64>,
}

fn work(desk: &Desk) {
    let mut state = desk.state.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        state = desk
            .changed
            .wait_while(state, |state| state.asked.is_none() && !state.over)
            .unwrap_or_else(PoisonError::into_inner);
        let Some(asked) = state.asked.take() else {
            return;
        };
        state.waits_us.push(asked.elapsed().as_secs_f64() * 1e6);
        desk.changed.notify_all();
    }
}

fn wake_until(desks: &[Arc<Desk>], end: Instant) {
    while Instant::now() < end {
        for desk in desks {
            let state = desk.state.lock().unwrap_or_else(PoisonError::into_inner);
            // The answer to the last question bounds how fast they are asked.
            let (mut state, _) = desk
                .changed
                .wait_timeout_while(state, Duration::from_millis(100), |state| {
                    state.asked.is_some()
                })
                .unwrap_or_else(PoisonError::into_inner);
            state.asked.get_or_insert_with(Instant::now);
            drop(state);
            desk.changed.notify_all();
        }
    }
    for desk in desks {
        let mut state = desk.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.over = true;
        state.asked = None;
        drop(state);
        desk.changed.notify_all();
    }
}

fn option<T: std::str::FromStr>(name: &str, default: T) -> T {
    let mut args = env::args().skip_while(|arg| arg != name);
    args.nth(1)
        .and_then(|value| value.parse().ok())
        .unwrap_or(default)
}

fn main() -> ExitCode {
    let workers = option("--workers", 2_u8).clamp(1, 64);
    let seconds = option("--seconds", 1.0_f64).clamp(0.1, 60.0);
    let desks: Vec<Arc<Desk>> = (0..workers).map(|_| Arc::default()).collect();
    let threads: Vec<_> = desks
        .iter()
        .cloned()
        .map(|desk| thread::spawn(move || work(&desk)))
        .collect();
    let started = Instant::now();
    wake_until(&desks, started + Duration::from_secs_f64(seconds));
    let ran = threads.into_iter().all(|thread| thread.join().is_ok());
    let elapsed = started.elapsed().as_secs_f64();
    let mut waits: Vec<f64> = Vec::new();
    for desk in &desks {
        waits.append(
            &mut desk
                .state
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .waits_us,
        );
    }
    waits.sort_by(f64::total_cmp);
    let at = |per_cent: usize| {
        let last = waits.len().saturating_sub(1);
        waits.get(last * per_cent / 100).copied().unwrap_or(0.0)
    };
    let (p50, p99, max, count) = (at(50), at(99), at(100), waits.len());
    let rps = count as f64 / elapsed;
    if env::args().any(|arg| arg == "--text") {
        println!(
            "Wakeup Latencies percentiles (usec) runtime {elapsed:.0} (s) ({count} total samples)"
        );
        println!("\t  50.0th: {p50:.1}\n\t* 99.0th: {p99:.1}\n\t  max={max:.1}\nrps: {rps:.2}");
    } else {
        println!(
            r#"{{"wakeup": {{"p50_us": {p50:.1}, "p99_us": {p99:.1}, "max_us": {max:.1}, "samples": {count}}}, "rps": {rps:.2}}}"#
        );
    }
    let code = option("--exit", 0_u8);
    ExitCode::from(if ran { code } else { 101 })
}
