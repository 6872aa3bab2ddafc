//! Opens windows on the desktop and reports what happens to them. [`Windowing`] is what a desktop has to be
//! able to do; [`x11`] is the one there is, used under Wayland through XWayland too: a Wayland client can
//! neither place its windows nor open menus at a place.
//!
//! Called by `app`. Knows windows by the guest's ids and nothing of what they show.

pub mod x11;

use crate::model::{CursorPicture, Icon, Seen, View};
use crate::paint::Target;
use proto::v1;
use winit::event::WindowEvent;
use winit::event_loop::ActiveEventLoop;
use winit::window::WindowId;

/// The desktop does not do it.
#[derive(Debug, thiserror::Error)]
pub enum WindowingError {
    /// No connection to the X server.
    #[error("cannot connect to the X server: {0}; is DISPLAY set?")]
    Connect(#[from] x11rb::errors::ConnectError),
    /// The connection broke.
    #[error("the connection to the X server broke: {0}")]
    Connection(#[from] x11rb::errors::ConnectionError),
    /// No more ids, or a refused request.
    #[error("the X server refuses: {0}")]
    Refused(#[from] x11rb::errors::ReplyOrIdError),
    /// A window cannot be opened.
    #[error("no window can be opened: {0}")]
    Window(#[from] winit::error::OsError),
    /// winit's window is none of X11.
    #[error("the window is none of X11")]
    Foreign,
}

impl WindowingError {
    /// The desktop is gone: nothing else is asked of it. All others are of one window or one wish, among them what
    /// x11rb calls errors of the connection though it goes on: a file of the cursor theme that cannot be read.
    #[must_use]
    pub fn is_the_end(&self) -> bool {
        use x11rb::errors::{ConnectionError, ReplyOrIdError};
        let error = match self {
            Self::Connect(_) => return true,
            Self::Connection(error) | Self::Refused(ReplyOrIdError::ConnectionError(error)) => {
                error
            }
            Self::Refused(_) | Self::Window(_) | Self::Foreign => return false,
        };
        matches!(error, ConnectionError::IoError(_) | ConnectionError::UnknownError)
    }
}

impl From<x11rb::errors::ReplyError> for WindowingError {
    fn from(error: x11rb::errors::ReplyError) -> Self {
        Self::Refused(error.into())
    }
}

/// What the desktop reports.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Notice {
    /// Of a window of the guest.
    Seen(Seen),
    /// Part of a window must be drawn again.
    Exposed(u32),
    /// The window has another size, in pixels.
    Sized(u32, [u32; 2]),
    /// The pixels last drawn into a window are read.
    Copied(u32),
    /// Monitors, work area or scale have changed.
    Monitors,
    /// The keyboard has another layout, or lamps.
    Keyboard,
    /// The user wants the other mode.
    Toggle,
    /// The window manager puts titles over windows, or does not.
    Titles(bool),
}

/// Where a window is, for people.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The desktop's own id.
    pub native: u64,
    /// On the desktop, border included.
    pub rect: crate::model::Rect,
}

/// A desktop.
pub trait Windowing {
    /// What comes from outside winit's loop.
    type Event;

    /// Opens a window for the guest's window `id`.
    ///
    /// # Errors
    /// See [`WindowingError`].
    fn open(
        &mut self,
        event_loop: &ActiveEventLoop,
        id: u32,
        view: &View,
    ) -> Result<Target, WindowingError>;

    /// Makes an open window as `view` says.
    ///
    /// # Errors
    /// See [`WindowingError`].
    fn change(&mut self, id: u32, view: &View) -> Result<(), WindowingError>;

    /// Closes a window. Nothing may draw into it any longer.
    fn shut(&mut self, id: u32);

    /// Gives a window an icon.
    ///
    /// # Errors
    /// See [`WindowingError`].
    fn icon(&mut self, id: u32, icon: &Icon) -> Result<(), WindowingError>;

    /// Shows the pointer so over all windows.
    ///
    /// # Errors
    /// See [`WindowingError`].
    fn cursor(&mut self, cursor: &CursorPicture) -> Result<(), WindowingError>;

    /// Puts a window on top.
    ///
    /// # Errors
    /// See [`WindowingError`].
    fn raise(&mut self, id: u32) -> Result<(), WindowingError>;

    /// Gives a window the keyboard.
    ///
    /// # Errors
    /// See [`WindowingError`].
    fn activate(&mut self, id: u32) -> Result<(), WindowingError>;

    /// Lets the user move or resize a window with the pointer whose button is down.
    fn move_resize(&mut self, id: u32, direction: v1::MoveResizeDirection);

    /// Rings.
    ///
    /// # Errors
    /// See [`WindowingError`].
    fn bell(&mut self) -> Result<(), WindowingError>;

    /// All monitors.
    ///
    /// # Errors
    /// See [`WindowingError`].
    fn monitors(&self) -> Result<v1::Monitors, WindowingError>;

    /// Layout and lamps.
    ///
    /// # Errors
    /// See [`WindowingError`].
    fn keyboard(&self) -> Result<v1::Keyboard, WindowingError>;

    /// Where an open window is.
    fn place(&self, id: u32) -> Option<Place>;

    /// Ids of the windows that are open, those on top last.
    ///
    /// # Errors
    /// See [`WindowingError`].
    fn stacking(&self) -> Result<Vec<u32>, WindowingError>;

    /// What is not drawn yet has this colour from now on.
    ///
    /// # Errors
    /// See [`WindowingError`].
    fn set_colour(&mut self, colour: [u8; 3]) -> Result<(), WindowingError>;

    /// Takes what winit reports.
    fn winit_event(&mut self, window: WindowId, event: WindowEvent);

    /// Takes what comes from elsewhere.
    fn event(&mut self, event: Self::Event);

    /// All that was reported since the last call, in order; only the last of the pointer's places.
    fn settle(&mut self) -> Vec<Notice>;
}
