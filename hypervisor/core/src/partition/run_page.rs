//! A virtual CPU's run page. Root can write it at any moment: every field is read once, copied, and
//! believed only after it was checked.
//!
//! `unsafe` here: volatile access to the page, which the core's tables map for good.
#![allow(unsafe_code)]

use super::pool;
use crate::machine::machine;
use core::mem::offset_of;
use hypervisor_abi::{EXIT_DATA, ExitReason, RUN_PAGES_OFFSET, RunPage};
use units::PAGE_SIZE;

/// What root wrote for a run.
#[derive(Clone, Copy, Debug)]
pub struct Orders {
    /// Requests.
    pub request: u32,
    /// A vector of an 8259.
    pub external_vector: u32,
    /// Physical time by which root interrupts.
    pub armed: u64,
    /// One more than the APIC id of the processor it interrupts, 0 for any.
    pub armed_on: u32,
}

/// One run page, given back when dropped.
pub struct RunPageSlot {
    number: usize,
    page: *mut RunPage,
}

// SAFETY: the page is memory any processor may write.
unsafe impl Send for RunPageSlot {}

const _: () = assert!(offset_of!(RunPage, exit.data) % 8 == 0 && EXIT_DATA >= 8);

macro_rules! read {
    ($page:expr, $($field:tt)+) => {
        // SAFETY: the page is mapped for good and the field lies in it.
        unsafe { (&raw const (*$page).$($field)+).read_volatile() }
    };
}
macro_rules! write {
    ($page:expr, $value:expr, $($field:tt)+) => {
        // SAFETY: as for reading.
        unsafe { (&raw mut (*$page).$($field)+).write_volatile($value) }
    };
}

impl RunPageSlot {
    /// Page `number`, nobody's until now, emptied.
    pub(super) fn new(number: usize) -> Self {
        let offset = RUN_PAGES_OFFSET + number as u64 * PAGE_SIZE;
        let page = (machine().pool.start.0 + offset) as *mut RunPage;
        // SAFETY: a page of the pool's head, mapped for good.
        unsafe { core::ptr::write_bytes(page.cast::<u8>(), 0, PAGE_SIZE as usize) };
        Self { number, page }
    }

    /// Its offset from the start of the pool.
    pub const fn offset(&self) -> u64 {
        RUN_PAGES_OFFSET + self.number as u64 * PAGE_SIZE
    }

    /// What root wrote; `request` is taken back.
    pub fn orders(&self) -> Orders {
        let orders = Orders {
            request: read!(self.page, request),
            external_vector: read!(self.page, external_vector),
            armed: read!(self.page, armed),
            armed_on: read!(self.page, armed_on),
        };
        if orders.request != 0 {
            write!(self.page, 0, request);
        }
        orders
    }

    /// Where the exit's data lie.
    const fn exit_data(&self) -> *mut u8 {
        self.page.wrapping_byte_add(offset_of!(RunPage, exit.data)).cast()
    }

    /// The first item of root's answer to a read: 1, 2, 4 or 8 bytes.
    pub fn data(&self, width: u8) -> u64 {
        // SAFETY: the data lie in the page, aligned.
        let value = unsafe { self.exit_data().cast::<u64>().read_volatile() };
        value & u64::MAX >> (64 - 8 * u32::from(width))
    }

    /// Root's answer to a guest's call.
    pub fn results(&self) -> [u64; 3] {
        read!(self.page, exit.results)
    }

    /// Fills the record of an access of `width` bytes, with what is written.
    pub fn access(&self, address: u64, width: u8, write: Option<u64>) {
        write!(self.page, u32::from(width), exit.width);
        write!(self.page, 1, exit.count);
        write!(self.page, address, exit.address);
        if let Some(value) = write {
            // SAFETY: the data lie in the page, aligned.
            unsafe { self.exit_data().cast::<u64>().write_volatile(value) };
        }
    }

    /// Puts text into the exit's data, as much as fits.
    pub fn set_text(&self, text: &str) {
        let count = text.len().min(EXIT_DATA);
        write!(self.page, count as u32, exit.count);
        for (place, byte) in text.bytes().enumerate().take(count) {
            // SAFETY: `place` is below EXIT_DATA, so the byte lies in the page.
            unsafe { self.exit_data().add(place).write_volatile(byte) };
        }
    }

    /// Sets the exit's detail.
    pub fn set_detail(&self, detail: u32) {
        write!(self.page, detail, exit.detail);
    }

    /// Sets the exit's arguments.
    pub fn set_arguments(&self, arguments: [u64; 6]) {
        write!(self.page, arguments, exit.arguments);
    }

    /// Fills what comes with every exit.
    pub fn report(
        &self,
        reason: ExitReason,
        accepts_external: bool,
        deadline: u64,
        rip: u64,
        rflags: u64,
    ) {
        write!(self.page, reason as u32, exit.reason);
        write!(self.page, u32::from(accepts_external), accepts_external);
        write!(self.page, deadline, deadline);
        write!(self.page, rip, rip);
        write!(self.page, rflags, rflags);
    }
}

impl Drop for RunPageSlot {
    fn drop(&mut self) {
        pool::free_run_page(self.number);
    }
}
