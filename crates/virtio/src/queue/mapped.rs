//! A ring found in guest memory once for many requests, for workers that move small packets: what a
//! request costs is then the reads and writes themselves, not the search for where they go.

use super::Queue;
use crate::scatter::{Buffers, MAX_ENTRIES};
use crate::{MemoryGuard, WorkerError};
use std::sync::atomic::Ordering;
use virtio_bindings::bindings::virtio_ring::{
    VRING_DESC_F_INDIRECT, VRING_DESC_F_NEXT, VRING_DESC_F_WRITE,
};
use virtio_queue::QueueT;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, VolatileSlice};

/// Bytes of a descriptor (virtio 1.2, 2.7.5), and of an entry of the used ring (2.7.8).
const DESCRIPTOR: usize = 16;
const USED: usize = 8;
/// Where the entries of either ring begin, behind flags and index.
const ENTRIES: usize = 4;
/// Where the index of either ring stands.
const INDEX: usize = 2;

/// The three parts of a queue's ring, while its memory is held.
pub struct Mapped<'m> {
    memory: &'m GuestMemoryMmap,
    descriptors: VolatileSlice<'m>,
    available: VolatileSlice<'m>,
    used: VolatileSlice<'m>,
}

/// One descriptor as it was read, once.
struct Descriptor {
    address: GuestAddress,
    length: u32,
    flags: u32,
    next: u16,
}

impl Descriptor {
    fn read(table: &VolatileSlice<'_>, index: u16) -> Option<Self> {
        let at = usize::from(index) * DESCRIPTOR;
        // A table of indirect descriptors lies anywhere; an atomic load wants it aligned.
        let word = |at| {
            let aligned = table.load::<u64>(at, Ordering::Relaxed);
            aligned.or_else(|_| table.read_obj(at)).ok().map(u64::from_le)
        };
        let (address, rest) = (word(at)?, word(at + 8)?);
        Some(Self {
            address: GuestAddress(address),
            length: rest as u32,
            flags: u32::from((rest >> 32) as u16),
            next: (rest >> 48) as u16,
        })
    }

    fn is(&self, flag: u32) -> bool {
        self.flags & flag != 0
    }
}

impl Queue {
    /// Finds the ring.
    ///
    /// # Errors
    /// A part of it does not lie in memory in one piece.
    pub fn map<'m>(&self, memory: &'m MemoryGuard) -> Result<Mapped<'m>, WorkerError> {
        let size = usize::from(self.ring.size());
        let part = |at: u64, length: usize| {
            memory.get_slice(GuestAddress(at), length).map_err(|error| self.broken("find", &error))
        };
        Ok(Mapped {
            memory,
            descriptors: part(self.ring.desc_table(), size * DESCRIPTOR)?,
            available: part(self.ring.avail_ring(), ENTRIES + size * 2)?,
            used: part(self.ring.used_ring(), ENTRIES + size * USED)?,
        })
    }

    /// Takes the next request as [`Self::pop`] does, its buffers in place of what `buffers` had:
    /// its head, `None` when the driver has no more.
    ///
    /// # Errors
    /// As for [`Self::pop`] and [`Buffers::of`].
    pub fn take<'m>(
        &mut self,
        ring: &Mapped<'m>,
        buffers: &mut Buffers<'m>,
    ) -> Result<Option<u16>, WorkerError> {
        let (size, next) = (self.ring.size(), self.ring.next_avail());
        if !(1..=size).contains(&self.seen.wrapping_sub(next)) {
            let index = ring.available.load::<u16>(INDEX, Ordering::Acquire);
            let index = index.map_err(|error| self.broken("read the index of", &error))?;
            self.seen = u16::from_le(index);
            match self.seen.wrapping_sub(next) {
                0 => return Ok(None),
                ahead if ahead > size => {
                    return Err(self.broken("take from", &format!("{ahead} entries in {size}")));
                }
                _ => {}
            }
        }
        let place = usize::from(next.checked_rem(size).unwrap_or(0));
        let head = ring.available.load::<u16>(ENTRIES + 2 * place, Ordering::Relaxed);
        let head = head.map_err(|error| self.broken("take from", &error))?;
        let head = u16::from_le(head);
        self.ring.set_next_avail(next.wrapping_add(1));
        ring.follow(head, size, buffers)
            .map_err(|why| WorkerError { what: format!("descriptor chain {head}: {why}") })?;
        Ok(Some(head))
    }

    /// Gives requests back at once, as [`Self::add_used_together`] does.
    ///
    /// # Errors
    /// A head is outside the ring, or the ring outside memory.
    pub fn give(&mut self, ring: &Mapped<'_>, used: &[(u16, u32)]) -> Result<(), WorkerError> {
        let size = self.ring.size();
        let mut position = self.ring.next_used();
        for &(head, length) in used {
            let at = ENTRIES + USED * usize::from(position.checked_rem(size).unwrap_or(0));
            let store = |value: u32, at| ring.used.store(value.to_le(), at, Ordering::Relaxed);
            let stored = store(u32::from(head), at).and_then(|()| store(length, at + 4));
            if head >= size || stored.is_err() {
                return Err(self.broken("give back to", &format!("head {head}")));
            }
            position = position.wrapping_add(1);
        }
        // Entries before the index that shows them (virtio 1.2, 2.7.8.2).
        ring.used
            .store(position.to_le(), INDEX, Ordering::Release)
            .map_err(|error| self.broken("give back to", &error))?;
        self.ring.set_next_used(position);
        Ok(())
    }
}

impl<'m> Mapped<'m> {
    /// Collects the buffers of the chain that begins at `head`, through a table of indirect
    /// descriptors if it has one at its end (virtio 1.2, 2.7.5.3).
    fn follow(&self, head: u16, size: u16, buffers: &mut Buffers<'m>) -> Result<(), &'static str> {
        buffers.clear();
        let mut indirect = None;
        let (mut index, mut entries) = (head, size);
        let mut bytes = 0u32;
        // A chain is no longer than its table, or it goes in a circle.
        let mut left = size;
        for _ in 0..MAX_ENTRIES {
            if left == 0 || index >= entries {
                return Err("it ends before its last descriptor");
            }
            let table = indirect.as_ref().unwrap_or(&self.descriptors);
            let mut found = Descriptor::read(table, index).ok_or("its table leaves memory")?;
            if found.is(VRING_DESC_F_INDIRECT) {
                let length = found.length as usize;
                let count = u16::try_from(length / DESCRIPTOR).unwrap_or(0);
                if indirect.is_some() || count == 0 || !length.is_multiple_of(DESCRIPTOR) {
                    return Err("a table of indirect descriptors that cannot be one");
                }
                let table = self.memory.get_slice(found.address, length);
                let table = table.map_err(|_| "its table leaves memory")?;
                found = Descriptor::read(&table, 0).ok_or("its table leaves memory")?;
                if found.is(VRING_DESC_F_INDIRECT) {
                    return Err("a table of indirect descriptors that cannot be one");
                }
                (indirect, entries, left) = (Some(table), count, count);
            }
            bytes = bytes.checked_add(found.length).ok_or("4 GiB or more")?;
            let write = found.is(VRING_DESC_F_WRITE);
            buffers.push(self.memory, found.address, found.length as usize, write)?;
            if !found.is(VRING_DESC_F_NEXT) {
                return Ok(());
            }
            index = found.next;
            left -= 1;
        }
        Err("more than 1024 descriptors")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::GuestMemory;
    use crate::test_support::{Random, Ring, memory};
    use vm_memory::GuestAddressSpace;

    const SIZE: u16 = 16;
    /// Where a table of indirect descriptors lies, on no boundary of its own.
    const TABLE: u64 = 0x4004;

    /// What a chain comes to: bytes to read and to write, and in how many pieces.
    type Found = Option<(usize, usize, usize)>;

    fn found(buffers: &Buffers<'_>) -> (usize, usize, usize) {
        let Buffers { readable, writable, .. } = buffers;
        (readable.len(), writable.len(), readable.pieces() + writable.pieces())
    }

    /// The next chain, by the two ways there are.
    fn both_ways(memory: &GuestMemory, ring: &Ring) -> (Found, Found) {
        let memory = memory.memory();
        let mut queue = ring.queue();
        let mapped = queue.map(&memory).unwrap();
        let mut buffers = Buffers::default();
        let taken = queue.take(&mapped, &mut buffers).ok().flatten();
        let mut queue = ring.queue();
        let popped = queue.pop(&memory).ok().flatten();
        let popped = popped.and_then(|chain| Buffers::of(chain, &memory).ok());
        (taken.map(|_| found(&buffers)), popped.map(|buffers| found(&buffers)))
    }

    #[test]
    fn whatever_the_table_says_a_chain_is_what_it_is_when_popped() {
        let memory = memory();
        let mut random = Random::new(7);
        let mut good = 0;
        for _ in 0..20_000 {
            let mut ring = Ring::new(&memory, 0, 0x1000, SIZE, 0);
            let one = |random: &mut Random| {
                let address = [0x8000 + random.below(0x1000), u64::MAX - 8]
                    [usize::from(random.below(40) == 0)];
                let length = if random.below(40) == 0 { u32::MAX } else { random.below(64) as u32 };
                let flags =
                    u16::from(random.below(3) != 0) | (u16::from(random.below(2) != 0) << 1);
                (address, length, flags, random.below(u64::from(SIZE) + 1) as u16)
            };
            for index in 0..SIZE {
                let (mut address, mut length, mut flags, next) = one(&mut random);
                if random.below(8) == 0 {
                    (address, flags) = (TABLE, flags | 4);
                    length = 16 * random.below(8) as u32 + u32::from(random.below(10) == 0);
                }
                ring.write_descriptor(index, address, length, flags, next);
            }
            for index in 0..8 {
                let (address, length, flags, next) = one(&mut random);
                let raw = [
                    address,
                    u64::from(length) | u64::from(flags) << 32 | u64::from(next % 8) << 48,
                ];
                memory
                    .memory()
                    .write_obj(raw.map(u64::to_le), GuestAddress(TABLE + 16 * index))
                    .unwrap();
            }
            ring.publish(random.below(u64::from(SIZE) + 2) as u16);
            let (taken, popped) = both_ways(&memory, &ring);
            assert_eq!(taken, popped);
            good += usize::from(taken.is_some());
        }
        assert!((1000..19_000).contains(&good), "{good}");
    }

    #[test]
    fn an_index_further_ahead_than_the_ring_is_long_is_refused() {
        let memory = memory();
        let mut ring = Ring::new(&memory, 0, 0x1000, SIZE, 0);
        ring.set_available(SIZE + 1);
        let guard = memory.memory();
        let mut queue = ring.queue();
        let mapped = queue.map(&guard).unwrap();
        assert!(queue.take(&mapped, &mut Buffers::default()).is_err());
    }

    #[test]
    fn what_is_given_back_together_is_seen_together_and_only_heads_of_the_ring_are() {
        let memory = memory();
        let mut ring = Ring::new(&memory, 0, 0x1000, SIZE, 0);
        let guard = memory.memory();
        let mut queue = ring.queue();
        let mapped = queue.map(&guard).unwrap();
        let mut buffers = Buffers::default();
        // Around the end of the ring, twice.
        for round in 0..12 {
            let heads: Vec<u16> = (0..3).map(|_| ring.add(&[(0x8000, 4, true)])).collect();
            let taken: Vec<(u16, u32)> =
                (0..3).map(|_| (queue.take(&mapped, &mut buffers).unwrap().unwrap(), 4)).collect();
            assert!(queue.take(&mapped, &mut buffers).unwrap().is_none(), "{round}");
            assert_eq!(ring.take_used_head(), None);
            queue.give(&mapped, &taken).unwrap();
            assert!(heads.iter().all(|&head| ring.take_used_head() == Some((head, 4))));
        }
        assert!(queue.give(&mapped, &[(SIZE, 0)]).is_err());
        assert_eq!(ring.take_used_head(), None);
    }
}
