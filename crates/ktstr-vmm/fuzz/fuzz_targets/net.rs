//! Any driver: the device neither panics nor hangs. `cargo +nightly fuzz run net` in `crates/ktstr-vmm`.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| ktstr_vmm::fuzzing::net(input));
