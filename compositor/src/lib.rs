//! One window of the host's desktop for each window of a guest.
//!
//! The program `macrohard-compositor` runs once for each VM. It hears the guest's agent on a connection of
//! the window protocol (`link`), holds the state of the guest's windows (`model`), opens windows on the
//! desktop (`windowing`), and draws the guest's pixels into them inside a border of the VM's colour (`paint`).
//! `app` ties these together in one thread. Nothing of a guest reaches the desktop but through `model`.

#[cfg(feature = "desktop")]
pub mod app;
#[cfg(feature = "desktop")]
pub mod descriptors;
#[cfg(feature = "desktop")]
mod link;
pub mod model;
#[cfg(feature = "desktop")]
pub mod paint;
#[cfg(feature = "desktop")]
pub mod walls;
#[cfg(feature = "desktop")]
pub mod windowing;
