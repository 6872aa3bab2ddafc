//! What is said. The descriptors stand in the messages; how they travel is in `line`.

use serde::{Deserialize, Serialize};
use std::os::fd::OwnedFd;

pub use crate::line::Message;

/// How a VM's windows are shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Each application's window by itself.
    #[default]
    Seamless,
    /// One window with the guest's screen.
    Desktop,
}

/// Who the VM is to the person at the desktop.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Start {
    /// [`crate::VERSION`] of the daemon.
    pub version: u32,
    /// Name of the VM: what the border says, and part of each window's class.
    pub vm: String,
    /// Colour of the border: red, green, blue.
    pub colour: [u8; 3],
    /// How to show it.
    pub mode: Mode,
}

/// What the daemon says.
#[derive(Debug)]
pub enum ToCompositor {
    /// First on each connection, and again when something of it has changed: takes the place of what was said
    /// before, and closes no window.
    Start(Start),
    /// The window memory of the VM, `length` bytes: a sealed memfd that never changes its size, or a part of a
    /// device that is memory (the core's pool). Comes before the
    /// first guest, and again from a daemon that was started anew; then it may be the same memory.
    Memory {
        /// The memory.
        memory: OwnedFd,
        /// Where it begins in the file.
        offset: u64,
        /// Its bytes.
        length: u64,
    },
    /// A connection on which an agent in the guest speaks the window protocol; its hello of `agent-link` is
    /// done, the next bytes are the first `FromGuest`. Takes the place of one that is open. A Unix stream that
    /// does not block nor wait by itself: set what is needed.
    Guest {
        /// The connection.
        connection: OwnedFd,
        /// The guest's user that the agent runs as.
        user: u32,
    },
    /// A connection to the VM's screen (`crates/display`; packets, does not block), for [`Mode::Desktop`].
    /// Takes the place of one that is open.
    Display {
        /// The connection.
        connection: OwnedFd,
    },
    /// Show it so from now on.
    Mode(Mode),
    /// Answered by [`FromCompositor::Answer`] of the same number, in any order.
    Ask {
        /// Of the question.
        number: u64,
        /// What is asked.
        question: Question,
    },
    /// The person has launched an application of the VM: a window that it opens soon may take the keyboard.
    Launched,
    /// Close all windows and end: the VM has stopped.
    End,
}

/// What the daemon wants to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "question", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Question {
    /// [`Answer::Status`].
    Status,
    /// [`Answer::Windows`].
    Windows,
    /// [`Answer::Picture`].
    Screenshot {
        /// Of this window of the guest, with the border around it; none: everything of the VM that is shown, as it
        /// lies on the desktop (or its screen, in desktop mode).
        window: Option<u32>,
    },
}

/// What the compositor says.
#[derive(Debug)]
pub enum FromCompositor {
    /// First on each connection.
    Ready {
        /// [`crate::VERSION`] of the compositor.
        version: u32,
        /// Name and version of the program.
        program: String,
    },
    /// The person wants this mode (hotkey). The daemon keeps it, and says it back with
    /// [`ToCompositor::Mode`].
    Wish(Mode),
    /// To [`ToCompositor::Ask`].
    Answer {
        /// Of the question.
        number: u64,
        /// The answer.
        answer: Answer,
    },
    /// The guest's connection has ended and its windows are closed.
    GuestGone {
        /// Why, for the log.
        reason: String,
    },
}

/// To a [`Question`].
#[derive(Debug)]
pub enum Answer {
    /// To [`Question::Status`].
    Status(Status),
    /// To [`Question::Windows`]: all that are shown, lowest id first.
    Windows(Vec<Window>),
    /// To [`Question::Screenshot`]: a PNG file, from its start, `length` bytes, at most [`crate::PICTURE`].
    Picture {
        /// A file or memfd.
        file: OwnedFd,
        /// Bytes of the PNG.
        length: u64,
    },
    /// It cannot be answered; for a person.
    Refused {
        /// What was asked, what was found, what to do.
        message: String,
    },
}

/// How a compositor fares.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// How the VM is shown.
    pub mode: Mode,
    /// A guest's agent is connected and has said hello.
    pub guest: bool,
    /// Windows that are open.
    pub windows: u32,
    /// What draws: name of the adapter and its driver.
    pub renderer: String,
    /// What the guest sent that was refused or clamped, by reason.
    pub refused: std::collections::BTreeMap<String, u64>,
}

/// A window as a person would name it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// Of the guest.
    pub id: u32,
    /// The host's window: its X11 id, 0 where it has none.
    pub host: u64,
    /// Title, checked.
    pub title: String,
    /// WM_CLASS's second half, checked.
    pub class: String,
    /// Where it is on the desktop: left and top in physical pixels, of the compositor's border, not of the window
    /// manager's frame around it.
    pub position: [i32; 2],
    /// Width and height in physical pixels, with the compositor's border, without the window manager's frame.
    pub size: [u32; 2],
    /// A menu, a tooltip or the like.
    pub popup: bool,
    /// It has the keyboard.
    pub focused: bool,
    /// It is minimized.
    pub minimized: bool,
}
