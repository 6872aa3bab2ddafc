//! The border around a guest's window: in the VM's colour, with its name where no title bar of the host says it.
//! Drawn by the host alone; where a window's content does not reach, there is border.

use crate::model::Insets;
use font8x8::legacy::BASIC_LEGACY;
use window_memory::{Area, PIXEL};

/// Red, green, blue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Colour(pub [u8; 3]);

impl Colour {
    /// As a pixel: blue, green, red, opaque.
    #[must_use]
    pub fn pixel(self) -> [u8; 4] {
        let [red, green, blue] = self.0;
        [blue, green, red, 255]
    }

    /// Black or white, whichever is read better on it (luma of ITU-R BT.601).
    #[must_use]
    pub fn ink(self) -> Self {
        let [red, green, blue] = self.0.map(u32::from);
        if red * 299 + green * 587 + blue * 114 > 140_000 { Self([0; 3]) } else { Self([255; 3]) }
    }
}

impl std::str::FromStr for Colour {
    type Err = String;

    /// `#rrggbb`.
    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.strip_prefix('#').filter(|digits| {
            digits.len() == 6 && digits.bytes().all(|digit| digit.is_ascii_hexdigit())
        });
        let number = digits.and_then(|digits| u32::from_str_radix(digits, 16).ok());
        let [_, red, green, blue] = number
            .ok_or_else(|| format!("{text:?} is no colour; one is as #3465a4"))?
            .to_be_bytes();
        Ok(Self([red, green, blue]))
    }
}

/// A small picture with the VM's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    /// As of a window's content.
    pub pixels: Vec<u8>,
}

/// What stands around a window's content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decoration {
    /// How thick.
    pub border: Insets,
    /// Of the VM.
    pub colour: Colour,
    /// At the left of the border's top.
    pub label: Option<Label>,
}

/// Pixels of the font each way.
const GLYPH: u32 = 8;
/// Longest part of a name that is drawn.
const LONGEST: usize = 48;

impl Label {
    /// `name` at `percent`, rows as high as the border's top.
    fn new(name: &str, colour: Colour, percent: u32, height: u32) -> Self {
        // Whole multiples only: letters stay sharp.
        let factor = (percent / 100).max(1);
        let (ink, ground) = (colour.ink().pixel(), colour.pixel());
        let glyphs: Vec<[u8; 8]> = name
            .chars()
            .take(LONGEST)
            .map(|letter| {
                let index = if letter.is_ascii() { letter as usize } else { usize::from(b'?') };
                BASIC_LEGACY[index]
            })
            .collect();
        let width = u32::try_from(glyphs.len()).unwrap_or(0) * GLYPH * factor + 2 * GLYPH * factor;
        let top = height.saturating_sub(GLYPH * factor) / 2;
        let mut pixels = Vec::with_capacity((width * height * PIXEL) as usize);
        for y in 0..height {
            for x in 0..width {
                let inked = || {
                    let row = y.checked_sub(top)? / factor;
                    let column = (x / factor).checked_sub(GLYPH)?;
                    let glyph = glyphs.get((column / GLYPH) as usize)?;
                    let bits = glyph.get(row as usize)?;
                    (bits >> (column % GLYPH) & 1 == 1).then_some(())
                };
                pixels.extend(if inked().is_some() { ink } else { ground });
            }
        }
        Self { width, height, pixels }
    }
}

impl Decoration {
    /// Of a window of the VM `name`.
    #[must_use]
    pub fn new(border: Insets, colour: Colour, label: Option<&str>, percent: u32) -> Self {
        let label = label.map(|name| Label::new(name, colour, percent, border.top));
        Self { border, colour, label }
    }

    /// Where content goes in a window of this size; `None` where the border takes all.
    #[must_use]
    pub fn inner(&self, width: u32, height: u32) -> Option<Area> {
        let Insets { left, right, top, bottom } = self.border;
        let width = width.checked_sub(left + right).filter(|width| *width > 0)?;
        let height = height.checked_sub(top + bottom).filter(|height| *height > 0)?;
        Some(Area { x: left, y: top, width, height })
    }

    /// What of a window of this size is border or not covered by a content of `content` pixels: strips that do
    /// not overlap.
    #[must_use]
    pub fn strips(&self, width: u32, height: u32, content: Option<(u32, u32)>) -> Vec<Area> {
        let shown = self.shown(width, height, content);
        let Some(Area { x, y, width: inner_width, height: inner_height }) = shown else {
            return Area::all(width, height).into_iter().collect();
        };
        let (right, below) = (x + inner_width, y + inner_height);
        [
            Area { x: 0, y: 0, width, height: y },
            Area { x: 0, y: below, width, height: height - below },
            Area { x: 0, y, width: x, height: inner_height },
            Area { x: right, y, width: width - right, height: inner_height },
        ]
        .into_iter()
        .filter(|area| area.width > 0 && area.height > 0)
        .collect()
    }

    /// Where in a window of this size content of this size is to be seen.
    #[must_use]
    pub fn shown(&self, width: u32, height: u32, content: Option<(u32, u32)>) -> Option<Area> {
        let inner = self.inner(width, height)?;
        let (width, height) = content?;
        Some(Area { width: inner.width.min(width), height: inner.height.min(height), ..inner })
    }

    /// Where the label is to be seen: its left and top part.
    #[must_use]
    pub fn label_area(&self, width: u32, height: u32) -> Option<(&Label, Area)> {
        let label = self.label.as_ref()?;
        let x = self.border.left;
        let area = Area {
            x,
            y: 0,
            width: label.width.min(width.checked_sub(x)?),
            height: label.height.min(self.border.top).min(height),
        };
        (area.width > 0 && area.height > 0).then_some((label, area))
    }
}

#[cfg(test)]
mod tests {
    use super::{Colour, Decoration};
    use crate::model::Insets;

    #[test]
    fn colours_are_read_and_told_apart() {
        assert_eq!("#3465a4".parse(), Ok(Colour([0x34, 0x65, 0xa4])));
        for wrong in ["3465a4", "#3465a", "#3465a4f", "#+12345", "#ääa", ""] {
            assert!(wrong.parse::<Colour>().is_err(), "{wrong}");
        }
        assert_eq!(Colour([255, 255, 0]).ink(), Colour([0; 3]));
        assert_eq!(Colour([0, 0, 160]).ink(), Colour([255; 3]));
    }

    #[test]
    fn strips_and_content_make_up_the_window() {
        let border = Insets { left: 2, right: 3, top: 10, bottom: 1 };
        let decoration = Decoration::new(border, Colour([1, 2, 3]), Some("vm"), 100);
        for (width, height) in [(100, 80), (5, 11), (6, 12), (1, 1), (40, 300)] {
            for content in [None, Some((95, 69)), Some((1, 1)), Some((500, 20))] {
                let mut count = vec![0; (width * height) as usize];
                let strips = decoration.strips(width, height, content);
                for area in strips.into_iter().chain(decoration.shown(width, height, content)) {
                    for y in area.y..area.y + area.height {
                        for x in area.x..area.x + area.width {
                            count[(y * width + x) as usize] += 1;
                        }
                    }
                }
                assert!(count.iter().all(|count| *count == 1), "{width}x{height} {content:?}");
            }
        }
    }

    #[test]
    fn a_label_shows_the_name() {
        let border = Insets { top: 12, ..Insets::all(2) };
        let decoration = Decoration::new(border, Colour([0, 0, 160]), Some("I"), 100);
        let (label, area) = decoration.label_area(100, 100).unwrap();
        assert_eq!((label.width, label.height, area.x, area.y), (24, 12, 2, 0));
        let inked = label.pixels.chunks(4).filter(|pixel| *pixel == [255; 4]).count();
        // The letter I of the font.
        assert!((8..32).contains(&inked), "{inked} pixels");
        let big = Decoration::new(Insets::all(24), Colour([0, 0, 160]), Some("I"), 200);
        let label = big.label.unwrap();
        assert_eq!(label.pixels.chunks(4).filter(|pixel| *pixel == [255; 4]).count(), 4 * inked);
    }
}
