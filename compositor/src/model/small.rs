//! Icons, cursors, and wishes of a guest: each checked, each harmless.

use super::{Act, Model, Refusal, Untrusted};
use proto::v1::{self, MoveResizeDirection};
use window_link::limits;
use window_memory::PIXEL;

/// An icon of 1 to 256 pixels each way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Icon {
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    /// Rows from the top, blue first, not premultiplied, without padding.
    pub pixels: Vec<u8>,
}

/// What a pointer looks like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CursorPicture {
    /// Not to be seen.
    Hidden,
    /// The host's own of this name where it has one, else the picture.
    Named(String, Option<Box<Self>>),
    /// 1 to 128 pixels each way.
    Picture {
        /// Pixels.
        width: u32,
        /// Pixels.
        height: u32,
        /// The pixel that points, inside.
        hot: [u32; 2],
        /// Rows from the top, blue first, premultiplied, without padding.
        pixels: Vec<u8>,
    },
}

/// Whether `pixels` is of this size and each side is in 1 to `most`.
fn fits(width: u32, height: u32, most: u32, pixels: &[u8]) -> bool {
    let side = 1..=most;
    side.contains(&width)
        && side.contains(&height)
        && pixels.len() == (width * height * PIXEL) as usize
}

impl Model {
    pub(super) fn icon(&mut self, told: Untrusted<v1::WindowIcon>) {
        let v1::WindowIcon { window: id, width, height, pixels } = told.into_inner();
        if !self.windows.contains_key(&id) {
            self.refusals.count(Refusal::UnknownWindow, format_args!("window {id} has an icon"));
        } else if !fits(width, height, limits::ICON, &pixels) {
            let bytes = pixels.len();
            self.refusals.count(
                Refusal::Icon,
                format_args!("window {id}: icon of {width}x{height} in {bytes} bytes"),
            );
        } else {
            self.acts.retain(|act| !matches!(act, Act::Icon(other, _) if *other == id));
            self.acts.push(Act::Icon(id, Icon { width, height, pixels }));
        }
    }

    pub(super) fn cursor(&mut self, told: Untrusted<v1::Cursor>) {
        let v1::Cursor { name, width, height, hot_x, hot_y, pixels } = told.into_inner();
        let of_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
        let picture = (width, height) != (0, 0);
        if name.len() > limits::CURSOR_NAME
            || !name.bytes().all(of_name)
            || (picture && !fits(width, height, limits::CURSOR, &pixels))
        {
            self.refusals.count(Refusal::Cursor, format_args!("a cursor of {width}x{height}"));
            return;
        }
        let picture = picture.then(|| CursorPicture::Picture {
            width,
            height,
            hot: [hot_x.min(width - 1), hot_y.min(height - 1)],
            pixels,
        });
        let cursor = match (name.is_empty(), picture) {
            (true, None) => CursorPicture::Hidden,
            (true, Some(picture)) => picture,
            (false, picture) => CursorPicture::Named(name, picture.map(Box::new)),
        };
        // Only the last of many is ever made.
        self.acts.retain(|act| !matches!(act, Act::Cursor(_)));
        self.acts.push(Act::Cursor(cursor));
    }

    pub(super) fn move_resize(&mut self, told: v1::MoveResize) {
        let id = told.window;
        let direction = MoveResizeDirection::try_from(told.direction)
            .unwrap_or(MoveResizeDirection::Unspecified);
        let shown = self.windows.get(&id).is_some_and(|window| window.shown.is_some());
        if !shown {
            self.refusals.count(Refusal::UnknownWindow, format_args!("window {id} is moved"));
        } else if direction == MoveResizeDirection::Unspecified
            || !self.pressed.is_down(id, told.button)
        {
            self.refusals.count(
                Refusal::Uncalled,
                format_args!("window {id} is to be moved by a button that is not pressed in it"),
            );
        } else {
            self.acts.push(Act::MoveResize(id, direction));
        }
    }
}
