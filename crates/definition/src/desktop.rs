//! What of a VM reaches the desktop, and what of the desktop reaches the VM.

use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Which way the clipboard's content may go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClipboardPolicy {
    /// No way.
    Off,
    /// From the host to the guest.
    ToGuest,
    /// From the guest to the host.
    ToHost,
    /// Both ways.
    #[default]
    Both,
    /// Both ways, and the person is asked at each paste.
    Ask,
}

/// Kinds of content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClipboardFormat {
    /// Plain text.
    Text,
    /// Text with its looks.
    Html,
    /// A picture, as PNG.
    Image,
    /// Files, through a share.
    Files,
}

impl ClipboardFormat {
    /// All there are.
    pub const ALL: [Self; 4] = [Self::Text, Self::Html, Self::Image, Self::Files];
}

/// What a VM may do with the clipboard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Clipboard {
    /// Which way.
    pub policy: ClipboardPolicy,
    /// What.
    pub formats: BTreeSet<ClipboardFormat>,
    /// Also what is selected with the mouse (X11's PRIMARY).
    pub primary: bool,
}

impl Default for Clipboard {
    fn default() -> Self {
        let formats = ClipboardFormat::ALL.into();
        Self { policy: ClipboardPolicy::default(), formats, primary: false }
    }
}

/// A screen, with a keyboard and a pointer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Display {
    /// Pixels in a row, until somebody looks at it in a window of another size.
    pub width: u32,
    /// Rows.
    pub height: u32,
}

impl Default for Display {
    fn default() -> Self {
        Self { width: 1280, height: 800 }
    }
}

/// What happens with something a guest asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Permission {
    /// It is refused.
    Off,
    /// The person is asked.
    #[default]
    Ask,
    /// It is done.
    Allow,
}

/// What else of a VM reaches the desktop.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Integration {
    /// URLs opened in the guest are opened on the host.
    pub open_url: Permission,
    /// The guest's notifications are shown.
    pub notifications: bool,
    /// The guest's applications stand in the host's menu.
    pub launchers: bool,
    /// They are offered for files of their types, too.
    pub open_with: bool,
    /// Programs of the session may start and stop it and launch its applications over the session's bus.
    pub bus_control: bool,
}

impl Default for Integration {
    fn default() -> Self {
        Self {
            open_url: Permission::default(),
            notifications: true,
            launchers: true,
            open_with: false,
            bus_control: true,
        }
    }
}

/// Nothing to write down.
pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
