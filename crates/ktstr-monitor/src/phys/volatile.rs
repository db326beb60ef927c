//! The one place that dereferences guest memory.
//!
//! The guest changes it behind the compiler's back, so it is never behind a reference: volatile accesses copy in and
//! out, aligned words whole.

use std::ptr::NonNull;

/// A range of host memory that something else writes to.
#[derive(Debug, Clone, Copy)]
pub(super) struct VolatileSlice {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: the slice is a pointer and a length; accesses are volatile and bounds-checked, and racing with other
// writers is what it is for. That the memory outlives it is the duty taken on in `VolatileSlice::new`.
unsafe impl Send for VolatileSlice {}
// SAFETY: as for Send: no access goes through a reference, so two threads may read and write at once.
unsafe impl Sync for VolatileSlice {}

const WORD: usize = size_of::<u64>();
/// From this size on a string instruction beats a loop, in unoptimised builds by far.
const BLOCK: usize = 512;

impl VolatileSlice {
    /// Describes `len` bytes at `base`.
    ///
    /// # Safety
    /// The bytes must stay mapped for reading as long as the slice is used, and for writing if [`Self::write`] is.
    pub(super) unsafe fn new(base: NonNull<u8>, len: usize) -> Self {
        Self { base, len }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Copies out, or says no when the range is not inside.
    pub(super) fn read(&self, offset: usize, buffer: &mut [u8]) -> Option<()> {
        let mut at = self.pointer(offset, buffer.len())?;
        let head = at.align_offset(WORD).min(buffer.len());
        match buffer.len() {
            // A whole aligned number, in one access.
            4 if at.align_offset(4) == 0 => {
                // SAFETY: `pointer` checked that 4 bytes are inside; alignment was checked just now.
                let value = unsafe { at.cast::<u32>().read_volatile() };
                buffer.copy_from_slice(&u32::from_le(value).to_le_bytes());
                return Some(());
            }
            2 if at.align_offset(2) == 0 => {
                // SAFETY: `pointer` checked that 2 bytes are inside; alignment was checked just now.
                let value = unsafe { at.cast::<u16>().read_volatile() };
                buffer.copy_from_slice(&u16::from_le(value).to_le_bytes());
                return Some(());
            }
            _ => {}
        }
        if buffer.len() >= BLOCK {
            copy_block(at, buffer);
            return Some(());
        }
        let (first, rest) = buffer.split_at_mut_checked(head)?;
        at = read_bytes(at, first);
        let mut words = rest.chunks_exact_mut(WORD);
        for word in &mut words {
            // SAFETY: the whole range is inside and `head` bytes further the pointer is aligned for a word.
            let value = unsafe { at.cast::<u64>().read_volatile() };
            word.copy_from_slice(&u64::from_le(value).to_le_bytes());
            at = at.wrapping_add(WORD);
        }
        read_bytes(at, words.into_remainder());
        Some(())
    }

    /// Copies in, or says no when the range is not inside.
    pub(super) fn write(&self, offset: usize, bytes: &[u8]) -> Option<()> {
        let at = self.pointer(offset, bytes.len())?;
        match *bytes {
            [a, b, c, d] if at.align_offset(4) == 0 => {
                let value = u32::from_le_bytes([a, b, c, d]).to_le();
                // SAFETY: `pointer` checked that 4 bytes are inside; alignment was checked in the pattern's guard.
                unsafe { at.cast::<u32>().write_volatile(value) };
            }
            [a, b, c, d, e, f, g, h] if at.align_offset(WORD) == 0 => {
                let value = u64::from_le_bytes([a, b, c, d, e, f, g, h]).to_le();
                // SAFETY: `pointer` checked that 8 bytes are inside; alignment was checked in the pattern's guard.
                unsafe { at.cast::<u64>().write_volatile(value) };
            }
            _ => {
                for (index, &byte) in bytes.iter().enumerate() {
                    // SAFETY: `index` is below the length that `pointer` checked.
                    unsafe { at.wrapping_add(index).write_volatile(byte) };
                }
            }
        }
        Some(())
    }

    fn pointer(&self, offset: usize, len: usize) -> Option<*mut u8> {
        let end = offset.checked_add(len)?;
        (end <= self.len).then(|| self.base.as_ptr().wrapping_add(offset))
    }
}

/// Copies a large block; the caller has checked the range.
#[cfg(target_arch = "x86_64")]
fn copy_block(at: *mut u8, buffer: &mut [u8]) {
    // SAFETY: `VolatileSlice::pointer` checked that `buffer.len()` bytes at `at` are mapped; the destination is a
    // slice of ours. To the compiler the instruction is opaque, so a guest that writes meanwhile is no data race of
    // the program's; the direction flag is clear by the ABI.
    unsafe {
        std::arch::asm!(
            "rep movsb",
            inout("rcx") buffer.len() => _,
            inout("rsi") at => _,
            inout("rdi") buffer.as_mut_ptr() => _,
            options(nostack, preserves_flags)
        );
    }
}

/// Copies a large block; the caller has checked the range.
#[cfg(not(target_arch = "x86_64"))]
fn copy_block(at: *mut u8, buffer: &mut [u8]) {
    read_bytes(at, buffer);
}

/// Copies byte by byte and returns the place behind; the caller has checked the range.
fn read_bytes(mut at: *mut u8, buffer: &mut [u8]) -> *mut u8 {
    for byte in buffer {
        // SAFETY: callers pass a buffer no longer than the range that `VolatileSlice::pointer` checked.
        *byte = unsafe { at.read_volatile() };
        at = at.wrapping_add(1);
    }
    at
}
