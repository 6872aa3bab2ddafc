//! Intel VMX.
//!
//! Pure, tested on the host: what the processor offers (`capability`), the controls made of it
//! (`controls`), what its exits mean in the words of [`crate::exit`] (`exit_reason`, `exits`), and why it
//! refuses (`instruction_error`, `entry_check`).
//!
//! On the processor: `enable` turns VMX on, `setup` makes a VMCS, `context` enters and leaves the guest
//! through `switch`, `system` and `unswitched` read and write the guest's state, `residue` empties what
//! another may have left, `diagnosis` says why an entry failed. Called by `vcpu` through
//! [`Context`](crate::vcpu::Context); knows no partition and no policy.
//!
//! `unsafe` here: the VMX instructions, the fields of the VMCS, the registers VMX does not switch.
//!
//! Section numbers are those of the Intel SDM of 2024: 3C chapters 24 to 31, 3D appendices A to C.

mod capability;
mod context;
mod controls;
mod diagnosis;
mod enable;
mod entry_check;
mod exit_reason;
mod exits;
#[cfg(test)]
mod fixtures;
mod host_state;
mod instruction_error;
mod instructions;
mod residue;
mod setup;
mod switch;
mod system;
mod unswitched;
mod vmcs;

pub use context::VmxContext;
pub use enable::{VmxCpu, missing, table_format};
