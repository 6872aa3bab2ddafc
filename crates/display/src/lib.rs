//! What a VM's screen shows and hears. A graphics device paints on a [`Scanout`]; the one there is,
//! [`Screen`], keeps the frame in shared memory and tells viewers (the compositor, a screenshot)
//! over a Unix socket what changed. Viewers send back keys, pointer and the size they want, which
//! the VM process hands to its input and graphics devices ([`Seat`]).
//!
//! Pixels never travel through the socket: a viewer gets the frame's memory, sealed so that it can
//! neither be written by others nor shrink under anybody's eyes. What comes from a guest is pixels
//! only. Both sides of the socket check every message ([`message`]): a viewer that breaks a rule
//! loses its connection, and so does a VM process.
//!
//! [`Server`] runs in the VM process, [`Viewer`] in whoever looks.
#![deny(unsafe_code)]

mod frame;
mod geometry;
pub mod message;
mod packet;
mod picture;
mod screen;
mod server;
#[cfg(test)]
mod tests;
mod viewer;

pub use frame::{Frame, FrameError, FrameView, MOST_FRAME_BYTES};
pub use geometry::{Damage, LARGEST_SIDE, MOST_RECTANGLES, Rectangle, Size};
pub use message::{CursorImage, FromViewer, MessageError, ToViewer};
pub use picture::{Picture, PictureError};
pub use screen::{Display, Leds, Screen};
pub use server::{MOST_VIEWERS, Server};
pub use viewer::{Event, Viewer, ViewerError};

/// Bytes of one pixel of a frame: blue, green, red, and one without meaning.
pub const PIXEL_BYTES: usize = 4;

/// What a graphics device paints on.
pub trait Scanout: Send {
    /// From now on the picture has this size and is black; `None` shows nothing. The same size
    /// again keeps what is shown.
    ///
    /// # Errors
    /// There is no memory for a frame of that size; nothing is shown then.
    fn configure(&mut self, size: Option<Size>) -> Result<(), FrameError>;

    /// Paints the part of `area` that lies in the picture, row by row: `fill` gets the number of
    /// the row, that of the first pixel, and the row's pixels (blue, green, red, anything) to
    /// write. Then viewers are told.
    fn paint(&mut self, area: Rectangle, fill: &mut dyn FnMut(u32, u32, &mut [u8]));

    /// The pointer looks like this from now on; `None` hides it.
    fn set_cursor(&mut self, image: Option<CursorImage>);

    /// The pointer is here, in pixels of the picture (its hot spot).
    fn move_cursor(&mut self, x: i32, y: i32);
}

/// Where input and wishes of viewers go.
pub trait Seat: Send {
    /// A viewer said this. Acknowledgements do not come here; what a viewer that went away still
    /// held down comes as released.
    fn take(&mut self, said: FromViewer);
}
