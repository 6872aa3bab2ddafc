//! Decoding of the instructions the core must understand itself: those that exit without a length or
//! an operand from the processor (AMD without decode assists, emulators), and those that reach
//! memory-mapped devices.
//!
//! [`decode()`] turns bytes into an [`Instruction`]; [`Execution`] carries one out access by access, so
//! that the caller can ask a device, or root, for each. Pure: bytes come from `walk` and memory,
//! accesses go where the caller likes. Anything outside the list in [`Operation`] is
//! [`DecodeError::Unsupported`]: stack and far transfers to devices are not emulated.

mod address;
mod alu;
mod execute;
mod fetch;
mod instruction;
mod opcode;
#[cfg(test)]
mod tests;

pub use address::{AddressSpace, StringPointers};
pub use alu::Alu;
pub use execute::{Execution, Step};
pub use instruction::{
    Base, DecodeError, Instruction, MAX_LENGTH, Memory, Mode, Operand, Operation, Register, Repeat,
    Width,
};
pub use opcode::decode;
