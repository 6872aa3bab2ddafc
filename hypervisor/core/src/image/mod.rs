//! Bring-up, in the order in which it happens: what the loader said (`machine`), what belongs to whom
//! (`start`), root's program (`root_program`), the other processors (`others`), root.

mod machine;
mod others;
mod root_program;
mod start;

use core::arch::global_asm;

/// Stops the machine because of what it is or what it was given, with a message for whoever can change
/// that.
fn refused(why: core::fmt::Arguments<'_>) -> ! {
    hypervisor_core::log::last_words(format_args!("cannot start: {why}"));
    crate::stop()
}

macro_rules! refuse {
    ($($argument:tt)*) => { super::refused(format_args!($($argument)*)) };
}
use refuse;

global_asm!(include_str!("entry.s"), options(att_syntax));
