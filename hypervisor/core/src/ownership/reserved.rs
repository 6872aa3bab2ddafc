//! Runs of the pool's pages that are kept for one partition each, so that several programs of root's can
//! share the pool without a word between them. A list in order of address, because they are few and large.

use hypervisor_abi::Fault;
use hypervisor_boot::memory_map::Span;
use units::{Bytes, HostPhysical};

/// The most runs.
const MOST: usize = 256;

/// One run.
#[derive(Clone, Copy, Debug)]
struct Run {
    span: Span,
    partition: u8,
    /// What lies before this is filled with zeros.
    clear: HostPhysical,
    /// Someone is about to move `clear`.
    busy: bool,
}

/// All of them.
pub(super) struct Reserved {
    /// Where they may lie.
    within: Span,
    runs: [Option<Run>; MOST],
    count: usize,
}

impl Reserved {
    pub(super) const fn new(within: Span) -> Self {
        Self { within, runs: [None; MOST], count: 0 }
    }

    fn runs(&self) -> impl Iterator<Item = &Run> {
        self.runs[..self.count].iter().flatten()
    }

    fn run(&mut self, partition: u8, start: HostPhysical) -> Result<&mut Run, Fault> {
        let mut runs = self.runs[..self.count].iter_mut().flatten();
        runs.find(|run| run.span.start == start && run.partition == partition)
            .ok_or(Fault::NotFound)
    }

    /// Whether `partition` may be given `span`: nothing of it is kept for another, or not cleared.
    pub(super) fn may_map(&self, span: Span, partition: u8) -> Result<(), Fault> {
        for run in self.runs().filter(|run| run.span.overlaps(&span)) {
            if run.partition != partition {
                return Err(Fault::NotOwned);
            }
            if run.span.intersection(&span).end.0 > run.clear.0 {
                return Err(Fault::Busy);
            }
        }
        Ok(())
    }

    /// The lowest place from `from` on for `size` bytes at a multiple of `alignment`, a power of two.
    pub(super) fn gap(&self, from: HostPhysical, size: Bytes, alignment: u64) -> Option<Span> {
        let up = |address: u64| address.checked_next_multiple_of(alignment);
        let mut at = up(from.0.max(self.within.start.0))?;
        for run in self.runs() {
            if run.span.end.0 <= at {
                continue;
            }
            if run.span.start.0 >= at.checked_add(size.0)? {
                break;
            }
            at = up(run.span.end.0)?;
        }
        let end = at.checked_add(size.0).filter(|end| *end <= self.within.end.0)?;
        Some(Span { start: HostPhysical(at), end: HostPhysical(end) })
    }

    /// Keeps a gap.
    pub(super) fn insert(&mut self, partition: u8, span: Span) -> Result<(), Fault> {
        if self.count == MOST {
            return Err(Fault::OutOfMemory);
        }
        let place = self.runs().take_while(|run| run.span.start < span.start).count();
        self.runs[place..=self.count].rotate_right(1);
        self.runs[place] = Some(Run { span, partition, clear: span.start, busy: false });
        self.count += 1;
        Ok(())
    }

    /// The run of `partition` that starts there.
    pub(super) fn find(&mut self, partition: u8, start: HostPhysical) -> Result<Span, Fault> {
        self.run(partition, start).map(|run| run.span)
    }

    /// See [`Ownership::begin_clear`](super::Ownership::begin_clear).
    pub(super) fn begin_clear(
        &mut self,
        partition: u8,
        start: HostPhysical,
        most: Bytes,
    ) -> Result<Option<Span>, Fault> {
        let run = self.run(partition, start)?;
        if run.busy {
            return Err(Fault::Busy);
        }
        run.busy = true;
        let end = HostPhysical(run.span.end.0.min(run.clear.0 + most.0));
        Ok((run.clear < end).then_some(Span { start: run.clear, end }))
    }

    /// See [`Ownership::end_clear`](super::Ownership::end_clear).
    pub(super) fn end_clear(
        &mut self,
        partition: u8,
        start: HostPhysical,
        most: Bytes,
    ) -> Result<Bytes, Fault> {
        let run = self.run(partition, start)?;
        run.busy = false;
        run.clear = HostPhysical(run.span.end.0.min(run.clear.0 + most.0));
        Ok(Bytes(run.span.end.0 - run.clear.0))
    }

    /// Keeps a run no longer.
    pub(super) fn remove(&mut self, partition: u8, start: HostPhysical) -> Result<(), Fault> {
        if self.run(partition, start)?.busy {
            return Err(Fault::Busy);
        }
        self.retain(|run| run.span.start != start);
        Ok(())
    }

    /// Keeps none of a partition's, which nobody uses any longer.
    pub(super) fn remove_all(&mut self, partition: u8) {
        self.retain(|run| run.partition != partition);
    }

    fn retain(&mut self, keep: impl Fn(&Run) -> bool) {
        let mut kept = 0;
        for index in 0..self.count {
            let run = self.runs[index].take();
            if run.as_ref().is_some_and(&keep) {
                self.runs[kept] = run;
                kept += 1;
            }
        }
        self.count = kept;
    }

    /// Bytes kept for nobody: all, and those in the largest piece.
    pub(super) fn unreserved(&self) -> (Bytes, Bytes) {
        let (mut all, mut largest, mut at) = (0, 0, self.within.start.0);
        let ends = self.runs().map(|run| (run.span.start.0, run.span.end.0));
        for (start, end) in ends.chain([(self.within.end.0, self.within.end.0)]) {
            all += start - at;
            largest = largest.max(start - at);
            at = end;
        }
        (Bytes(all), Bytes(largest))
    }
}
