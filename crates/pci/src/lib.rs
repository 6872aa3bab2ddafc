//! PCI Express as a guest sees it: a root complex with configuration space (ports 0xcf8/0xcfc and
//! ECAM), functions with BARs, capabilities and MSI-X.
//!
//! Called by `vmm`, which owns the address spaces, and by `virtio`, whose PCI transport is a
//! [`Function`]. Knows no engine: interrupts leave through [`MsiSink`]. Nothing a guest writes may
//! panic.
#![forbid(unsafe_code)]

mod function;

pub use function::{BarKind, Doorbell, Function, MsiMessage, MsiSink};
