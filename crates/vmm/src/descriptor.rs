//! Borrowed descriptors from types that only give a number.
#![allow(unsafe_code)]

use std::os::fd::{BorrowedFd, RawFd};
use vmm_sys_util::eventfd::EventFd;

/// The descriptor of an event, borrowed as long as the event.
pub(crate) fn borrow(event: &EventFd) -> BorrowedFd<'_> {
    let raw: RawFd = std::os::fd::AsRawFd::as_raw_fd(event);
    // SAFETY: `event` owns an open descriptor and outlives the borrow.
    unsafe { BorrowedFd::borrow_raw(raw) }
}
