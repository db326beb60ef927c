#![doc = include_str!("../README.md")]
//!
//! # Details
//!
//! This crate knows bytes: how a [`Message`] becomes a frame and how frames are found again in a stream that may have
//! been split anywhere, cut off, or damaged. It knows no VMs, no tests, no sockets and no clocks.
//!
//! ```text
//!  0        4         6      8       10             12       16       20         28      32
//!  +--------+---------+------+-------+--------------+--------+--------+----------+-------+---------
//!  | magic  | version | type | flags | header check | seq    | length | guest_ns | crc32 | payload …
//!  | "KTSW" | u16     | u16  | u16   | u16          | u32    | u32    | u64      | u32   |
//!  +--------+---------+------+-------+--------------+--------+--------+----------+-------+---------
//!  all little-endian; crc32 covers header (with crc32 as zero) and payload; the header check covers the header alone,
//!  so that a length is believed only when its header is intact
//! ```

mod assembler;
mod error;
mod frame;
pub mod gate;
mod message;
mod until;
mod writer;

pub use assembler::{Assembler, AssemblerStats, Event, SkipReason};
pub use error::{DecodeError, EncodeError, SendError};
pub use frame::{Frame, HEADER_LEN, MAGIC, VERSION, encode, encode_raw};
pub use message::{
    Ahead, CgroupProcs, KernelOpDirection, KernelOpEntry, KernelOpMode, KernelOpReply,
    KernelOpRequest, KernelTarget, KernelValue, Lifecycle, MAX_KERNEL_REPLY, MAX_PAYLOAD, MAX_TEXT,
    Message, Opaque, PayloadMetrics, RawPayloadOutput, ScenarioEnd, SchedExit, SchedLog, SchedStop,
    SchedulerAction, SchedulerFault, SchedulerReply, SchedulerRequest, SnapshotKind, SnapshotReply,
    SnapshotRequest, Stage, StepMark, SysReady, Task, UntilRequest, msg_type,
};
pub use until::{MAX_STATE_TESTS, StateTest, Until, UntilReply};
pub use writer::FrameWriter;
