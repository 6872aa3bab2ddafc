//! Sets of the 256 vectors.

/// A set of vectors. Every question takes a handful of instructions: it is asked on hot paths.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct VectorSet {
    /// Bit `vector % 64` of word `vector / 64`.
    pub words: [u64; 4],
}

impl VectorSet {
    /// No vector.
    pub const EMPTY: Self = Self { words: [0; 4] };

    /// The highest vector.
    #[inline]
    pub fn highest(&self) -> Option<u8> {
        let (index, word) = self.words.iter().enumerate().rfind(|(_, word)| **word != 0)?;
        Some((index * 64 + 63 - word.leading_zeros() as usize) as u8)
    }

    /// Whether `vector` is in it.
    #[inline]
    pub const fn contains(&self, vector: u8) -> bool {
        self.words[vector as usize / 64] >> (vector % 64) & 1 != 0
    }

    /// Adds `vector`.
    #[inline]
    pub const fn insert(&mut self, vector: u8) {
        self.words[vector as usize / 64] |= 1 << (vector % 64);
    }

    /// Removes `vector`.
    #[inline]
    pub const fn remove(&mut self, vector: u8) {
        self.words[vector as usize / 64] &= !(1 << (vector % 64));
    }

    /// Adds all of `others`.
    #[inline]
    pub fn insert_all(&mut self, others: Self) {
        for (word, other) in self.words.iter_mut().zip(others.words) {
            *word |= other;
        }
    }

    /// Removes all of `others`.
    #[inline]
    pub fn remove_all(&mut self, others: Self) {
        for (word, other) in self.words.iter_mut().zip(others.words) {
            *word &= !other;
        }
    }

    /// Without vectors 0 to 15, which no interrupt may have (SDM 3A 11.5.2).
    #[inline]
    pub const fn legal(mut self) -> Self {
        self.words[0] &= !0xffff;
        self
    }

    /// The 32 vectors of one register (SDM 3A 11.8.4, figure 11-20). `index` counts modulo 8.
    #[inline]
    pub const fn register(&self, index: u32) -> u32 {
        let index = index as usize % 8;
        (self.words[index / 2] >> (index % 2 * 32)) as u32
    }
}
