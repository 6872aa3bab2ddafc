//! Whose translations a physical CPU may hold, and when they are old. Pure.
//!
//! Translations carry a tag, one for each partition where there are enough. They are good for the next run
//! under the tag only when the same virtual CPU used it here last, has not run on another CPU since (what
//! it made that one forget, this one still knows), and nothing was taken from its partition's tables.

use hypervisor_abi::MAX_PARTITIONS;

/// Who uses a tag, and when.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// The virtual CPU, by its number among all there ever were, from 1.
    pub vcpu: u64,
    /// How often it has changed its physical CPU.
    pub moves: u64,
    /// Counts what was taken from its partition's tables.
    pub changes: u64,
}

/// One physical CPU's.
#[derive(Debug)]
pub struct Translations([State; MAX_PARTITIONS + 1]);

impl Default for Translations {
    fn default() -> Self {
        Self([State::default(); MAX_PARTITIONS + 1])
    }
}

impl Translations {
    /// `state` uses `tag` here next. True when what this CPU knows under the tag is to be forgotten first.
    #[inline]
    #[must_use]
    pub fn use_tag(&mut self, tag: u32, state: State) -> bool {
        let last = &mut self.0[tag as usize];
        let old = *last != state;
        *last = state;
        old
    }
}

#[cfg(test)]
mod tests {
    use super::{State, Translations};

    #[test]
    fn they_stay_while_one_virtual_cpu_stays() {
        let mut cpu = Translations::default();
        let state = State { vcpu: 1, moves: 1, changes: 1 };
        assert!(cpu.use_tag(2, state));
        assert!(!cpu.use_tag(2, state));
        assert!(cpu.use_tag(2, State { changes: 2, ..state }));
        assert!(cpu.use_tag(2, State { vcpu: 2, ..state }), "another one with the same tag");
        assert!(cpu.use_tag(2, state));
        assert!(cpu.use_tag(3, state), "another tag");
        assert!(!cpu.use_tag(2, state));
    }

    #[test]
    fn a_virtual_cpu_that_comes_back_finds_nothing_of_before() {
        let mut cpus = [Translations::default(), Translations::default()];
        for moves in 1..6 {
            let state = State { vcpu: 7, moves, changes: 1 };
            let here = &mut cpus[moves as usize % 2];
            assert!(here.use_tag(2, state), "after move {moves}");
            assert!(!here.use_tag(2, state), "until the next");
        }
    }
}
