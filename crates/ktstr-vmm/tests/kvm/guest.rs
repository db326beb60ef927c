//! Guests written here in assembly: 64-bit, no SSE, loaded as ELF kernels at 1 MiB.
//!
//! They need /dev/kvm, but not a fast one: a host that emulates supervisor code runs them as well.

use std::arch::global_asm;
use std::io::Write as _;
use std::time::Duration;

use ktstr_vmm::{EngineChoice, RunningVm, Topology, Vm, VmBuilder, VmExit};
use tempfile::NamedTempFile;

/// Where every guest is loaded and entered.
pub(crate) const LOAD: u64 = 0x10_0000;
/// A word that guests count in.
pub(crate) const COUNTER: u64 = 0x20_0000;

global_asm!(
    ".pushsection .rodata.ktstr_guests, \"a\"",
    ".global ktstr_guest_hello, ktstr_guest_reset, ktstr_guest_keyboard, ktstr_guest_fault",
    ".global ktstr_guest_count, ktstr_guest_writes, ktstr_guest_halt, ktstr_guest_cpuid, ktstr_guest_clock",
    ".global ktstr_guest_end",
    // "hi" on COM1, "no" on COM2, power off.
    "ktstr_guest_hello:",
    "mov dx, 0x3f8",
    "mov al, 'h'",
    "out dx, al",
    "mov al, 'i'",
    "out dx, al",
    "mov dx, 0x2f8",
    "mov al, 'n'",
    "out dx, al",
    "mov al, 'o'",
    "out dx, al",
    "mov dx, 0x604",
    "mov ax, 0x3400",
    "out dx, ax",
    "2: jmp 2b",
    // The ACPI reset register.
    "ktstr_guest_reset:",
    "mov dx, 0x60c",
    "mov al, 1",
    "out dx, al",
    "2: jmp 2b",
    // The keyboard controller's reset line.
    "ktstr_guest_keyboard:",
    "mov al, 0xfe",
    "out 0x64, al",
    "2: jmp 2b",
    // An exception without a usable IDT.
    "ktstr_guest_fault:",
    "sub rsp, 16",
    "mov word ptr [rsp], 0",
    "mov qword ptr [rsp + 2], 0",
    "lidt [rsp]",
    "ud2",
    "2: jmp 2b",
    // Counts for ever.
    "ktstr_guest_count:",
    "mov rdi, 0x200000",
    "xor eax, eax",
    "2: inc rax",
    "mov qword ptr [rdi], rax",
    "jmp 2b",
    // Writes of many kinds, once COUNTER + 8 is set: each changes COUNTER, whose last value is 16. Then calls a function
    // three times, which counts in COUNTER + 16 on the next page, and powers off.
    "ktstr_guest_writes:",
    "mov rdi, 0x200000",
    "2: mov eax, dword ptr [rdi + 8]",
    "test eax, eax",
    "jz 2b",
    "mov dword ptr [rdi], 1",
    "inc dword ptr [rdi]",
    "mov ecx, 3",
    "xchg dword ptr [rdi], ecx",
    "mov eax, 3",
    "mov ecx, 4",
    "lock cmpxchg dword ptr [rdi], ecx",
    "mov ecx, 1",
    "lock xadd dword ptr [rdi], ecx",
    "lock bts dword ptr [rdi], 1",
    "lock or dword ptr [rdi], 8",
    "mov byte ptr [rdi], 16",
    // Not the watched word.
    "mov dword ptr [rdi + 4], 9",
    "mov dword ptr [rdi + 12], 9",
    "mov ebx, 3",
    "3: call 4f",
    "dec ebx",
    "jnz 3b",
    "mov dx, 0x604",
    "mov ax, 0x3400",
    "out dx, ax",
    "2: jmp 2b",
    ".balign 16, 0x90",
    "4: endbr64",
    "push rbx",
    "inc dword ptr [rdi + 0x1000]",
    "pop rbx",
    "ret",
    // Halts for ever.
    "ktstr_guest_halt:",
    "cli",
    "2: hlt",
    "jmp 2b",
    // CPUID leaf 0xB, subleaf 1 to memory, then power off.
    "ktstr_guest_cpuid:",
    "mov eax, 0xb",
    "mov ecx, 1",
    "cpuid",
    "mov dword ptr [0x200000], eax",
    "mov dword ptr [0x200004], ebx",
    "mov dword ptr [0x200008], ecx",
    "mov dword ptr [0x20000c], edx",
    "mov dx, 0x604",
    "mov ax, 0x3400",
    "out dx, ax",
    "2: jmp 2b",
    // kvm-clock at 2 MiB + 4 KiB (MSR_KVM_SYSTEM_TIME_NEW), then the TSC in COUNTER for ever.
    "ktstr_guest_clock:",
    "mov rdi, 0x200000",
    "mov ecx, 0x4b564d01",
    "mov eax, 0x201001",
    "xor edx, edx",
    "wrmsr",
    "2: rdtsc",
    "shl rdx, 32",
    "or rax, rdx",
    "mov qword ptr [rdi], rax",
    "jmp 2b",
    "ktstr_guest_end:",
    ".popsection",
);

unsafe extern "C" {
    safe static ktstr_guest_hello: u8;
    safe static ktstr_guest_reset: u8;
    safe static ktstr_guest_keyboard: u8;
    safe static ktstr_guest_fault: u8;
    safe static ktstr_guest_count: u8;
    safe static ktstr_guest_writes: u8;
    safe static ktstr_guest_halt: u8;
    safe static ktstr_guest_cpuid: u8;
    safe static ktstr_guest_clock: u8;
    safe static ktstr_guest_end: u8;
}

/// What a guest does; see the assembly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Guest {
    Hello,
    Reset,
    Keyboard,
    Fault,
    Count,
    Writes,
    Halt,
    Cpuid,
    Clock,
}

impl Guest {
    fn code(self) -> &'static [u8] {
        let start: *const u8 = match self {
            Self::Hello => &raw const ktstr_guest_hello,
            Self::Reset => &raw const ktstr_guest_reset,
            Self::Keyboard => &raw const ktstr_guest_keyboard,
            Self::Fault => &raw const ktstr_guest_fault,
            Self::Count => &raw const ktstr_guest_count,
            Self::Writes => &raw const ktstr_guest_writes,
            Self::Halt => &raw const ktstr_guest_halt,
            Self::Cpuid => &raw const ktstr_guest_cpuid,
            Self::Clock => &raw const ktstr_guest_clock,
        };
        let end: *const u8 = &raw const ktstr_guest_end;
        // SAFETY: all labels lie in one section of this binary, in order, and what lies between is never written.
        unsafe { std::slice::from_raw_parts(start, end.addr() - start.addr()) }
    }

    /// Where these bytes are in its code, for the first time.
    pub(crate) fn offset_of(self, bytes: &[u8]) -> u64 {
        let code = self.code();
        code.windows(bytes.len())
            .position(|found| found == bytes)
            .unwrap() as u64
    }

    /// The guest as an ELF kernel file.
    fn image(self) -> NamedTempFile {
        let code = self.code();
        let mut elf = b"\x7fELF\x02\x01\x01".to_vec();
        elf.resize(16, 0);
        elf.extend(2u16.to_le_bytes());
        elf.extend(62u16.to_le_bytes());
        elf.extend(1u32.to_le_bytes());
        for value in [LOAD, 64, 0] {
            elf.extend(value.to_le_bytes());
        }
        elf.extend(0u32.to_le_bytes());
        for value in [64u16, 56, 1, 0, 0, 0] {
            elf.extend(value.to_le_bytes());
        }
        elf.extend(1u32.to_le_bytes());
        elf.extend(7u32.to_le_bytes());
        let len = code.len() as u64;
        for value in [0x1000, LOAD, LOAD, len, len, 0x1000] {
            elf.extend(value.to_le_bytes());
        }
        elf.resize(0x1000, 0);
        elf.extend(code);
        elf.resize(elf.len().max(0x1400), 0);
        let mut file = NamedTempFile::new().unwrap();
        file.write_all(&elf).unwrap();
        file
    }

    /// Its image, which must live until it has started, and a VM of 64 MiB with this deadline.
    pub(crate) fn builder(self, topology: &str, deadline: Duration) -> (NamedTempFile, VmBuilder) {
        let image = self.image();
        let vm = Vm::builder()
            .kernel(image.path())
            .engine(EngineChoice::Kvm)
            .topology(topology.parse::<Topology>().unwrap())
            .memory_mib(64)
            .deadline(deadline);
        (image, vm)
    }

    /// Starts it.
    pub(crate) fn start(self, topology: &str, deadline: Duration) -> RunningVm {
        let (_image, vm) = self.builder(topology, deadline);
        vm.build().unwrap().start().unwrap()
    }

    /// Runs it to its end.
    pub(crate) fn run(self) -> VmExit {
        self.start("1n1l1c1t", Duration::from_secs(60))
            .wait()
            .unwrap()
    }
}

/// Says what a test lacks: a failure, unless `KTSTR_TESTS_LACK` names `kvm` (CONTRIBUTING.md). The lab lacks nothing.
#[track_caller]
pub(crate) fn skip(reason: &str) {
    assert!(std::env::var_os("KTSTR_LAB").is_none(), "{reason}");
    let listed = std::env::var("KTSTR_TESTS_LACK").unwrap_or_default();
    assert!(
        listed.split(',').any(|named| named == "kvm"),
        "{reason}; run this in `cargo xtask lab`, and set KTSTR_TESTS_LACK=kvm here"
    );
    println!("skipped: {reason}; run this in `cargo xtask lab`");
}

/// /dev/kvm is there; if not, says so.
pub(crate) fn has_kvm() -> bool {
    let open = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/kvm");
    if let Err(error) = &open {
        skip(&format!("/dev/kvm does not open: {error}"));
    }
    open.is_ok()
}
