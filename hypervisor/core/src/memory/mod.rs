//! The core's own memory: which parts of the machine it takes, its frames, its page tables, and the
//! windows through which it looks at a guest's page when it must. Guest memory is mapped nowhere else.
//!
//! `unsafe` here: page-table writes, frames as bytes and objects.

mod host_tables;
mod plan;
mod pool;
mod tables;
mod window;

pub use host_tables::{CODE, CONSTANT, CpuSpace, DATA, DEVICE, HostTables};
pub use plan::{Plan, plan};
pub use pool::{Frames, Object, initialize};
pub use tables::CoreTables;
pub use window::Window;
