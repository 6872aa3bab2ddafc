//! Who holds each page of the pool.
//!
//! One entry for each page, and the only transitions there are:
//!
//! | page | map | protect | share | unmap of the last mapping |
//! | --- | --- | --- | --- | --- |
//! | root's | lent to the guest | | | |
//! | lent: guest's and root's | one mapping more | guest's alone | as it is | root's |
//! | guest's alone | refused | as it is | shared | to be wiped |
//! | shared: guest's, and root's by its leave | refused | guest's alone | as it is | root's |
//! | to be wiped: the core's | refused | refused | refused | refused; root's once it is wiped |
//!
//! Beside that, runs of pages are kept for one partition (`reserved`): root gives them to no other.
//!
//! Every transition takes a range and happens to all of it or to none. The page tables of guests and
//! root follow: a guest's tables name only pages it holds, root's only pages that
//! [`Page::root_may_access`].

mod reserved;
#[cfg(test)]
mod tests;

use core::ops::Range;
use hypervisor_abi::Fault;
use hypervisor_boot::memory_map::Span;
use reserved::Reserved;
use units::{Bytes, HostPhysical, PAGE_SIZE};

/// On what terms a guest holds a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Terms {
    /// Alone.
    Owned,
    /// Its own, and root may use it too.
    Shared,
    /// Root's, lent to the guest: both use it.
    Lent,
}

/// Who holds a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Page {
    /// Root alone.
    Root,
    /// The core; root may use it too: the pool's head.
    Head,
    /// The core, until what a guest left in it is wiped.
    Unwiped,
    /// A guest.
    Guest {
        /// Its partition's number.
        partition: u8,
        /// On what terms.
        terms: Terms,
        /// How often the guest's tables name it.
        mappings: u16,
    },
}

const _: () = assert!(size_of::<Page>() == 4);
const _: () = assert!(hypervisor_abi::MAX_PARTITIONS <= u8::MAX as usize);

impl Page {
    /// Whether root may read and write it.
    pub const fn root_may_access(self) -> bool {
        !matches!(self, Self::Unwiped | Self::Guest { terms: Terms::Owned, .. })
    }
}

/// The table of entries.
pub struct Ownership<'a> {
    start: HostPhysical,
    pages: &'a mut [Page],
    reserved: Reserved,
}

impl<'a> Ownership<'a> {
    /// A table for the pool that starts at `start`, a page's address: one entry for each page, the
    /// first `head` of them the core's, the others root's.
    pub fn new(start: HostPhysical, pages: &'a mut [Page], head: usize) -> Self {
        pages.fill(Page::Root);
        pages[..head].fill(Page::Head);
        let first = HostPhysical(start.0 + head as u64 * PAGE_SIZE);
        let end = HostPhysical(start.0 + pages.len() as u64 * PAGE_SIZE);
        Self { start, pages, reserved: Reserved::new(Span { start: first, end }) }
    }

    /// Lends pages of root's to a guest, or counts one more mapping of pages lent to it already.
    ///
    /// # Errors
    /// A page is not root's to give, kept for another guest or not cleared for this one, lent to another
    /// guest, or mapped as often as can be counted.
    pub fn map(&mut self, span: Span, to: u8) -> Result<(), Fault> {
        self.reserved.may_map(span, to)?;
        self.change(span, |page| {
            let mapped = match page {
                Page::Root => 0,
                Page::Guest { partition, terms: Terms::Lent, mappings } => {
                    (partition == to).then_some(mappings).ok_or(Fault::Busy)?
                }
                _ => return Err(Fault::NotOwned),
            };
            let mappings = mapped.checked_add(1).ok_or(Fault::OutOfMemory)?;
            Ok(Page::Guest { partition: to, terms: Terms::Lent, mappings })
        })
        .map(|_| ())
    }

    /// One mapping of each page is gone from the guest's tables. With the last one the guest gives the
    /// page up: it is root's, unless root has not seen what is in it. True when one is to be wiped.
    ///
    /// # Errors
    /// A page is not the guest's.
    pub fn unmap(&mut self, span: Span, of: u8) -> Result<bool, Fault> {
        self.change_held(span, of, |terms, mappings| match mappings {
            0 | 1 if terms == Terms::Owned => Page::Unwiped,
            0 | 1 => Page::Root,
            _ => Page::Guest { partition: of, terms, mappings: mappings - 1 },
        })?;
        Ok(self.next_to_wipe(span)?.is_some())
    }

    /// Takes pages that a guest holds from root. True when root could use one until now.
    ///
    /// # Errors
    /// A page is not the guest's.
    pub fn protect(&mut self, span: Span, of: u8) -> Result<bool, Fault> {
        let owned = |_, mappings| Page::Guest { partition: of, terms: Terms::Owned, mappings };
        self.change_held(span, of, owned)
    }

    /// Lets root use pages that a guest holds. True when there is one it could not use until now.
    ///
    /// # Errors
    /// A page is not the guest's.
    pub fn share(&mut self, span: Span, of: u8) -> Result<bool, Fault> {
        self.change_held(span, of, |terms, mappings| {
            let terms = if terms == Terms::Owned { Terms::Shared } else { terms };
            Page::Guest { partition: of, terms, mappings }
        })
    }

    /// The first pages of `span` that wait to be wiped, in a row.
    ///
    /// # Errors
    /// The range is not the pool's.
    pub fn next_to_wipe(&self, span: Span) -> Result<Option<Span>, Fault> {
        let range = self.range(span)?;
        let mut waiting = range.skip_while(|index| self.pages[*index] != Page::Unwiped);
        let Some(first) = waiting.next() else { return Ok(None) };
        let end = waiting.take_while(|index| self.pages[*index] == Page::Unwiped).last();
        let address = |index: usize| HostPhysical(self.start.0 + index as u64 * PAGE_SIZE);
        Ok(Some(Span { start: address(first), end: address(end.unwrap_or(first) + 1) }))
    }

    /// These pages are wiped: they are root's again.
    ///
    /// # Errors
    /// One did not wait for that.
    pub fn wiped(&mut self, span: Span) -> Result<(), Fault> {
        self.change(span, |page| match page {
            Page::Unwiped => Ok(Page::Root),
            _ => Err(Fault::NotOwned),
        })
        .map(|_| ())
    }

    /// Keeps `size` bytes for `partition`, in one piece at a multiple of `alignment`: pages of root's that
    /// are in nobody's tables.
    ///
    /// # Errors
    /// There is no such piece, or no more pieces can be kept apart.
    pub fn reserve(
        &mut self,
        partition: u8,
        size: Bytes,
        alignment: u64,
    ) -> Result<HostPhysical, Fault> {
        let mut from = self.start;
        loop {
            let span = self.reserved.gap(from, size, alignment).ok_or(Fault::OutOfMemory)?;
            let range = self.range(span)?;
            let first = range.start;
            // The last page in use, so that the search goes on behind all of them.
            match self.pages[range].iter().rposition(|page| *page != Page::Root) {
                None => return self.reserved.insert(partition, span).map(|()| span.start),
                Some(used) => {
                    from = HostPhysical(self.start.0 + (first + used + 1) as u64 * PAGE_SIZE);
                }
            }
        }
    }

    /// The next pages, at most `most` bytes, to be filled with zeros of those kept for `partition` from
    /// `start` on; until [`Self::end_clear`] nobody else fills them and they stay kept.
    ///
    /// # Errors
    /// None are kept there, or someone fills them.
    pub fn begin_clear(
        &mut self,
        partition: u8,
        start: HostPhysical,
        most: Bytes,
    ) -> Result<Option<Span>, Fault> {
        self.reserved.begin_clear(partition, start, most)
    }

    /// They are filled; says how much is left.
    ///
    /// # Errors
    /// None are kept there.
    pub fn end_clear(
        &mut self,
        partition: u8,
        start: HostPhysical,
        most: Bytes,
    ) -> Result<Bytes, Fault> {
        self.reserved.end_clear(partition, start, most)
    }

    /// The pages kept for `partition` from `start` on are kept no longer.
    ///
    /// # Errors
    /// None are kept there, one is in a guest's tables, or they are being filled.
    pub fn release(&mut self, partition: u8, start: HostPhysical) -> Result<(), Fault> {
        let span = self.reserved.find(partition, start)?;
        let range = self.range(span)?;
        if self.pages[range].iter().any(|page| *page != Page::Root) {
            return Err(Fault::Busy);
        }
        self.reserved.remove(partition, start)
    }

    /// Nothing is kept for `partition` any longer.
    pub fn release_all(&mut self, partition: u8) {
        self.reserved.remove_all(partition);
    }

    /// Bytes kept for nobody: all, and those in the largest piece.
    pub fn unreserved(&self) -> (Bytes, Bytes) {
        self.reserved.unreserved()
    }

    /// Replaces pages that a guest holds by what `new` says of terms and mappings.
    fn change_held(
        &mut self,
        span: Span,
        of: u8,
        new: impl Fn(Terms, u16) -> Page,
    ) -> Result<bool, Fault> {
        self.change(span, |page| match page {
            Page::Guest { partition, terms, mappings } if partition == of => {
                Ok(new(terms, mappings))
            }
            _ => Err(Fault::NotFound),
        })
    }

    /// Replaces every page of a range, or none when one is refused. True when one is another now.
    fn change(
        &mut self,
        span: Span,
        new: impl Fn(Page) -> Result<Page, Fault>,
    ) -> Result<bool, Fault> {
        let range = self.range(span)?;
        let pages = &mut self.pages[range];
        pages.iter().try_for_each(|page| new(*page).map(|_| ()))?;
        let mut changed = false;
        for page in pages {
            let new = new(*page)?;
            changed |= new != *page;
            *page = new;
        }
        Ok(changed)
    }

    /// The pages as indices, checked.
    fn range(&self, span: Span) -> Result<Range<usize>, Fault> {
        if !(span.start.0 | span.end.0).is_multiple_of(PAGE_SIZE) {
            return Err(Fault::BadValue);
        }
        let index = |address: HostPhysical| {
            let index = address.0.checked_sub(self.start.0)? / PAGE_SIZE;
            usize::try_from(index).ok().filter(|index| *index <= self.pages.len())
        };
        let (start, end) = index(span.start).zip(index(span.end)).ok_or(Fault::BadValue)?;
        Ok(start..end.max(start))
    }
}
