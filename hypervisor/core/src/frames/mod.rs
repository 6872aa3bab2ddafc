//! The core's own frames: what page tables, control structures and stacks are made of.
//!
//! One range of physical memory that is in nobody else's tables, and one bit for each frame of it.
//! Nothing here touches the frames themselves.

#[cfg(test)]
mod tests;

use core::ops::Range;
use units::{HostPhysical, PAGE_SIZE};

const WORD: usize = u64::BITS as usize;

/// A range of frames, each free or given out.
pub struct FramePool<'a> {
    start: HostPhysical,
    frames: usize,
    /// A set bit is a frame that is given out.
    used: &'a mut [u64],
    /// No frame below this one is free.
    next_free: usize,
}

impl<'a> FramePool<'a> {
    /// Words of bitmap for so many frames.
    pub const fn bitmap_words(frames: usize) -> usize {
        frames.div_ceil(WORD)
    }

    /// A pool of `frames` free frames from `start` on, a page's address; `bitmap` is for its own use.
    ///
    /// # Panics
    /// The bitmap is too short.
    pub fn new(start: HostPhysical, frames: usize, bitmap: &'a mut [u64]) -> Self {
        let used = &mut bitmap[..Self::bitmap_words(frames)];
        used.fill(0);
        Self { start, frames, used, next_free: 0 }
    }

    /// `count` frames in a row, the lowest that fit; `None` also when `count` is 0.
    pub fn allocate(&mut self, count: usize) -> Option<HostPhysical> {
        let mut first = self.next_free;
        loop {
            let range = first..first.checked_add(count).filter(|end| *end <= self.frames)?;
            match range.clone().rev().find(|index| self.is_used(*index)) {
                Some(used) => first = used + 1,
                None if count == 0 => return None,
                None => {
                    self.mark(range.clone(), true);
                    if first == self.next_free {
                        self.next_free = range.end;
                    }
                    return Some(HostPhysical(self.start.0 + first as u64 * PAGE_SIZE));
                }
            }
        }
    }

    /// Takes back frames in a row. False, and nothing happens, when not all of them are the pool's and
    /// given out.
    pub fn free(&mut self, start: HostPhysical, count: usize) -> bool {
        let Some(range) = self.range(start, count) else { return false };
        if !range.clone().all(|index| self.is_used(index)) {
            return false;
        }
        self.next_free = self.next_free.min(range.start);
        self.mark(range, false);
        true
    }

    /// The frames as indices, checked.
    fn range(&self, start: HostPhysical, count: usize) -> Option<Range<usize>> {
        let offset = start.0.checked_sub(self.start.0).filter(|at| at.is_multiple_of(PAGE_SIZE))?;
        let first = usize::try_from(offset / PAGE_SIZE).ok()?;
        let end = first.checked_add(count).filter(|end| *end <= self.frames)?;
        Some(first..end)
    }

    fn is_used(&self, index: usize) -> bool {
        self.used[index / WORD] >> (index % WORD) & 1 != 0
    }

    fn mark(&mut self, range: Range<usize>, used: bool) {
        for index in range {
            let bit = 1 << (index % WORD);
            let word = &mut self.used[index / WORD];
            *word = if used { *word | bit } else { *word & !bit };
        }
    }
}
