//! Memory that is built by hand: what tests and tools assemble page by page.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use super::{PhysMem, Range};
use crate::{Error, Gpa, Result, bytes};

const PAGE: u64 = 4096;

/// Memory in separate pages of 4 KiB; what was never written is not there.
#[derive(Debug, Default)]
pub struct SparseMem {
    pages: Mutex<BTreeMap<u64, Box<[u8]>>>,
}

impl SparseMem {
    /// No memory at all.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes `[gpa, gpa + len)` memory, zeroed where it was not yet.
    pub fn populate(&self, gpa: Gpa, len: u64) {
        let mut pages = self.pages.lock().unwrap_or_else(PoisonError::into_inner);
        let last = gpa.0.saturating_add(len.saturating_sub(1)) / PAGE;
        for page in gpa.0 / PAGE..=last {
            pages
                .entry(page)
                .or_insert_with(|| vec![0; bytes::size(PAGE)].into());
        }
    }

    /// Makes memory where needed and writes `data`.
    pub fn put(&self, gpa: Gpa, data: &[u8]) {
        self.populate(gpa, data.len() as u64);
        let _ = self.write(gpa, data);
    }

    fn spans(
        &self,
        gpa: Gpa,
        len: usize,
        mut copy: impl FnMut(&mut [u8], std::ops::Range<usize>),
    ) -> Result<()> {
        let mut pages = self.pages.lock().unwrap_or_else(PoisonError::into_inner);
        let mut done = 0;
        while done < len {
            let missing = Error::NoMemory {
                gpa: gpa.wrapping_add(done as u64),
                len: len - done,
            };
            let Some(here) = gpa.checked_add(done as u64) else {
                return Err(missing);
            };
            let offset = bytes::size(here.0 % PAGE);
            let Some(page) = pages.get_mut(&(here.0 / PAGE)) else {
                return Err(missing);
            };
            let Some(rest) = page.get_mut(offset..) else {
                return Err(missing);
            };
            let size = rest.len().min(len - done);
            if let Some(part) = rest.get_mut(..size) {
                copy(part, done..done + size);
            }
            done += size;
        }
        Ok(())
    }
}

impl PhysMem for SparseMem {
    fn read(&self, gpa: Gpa, buffer: &mut [u8]) -> Result<()> {
        self.spans(gpa, buffer.len(), |page, span| {
            if let Some(part) = buffer.get_mut(span) {
                part.copy_from_slice(page);
            }
        })
    }

    fn write(&self, gpa: Gpa, data: &[u8]) -> Result<()> {
        self.spans(gpa, data.len(), |page, span| {
            if let Some(part) = data.get(span) {
                page.copy_from_slice(part);
            }
        })
    }

    fn ranges(&self) -> Vec<Range> {
        let pages = self.pages.lock().unwrap_or_else(PoisonError::into_inner);
        let mut ranges: Vec<Range> = Vec::new();
        for &page in pages.keys() {
            let gpa = Gpa(page.wrapping_mul(PAGE));
            match ranges.last_mut() {
                Some(last) if last.end() == gpa => last.len += PAGE,
                _ => ranges.push(Range { gpa, len: PAGE }),
            }
        }
        ranges
    }
}
