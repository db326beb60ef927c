//! Kernel stacks of tasks that do not run: the return addresses on them.
//!
//! There is no unwinder here (ORC tables change from kernel to kernel). A word on the stack counts when it is an address
//! of the kernel's code right behind a call; what an earlier call has left there counts as well.

use crate::{Kernel, Kva, Object, Result, bytes};

/// `THREAD_SIZE` without KASAN; with it the outer half is not looked at.
const STACK: u64 = 16 << 10;
/// Frames that are kept, the innermost.
const MAX_FRAMES: usize = 32;
/// `call rel32`, and the longest indirect call: what stands before a return address.
const CALL: u8 = 0xe8;
const CALL_LEN: usize = 5;

impl Kernel {
    /// Return addresses on the kernel stack of a task that does not run now, the innermost first, as `symbol+0x12`.
    ///
    /// Left-overs of earlier calls are among them, as among those that the kernel marks with a question mark.
    ///
    /// # Errors
    /// When the stack cannot be found or read.
    pub fn task_stack(&self, task: &Object<'_>) -> Result<Vec<String>> {
        let (base, pointer) = (task.pointer("stack")?, task.pointer("thread.sp")?);
        let used = pointer.0.wrapping_sub(base.0);
        if base.is_null() || used >= STACK {
            return Ok(Vec::new());
        }
        let raw = self.read_bytes(pointer, (STACK - used) & !7, bytes::size(STACK))?;
        let words = raw.as_chunks::<8>().0.iter();
        Ok(words
            .map(|word| Kva(u64::from_le_bytes(*word)))
            .filter(|&address| self.follows_a_call(address))
            .take(MAX_FRAMES)
            .map(|address| self.describe(address))
            .collect())
    }

    /// Whether the instruction before an address of the kernel's code is a call.
    fn follows_a_call(&self, address: Kva) -> bool {
        let is_code = self
            .symbol("_etext")
            .is_ok_and(|end| self.text() < address && address <= end);
        let mut before = [0; CALL_LEN];
        if !is_code
            || self
                .read(address.wrapping_sub(CALL_LEN as u64), &mut before)
                .is_err()
        {
            return false;
        }
        let [direct, .., first, second] = before;
        // `call *%reg` is ff d0 to ff d7.
        direct == CALL || (first == 0xff && second & 0xf8 == 0xd0)
    }
}
