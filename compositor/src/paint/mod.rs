//! Draws windows: a guest's pixels and the host's border around them. Two ways, which put the same on the
//! screen: [`gpu`] (wgpu) where there is one, [`software`] (the X server copies from memory) elsewhere and when
//! the GPU is lost. [`compose`] is what both have to show, for screenshots and tests.
//!
//! Called by `app`. A painter keeps no pixels that cannot be drawn again from [`Content`].

mod content;
mod decoration;
pub mod gpu;
mod segment;
pub mod software;

pub use content::Content;
pub use decoration::{Colour, Decoration, Label};
pub use segment::Segment;

use std::sync::Arc;
use window_memory::{Area, PIXEL};
use winit::event_loop::OwnedDisplayHandle;
use winit::window::Window;
use x11rb::rust_connection::RustConnection;

/// A window of the desktop that is drawn into.
#[derive(Clone, Debug)]
pub struct Target {
    /// Its X11 id.
    pub id: u32,
    /// Bits of a pixel: 32 with alpha, else 24.
    pub depth: u8,
    /// As wgpu wants it.
    pub window: Arc<Window>,
}

/// What a window is to show.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// Width of the window in physical pixels, border included, at least 1.
    pub width: u32,
    /// Height of the window in physical pixels, border included, at least 1.
    pub height: u32,
    /// None before the guest's first present.
    pub content: Option<&'a Content>,
    /// What of the content is new since the last draw.
    pub fresh: &'a [Area],
    /// Draw all again, also what is not new.
    pub whole: bool,
    /// Around it.
    pub decoration: &'a Decoration,
    /// Alpha of the content counts.
    pub alpha: bool,
}

impl Frame<'_> {
    fn content_size(&self) -> Option<(u32, u32)> {
        self.content.map(|content| (content.width(), content.height()))
    }
}

/// How far a draw has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drawn {
    /// Handed over; no more is to be waited for.
    Done,
    /// The X server will say when it has read the pixels (`ShmCompletion` of the window).
    Copying,
}

/// It cannot be drawn.
#[derive(Debug, thiserror::Error)]
pub enum PaintError {
    /// The painter is of no more use: another one is needed.
    #[error("the GPU is lost: {0}")]
    Lost(String),
    /// There is none of this kind.
    #[error("no {0} to draw with")]
    Missing(&'static str),
    /// This window cannot be drawn by this painter.
    #[error("the window cannot be drawn by {painter}: {problem}")]
    Unsupported {
        /// Name of the painter.
        painter: String,
        /// Why.
        problem: String,
    },
    /// The X server's answer.
    #[error("the X server refuses to draw: {0}")]
    X(String),
}

impl From<x11rb::errors::ConnectionError> for PaintError {
    fn from(error: x11rb::errors::ConnectionError) -> Self {
        Self::X(error.to_string())
    }
}

impl From<x11rb::errors::ReplyOrIdError> for PaintError {
    fn from(error: x11rb::errors::ReplyOrIdError) -> Self {
        Self::X(error.to_string())
    }
}

/// A way to draw.
pub trait Painter {
    /// For people: what draws.
    fn name(&self) -> &str;

    /// Gets ready to draw into a window.
    ///
    /// # Errors
    /// See [`PaintError`].
    fn open(&mut self, target: &Target) -> Result<Box<dyn Surface>, PaintError>;

    /// Loses the GPU, as happens when its driver is started anew. Without one nothing is lost.
    fn lose(&mut self) {}
}

/// A window that is drawn into.
pub trait Surface {
    /// Draws.
    ///
    /// # Errors
    /// See [`PaintError`].
    fn draw(&mut self, frame: &Frame<'_>) -> Result<Drawn, PaintError>;
}

/// Which painter is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Preference {
    /// A GPU where there is a real one, else software.
    #[default]
    Auto,
    /// wgpu, also on a software adapter.
    Gpu,
    /// The X server.
    Software,
}

/// The painter that `preference` asks for, of those that there are.
///
/// # Errors
/// There is none.
pub fn choose(
    preference: Preference,
    display: OwnedDisplayHandle,
    connection: Arc<RustConnection>,
) -> Result<Box<dyn Painter>, PaintError> {
    let software = || -> Result<Box<dyn Painter>, PaintError> {
        Ok(Box::new(software::Software::new(Arc::clone(&connection))?))
    };
    match preference {
        Preference::Software => software(),
        Preference::Gpu => Ok(Box::new(gpu::Gpu::new(display, true)?)),
        Preference::Auto => match gpu::Gpu::new(display, false) {
            Ok(gpu) => Ok(Box::new(gpu)),
            Err(error) => {
                tracing::info!("no GPU is used: {error}");
                software()
            }
        },
    }
}

/// The pixels of a whole window, as every painter has to show them: rows without padding, blue first, alpha
/// last, 255 where alpha does not count.
#[must_use]
pub fn compose(frame: &Frame<'_>) -> Vec<u8> {
    let (width, height) = (frame.width, frame.height);
    let colour = frame.decoration.colour.pixel();
    let mut pixels = colour.repeat(width as usize * height as usize);
    let mut put = |at: Area, row: &dyn Fn(u32) -> Vec<u8>| {
        for y in 0..at.height {
            let start = ((at.y + y) * width + at.x) as usize * PIXEL as usize;
            let row = row(y);
            pixels[start..start + row.len()].copy_from_slice(&row);
        }
    };
    if let Some((label, at)) = frame.decoration.label_area(width, height) {
        let stride = (label.width * PIXEL) as usize;
        put(at, &|y| label.pixels[y as usize * stride..][..(at.width * PIXEL) as usize].to_vec());
    }
    let shown = frame.decoration.shown(width, height, frame.content_size());
    if let (Some(at), Some(content)) = (shown, frame.content) {
        put(at, &|y| {
            let mut row = content.row(y, 0, at.width).to_vec();
            if !frame.alpha {
                row.iter_mut().skip(3).step_by(PIXEL as usize).for_each(|alpha| *alpha = 255);
            }
            row
        });
    }
    pixels
}
