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

impl X11 {
    pub(super) fn set_cursor(&mut self, picture: &CursorPicture) -> Result<(), WindowingError> {
        let cursor = self.make_cursor(picture)?;
        for native in self.windows.values() {
            let attributes = ChangeWindowAttributesAux::new().cursor(cursor);
            self.connection.change_window_attributes(native.xid, &attributes)?;
        }
        let before = std::mem::replace(&mut self.cursor, cursor);
        if before != NONE {
            self.connection.free_cursor(before)?;
        }
        self.connection.flush()?;
        Ok(())
    }

    fn make_cursor(&self, picture: &CursorPicture) -> Result<Cursor, WindowingError> {
        match picture {
            CursorPicture::Named(name, picture) => {
                let named = match &self.theme {
                    Some(theme) => theme.load_cursor(&*self.connection, name)?,
                    None => NONE,
                };
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
