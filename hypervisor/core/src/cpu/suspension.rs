//! A processor that is turned off and comes back: what it was doing goes on.
#![allow(unsafe_code)]

use core::arch::naked_asm;
use core::sync::atomic::{AtomicU64, Ordering};

/// Where a processor was when it was turned off: its stack, on which its registers lie.
#[derive(Debug, Default)]
pub struct Place(AtomicU64);

impl Place {
    /// Calls `off`, which turns the processor off. True when it was and has come back by
    /// [`Self::go_on`], false when `off` returns.
    pub fn leave(&self, off: extern "C" fn()) -> bool {
        // SAFETY: `off` uses the stack below what is kept, and nobody else uses this one.
        unsafe { leave(self.0.as_ptr(), off) != 0 }
    }

    /// Goes on behind [`Self::leave`], whose stack is there still. GDT, TR, GS base and page tables are what they were.
    ///
    /// # Safety
    /// The processor called `leave` and was turned off since, and this is its first call.
    pub unsafe fn go_on(&self) -> ! {
        // SAFETY: the caller's promise.
        unsafe { go_on(self.0.load(Ordering::SeqCst)) }
    }
}

/// The registers a function keeps (System V ABI, AMD64 supplement 3.2.1), in the order of their pushes.
macro_rules! kept {
    ($text:literal) => {
        concat!("pop r15\n", "pop r14\n", "pop r13\n", "pop r12\n", "pop rbp\n", "pop rbx\n", $text)
    };
}

#[unsafe(naked)]
unsafe extern "C" fn leave(place: *mut u64, off: extern "C" fn()) -> u64 {
    naked_asm!(
        "push rbx",
        "push rbp",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "mov [rdi], rsp",
        "sub rsp, 8",
        "call rsi",
        "add rsp, 8",
        "xor eax, eax",
        kept!("ret"),
    )
}

#[unsafe(naked)]
unsafe extern "C" fn go_on(stack: u64) -> ! {
    naked_asm!("mov rsp, rdi", "mov eax, 1", kept!("ret"))
}

#[cfg(test)]
mod tests {
    use super::Place;
    use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

    static PLACE: Place = Place(AtomicU64::new(0));
    static CALLS: AtomicU32 = AtomicU32::new(0);

    extern "C" fn stays_on() {
        CALLS.fetch_add(1, Ordering::SeqCst);
    }

    extern "C" fn comes_back() {
        CALLS.fetch_add(10, Ordering::SeqCst);
        // SAFETY: as a processor would that was off meanwhile: what lies below `leave`'s stack is gone.
        unsafe { PLACE.go_on() }
    }

    #[test]
    fn what_was_going_on_goes_on() {
        let kept: Vec<u32> = (0..100).collect();
        for turn in 1..=3 {
            assert!(!PLACE.leave(stays_on));
            assert!(PLACE.leave(comes_back));
            assert_eq!(CALLS.load(Ordering::SeqCst), turn * 11);
        }
        assert_eq!(kept.iter().sum::<u32>(), 4950);
    }
}
