//! The pointer's look (XFixes).

use proto::v1::Cursor;
use window_link::limits;
use x11rb::protocol::xfixes::{ConnectionExt as _, CursorNotifyMask};

use super::{Lost, X11, answer, parse};
use crate::windows::telling::Teller;

/// What was told of it.
#[derive(Debug, Default)]
pub(super) struct Shown {
    /// It may have changed.
    pub(super) changed: bool,
    told: Cursor,
}

impl X11 {
    pub(super) fn begin_cursor(&mut self) -> Result<(), Lost> {
        self.x.xfixes_select_cursor_input(self.root, CursorNotifyMask::DISPLAY_CURSOR)?;
        self.cursor.changed = true;
        Ok(())
    }

    /// Tells of the pointer's look, at most once a turn however often it changes.
    pub(super) fn tell_cursor(&mut self, teller: &mut Teller) -> Result<(), Lost> {
        if !std::mem::take(&mut self.cursor.changed) {
            return Ok(());
        }
        let Some(image) = answer(self.x.xfixes_get_cursor_image_and_name()?.reply())? else {
            return Ok(());
        };
        let cursor = cursor(
            &image.name,
            (u32::from(image.width), u32::from(image.height)),
            (u32::from(image.xhot), u32::from(image.yhot)),
            &image.cursor_image,
        );
        let most = |side: u16| u32::from(side) > limits::CURSOR;
        if most(image.width) || most(image.height) {
            teller.refusals.note("pixels of cursors over the limit");
        }
        if cursor != self.cursor.told || self.all {
            self.cursor.told = cursor.clone();
            teller.cursor(cursor);
        }
        Ok(())
    }
}

/// As the protocol has it: what is too large is cut around the hot spot.
fn cursor(
    name: &[u8],
    (width, height): (u32, u32),
    (hot_x, hot_y): (u32, u32),
    argb: &[u32],
) -> Cursor {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    let named = name.len() <= limits::CURSOR_NAME && name.iter().all(plain);
    let name = if named { parse::text(name, true) } else { String::new() };
    let whole = argb.len() as u64 == u64::from(width) * u64::from(height);
    let hidden = !whole || argb.iter().all(|pixel| pixel >> 24 == 0);
    if hidden {
        return Cursor { name, ..Cursor::default() };
    }
    let cut = |length: u32, hot: u32| {
        let kept = length.min(limits::CURSOR);
        let hot = hot.min(length - 1);
        let from = hot.saturating_sub(kept / 2).min(length - kept);
        (from, kept, hot - from)
    };
    let (left, kept_width, hot_x) = cut(width, hot_x);
    let (top, kept_height, hot_y) = cut(height, hot_y);
    let rows = argb.chunks(width as usize).skip(top as usize).take(kept_height as usize);
    let pixels = rows.flat_map(|row| &row[left as usize..(left + kept_width) as usize]);
    let pixels: Vec<u32> = pixels.copied().collect();
    Cursor {
        name,
        width: kept_width,
        height: kept_height,
        hot_x,
        hot_y,
        pixels: parse::pixels(&pixels),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_huge_cursor_is_cut_around_its_hot_spot() {
        let argb: Vec<u32> = (0..1000 * 600).map(|n| 0xff00_0000 | n).collect();
        let cut = cursor(b"bomb", (1000, 600), (500, 599), &argb);
        assert_eq!((cut.width, cut.height), (128, 128));
        let at = ((cut.hot_y * cut.width + cut.hot_x) * 4) as usize;
        let hot = u32::from_le_bytes(cut.pixels[at..at + 4].try_into().unwrap());
        assert_eq!(hot, 0xff00_0000 | (599 * 1000 + 500));
        assert_eq!(cut.pixels.len(), 128 * 128 * 4);
    }

    #[test]
    fn nothing_to_see_is_hidden_and_odd_names_are_none() {
        let none = cursor(b"left_ptr", (2, 2), (9, 9), &[0; 4]);
        assert_eq!((none.width, none.name.as_str()), (0, "left_ptr"));
        let odd = cursor("a b\u{202e}".as_bytes(), (1, 1), (9, 9), &[!0]);
        assert_eq!((odd.width, odd.hot_x, odd.name.as_str()), (1, 0, ""));
        assert_eq!(cursor(b"", (5, 5), (0, 0), &[!0; 3]).width, 0);
    }
}
