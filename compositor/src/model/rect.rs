//! Rectangles of the desktop and what stands around them.

use proto::v1::{Extents, Rectangle};
use window_link::limits;

/// A rectangle in physical pixels of the desktop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rect {
    /// First column, pixels from the desktop's left; a window's -32768 to 32767.
    pub x: i32,
    /// First row, pixels from the desktop's top; a window's -32768 to 32767.
    pub y: i32,
    /// Pixels; a window's 1 to 16384.
    pub width: u32,
    /// Pixels; a window's 1 to 16384.
    pub height: u32,
}

/// Physical pixels on the four sides of a rectangle, inside or outside as whoever has them says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Insets {
    /// Pixels on the left.
    pub left: u32,
    /// Pixels on the right.
    pub right: u32,
    /// Pixels at the top.
    pub top: u32,
    /// Pixels at the bottom.
    pub bottom: u32,
}

impl Insets {
    /// The same on each side.
    #[must_use]
    pub fn all(pixels: u32) -> Self {
        Self { left: pixels, right: pixels, top: pixels, bottom: pixels }
    }
}

impl From<Insets> for Extents {
    fn from(insets: Insets) -> Self {
        let Insets { left, right, top, bottom } = insets;
        Self { left, right, top, bottom }
    }
}

impl Rect {
    /// First column right of it.
    #[must_use]
    pub fn right(&self) -> i64 {
        i64::from(self.x) + i64::from(self.width)
    }

    /// First row below it.
    #[must_use]
    pub fn bottom(&self) -> i64 {
        i64::from(self.y) + i64::from(self.height)
    }

    /// Pixels that both have.
    #[must_use]
    pub fn shared(&self, other: &Self) -> u64 {
        let width = self.right().min(other.right()) - i64::from(self.x.max(other.x));
        let height = self.bottom().min(other.bottom()) - i64::from(self.y.max(other.y));
        width.max(0).unsigned_abs() * height.max(0).unsigned_abs()
    }

    /// What both have; `None` when they do not meet.
    #[must_use]
    pub fn common(&self, other: &Self) -> Option<Self> {
        let (x, y) = (self.x.max(other.x), self.y.max(other.y));
        let width = self.right().min(other.right()) - i64::from(x);
        let height = self.bottom().min(other.bottom()) - i64::from(y);
        Some(Self {
            x,
            y,
            width: u32::try_from(width).ok().filter(|width| *width > 0)?,
            height: u32::try_from(height).ok().filter(|height| *height > 0)?,
        })
    }

    /// Pixels.
    #[must_use]
    pub fn area(&self) -> u64 {
        u64::from(self.width) * u64::from(self.height)
    }

    /// Without what stands on its sides; at least one pixel each way remains.
    #[must_use]
    pub fn without(&self, insets: &Insets) -> Self {
        Self {
            x: self.x.saturating_add_unsigned(insets.left),
            y: self.y.saturating_add_unsigned(insets.top),
            width: self.width.saturating_sub(insets.left + insets.right).max(1),
            height: self.height.saturating_sub(insets.top + insets.bottom).max(1),
        }
    }

    /// With what stands on its sides.
    #[must_use]
    pub fn with(&self, insets: &Insets) -> Self {
        Self {
            x: self.x.saturating_sub_unsigned(insets.left),
            y: self.y.saturating_sub_unsigned(insets.top),
            width: self.width.saturating_add(insets.left + insets.right),
            height: self.height.saturating_add(insets.top + insets.bottom),
        }
    }

    /// What a stranger says, brought within the limits of the protocol, and whether it had to be.
    #[must_use]
    pub fn clamped(told: &Rectangle) -> (Self, bool) {
        let place = |at: i32| at.clamp(-limits::COORDINATE, limits::COORDINATE - 1);
        let side = |pixels: u32| pixels.clamp(1, limits::SIDE);
        let rect = Self {
            x: place(told.x),
            y: place(told.y),
            width: side(told.width),
            height: side(told.height),
        };
        (rect, Rectangle::from(rect) != *told)
    }
}

impl From<Rect> for Rectangle {
    fn from(rect: Rect) -> Self {
        let Rect { x, y, width, height } = rect;
        Self { x, y, width, height }
    }
}
