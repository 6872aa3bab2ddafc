//! The pixels of a window as the host keeps them: copied out of window memory, where the guest may change
//! them at any moment.

use super::segment::Segment;
use crate::model::Insets;
use display::{FrameView, Rectangle};
use std::io;
use window_memory::{Area, PIXEL, Picture, WindowMemory};

/// A window's pixels without its shadow: 4 bytes each, blue first, alpha (premultiplied) last.
#[derive(Debug)]
pub struct Content {
    segment: Segment,
    width: u32,
    height: u32,
    shadow: Insets,
}

impl Content {
    /// Of a picture of `width` times `height` pixels of which `shadow` is not kept; `None` when it is all of it.
    fn new(width: u32, height: u32, shadow: Insets) -> io::Result<Option<Self>> {
        let width = width.saturating_sub(shadow.left + shadow.right);
        let height = height.saturating_sub(shadow.top + shadow.bottom);
        if width == 0 || height == 0 {
            return Ok(None);
        }
        let bytes = width as usize * height as usize * PIXEL as usize;
        Ok(Some(Self { segment: Segment::new(bytes)?, width, height, shadow }))
    }

    /// Copies `damage` of `picture` into `kept`, which is made anew where size or shadow have changed. Gives
    /// what of it is new, relative to the content. Where `alpha` counts no pixel is brighter than it is opaque.
    ///
    /// # Errors
    /// There is no memory; `kept` is as before.
    pub fn take(
        kept: &mut Option<Self>,
        memory: &WindowMemory,
        picture: &Picture,
        damage: &[Area],
        shadow: Insets,
        alpha: bool,
    ) -> io::Result<Vec<Area>> {
        let (width, height) = (picture.width(), picture.height());
        let fits = kept.as_ref().is_some_and(|kept| {
            kept.shadow == shadow
                && kept.width + shadow.left + shadow.right == width
                && kept.height + shadow.top + shadow.bottom == height
        });
        let whole = [picture.area()];
        let damage = if fits { damage } else { &whole };
        if !fits {
            *kept = Self::new(width, height, shadow)?;
        }
        let Some(content) = kept else { return Ok(Vec::new()) };
        let new: Vec<Area> =
            damage.iter().filter_map(|area| content.copy(memory, picture, area)).collect();
        if alpha {
            new.iter().for_each(|area| content.limit(area));
        }
        Ok(new)
    }

    /// As [`Content::take`], of the guest's screen.
    ///
    /// # Errors
    /// There is no memory; `kept` is as before.
    pub fn take_frame(
        kept: &mut Option<Self>,
        frame: &FrameView,
        damage: &[Rectangle],
    ) -> io::Result<Vec<Area>> {
        let size = frame.size();
        let fits = kept.as_ref().is_some_and(|kept| {
            kept.shadow == Insets::default()
                && (kept.width, kept.height) == (size.width, size.height)
        });
        let whole = [size.whole()];
        let damage = if fits { damage } else { &whole };
        if !fits {
            *kept = Self::new(size.width, size.height, Insets::default())?;
        }
        let Some(content) = kept else { return Ok(Vec::new()) };
        let stride = content.stride();
        let bytes = content.segment.bytes_mut();
        let mut areas = Vec::new();
        for part in damage {
            let part = part.intersection(&size.whole());
            if part.is_empty() {
                continue;
            }
            let start = part.y as usize * stride + (part.x * PIXEL) as usize;
            frame.copy(part, &mut bytes[start..], stride);
            let Rectangle { x, y, width, height } = part;
            areas.push(Area { x, y, width, height });
        }
        Ok(areas)
    }

    fn copy(&mut self, memory: &WindowMemory, picture: &Picture, area: &Area) -> Option<Area> {
        let cut = |start: u32, length: u32, before: u32, most: u32| {
            let from = start.max(before);
            let to = (start + length).min(before + most);
            (from < to).then(|| (from, to - from))
        };
        let (x, width) = cut(area.x, area.width, self.shadow.left, self.width)?;
        let (y, height) = cut(area.y, area.height, self.shadow.top, self.height)?;
        let from = Area { x, y, width, height };
        let to = Area { x: x - self.shadow.left, y: y - self.shadow.top, width, height };
        let stride = self.stride();
        let start = to.y as usize * stride + (to.x * PIXEL) as usize;
        memory.copy_out(picture, from, &mut self.segment.bytes_mut()[start..], stride);
        Some(to)
    }

    /// Premultiplied colours are at most their alpha: more would make what lies below brighter, which windows
    /// cannot do.
    pub fn limit(&mut self, area: &Area) {
        let stride = self.stride();
        let bytes = self.segment.bytes_mut();
        for y in area.y..area.y + area.height {
            let start = y as usize * stride + (area.x * PIXEL) as usize;
            let row = &mut bytes[start..start + (area.width * PIXEL) as usize];
            for pixel in row.chunks_exact_mut(PIXEL as usize) {
                let alpha = pixel[3];
                pixel[..3].iter_mut().for_each(|colour| *colour = alpha.min(*colour));
            }
        }
    }

    /// Pixels, at least 1.
    #[must_use]
    pub fn width(&self) -> u32 {
        self.width
    }

    /// Pixels, at least 1.
    #[must_use]
    pub fn height(&self) -> u32 {
        self.height
    }

    /// Bytes from row to row.
    #[must_use]
    pub fn stride(&self) -> usize {
        (self.width * PIXEL) as usize
    }

    /// Rows from the top.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.segment.bytes()
    }

    /// Of this number of the row from the top, the pixels from column `x` on, `width` of them.
    #[must_use]
    pub fn row(&self, y: u32, x: u32, width: u32) -> &[u8] {
        let start = y as usize * self.stride() + (x * PIXEL) as usize;
        &self.bytes()[start..][..(width * PIXEL) as usize]
    }

    /// For an X server on this machine.
    #[must_use]
    pub fn segment(&self) -> &Segment {
        &self.segment
    }

    /// All of it.
    #[must_use]
    pub fn area(&self) -> Area {
        Area { x: 0, y: 0, width: self.width, height: self.height }
    }
}

#[cfg(test)]
mod tests {
    use super::Content;
    use crate::model::Insets;
    use proto::v1::Present;
    use window_memory::{Allocator, Area, WindowMemory};

    #[test]
    fn only_damage_is_copied_and_the_shadow_is_left_out() {
        let memory = WindowMemory::create(1 << 16).unwrap();
        let span = Allocator::new(memory.len()).allocate(10 * 8 * 4).unwrap();
        let pixels: Vec<u8> = (0..10_u8 * 8).flat_map(|pixel| [pixel; 4]).collect();
        memory.copy_in(&span, 40, Area { x: 0, y: 0, width: 10, height: 8 }, &pixels, 40);
        let present = Present { stride: 40, width: 10, height: 8, ..Present::default() };
        let picture = memory.picture(&present).unwrap();
        let shadow = Insets { left: 2, right: 1, top: 3, bottom: 0 };
        let mut kept = None;
        let area = Area { x: 0, y: 0, width: 1, height: 1 };
        // The first time all of it is new, whatever the damage says.
        let new = Content::take(&mut kept, &memory, &picture, &[area], shadow, false).unwrap();
        let content = kept.as_ref().unwrap();
        assert_eq!((content.width(), content.height()), (7, 5));
        assert_eq!(new, [content.area()]);
        assert_eq!(content.row(0, 0, 2), [32, 32, 32, 32, 33, 33, 33, 33]);
        assert_eq!(content.row(4, 6, 1), [78; 4]);

        memory.copy_in(&span, 40, picture.area(), &[200; 10 * 8 * 4], 40);
        // Of these one lies in the shadow, one partly.
        let damage = [area, Area { x: 1, y: 2, width: 2, height: 2 }];
        let new = Content::take(&mut kept, &memory, &picture, &damage, shadow, false).unwrap();
        assert_eq!(new, [Area { x: 0, y: 0, width: 1, height: 1 }]);
        let content = kept.as_ref().unwrap();
        assert_eq!(content.row(0, 0, 2), [200, 200, 200, 200, 33, 33, 33, 33]);
    }

    #[test]
    fn no_colour_is_more_than_its_alpha_where_that_counts() {
        let memory = WindowMemory::create(1 << 16).unwrap();
        let span = Allocator::new(memory.len()).allocate(2 * 4).unwrap();
        let all = Area { x: 0, y: 0, width: 2, height: 1 };
        memory.copy_in(&span, 8, all, &[255, 16, 3, 16, 9, 8, 7, 255], 8);
        let present = Present { stride: 8, width: 2, height: 1, ..Present::default() };
        let picture = memory.picture(&present).unwrap();
        for (alpha, first) in [(true, [16, 16, 3, 16]), (false, [255, 16, 3, 16])] {
            let mut kept = None;
            Content::take(&mut kept, &memory, &picture, &[all], Insets::default(), alpha).unwrap();
            let row = kept.as_ref().unwrap().row(0, 0, 2);
            assert_eq!(row, [first, [9, 8, 7, 255]].concat());
        }
    }

    #[test]
    fn a_picture_that_is_all_shadow_has_no_content() {
        let memory = WindowMemory::create(1 << 16).unwrap();
        let present = Present { stride: 40, width: 10, height: 8, ..Present::default() };
        let picture = memory.picture(&present).unwrap();
        let mut kept = None;
        let new =
            Content::take(&mut kept, &memory, &picture, &[picture.area()], Insets::all(5), false)
                .unwrap();
        assert!(new.is_empty() && kept.is_none());
    }
}
