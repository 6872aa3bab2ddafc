//! AMD SVM: the virtual machine control block, the world switch, and what its exits mean in the words
//! of [`crate::exit`]. Called by `vcpu` through [`Context`](crate::vcpu::Context); knows no partition
//! and no policy.
//!
//! `unsafe` here: VMRUN, VMLOAD, VMSAVE, the global interrupt flag, access to the control block.

mod context;
mod enable;
mod exits;
mod switch;
mod vmcb;

pub use context::SvmContext;
pub use enable::{SvmCpu, missing, tags};
