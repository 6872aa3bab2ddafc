//! What a guest says of pixels in window memory, proven to lie in it.

use crate::PIXEL;
use proto::v1::{Present, Rectangle};
use window_link::limits;

/// A part of a picture, pixels from its left and top; not empty and inside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Area {
    /// First column, pixels from the picture's left.
    pub x: u32,
    /// First row, pixels from the picture's top.
    pub y: u32,
    /// Pixels, at least 1.
    pub width: u32,
    /// Pixels, at least 1.
    pub height: u32,
}

impl Area {
    /// All of a picture of this size; `None` when it has no pixels.
    #[must_use]
    pub fn all(width: u32, height: u32) -> Option<Self> {
        (width > 0 && height > 0).then_some(Self { x: 0, y: 0, width, height })
    }

    /// What of `rectangle`, whose numbers are a stranger's, lies in a picture of this size.
    #[must_use]
    pub fn clamp(rectangle: &Rectangle, width: u32, height: u32) -> Option<Self> {
        let cut = |start: i32, length: u32, most: u32| {
            let from = i64::from(start).clamp(0, i64::from(most));
            let to = (i64::from(start) + i64::from(length)).clamp(0, i64::from(most));
            // Both lie in 0..=most.
            let (from, to) = (from.unsigned_abs() as u32, to.unsigned_abs() as u32);
            (from < to).then(|| (from, to - from))
        };
        let (x, width) = cut(rectangle.x, rectangle.width, width)?;
        let (y, height) = cut(rectangle.y, rectangle.height, height)?;
        Some(Self { x, y, width, height })
    }

    /// Whether it lies in a picture of this size.
    #[must_use]
    pub fn inside(&self, width: u32, height: u32) -> bool {
        let end = |start: u32, length: u32| u64::from(start) + u64::from(length);
        self.width > 0
            && self.height > 0
            && end(self.x, self.width) <= u64::from(width)
            && end(self.y, self.height) <= u64::from(height)
    }
}

/// Where pixels lie; made by [`crate::WindowMemory::picture`] alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Picture {
    pub(crate) offset: u64,
    pub(crate) stride: u32,
    width: u32,
    height: u32,
}

/// A guest has told of pixels that cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PictureError {
    /// Nothing, or more than is allowed.
    #[error(
        "a picture of {width}x{height}; allowed are 1 to {side} each and {area} pixels in all",
        side = limits::SIDE, area = limits::AREA
    )]
    Size {
        /// Pixels.
        width: u32,
        /// Pixels.
        height: u32,
    },
    /// Rows that overlap, or pixels that lie across words.
    #[error("rows of {width} pixels are {stride} bytes apart")]
    Stride {
        /// Bytes.
        stride: u32,
        /// Pixels.
        width: u32,
    },
    /// Not a multiple of [`limits::ALIGNMENT`].
    #[error("the picture begins at byte {0}, which is no multiple of {align}", align = limits::ALIGNMENT)]
    Alignment(u64),
    /// Beyond the end.
    #[error("the picture begins at byte {offset} and has {bytes}; the memory has {length}")]
    Outside {
        /// Bytes from the memory's start.
        offset: u64,
        /// From the first pixel to the last.
        bytes: u64,
        /// Of the memory.
        length: u64,
    },
}

impl Picture {
    /// What `present` tells, if it lies in a memory of `length` bytes.
    ///
    /// # Errors
    /// See [`PictureError`].
    pub fn check(length: u64, present: &Present) -> Result<Self, PictureError> {
        let Present { offset, stride, width, height, .. } = *present;
        let side = 1..=limits::SIDE;
        if !side.contains(&width)
            || !side.contains(&height)
            || u64::from(width) * u64::from(height) > limits::AREA
        {
            return Err(PictureError::Size { width, height });
        }
        if stride % PIXEL != 0 || stride < width * PIXEL {
            return Err(PictureError::Stride { stride, width });
        }
        if offset % limits::ALIGNMENT != 0 {
            return Err(PictureError::Alignment(offset));
        }
        // Below 2^14 * 2^32 + 2^16.
        let bytes = u64::from(height - 1) * u64::from(stride) + u64::from(width * PIXEL);
        match offset.checked_add(bytes) {
            Some(end) if end <= length => Ok(Self { offset, stride, width, height }),
            _ => Err(PictureError::Outside { offset, bytes, length }),
        }
    }

    /// Pixels, 1 to [`limits::SIDE`].
    #[must_use]
    pub fn width(&self) -> u32 {
        self.width
    }

    /// Pixels, 1 to [`limits::SIDE`].
    #[must_use]
    pub fn height(&self) -> u32 {
        self.height
    }

    /// All of it.
    #[must_use]
    pub fn area(&self) -> Area {
        Area { x: 0, y: 0, width: self.width, height: self.height }
    }
}

#[cfg(test)]
mod tests {
    use super::{Area, Picture, PictureError};
    use proptest::prelude::*;
    use proto::v1::{Present, Rectangle};

    fn present(offset: u64, stride: u32, width: u32, height: u32) -> Present {
        Present { offset, stride, width, height, ..Present::default() }
    }

    #[test]
    fn a_picture_may_end_where_the_memory_ends_and_no_byte_later() {
        // The last row needs its pixels only, not its padding.
        assert!(Picture::check(64 + 128 + 40, &present(64, 128, 10, 2)).is_ok());
        assert_eq!(
            Picture::check(64 + 128 + 39, &present(64, 128, 10, 2)),
            Err(PictureError::Outside { offset: 64, bytes: 168, length: 231 })
        );
        let end = u64::MAX - 63;
        assert!(matches!(
            Picture::check(u64::MAX, &present(end, 64, 16, 1)),
            Err(PictureError::Outside { .. })
        ));
    }

    #[test]
    fn sizes_strides_and_places_that_cannot_be_are_refused() {
        let memory = 1 << 40;
        for (width, height) in
            [(0, 1), (1, 0), (16385, 1), (1, 16385), (65535, 65535), (16384, 16384)]
        {
            let told = present(0, 1 << 17, width, height);
            assert_eq!(Picture::check(memory, &told), Err(PictureError::Size { width, height }));
        }
        for stride in [0, 39, 36, 42, u32::MAX] {
            let told = present(0, stride, 10, 2);
            assert_eq!(
                Picture::check(memory, &told),
                Err(PictureError::Stride { stride, width: 10 })
            );
        }
        assert_eq!(
            Picture::check(memory, &present(32, 40, 10, 2)),
            Err(PictureError::Alignment(32))
        );
    }

    proptest! {
        #[test]
        fn what_is_left_of_a_rectangle_is_what_both_have(
            x in -20_i32..20, y in -20_i32..20, w in 0_u32..30, h in 0_u32..30, width in 0_u32..16, height in 0_u32..16,
        ) {
            let area = Area::clamp(&Rectangle { x, y, width: w, height: h }, width, height);
            for row in 0..height {
                for column in 0..width {
                    let told = i64::from(column) >= i64::from(x) && i64::from(column) < i64::from(x) + i64::from(w)
                        && i64::from(row) >= i64::from(y) && i64::from(row) < i64::from(y) + i64::from(h);
                    let got = area.is_some_and(|area| {
                        (area.x..area.x + area.width).contains(&column) && (area.y..area.y + area.height).contains(&row)
                    });
                    prop_assert_eq!(told, got);
                }
            }
            prop_assert!(area.is_none_or(|area| area.inside(width, height)));
        }

        #[test]
        fn no_numbers_overflow(x in any::<i32>(), y in any::<i32>(), w in any::<u32>(), h in any::<u32>(), offset in any::<u64>(), length in any::<u64>()) {
            let _ = Area::clamp(&Rectangle { x, y, width: w, height: h }, w, h);
            let _ = Picture::check(length, &present(offset, w, h, w));
            let _ = Area { x: w, y: h, width: w, height: h }.inside(h, w);
        }
    }
}
