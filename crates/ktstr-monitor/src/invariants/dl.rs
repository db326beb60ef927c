//! The deadline class, and its servers.

use super::Found;
use super::books::Books;

const DL: &str = "struct dl_rq";

pub(super) fn nr_running(books: &Books, found: &mut Found<'_>) {
    for cpu in books.free() {
        let nodes = cpu.dl.deadlines.as_ref().map(|all| all.len() as u64);
        found.equal(
            cpu.cpu,
            DL,
            ("dl_nr_running", cpu.dl.nr_running),
            ("entities in its tree", nodes),
        );
    }
}

pub(super) fn earliest(books: &Books, found: &mut Found<'_>) {
    for cpu in books.free() {
        let Some(deadlines) = &cpu.dl.deadlines else {
            continue;
        };
        found.equal(
            cpu.cpu,
            DL,
            ("earliest_dl.curr", cpu.dl.earliest),
            (
                "deadline of the first in its tree, or 0",
                Some(deadlines.first().copied().unwrap_or(0)),
            ),
        );
        let falls = |pair: &[u64]| match pair {
            [first, second] => second.wrapping_sub(*first).cast_signed() < 0,
            _ => false,
        };
        if deadlines.windows(2).any(falls) {
            found.push(
                cpu.cpu,
                DL,
                "deadlines that do not fall along the tree",
                format_args!("{deadlines:?}"),
            );
        }
    }
}

pub(super) fn bandwidth(books: &Books, found: &mut Found<'_>) {
    for cpu in books.free() {
        if let (Some(running), Some(all)) = (cpu.dl.running_bw, cpu.dl.this_bw)
            && running > all
        {
            found.push(
                cpu.cpu,
                DL,
                format_args!("running_bw <= this_bw = {all}"),
                running,
            );
        }
    }
}

pub(super) fn queued_server(books: &Books, found: &mut Found<'_>) {
    for cpu in books.free() {
        for server in &cpu.servers {
            if server.queued && server.active == Some(false) {
                found.push(
                    cpu.cpu,
                    server.name,
                    "a server in the deadline tree to be active",
                    "dl_server_active = 0",
                );
            }
        }
    }
}

pub(super) fn active_server(books: &Books, found: &mut Found<'_>) {
    for cpu in books.free() {
        for server in &cpu.servers {
            if server.active == Some(true)
                && server.runtime > 0
                && !server.queued
                && server.timer == Some(false)
            {
                found.push(
                    cpu.cpu,
                    server.name,
                    "an active server to be in the deadline tree or to have its timer set",
                    format_args!("neither; dl_throttled = {}", u8::from(server.throttled)),
                );
            }
        }
    }
}
