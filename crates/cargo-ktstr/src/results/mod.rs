//! Results over time: figures of a sidecar by name, and an index of all runs.

mod index;
mod measured;
mod metrics;

pub(crate) use index::{Index, Point};
pub(crate) use metrics::{Polarity, declared_polarities, metrics_of, polarity, unit};
