//! Sched domains: spans and groups of each level.

use std::collections::BTreeSet;

use super::Found;
use super::books::{Books, Domain};

fn name(domain: &Domain) -> String {
    format!("sched domain {}", domain.depth)
}

pub(super) fn span(books: &Books, found: &mut Found<'_>) {
    let domains = books.domains.iter().flatten();
    for domain in domains {
        let weight = Some(domain.span.len() as u64);
        let member = ("span_weight", domain.weight);
        let why = "CPUs in its span";
        found.equal(domain.cpu, name(domain), member, (why, weight));
        if !domain.span.contains(&domain.cpu) {
            found.push(
                domain.cpu,
                name(domain),
                "the CPU itself in its span",
                format_args!("{:?}", domain.span),
            );
        }
    }
}

pub(super) fn nesting(books: &Books, found: &mut Found<'_>) {
    let domains = books.domains.as_deref().unwrap_or_default();
    for pair in domains.windows(2) {
        let [child, parent] = pair else { continue };
        if child.cpu == parent.cpu && !child.span.iter().all(|cpu| parent.span.contains(cpu)) {
            found.push(
                child.cpu,
                name(child),
                format_args!("a span within its parent's {:?}", parent.span),
                format_args!("{:?}", child.span),
            );
        }
    }
}

pub(super) fn groups(books: &Books, found: &mut Found<'_>) {
    for domain in books.domains.iter().flatten() {
        let all: BTreeSet<u32> = domain
            .groups
            .iter()
            .flat_map(|(cpus, _)| cpus.clone())
            .collect();
        if !all.iter().eq(&domain.span) {
            found.push(
                domain.cpu,
                name(domain),
                format_args!("groups that make up its span {:?}", domain.span),
                format_args!("{all:?}"),
            );
        }
        let first = domain.groups.first();
        if first.is_none_or(|(cpus, _)| !cpus.contains(&domain.cpu)) {
            found.push(
                domain.cpu,
                name(domain),
                "the CPU itself in the first group",
                format_args!("{first:?}"),
            );
        }
        for (cpus, weight) in &domain.groups {
            let member = ("group_weight", *weight);
            let expected = ("CPUs of the group", Some(cpus.len() as u64));
            found.equal(domain.cpu, name(domain), member, expected);
        }
    }
}
