//! Saved state. Each device has a plain type of registers with names and units of its own, wrapped
//! in [`Saved`] with the version of its layout. Restoring checks every field a guest or a damaged
//! file could have made impossible, then drives the device's lines to the restored level, so the
//! order in which devices and interrupt controllers are restored does not matter.

use alloc::string::String;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// A device's registers and the version of their layout.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved<R> {
    /// Layout version of `registers`; raised when a field changes meaning or goes away.
    pub version: u16,
    /// The registers.
    pub registers: R,
}

/// Why saved state was refused. The device is unchanged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// Written by a newer program.
    #[error(
        "saved state of {device} has layout version {found}, this program knows versions up to {known}; restore it with the program that saved it"
    )]
    Version {
        /// Which device.
        device: &'static str,
        /// Version in the saved state.
        found: u16,
        /// Newest version known here.
        known: u16,
    },
    /// A field holds what the device can never hold.
    #[error("saved state of {device} is damaged: {field} is {value}, allowed is {allowed}")]
    Field {
        /// Which device.
        device: &'static str,
        /// Which field.
        field: &'static str,
        /// What it held.
        value: String,
        /// What it may hold.
        allowed: &'static str,
    },
}

/// A device whose registers can be taken out and put back.
pub trait SaveRestore {
    /// Its registers.
    type Registers: Clone + Serialize + DeserializeOwned;

    /// The layout version [`Self::save`] writes.
    const VERSION: u16;

    /// A copy of the registers. Input not yet taken by the guest is part of it; wires are not.
    fn save(&self) -> Saved<Self::Registers>;

    /// Puts registers back into a device made with the same wires.
    ///
    /// # Errors
    /// The state is of an unknown version or impossible; the device is then unchanged.
    fn restore(&mut self, saved: Saved<Self::Registers>) -> Result<(), StateError>;
}

/// Refuses a version this program does not know.
pub(crate) fn check_version<R>(
    device: &'static str,
    saved: &Saved<R>,
    known: u16,
) -> Result<(), StateError> {
    if saved.version == 0 || saved.version > known {
        return Err(StateError::Version { device, found: saved.version, known });
    }
    Ok(())
}

/// Refuses a field unless `good`.
pub(crate) fn check_field(
    good: bool,
    device: &'static str,
    field: &'static str,
    value: impl core::fmt::Debug,
    allowed: &'static str,
) -> Result<(), StateError> {
    if good {
        return Ok(());
    }
    Err(StateError::Field { device, field, value: alloc::format!("{value:?}"), allowed })
}
