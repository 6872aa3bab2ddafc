//! Icons as programs gave them before `_NET_WM_ICON`: a pixmap, and one that says where it is opaque (ICCCM 4.1.2.4).

use proto::v1::WindowIcon;
use window_link::limits;
use x11rb::NONE;
use x11rb::connection::Connection as _;
use x11rb::protocol::xproto::{ConnectionExt as _, ImageFormat, ImageOrder, Pixmap, Window};

use super::{Lost, X11, answer, parse};
use crate::windows::telling::Teller;

/// One pixel's bits in a bitmap, and in a picture that is told.
const BIT: u8 = 1;
const WHOLE: u32 = 32;
/// Depths whose pixels are red, green and blue of 8 bits each in 32.
const COLOURED: [u8; 2] = [24, 32];

const BLACK: u32 = 0xff00_0000;
const WHITE: u32 = 0xffff_ffff;
/// Without red, green and blue: the alpha.
const OPAQUE: u32 = 0xff00_0000;

/// A pixmap as the server has sent it.
struct Pixels {
    width: u32,
    height: u32,
    depth: u8,
    data: Vec<u8>,
}

impl X11 {
    /// Tells the icon that WM_HINTS names, if it is one within the limit.
    pub(super) fn tell_pixmap(&self, window: Window, teller: &mut Teller) -> Result<(), Lost> {
        let Some(client) = self.clients.get(&window) else { return Ok(()) };
        let (icon, mask) = client.properties.hints.icon;
        let Some(icon) = self.pixmap(icon)? else { return Ok(()) };
        let mask = self.pixmap(mask)?;
        let last_first = self.x.setup().bitmap_format_bit_order == ImageOrder::MSB_FIRST;
        // Lines of bitmaps are padded.
        let unit = u32::from(self.x.setup().bitmap_format_scanline_pad).max(8);
        let bit = |pixels: &Pixels, x, y| bit(pixels, x, y, unit, last_first);
        let mut argb = Vec::new();
        for y in 0..icon.height {
            for x in 0..icon.width {
                let pixel = match icon.depth {
                    BIT => bit(&icon, x, y).map(|set| if set { BLACK } else { WHITE }),
                    depth if COLOURED.contains(&depth) => colour(&icon, x, y),
                    _ => None,
                };
                let Some(pixel) = pixel else { return Ok(()) };
                let shown = match &mask {
                    Some(mask) if mask.depth == BIT => bit(mask, x, y) == Some(true),
                    _ => true,
                };
                argb.push(if shown { pixel } else { 0 });
            }
        }
        let (width, height) = (icon.width, icon.height);
        teller.icon(WindowIcon { window, width, height, pixels: parse::pixels(&argb) });
        Ok(())
    }

    /// Its pixels; none of one that there is not or that is larger than an icon.
    fn pixmap(&self, pixmap: Pixmap) -> Result<Option<Pixels>, Lost> {
        if pixmap == NONE {
            return Ok(None);
        }
        let Some(size) = answer(self.x.get_geometry(pixmap)?.reply())? else { return Ok(None) };
        let (width, height) = (u32::from(size.width), u32::from(size.height));
        if width > limits::ICON || height > limits::ICON {
            return Ok(None);
        }
        let format = ImageFormat::Z_PIXMAP;
        let asked = self.x.get_image(format, pixmap, 0, 0, size.width, size.height, !0)?;
        let image = answer(asked.reply())?;
        Ok(image.map(|image| Pixels { width, height, depth: image.depth, data: image.data }))
    }
}

/// Whether a pixel of a bitmap is set; none outside of it.
fn bit(pixels: &Pixels, x: u32, y: u32, unit: u32, last_first: bool) -> Option<bool> {
    if x >= pixels.width || y >= pixels.height {
        return None;
    }
    let line = pixels.width.next_multiple_of(unit) / 8;
    let byte = pixels.data.get(usize::try_from(y * line + x / 8).ok()?)?;
    let at = if last_first { 7 - x % 8 } else { x % 8 };
    Some(byte & (1 << at) != 0)
}

/// A pixel, opaque.
fn colour(pixels: &Pixels, x: u32, y: u32) -> Option<u32> {
    let at = usize::try_from((y * pixels.width + x) * (WHOLE / 8)).ok()?;
    let bytes = pixels.data.get(at..)?.first_chunk()?;
    Some(u32::from_le_bytes(*bytes) | OPAQUE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_found_in_padded_lines_and_nowhere_else() {
        // Two lines of 10 pixels, padded to 32 bits: the second and the last of each.
        let data = vec![2, 2, 0, 0, 2, 2, 0, 0];
        let pixels = Pixels { width: 10, height: 2, depth: BIT, data };
        let set: Vec<u32> =
            (0..10).filter(|x| bit(&pixels, *x, 1, 32, false) == Some(true)).collect();
        assert_eq!(set, [1, 9]);
        assert_eq!(bit(&pixels, 6, 0, 32, true), Some(true));
        assert_eq!(bit(&pixels, 10, 0, 32, false), None);
        assert_eq!(bit(&pixels, 0, 2, 32, false), None);
        let short = Pixels { data: vec![2], ..pixels };
        assert_eq!(bit(&short, 0, 1, 32, false), None);
        assert_eq!(colour(&short, 0, 0), None);
    }
}
