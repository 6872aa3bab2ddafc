//! Partitions: a guest's memory, its virtual CPUs, and how interrupts find them. Partition 0 is root
//! and not in here (`crate::root`).
//!
//! `slots` is the table of partitions and who uses them, `clock` their time behind a sleep of the machine, `pool` the
//! memory they are made of, `run_page` what a vCPU shares with root, `route` interrupt routing.
//!
//! `unsafe` here: the table of virtual CPUs, and in `slots`, `pool` and `run_page`.
#![allow(unsafe_code)]

mod clock;
mod pool;
mod route;
mod run_page;
mod slots;

pub use clock::{goes_on as clock_goes_on, stops as clock_stops};
pub use pool::{initialize, unreserved};
pub use run_page::{Orders, RunPageSlot};
pub use slots::{PartitionRef, create, destroy, get};

use crate::machine::machine;
use crate::memory::{CoreTables, Object, Window};
use crate::memory_type::MemoryType;
use crate::processor::Vendor;
use crate::second_level::{Access, FaultCause, Flush, SecondLevel, Translation};
use crate::sync::Lock;
use crate::vcpu::{Place, Vcpu, signal};
use core::ops::Range;
use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};
use hypervisor_abi::{Fault, MAX_VCPUS, Status};
use hypervisor_boot::memory_map::{Kind, MemoryMap, Span};
use units::{Bytes, GuestPhysical, HostPhysical, PAGE_SIZE};

/// A guest's memory.
struct Memory {
    tables: SecondLevel,
    /// What is mapped, as the guest may ask. The addresses are the guest's.
    ranges: MemoryMap<RANGES>,
}

/// The most pieces a guest's memory may be in.
const RANGES: usize = 64;

impl Memory {
    /// The host range behind the guest's from `start` on, to `end` or as far as it is in one piece.
    fn piece(&self, start: u64, end: u64) -> Result<Span, Status> {
        let at = |address| self.tables.translate(GuestPhysical(address));
        let first = at(start).ok_or(Status::argument(Fault::NotFound, 2))?;
        let mut span = Span::of(first.host, Bytes(first.left().min(end - start)));
        loop {
            let next = start + span.size().0;
            match at(next) {
                Some(found) if next < end && found.host == span.end => {
                    span.end.0 += found.left().min(end - next);
                }
                _ => return Ok(span),
            }
        }
    }
}

/// A guest.
pub struct Partition {
    /// Its number, 1 or more.
    pub number: u32,
    /// What root calls its owner.
    pub owner: u64,
    /// Tag of its translations. Where a processor has few, partitions share them: a virtual CPU that
    /// finds that another used its tag begins with none.
    pub tag: u32,
    /// Root of its tables, as the processor wants it.
    pub pointer: u64,
    /// What is added to its time-stamp counters.
    tsc_offset: AtomicU64,
    memory: Lock<Memory>,
    /// Counts changes of the tables that take something away.
    changes: AtomicU64,
    vcpus: [AtomicPtr<Vcpu>; MAX_VCPUS],
}

impl Partition {
    /// An empty partition. `None` when the core is out of memory.
    fn new(number: u32, owner: u64) -> Option<Self> {
        let tables = SecondLevel::new(machine().format, CoreTables)?;
        Some(Self {
            number,
            owner,
            tag: 2 + (number - 1) % (machine().tags - 2),
            pointer: tables.root_pointer(),
            // Guests' time starts with them.
            tsc_offset: AtomicU64::new(0_u64.wrapping_sub(crate::cpu::control::tsc().0)),
            memory: Lock::new(Memory { tables, ranges: MemoryMap::new() }),
            changes: AtomicU64::new(1),
            vcpus: [const { AtomicPtr::new(ptr::null_mut()) }; MAX_VCPUS],
        })
    }

    /// What is added to its time-stamp counters.
    pub fn tsc_offset(&self) -> u64 {
        self.tsc_offset.load(Ordering::Relaxed)
    }

    /// Moves its time-stamp counters.
    fn move_clock(&self, by: u64) {
        self.tsc_offset.fetch_add(by, Ordering::Relaxed);
        self.vcpus().for_each(|vcpu| vcpu.move_clock(by));
    }

    /// A number that changes when something is taken from its tables.
    #[inline]
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::SeqCst)
    }

    /// A virtual CPU.
    #[inline]
    pub fn vcpu(&self, index: u64) -> Option<&Vcpu> {
        let place = self.vcpus.get(usize::try_from(index).ok()?)?;
        // SAFETY: a vCPU lives as long as its partition, which the reference keeps alive.
        unsafe { place.load(Ordering::Acquire).as_ref() }
    }

    /// All of them.
    pub fn vcpus(&self) -> impl Iterator<Item = &Vcpu> {
        // SAFETY: as above.
        (self.vcpus.iter()).filter_map(|place| unsafe { place.load(Ordering::Acquire).as_ref() })
    }

    /// Makes a virtual CPU and says where its run page is.
    ///
    /// # Errors
    /// It exists, or the core is out of memory.
    pub fn create_vcpu(&self, vendor: &Vendor, index: u64) -> Result<u64, Status> {
        let exists = Status::argument(Fault::Exists, 2);
        let out = Status::fault(Fault::OutOfMemory);
        let place = usize::try_from(index).ok().and_then(|index| self.vcpus.get(index));
        let place = place.ok_or(Status::argument(Fault::BadValue, 2))?;
        if self.vcpu(index).is_some() {
            return Err(exists);
        }
        let page = pool::take_run_page().ok_or(out)?;
        let offset = page.offset();
        let vcpu = Vcpu::new(vendor, self, index as u32, page).and_then(Object::new).ok_or(out)?;
        let vcpu = vcpu.into_raw();
        place
            .compare_exchange(ptr::null_mut(), vcpu, Ordering::AcqRel, Ordering::Acquire)
            .map_err(|_| {
                // SAFETY: given up a moment ago and seen by nobody.
                drop(unsafe { Object::from_raw(vcpu) });
                exists
            })?;
        Ok(offset)
    }

    /// Maps pool pages.
    ///
    /// # Errors
    /// The pages are not root's to give, something is mapped there, or the core is out of memory.
    pub fn map(&self, guest: GuestPhysical, span: Span, access: Access) -> Result<(), Status> {
        let mut memory = self.memory.lock();
        let mut ranges = memory.ranges;
        ranges
            .insert(Span::of(HostPhysical(guest.0), span.size()), Kind::Usable)
            .map_err(|_| Status::argument(Fault::OutOfMemory, 2))?;
        pool::with(|pages| pages.map(span, self.number as u8))
            .map_err(|fault| Status::argument(fault, 3))?;
        memory.tables.map(guest, span.start, span.size(), access, MemoryType::WriteBack).map_err(
            |fault| {
                // Lent a moment ago and not protected since, so nothing is to be wiped.
                let _ = pool::with(|pages| pages.unmap(span, self.number as u8));
                of_tables(fault)
            },
        )?;
        memory.ranges = ranges;
        Ok(())
    }

    /// Keeps pages of the pool for it, `size` bytes in one piece at a multiple of `alignment`.
    ///
    /// # Errors
    /// There is no such piece, or the core keeps no more of them apart.
    pub fn reserve(&self, size: Bytes, alignment: u64) -> Result<HostPhysical, Fault> {
        pool::with(|pages| pages.reserve(self.number as u8, size, alignment))
    }

    /// Fills a part of the pages kept for it from `start` on with zeros; says how much is left.
    ///
    /// # Errors
    /// None are kept there, or another processor does the same.
    pub fn clear(&self, window: &mut Window, start: HostPhysical) -> Result<Bytes, Fault> {
        pool::clear(self.number as u8, window, start)
    }

    /// Gives up the pages kept for it from `start` on.
    ///
    /// # Errors
    /// None are kept there, or one is mapped.
    pub fn release(&self, start: HostPhysical) -> Result<(), Fault> {
        pool::with(|pages| pages.release(self.number as u8, start))
    }

    /// Takes pages back.
    ///
    /// # Errors
    /// Not all of the range is mapped.
    pub fn unmap(
        &self,
        window: &mut Window,
        guest: GuestPhysical,
        bytes: Bytes,
    ) -> Result<(), Status> {
        let end = guest.0 + bytes.0;
        // All or nothing: look first.
        let mut at = guest.0;
        while at < end {
            at += self.memory.lock().piece(at, end)?.size().0;
        }
        // Piece by piece: others have the lock in between.
        at = guest.0;
        while at < end {
            at += self.unmap_piece(window, at, end)?.0;
        }
        Ok(())
    }

    /// Takes back pages from `start` on, to `end` or as far as they lie in one piece; says how many.
    fn unmap_piece(&self, window: &mut Window, start: u64, end: u64) -> Result<Bytes, Status> {
        let mut memory = self.memory.lock();
        let host = memory.piece(start, end)?;
        let mut ranges = memory.ranges;
        ranges
            .subtract(Span::of(HostPhysical(start), host.size()))
            .map_err(|_| Status::argument(Fault::OutOfMemory, 2))?;
        let _ = memory.tables.unmap(GuestPhysical(start), host.size()).map_err(of_tables)?;
        self.settle();
        memory.tables.release_retired();
        memory.ranges = ranges;
        drop(memory);
        pool::take_back(self.number as u8, window, host);
        Ok(host.size())
    }

    /// Makes sure that no processor uses what the tables said before: those that run this guest leave
    /// it and forget.
    fn settle(&self) {
        self.changes.fetch_add(1, Ordering::SeqCst);
        for vcpu in self.vcpus() {
            if let Place::In(_) = vcpu.place.get() {
                vcpu.inbox.signal(signal::FLUSH);
                let _ = vcpu.prod();
                // One that is not in the guest compares `changes` before it enters.
                while vcpu.is_unheeding() {
                    core::hint::spin_loop();
                }
            }
        }
    }

    /// Where a guest's address leads.
    pub fn translate(&self, guest: GuestPhysical) -> Option<Translation> {
        self.memory.lock().tables.translate(guest)
    }

    /// Why the tables did not allow an access; a write that only the dirty log withheld is noted.
    pub fn explain(&self, guest: GuestPhysical, wanted: Access) -> FaultCause {
        let (cause, flush) = self.memory.lock().tables.explain(guest, wanted);
        if flush == Flush::Needed {
            self.changes.fetch_add(1, Ordering::SeqCst);
        }
        cause
    }

    /// Takes mapped pages from root, or shares them with it again.
    ///
    /// # Errors
    /// Not all of the range is mapped.
    pub fn set_root_access(
        &self,
        guest: GuestPhysical,
        bytes: Bytes,
        allowed: bool,
    ) -> Result<(), Status> {
        let memory = self.memory.lock();
        let end = guest.0 + bytes.0;
        for look_only in [true, false] {
            let mut at = guest.0;
            while at < end {
                let span = memory.piece(at, end)?;
                if !look_only {
                    pool::set_root_access(self.number as u8, span, allowed)
                        .map_err(|fault| Status::argument(fault, 2))?;
                }
                at += span.size().0;
            }
        }
        Ok(())
    }

    /// Copies the guest's memory; false when not all of it is memory.
    pub fn read(&self, window: &mut Window, guest: GuestPhysical, into: &mut [u8]) -> bool {
        let length = into.len();
        self.each_page(guest, length, false, |host, range| window.read(host, &mut into[range]))
    }

    /// Writes the guest's memory as the guest itself may; false when it may not everywhere.
    pub fn write(&self, window: &mut Window, guest: GuestPhysical, bytes: &[u8]) -> bool {
        self.each_page(guest, bytes.len(), true, |host, range| window.write(host, &bytes[range]))
    }

    /// Tells `part` host address and place of each page of `length` bytes of the guest's memory; false
    /// when one is not mapped or may not be written.
    fn each_page(
        &self,
        guest: GuestPhysical,
        length: usize,
        write: bool,
        mut part: impl FnMut(HostPhysical, Range<usize>),
    ) -> bool {
        let mut done = 0;
        while done < length {
            let Some(at) = guest.checked_add(done as u64) else { return false };
            if write && self.explain(at, Access::WRITE) != FaultCause::Stale {
                return false;
            }
            let Some(found) = self.translate(at) else { return false };
            let end = length.min(done + found.left() as usize);
            part(found.host, done..end);
            done = end;
        }
        true
    }

    /// What its second-level tables take.
    pub fn table_bytes(&self) -> Bytes {
        Bytes(self.memory.lock().tables.table_frames() * PAGE_SIZE)
    }

    /// The guest's memory by number: ranges in order of address, neighbours joined.
    pub fn range(&self, number: u64) -> Option<(GuestPhysical, Bytes)> {
        let memory = self.memory.lock();
        let range = memory.ranges.ranges().get(usize::try_from(number).ok()?)?;
        Some((GuestPhysical(range.span.start.0), range.span.size()))
    }

    /// Puts all virtual CPUs into the state after power-on.
    ///
    /// # Errors
    /// One of them runs.
    pub fn reset(&self) -> Result<(), Status> {
        for vcpu in self.vcpus() {
            vcpu.hold().ok_or(Status::fault(Fault::Busy))?.reset();
        }
        Ok(())
    }

    /// The dirty log of a range: a bitmap of its pages into `into`, zeroed by the caller. The first call
    /// turns it on and answers "every page".
    ///
    /// # Errors
    /// Not all of the range is mapped, or the core is out of memory.
    pub fn dirty_log(
        &self,
        guest: GuestPhysical,
        bytes: Bytes,
        into: &mut [u8],
    ) -> Result<(), Status> {
        let mut memory = self.memory.lock();
        let mark = |page: GuestPhysical| {
            let index = ((page.0 - guest.0) / PAGE_SIZE) as usize;
            if let Some(byte) = into.get_mut(index / 8) {
                *byte |= 1 << (index % 8);
            }
        };
        if memory.tables.collect_dirty(guest, bytes, mark).map_err(of_tables)? == Flush::Needed {
            self.settle();
        }
        memory.tables.release_retired();
        Ok(())
    }
}

impl Drop for Partition {
    /// Nobody uses it any longer: virtual CPUs, pages and tables go.
    fn drop(&mut self) {
        let _ = pool::with(|pages| {
            pages.release_all(self.number as u8);
            Ok(())
        });
        for vcpu in self.vcpus.iter_mut().map(|place| *place.get_mut()) {
            if !vcpu.is_null() {
                // SAFETY: made by `create_vcpu`; the partition's last user is this one.
                drop(unsafe { Object::from_raw(vcpu) });
            }
        }
    }
}

/// What a fault of the tables' says of the call: the guest address is argument 2.
fn of_tables(fault: Fault) -> Status {
    if fault == Fault::OutOfMemory { fault.into() } else { Status::argument(fault, 2) }
}
