//! The assembly of entry and interrupts.

core::arch::global_asm!(include_str!("entry.s"), options(att_syntax));
core::arch::global_asm!(include_str!("interrupts.s"), options(att_syntax));
