//! Little-endian numbers out of byte slices, with bounds.
#![allow(dead_code, reason = "used by the layers above")]

/// The `N` bytes at `at`.
pub(crate) fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    array(bytes, at).map(u16::from_le_bytes)
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    array(bytes, at).map(u32::from_le_bytes)
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    array(bytes, at).map(u64::from_le_bytes)
}

/// A little-endian number of up to eight bytes; wider input keeps its low eight.
pub(crate) fn uint(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .take(8)
        .rev()
        .fold(0, |value, &byte| value << 8 | u64::from(byte))
}

/// Reads `bits` as a two's complement number of that width.
pub(crate) fn sign_extend(value: u64, bits: u32) -> i64 {
    let shift = 64_u32.saturating_sub(bits.clamp(1, 64));
    (value << shift).cast_signed() >> shift
}

/// The low half.
pub(crate) fn low32(value: u64) -> u32 {
    u32::try_from(value & u64::from(u32::MAX)).unwrap_or(0)
}

/// `value` as `usize`, saturating where a host's is narrower.
pub(crate) fn size(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

/// The text before the first NUL; bytes that are no UTF-8 are replaced.
pub(crate) fn text(bytes: &[u8]) -> String {
    let end = memchr::memchr(0, bytes).unwrap_or(bytes.len());
    String::from_utf8_lossy(bytes.get(..end).unwrap_or(bytes)).into_owned()
}

/// Lower-case hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn narrow_numbers_extend_their_sign() {
        assert_eq!(sign_extend(0x7f, 8), 127);
        assert_eq!(sign_extend(0xff, 8), -1);
        assert_eq!(sign_extend(0b101, 3), -3);
        assert_eq!(sign_extend(u64::MAX, 64), -1);
    }

    #[test]
    fn numbers_past_the_end_are_absent() {
        assert_eq!(u32_at(&[1, 2, 3], 0), None);
        assert_eq!(u16_at(&[1, 2, 3], 1), Some(0x0302));
        assert_eq!(u64_at(&[0; 8], usize::MAX), None);
        assert_eq!(uint(&[1, 2]), 0x201);
    }
}
