//! What the pointer looks like over the guest's windows.

use super::X11;
use crate::model::CursorPicture;
use crate::windowing::WindowingError;
use x11rb::NONE;
use x11rb::connection::Connection;
use x11rb::protocol::render::{self, ConnectionExt as _};
use x11rb::protocol::xproto::{
    ChangeWindowAttributesAux, ConnectionExt as _, CreateGCAux, Cursor, ImageFormat,
};

/// Cursors of the theme that are kept.
const NAMED: usize = 32;

impl X11 {
    pub(super) fn set_cursor(&mut self, picture: &CursorPicture) -> Result<(), WindowingError> {
        let cursor = self.make_cursor(picture)?;
        for native in self.windows.values() {
            let attributes = ChangeWindowAttributesAux::new().cursor(cursor);
            self.connection.change_window_attributes(native.xid, &attributes)?;
        }
        let before = std::mem::replace(&mut self.cursor, cursor);
        if before != NONE && !self.named.iter().any(|(_, kept)| *kept == before) {
            self.connection.free_cursor(before)?;
        }
        self.connection.flush()?;
        Ok(())
    }

    fn make_cursor(&mut self, picture: &CursorPicture) -> Result<Cursor, WindowingError> {
        match picture {
            CursorPicture::Named(name, picture) => {
                let named = self.named_cursor(name)?;
                match picture {
                    Some(picture) if named == NONE => self.make_cursor(picture),
                    _ => Ok(named),
                }
            }
            CursorPicture::Hidden => self.image_cursor(1, 1, [0, 0], &[0; 4]),
            CursorPicture::Picture { width, height, hot, pixels } => {
                self.image_cursor(*width, *height, *hot, pixels)
            }
        }
    }

    /// The theme's own of this name; none where it has none, or none that can be used: its files are read for a
    /// name that a guest chooses.
    fn named_cursor(&mut self, name: &str) -> Result<Cursor, WindowingError> {
        if let Some(at) = self.named.iter().position(|(kept, _)| kept == name)
            && let Some(found) = self.named.remove(at)
        {
            let cursor = found.1;
            self.named.push_back(found);
            return Ok(cursor);
        }
        let Some(theme) = &self.theme else { return Ok(NONE) };
        let cursor = match theme.load_cursor(&*self.connection, name) {
            Ok(cursor) => cursor,
            Err(error) => {
                let error = WindowingError::from(error);
                if error.is_the_end() {
                    return Err(error);
                }
                tracing::debug!(name, "no cursor: {error}");
                NONE
            }
        };
        self.named.push_back((name.to_owned(), cursor));
        if self.named.len() > NAMED
            && let Some((_, oldest)) = self.named.pop_front()
            && oldest != NONE
            && oldest != self.cursor
        {
            self.connection.free_cursor(oldest)?;
        }
        Ok(cursor)
    }

    /// All sides are at most 128 (checked by the model).
    fn image_cursor(
        &self,
        width: u32,
        height: u32,
        hot: [u32; 2],
        pixels: &[u8],
    ) -> Result<Cursor, WindowingError> {
        let side = |pixels: u32| u16::try_from(pixels).unwrap_or(u16::MAX);
        let Some(format) = self.cursor_format else { return Ok(NONE) };
        let connection = &*self.connection;
        let pixmap = connection.generate_id()?;
        connection.create_pixmap(32, pixmap, self.root, side(width), side(height))?;
        let gc = connection.generate_id()?;
        connection.create_gc(gc, pixmap, &CreateGCAux::new())?;
        connection.put_image(
            ImageFormat::Z_PIXMAP,
            pixmap,
            gc,
            side(width),
            side(height),
            0,
            0,
            0,
            32,
            pixels,
        )?;
        let picture = connection.generate_id()?;
        connection.render_create_picture(
            picture,
            pixmap,
            format,
            &render::CreatePictureAux::new(),
        )?;
        let cursor = connection.generate_id()?;
        connection.render_create_cursor(cursor, picture, side(hot[0]), side(hot[1]))?;
        connection.render_free_picture(picture)?;
        connection.free_gc(gc)?;
        connection.free_pixmap(pixmap)?;
        Ok(cursor)
    }
}
