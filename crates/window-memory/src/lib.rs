//! Memory that a guest and its host both map, where the pixels of the guest's windows lie.
//!
//! The VM process makes it, as a sealed file (crate `vmm`), and shows it to the guest as a PCI device. Compositor
//! and agent map it ([`WindowMemory::map_shared`], [`WindowMemory::map`]), and the agent finds places in it
//! ([`Allocator`]). The host believes nothing of what the guest says of
//! a place until [`WindowMemory::picture`] has proven it, and never holds a reference into the memory: the
//! guest may write it at any moment, so that pixels are copied out and then looked at.

mod allocator;
mod mapping;
mod picture;

pub use allocator::{Allocator, Span};
pub use mapping::{MapError, WindowMemory};
pub use picture::{Area, Picture, PictureError};

/// Bytes of a pixel: blue, green, red, alpha.
pub const PIXEL: u32 = 4;
