//! From a payload's output to metrics.

use serde_json::Value;

use super::Payload;
use super::leaves::numeric_leaves;
use super::metric::{Metric, Polarity, Stream};

/// The metrics in a payload's output: those of `stdout`, or of `stderr` when it has none. `source` goes into each.
#[must_use]
pub fn raw_metrics(payload: &Payload, source: &str, stdout: &[u8], stderr: &[u8]) -> Vec<Metric> {
    let streams = [(Stream::Stdout, stdout), (Stream::Stderr, stderr)];
    for (stream, bytes) in streams {
        let leaves = numbers_in(bytes);
        if !leaves.is_empty() {
            let metrics = leaves.into_iter().map(|(name, value)| {
                let hint = payload.hint(&name);
                Metric {
                    unit: hint.map_or("", |hint| hint.unit).to_owned(),
                    polarity: hint.map_or(Polarity::Unknown, |hint| hint.polarity),
                    source: source.to_owned(),
                    stream,
                    name,
                    value,
                }
            });
            return metrics.collect();
        }
    }
    Vec::new()
}

/// The numbers of the JSON in an output: all of it, or the first document with numbers that has its lines for itself, for
/// tools that say something around it. `[1] starting` and `[ 0.12] ready` are log lines, not documents.
fn numbers_in(bytes: &[u8]) -> Vec<(String, f64)> {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(value) = serde_json::from_str::<Value>(text.trim()) {
        return numeric_leaves(&value);
    }
    let starts = text
        .match_indices(['{', '['])
        .map(|(at, _)| at)
        .filter(|at| {
            at.checked_sub(1)
                .is_none_or(|before| text.as_bytes().get(before) == Some(&b'\n'))
        });
    let found = starts.filter_map(|at| text.get(at..)).find_map(|rest| {
        let mut documents = serde_json::Deserializer::from_str(rest).into_iter::<Value>();
        let document = documents.next()?.ok()?;
        let behind = rest.get(documents.byte_offset()..)?;
        let behind = behind.split('\n').next().unwrap_or_default();
        let leaves = numeric_leaves(&document);
        (behind.trim().is_empty() && !leaves.is_empty()).then_some(leaves)
    });
    found.unwrap_or_default()
}
