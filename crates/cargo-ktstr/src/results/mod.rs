//! Results over time: figures of a sidecar by name, and an index of all runs.

mod figure;
mod index;
mod measured;
mod metrics;

pub(crate) use figure::Polarity;
pub(crate) use index::{Index, Point};
pub(crate) use metrics::{declared_polarities, metrics_of, polarity, unit};
