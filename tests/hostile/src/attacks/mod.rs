//! The attacks. Those in `lethal` end the guest; all others come back, and fail when something the guest
//! must not have was given to it.

mod calls;
mod debug;
mod instructions;
mod interrupts;
mod lethal;
mod memory;
mod ports;
mod registers;
mod tables;
mod vectors;

use crate::machine::Chance;

/// An attack.
type Attack = fn(&mut Chance);

/// All of them, by name.
pub(crate) const ALL: &[(&str, Attack)] = &[
    ("memory", memory::outside),
    ("operands", memory::operands),
    ("msr", registers::msr),
    ("control", registers::control),
    ("debug-registers", registers::debug),
    ("vectors", vectors::hidden),
    ("calls", calls::calls),
    ("virtualization", calls::virtualization),
    ("ports", ports::ports),
    ("strings", ports::strings),
    ("timers", ports::timers),
    ("bytes", instructions::bytes),
    ("user-bytes", instructions::user_bytes),
    ("storm", interrupts::storm),
    ("commands", interrupts::commands),
    ("apic", interrupts::registers),
    ("halt", interrupts::halt),
    ("tables", tables::races),
    ("steps", debug::steps),
    ("breakpoints", debug::breakpoints),
    ("triple-fault", lethal::triple_fault),
    ("init", lethal::init),
    ("code-outside", lethal::code_outside),
    ("tables-outside", lethal::tables_outside),
    ("stack-outside", lethal::stack_outside),
    ("not-emulated", lethal::not_emulated),
    ("tasks", lethal::tasks),
    ("alignment", lethal::alignment),
    ("debug-loop", lethal::debug_loop),
];
