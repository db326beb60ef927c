//! What a disk counts, over its whole life: a reset by the driver takes nothing back.

use crate::devices::virtio::counters::counters;

counters! {
    /// What a disk has done.
    BlkCounters, Counters {
        /// Reads that succeeded.
        reads_completed,
        /// Writes that succeeded.
        writes_completed,
        /// Flushes that succeeded.
        flushes_completed,
        /// Data bytes of the reads.
        bytes_read,
        /// Data bytes of the writes.
        bytes_written,
        /// Times that the throttle held a request back; one request may stall twice.
        throttled_count,
        /// Requests that failed: malformed, out of range, refused by the file, or not returnable.
        io_errors,
        /// 1 while a request waits for the throttle.
        currently_throttled_gauge,
        /// Avail indices more than a queue ahead (virtio 1.2 §2.7.13.3); each killed the queue until reset.
        invalid_avail_idx_count,
    }
}
