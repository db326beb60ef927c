//! Every message: its number, its bytes, its way there and back, and what a lossy stream does to it.

use ktstr_wire::*;
use proptest::collection::vec;
use proptest::prelude::*;

fn text() -> impl Strategy<Value = String> {
    "\\PC{0,60}"
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..300)
}

fn stage() -> impl Strategy<Value = Stage> {
    prop::sample::select(vec![
        Stage::KernelUp,
        Stage::InitUp,
        Stage::Filesystems,
        Stage::Ports,
        Stage::SchedulerStarting,
        Stage::SchedulerAttached,
        Stage::SchedulerNotAttached,
        Stage::SchedulerDied,
        Stage::PayloadStarting,
        Stage::Done,
        Stage::SetupFailed,
        Stage::SchedulerStopping,
    ])
}

fn step_mark() -> impl Strategy<Value = StepMark> {
    any::<(u16, u16, u64, u32, u16, u16, u64)>().prop_map(
        |(
            step_index,
            op_count,
            op_kinds,
            elapsed_ms,
            cgroup_count,
            worker_count,
            total_iterations,
        )| StepMark {
            step_index,
            op_count,
            op_kinds,
            elapsed_ms,
            cgroup_count,
            worker_count,
            total_iterations,
        },
    )
}

fn outcome() -> impl Strategy<Value = Result<(), String>> {
    prop_oneof![Just(Ok(())), text().prop_map(Err)]
}

fn scheduler_action() -> impl Strategy<Value = SchedulerAction> {
    prop_oneof![
        text().prop_map(SchedulerAction::Attach),
        Just(SchedulerAction::Detach),
        Just(SchedulerAction::Restart),
        text().prop_map(SchedulerAction::Replace),
    ]
}

fn target() -> impl Strategy<Value = KernelTarget> {
    prop_oneof![
        text().prop_map(KernelTarget::Symbol),
        any::<u64>().prop_map(KernelTarget::Direct),
        any::<u64>().prop_map(KernelTarget::Kva),
        (text(), text(), any::<u32>()).prop_map(|(symbol, field, cpu)| KernelTarget::PerCpuField {
            symbol,
            field,
            cpu
        }),
        (any::<i32>(), any::<u64>(), text()).prop_map(|(pid, start_time_ns, field)| {
            KernelTarget::TaskField {
                pid,
                start_time_ns,
                field,
            }
        }),
    ]
}

fn value() -> impl Strategy<Value = KernelValue> {
    prop_oneof![
        any::<u32>().prop_map(KernelValue::U32),
        any::<u64>().prop_map(KernelValue::U64),
        bytes().prop_map(KernelValue::Bytes),
        any::<u32>().prop_map(KernelValue::OrU32),
    ]
}

/// All of them, one strategy each, in the order of their numbers.
#[allow(clippy::too_many_lines, reason = "a list")]
fn messages() -> Vec<BoxedStrategy<Message>> {
    let entry = (target(), value()).prop_map(|(target, value)| KernelOpEntry { target, value });
    vec![
        (text(), any::<u32>(), any::<Option<u64>>())
            .prop_map(|(kernel_release, page_size, text_addr)| {
                Message::SysReady(SysReady {
                    kernel_release,
                    page_size,
                    text_addr,
                })
            })
            .boxed(),
        (stage(), text())
            .prop_map(|(stage, detail)| Message::Lifecycle(Lifecycle { stage, detail }))
            .boxed(),
        Just(Message::ScenarioStart).boxed(),
        any::<(u64, u64)>()
            .prop_map(|(elapsed_ms, total_iterations)| {
                Message::ScenarioEnd(ScenarioEnd {
                    elapsed_ms,
                    total_iterations,
                })
            })
            .boxed(),
        Just(Message::ScenarioPause).boxed(),
        Just(Message::ScenarioResume).boxed(),
        step_mark().prop_map(Message::Stimulus).boxed(),
        step_mark().prop_map(Message::StepEnd).boxed(),
        bytes()
            .prop_map(|body| Message::TestResult(Opaque { body }))
            .boxed(),
        any::<i32>().prop_map(Message::Exit).boxed(),
        (
            any::<Option<i32>>(),
            any::<Option<i32>>(),
            text(),
            any::<Option<bool>>(),
            proptest::collection::vec(text(), 0..3),
        )
            .prop_map(|(code, signal, reason, killed, left_behind)| {
                Message::SchedExit(SchedExit {
                    code,
                    signal,
                    reason,
                    stop: killed.map(|killed| SchedStop {
                        killed,
                        failed_commands: left_behind.clone(),
                        left_behind,
                    }),
                })
            })
            .boxed(),
        any::<i32>().prop_map(Message::ExecExit).boxed(),
        bytes().prop_map(Message::Stdout).boxed(),
        bytes().prop_map(Message::Stderr).boxed(),
        prop_oneof![
            Just(SchedLog::Start),
            bytes().prop_map(SchedLog::Chunk),
            Just(SchedLog::End)
        ]
        .prop_map(Message::SchedLog)
        .boxed(),
        bytes().prop_map(Message::Dmesg).boxed(),
        text().prop_map(Message::Crash).boxed(),
        (any::<u32>(), bytes())
            .prop_map(|(payload_index, body)| {
                Message::PayloadMetrics(PayloadMetrics {
                    payload_index,
                    body,
                })
            })
            .boxed(),
        (any::<u32>(), bytes(), bytes())
            .prop_map(|(payload_index, stdout, stderr)| {
                Message::RawPayloadOutput(RawPayloadOutput {
                    payload_index,
                    stdout,
                    stderr,
                })
            })
            .boxed(),
        (any::<u32>(), any::<bool>(), text())
            .prop_map(|(id, watch, tag)| {
                let kind = if watch {
                    SnapshotKind::Watch
                } else {
                    SnapshotKind::Capture
                };
                Message::SnapshotRequest(SnapshotRequest { id, kind, tag })
            })
            .boxed(),
        (any::<u32>(), outcome())
            .prop_map(|(id, result)| Message::SnapshotReply(SnapshotReply { id, result }))
            .boxed(),
        (
            any::<u32>(),
            any::<bool>(),
            any::<bool>(),
            text(),
            vec(entry, 0..5),
        )
            .prop_map(|(id, cold, write, tag, entries)| {
                let mode = if cold {
                    KernelOpMode::Cold
                } else {
                    KernelOpMode::Hot
                };
                let direction = if write {
                    KernelOpDirection::Write
                } else {
                    KernelOpDirection::Read
                };
                Message::KernelOpRequest(KernelOpRequest {
                    id,
                    mode,
                    direction,
                    tag,
                    entries,
                })
            })
            .boxed(),
        (any::<u32>(), outcome(), vec(value(), 0..5))
            .prop_map(|(id, result, values)| {
                Message::KernelOpReply(KernelOpReply { id, result, values })
            })
            .boxed(),
        bytes().prop_map(Message::ProbeOutput).boxed(),
        bytes().prop_map(Message::Profraw).boxed(),
        bytes().prop_map(Message::Trace).boxed(),
        (any::<u32>(), scheduler_action())
            .prop_map(|(id, action)| Message::SchedulerRequest(SchedulerRequest { id, action }))
            .boxed(),
        (
            any::<u32>(),
            prop_oneof![
                any::<Option<i32>>().prop_map(Ok),
                text().prop_map(|text| Err(SchedulerFault::Refused(text))),
                text().prop_map(|text| Err(SchedulerFault::NotAttached(text))),
            ],
        )
            .prop_map(|(id, result)| Message::SchedulerReply(SchedulerReply { id, result }))
            .boxed(),
        any::<u64>().prop_map(Message::Taint).boxed(),
        any::<u16>().prop_map(Message::StepBegin).boxed(),
        (text(), text(), prop::collection::vec(any::<i32>(), 0..20))
            .prop_map(|(tag, cgroup, pids)| Message::CgroupProcs(CgroupProcs { tag, cgroup, pids }))
            .boxed(),
        bytes().prop_map(Message::StatsRequest).boxed(),
        bytes().prop_map(Message::StatsReply).boxed(),
        Just(Message::TaskRequest).boxed(),
        (bytes(), bytes(), text())
            .prop_map(|(plan, test_plan, test_plan_path)| {
                Message::Task(Task {
                    plan,
                    test_plan,
                    test_plan_path,
                })
            })
            .boxed(),
        (
            any::<(u32, u64, u32)>(),
            vec(vec(state_test(), 0..4), 0..4),
            vec(ahead(), 0..3),
        )
            .prop_map(|((id, at_most_ns, cpu), any, ahead)| {
                Message::UntilRequest(UntilRequest {
                    id,
                    any,
                    at_most_ns,
                    cpu,
                    ahead,
                })
            })
            .boxed(),
        (
            any::<u32>(),
            prop_oneof![
                Just(Ok(Until::Watched)),
                Just(Ok(Until::Reached)),
                Just(Ok(Until::NotReached)),
                text().prop_map(Err),
            ],
        )
            .prop_map(|(id, result)| Message::UntilReply(UntilReply { id, result }))
            .boxed(),
    ]
}

fn state_test() -> impl Strategy<Value = StateTest> {
    prop_oneof![
        text().prop_map(StateTest::TaskDelayed),
        text().prop_map(StateTest::TaskQueued),
        text().prop_map(StateTest::TaskIneligible),
        (text(), any::<u32>()).prop_map(|(name, cpu)| StateTest::TaskRunsOn { name, cpu }),
        (text(), any::<u32>()).prop_map(|(path, cpu)| StateTest::CgroupThrottledOn { path, cpu }),
        any::<u32>().prop_map(StateTest::CpuIdle),
        any::<u32>().prop_map(StateTest::Custom),
    ]
}

fn ahead() -> impl Strategy<Value = Ahead> {
    let entry = (target(), value()).prop_map(|(target, value)| KernelOpEntry { target, value });
    prop_oneof![
        (any::<u32>(), text()).prop_map(|(id, tag)| {
            Ahead::Snapshot(SnapshotRequest {
                id,
                kind: SnapshotKind::Capture,
                tag,
            })
        }),
        (any::<u32>(), text(), vec(entry, 0..3)).prop_map(|(id, tag, entries)| {
            Ahead::KernelOp(KernelOpRequest {
                id,
                mode: KernelOpMode::Cold,
                direction: KernelOpDirection::Write,
                tag,
                entries,
            })
        }),
    ]
}

fn any_message() -> impl Strategy<Value = Message> {
    prop::strategy::Union::new(messages())
}

fn events(stream: &[u8]) -> Vec<Event> {
    let mut assembler = Assembler::new();
    assembler.push(stream);
    let mut events: Vec<Event> = std::iter::from_fn(|| assembler.next_event()).collect();
    events.extend(std::iter::from_fn(|| assembler.finish()));
    events
}

/// A guest of last year and a host of today meet on these: a number never changes its meaning.
#[test]
fn numbers_are_pinned() {
    use proptest::strategy::ValueTree as _;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let names: Vec<(u16, &str)> = messages()
        .iter()
        .map(|message| {
            let message = message.new_tree(&mut runner).unwrap().current();
            (message.msg_type(), message.name())
        })
        .collect();
    let pinned = [
        "SysReady",
        "Lifecycle",
        "ScenarioStart",
        "ScenarioEnd",
        "ScenarioPause",
        "ScenarioResume",
        "Stimulus",
        "StepEnd",
        "TestResult",
        "Exit",
        "SchedExit",
        "ExecExit",
        "Stdout",
        "Stderr",
        "SchedLog",
        "Dmesg",
        "Crash",
        "PayloadMetrics",
        "RawPayloadOutput",
        "SnapshotRequest",
        "SnapshotReply",
        "KernelOpRequest",
        "KernelOpReply",
        "ProbeOutput",
        "Profraw",
        "Trace",
        "SchedulerRequest",
        "SchedulerReply",
        "Taint",
        "StepBegin",
        "CgroupProcs",
        "StatsRequest",
        "StatsReply",
        "TaskRequest",
        "Task",
        "UntilRequest",
        "UntilReply",
    ];
    let pinned: Vec<(u16, &str)> = (1..).zip(pinned).collect();
    assert_eq!(names, pinned);
}

/// The bytes, written by hand from the layout in the crate's documentation.
#[test]
fn a_frame_has_these_bytes() {
    let frame = encode(&Message::Exit(-2), 0x0102_0304, 0x0a0b_0c0d_0e0f_1011).unwrap();
    let (header, payload) = frame.split_at(HEADER_LEN);
    assert_eq!(payload, [3], "postcard: zigzag of -2");
    assert_eq!(
        header[..10],
        *b"KTSW\x01\0\x0a\0\0\0",
        "magic, version, type, flags"
    );
    assert_eq!(
        header[12..20],
        [4, 3, 2, 1, 1, 0, 0, 0],
        "sequence number, length"
    );
    assert_eq!(
        header[20..28],
        [0x11, 0x10, 0x0f, 0x0e, 0x0d, 0x0c, 0x0b, 0x0a],
        "clock"
    );
    let mut blank = header.to_vec();
    blank[10..12].fill(0);
    blank[28..].fill(0);
    let check = crc32fast::hash(&blank);
    let check = u16::try_from(check & 0xffff).unwrap() ^ u16::try_from(check >> 16).unwrap();
    assert_eq!(
        header[10..12],
        check.to_le_bytes(),
        "header check: crc32, its halves folded"
    );
    let mut whole = frame.clone();
    whole[28..32].fill(0);
    assert_eq!(
        header[28..],
        crc32fast::hash(&whole).to_le_bytes(),
        "crc32 of all, itself as zero"
    );
}

#[test]
fn limits_are_told_with_the_part_and_both_numbers() {
    let long = SnapshotRequest {
        id: 1,
        kind: SnapshotKind::Capture,
        tag: "x".repeat(257),
    };
    let error = encode(&Message::SnapshotRequest(long), 0, 0)
        .unwrap_err()
        .to_string();
    assert_eq!(error, "snapshot tag has 257 bytes, at most 256 are allowed");
    let values = vec![
        KernelValue::Bytes(vec![0; MAX_KERNEL_REPLY]),
        KernelValue::U32(0),
    ];
    let reply = KernelOpReply {
        id: 1,
        result: Ok(()),
        values,
    };
    let error = encode(&Message::KernelOpReply(reply), 0, 0)
        .unwrap_err()
        .to_string();
    assert_eq!(
        error,
        "kernel operation reply has 1048580 bytes, at most 1048576 are allowed"
    );
    let until = UntilRequest {
        id: 1,
        any: vec![vec![StateTest::CpuIdle(0); 33]; 2],
        at_most_ns: 1,
        cpu: 0,
        ahead: Vec::new(),
    };
    let error = encode(&Message::UntilRequest(until), 0, 0)
        .unwrap_err()
        .to_string();
    assert_eq!(error, "66 tests of a condition, at most 64 are allowed");
    let error = encode(&Message::Stdout(vec![0; MAX_PAYLOAD]), 0, 0).unwrap_err();
    assert!(
        matches!(error, EncodeError::TooLarge { msg_type: 13, .. }),
        "{error}"
    );
}

proptest! {
    #[test]
    fn every_message_survives_the_way(all in messages(), seq: u32, guest_ns: u64) {
        for message in all {
            let frame = encode(&message, seq, guest_ns).unwrap();
            let events = events(&frame);
            let [Event::Frame(frame)] = events.as_slice() else {
                return Err(TestCaseError::fail(format!("{events:?}")));
            };
            prop_assert_eq!((frame.seq, frame.guest_ns, frame.crc_ok), (seq, guest_ns, true));
            prop_assert_eq!(frame.decode().unwrap(), message);
        }
    }

    #[test]
    fn a_body_with_one_byte_more_is_refused(message in any_message()) {
        let frame = encode(&message, 0, 0).unwrap();
        let mut payload = frame[HEADER_LEN..].to_vec();
        payload.push(0);
        let frame = encode_raw(message.msg_type(), 0, 0, 0, &payload).unwrap();
        let events = events(&frame);
        let [Event::Frame(frame)] = events.as_slice() else {
            return Err(TestCaseError::fail(format!("{events:?}")));
        };
        prop_assert!(frame.decode().unwrap_err().to_string().contains("1 bytes too many"));
    }

    #[test]
    fn bodies_of_noise_never_panic(msg_type in 0u16..40, payload in bytes()) {
        let frame = encode_raw(msg_type, 0, 0, 0, &payload).unwrap();
        for event in events(&frame) {
            if let Event::Frame(frame) = event {
                let _ = frame.decode();
            }
        }
    }

    #[test]
    fn dropped_and_repeated_frames_are_told(
        messages in vec(any_message(), 1..12),
        drop in vec(any::<bool>(), 12),
        repeat in vec(any::<bool>(), 12),
        first: u32,
    ) {
        let mut stream = Vec::new();
        let (mut kept, mut gaps, mut repeats) = (Vec::new(), 0, 0);
        let mut missing = false;
        for (index, message) in messages.iter().enumerate() {
            let seq = first.wrapping_add(u32::try_from(index).unwrap());
            if drop[index] {
                missing = true;
                continue;
            }
            // Before the first frame nothing is known to be missing.
            gaps += u64::from(missing && !kept.is_empty());
            missing = false;
            kept.push(message.clone());
            let frame = encode(message, seq, 0).unwrap();
            stream.extend_from_slice(&frame);
            if repeat[index] {
                repeats += 1;
                stream.extend_from_slice(&frame);
            }
        }
        let mut assembler = Assembler::new();
        assembler.push(&stream);
        let mut seen = Vec::new();
        while let Some(event) = assembler.next_event() {
            if let Event::Frame(frame) = event {
                seen.push(frame.decode().unwrap());
            }
        }
        prop_assert_eq!(seen, kept);
        let stats = assembler.stats();
        prop_assert_eq!((stats.gaps, stats.repeated, stats.bad_crc), (gaps, repeats, 0));
    }
}
