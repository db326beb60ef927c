//! The kernel's log, out of its ring buffer (`kernel/printk/printk_ringbuffer.h`): dmesg without a console.
//!
//! Descriptors are numbered; each says where its text block lies, and the block repeats the number. A record that is
//! being written, or was overwritten meanwhile, fails that check and is left out and counted.

use serde::Serialize;

use crate::sched::Walk;
use crate::{Error, Kernel, Kva, Object, Problems, Result, bytes};

/// `CONFIG_LOG_BUF_SHIFT` is at most 25, and a descriptor stands for 32 bytes.
const MAX_RECORDS: u64 = 1 << 20;
const MAX_RING: u32 = 31;
/// `PRINTK_MESSAGE_MAX` and `LOG_LINE_MAX`.
const MAX_TEXT: u64 = 4096;
/// Bytes of text altogether: the largest ring there is.
const MAX_TOTAL: usize = 32 << 20;

/// One line of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LogRecord {
    /// Running number.
    pub seq: u64,
    /// Time since boot, nanoseconds.
    pub ts_nsec: u64,
    /// 0 (emergency) to 7 (debug).
    pub level: u8,
    /// 0 for the kernel.
    pub facility: u8,
    /// Task id, or CPU with the top bit set.
    pub caller_id: Option<u32>,
    /// The text; may hold line breaks.
    pub text: String,
}

/// The log, and how much of it could not be read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Log {
    /// Records, oldest first.
    pub records: Vec<LogRecord>,
    /// Records that were being written, or were overwritten while they were read.
    pub incomplete: u64,
}

/// States of a descriptor (`enum desc_state`), its number's upper two bits.
const COMMITTED: u64 = 1;
const FINALIZED: u64 = 2;
const REUSABLE: u64 = 3;
const STATE_SHIFT: u32 = 62;
const ID_MASK: u64 = (1 << STATE_SHIFT) - 1;
/// A block begins with its descriptor's id (`struct prb_data_block`).
const BLOCK_HEAD: u64 = 8;

struct Ring<'k> {
    kernel: &'k Kernel,
    count: u64,
    descs: Kva,
    desc: crate::btf::TypeId,
    desc_size: u64,
    infos: Kva,
    info: crate::btf::TypeId,
    info_size: u64,
    data: Kva,
    data_size: u64,
}

impl Kernel {
    /// The log, oldest record first.
    #[must_use]
    pub fn dmesg(&self) -> Walk<Log> {
        let mut problems = Problems::new();
        let log = self.read_log(&mut problems);
        let found = problems.need("the log", log).unwrap_or_default();
        Walk { found, problems }
    }

    fn read_log(&self, problems: &mut Problems) -> Result<Log> {
        // `prb` is the dynamic ring once the kernel has set it up, the static one before.
        let at = Kva(self.read_u64(self.symbol("prb")?)?);
        let rb = self.object("printk_ringbuffer", at)?;
        let ring = Ring::new(self, &rb)?;
        let head = rb.uint("desc_ring.head_id")? & ID_MASK;
        let tail = rb.uint("desc_ring.tail_id")? & ID_MASK;
        let used = head.wrapping_sub(tail) & ID_MASK;
        if used >= ring.count {
            return Err(Error::Implausible {
                what: "number of log records",
                value: used,
            });
        }
        let mut log = Log::default();
        let mut total = 0;
        for number in 0..=used {
            if total > MAX_TOTAL {
                let error = Error::TooLong {
                    what: "the log's text",
                    limit: MAX_TOTAL,
                };
                problems.note("the log", &error);
                break;
            }
            let id = tail.wrapping_add(number) & ID_MASK;
            match ring.record(id) {
                Ok(Some(record)) => {
                    total += record.text.len();
                    log.records.push(record);
                }
                Ok(None) => {
                    log.incomplete += u64::from(!ring.is_reusable(tail.wrapping_add(number)))
                }
                Err(error) => {
                    problems.note("a log record", &error);
                    log.incomplete += 1;
                }
            }
        }
        Ok(log)
    }
}

impl<'k> Ring<'k> {
    fn new(kernel: &'k Kernel, rb: &Object<'_>) -> Result<Self> {
        let bits = |path| -> Result<u32> {
            let bits = rb.u32(path)?;
            if bits == 0 || bits > MAX_RING {
                return Err(Error::Implausible {
                    what: "size of the log's ring",
                    value: bits.into(),
                });
            }
            Ok(bits)
        };
        let count = 1_u64 << bits("desc_ring.count_bits")?;
        if count > MAX_RECORDS {
            return Err(Error::Implausible {
                what: "number of log descriptors",
                value: count,
            });
        }
        let sized = |name| -> Result<_> {
            let ty = kernel.type_id(name)?;
            Ok((ty, kernel.btf().size_of(ty).unwrap_or(0)))
        };
        let (desc, desc_size) = sized("prb_desc")?;
        let (info, info_size) = sized("printk_info")?;
        Ok(Self {
            kernel,
            count,
            descs: rb.pointer("desc_ring.descs")?,
            desc,
            desc_size,
            infos: rb.pointer("desc_ring.infos")?,
            info,
            info_size,
            data: rb.pointer("text_data_ring.data")?,
            data_size: 1 << bits("text_data_ring.size_bits")?,
        })
    }

    /// Whether a descriptor holds no record: the first one never does, the oldest often.
    fn is_reusable(&self, id: u64) -> bool {
        let at = (id & (self.count - 1)) * self.desc_size;
        let desc = Object::new(self.kernel, self.desc, self.descs.wrapping_add(at));
        desc.uint("state_var")
            .is_ok_and(|state| state >> STATE_SHIFT == REUSABLE)
    }

    fn record(&self, id: u64) -> Result<Option<LogRecord>> {
        let index = id & (self.count - 1);
        let at = self.descs.wrapping_add(index * self.desc_size);
        let desc = Object::new(self.kernel, self.desc, at);
        let state = desc.uint("state_var")?;
        if state & ID_MASK != id || !matches!(state >> STATE_SHIFT, COMMITTED | FINALIZED) {
            return Ok(None);
        }
        let at = self.infos.wrapping_add(index * self.info_size);
        let info = Object::new(self.kernel, self.info, at);
        let len = info.uint("text_len")?;
        let begin = desc.uint("text_blk_lpos.begin")?;
        let next = desc.uint("text_blk_lpos.next")?;
        let Some(text) = self.text(id, (begin, next), len)? else {
            return Ok(None);
        };
        if desc.uint("state_var")? & ID_MASK != id {
            return Ok(None);
        }
        let byte = |value: u64| u8::try_from(value & 0xff).unwrap_or(0);
        Ok(Some(LogRecord {
            seq: info.uint("seq")?,
            ts_nsec: info.uint("ts_nsec")?,
            level: byte(info.uint("level")?),
            facility: byte(info.uint("facility")?),
            caller_id: info.u32("caller_id").ok(),
            text,
        }))
    }

    /// A block's text; none when the block belongs to another record by now.
    fn text(&self, id: u64, (begin, next): (u64, u64), len: u64) -> Result<Option<String>> {
        // Odd positions have no data: an empty line, or one that did not fit.
        if begin & 1 == 1 && next & 1 == 1 {
            return Ok((len == 0).then(String::new));
        }
        let mask = self.data_size - 1;
        // A block that would cross the ring's end lies at its start; its id then stands in both places. One that ends
        // with the ring stays where it is since 6.18, and its end belongs to the next round.
        let is_wrapped = (begin ^ next.wrapping_sub(1)) & !mask != 0;
        let (start, size) = if is_wrapped {
            (0, next & mask)
        } else {
            (begin & mask, next.wrapping_sub(begin))
        };
        let block = self.data.wrapping_add(start);
        let Some(room) = size.checked_sub(BLOCK_HEAD) else {
            return Ok(None);
        };
        if size > self.data_size - start || self.kernel.read_u64(block)? & ID_MASK != id {
            return Ok(None);
        }
        let len = len.min(room).min(MAX_TEXT);
        let at = block.wrapping_add(BLOCK_HEAD);
        let raw = self.kernel.read_bytes(at, len, bytes::size(MAX_TEXT))?;
        // A writer that came by meanwhile has left its own id.
        if self.kernel.read_u64(block)? & ID_MASK != id {
            return Ok(None);
        }
        Ok(Some(String::from_utf8_lossy(&raw).into_owned()))
    }
}

#[cfg(test)]
mod tests;
