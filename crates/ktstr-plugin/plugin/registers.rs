//! Registers of vCPUs that stand still, read as QEMU's gdb stub does (`target/i386/gdbstub.c` of 7.2).

use std::ffi::{c_int, c_uint, c_void};

use crate::gate::REGISTERS;
use crate::qemu::symbol;

/// `GByteArray` of glib.
#[repr(C)]
struct Bytes {
    data: *mut u8,
    len: c_uint,
}

/// The stub's number of each register, in the order of [`crate::gate::REGISTERS`].
const NUMBERS: [c_int; REGISTERS] = [
    16, 17, 27, 28, 29, 30, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15,
];

/// The functions that it takes.
pub(crate) struct Reader {
    read: extern "C" fn(*mut c_void, *mut Bytes, c_int) -> c_int,
    set_size: extern "C" fn(*mut Bytes, c_uint) -> *mut Bytes,
    bytes: *mut Bytes,
}

impl Reader {
    pub(crate) fn find() -> Result<Self, String> {
        // SAFETY: g_byte_array_new has this signature (glib/garray.h).
        let new = unsafe {
            std::mem::transmute::<*mut c_void, extern "C" fn() -> *mut Bytes>(symbol(
                c"g_byte_array_new",
            )?)
        };
        // SAFETY: x86_cpu_gdb_read_register (target/i386/cpu.h of 7.2) and g_byte_array_set_size (glib/garray.h) have these
        // signatures.
        unsafe {
            Ok(Self {
                read: std::mem::transmute::<
                    *mut c_void,
                    extern "C" fn(*mut c_void, *mut Bytes, c_int) -> c_int,
                >(symbol(c"x86_cpu_gdb_read_register")?),
                set_size: std::mem::transmute::<
                    *mut c_void,
                    extern "C" fn(*mut Bytes, c_uint) -> *mut Bytes,
                >(symbol(c"g_byte_array_set_size")?),
                bytes: new(),
            })
        }
    }

    /// All of one vCPU's; those that QEMU does not tell are 0, as is everything of a vCPU that is not there.
    pub(crate) fn of(&self, cpu: *mut c_void) -> [u64; REGISTERS] {
        NUMBERS.map(|number| if cpu.is_null() { 0 } else { self.one(cpu, number) })
    }

    fn one(&self, cpu: *mut c_void, number: c_int) -> u64 {
        (self.set_size)(self.bytes, 0);
        let told = (self.read)(cpu, self.bytes, number);
        let mut value = [0; 8];
        // SAFETY: glib keeps `len` bytes at `data`; the array lives as long as the emulator.
        let bytes = unsafe {
            let Bytes { data, len } = &*self.bytes;
            std::slice::from_raw_parts(*data, *len as usize)
        };
        // 4 bytes outside of 64-bit mode.
        if told > 0 && bytes.len() <= value.len() {
            for (to, from) in value.iter_mut().zip(bytes) {
                *to = *from;
            }
        }
        u64::from_le_bytes(value)
    }
}
