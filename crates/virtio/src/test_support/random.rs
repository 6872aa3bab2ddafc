//! Repeatable random numbers: from a seed for tests, from a fuzzer's bytes for fuzz targets.

/// A sequence of numbers.
#[derive(Clone, Debug)]
pub struct Random(Source);

#[derive(Clone, Debug)]
enum Source {
    /// SplitMix64 (Steele, Lea, Flood 2014): one word of state, the same sequence for the same
    /// seed; ends after some rounds.
    Seed { state: u64, rounds: u32 },
    /// Bytes, zeroes when they are used up.
    Bytes { bytes: Vec<u8>, at: usize },
}

/// Rounds a seeded sequence is good for.
const ROUNDS: u32 = 150;

impl Random {
    /// A sequence of its own for each `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(Source::Seed { state: seed, rounds: ROUNDS })
    }

    /// The sequence that `bytes` are.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Self {
        Self(Source::Bytes { bytes: bytes.to_vec(), at: 0 })
    }

    /// Whether another round of an attack is to be made: a fixed number for a seed, until the
    /// bytes are used up for bytes.
    pub fn another_round(&mut self) -> bool {
        match &mut self.0 {
            Source::Seed { rounds, .. } => {
                *rounds = rounds.saturating_sub(1);
                *rounds > 0
            }
            Source::Bytes { bytes, at } => *at < bytes.len(),
        }
    }

    /// The next 64 bits. No iterator: it has no end.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> u64 {
        self.take(8)
    }

    /// Takes `count` bytes of a fuzzer's input, at most 8.
    fn take(&mut self, count: usize) -> u64 {
        match &mut self.0 {
            Source::Seed { state, .. } => {
                *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
                let mut z = *state;
                z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
                z ^ (z >> 31)
            }
            Source::Bytes { bytes, at } => {
                let mut word = [0; 8];
                let rest = &bytes[(*at).min(bytes.len())..];
                let got = count.min(rest.len());
                word[..got].copy_from_slice(&rest[..got]);
                *at += count;
                u64::from_le_bytes(word)
            }
        }
    }

    /// Below `limit`, which is not 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        let bytes = (64 - (limit - 1).leading_zeros()).div_ceil(8);
        self.take(bytes as usize) % limit
    }

    /// True once in `n`.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// One of `choices`.
    pub fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }

    /// Fills `bytes`.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let word = self.take(chunk.len()).to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
    }
}
