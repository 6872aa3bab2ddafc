//! Without a GPU: the X server copies a window's new pixels out of memory it shares with this process
//! (MIT-SHM 1.2), or, where it cannot map that, gets them over its connection.

use super::{Content, Decoration, Drawn, Frame, PaintError, Painter, Segment, Surface, Target};
use std::sync::Arc;
use window_memory::{Area, PIXEL};
use x11rb::connection::{Connection, RequestConnection};
use x11rb::protocol::shm::{self, ConnectionExt as _};
use x11rb::protocol::xproto::ImageOrder;
use x11rb::protocol::xproto::{ConnectionExt as _, CreateGCAux, Gcontext, ImageFormat, Rectangle};
use x11rb::rust_connection::RustConnection;

/// Draws through the X server.
#[derive(Debug)]
pub struct Software {
    connection: Arc<RustConnection>,
    shared: bool,
    name: &'static str,
}

impl Software {
    /// Over this connection, whose events somebody else reads.
    ///
    /// # Errors
    /// The X server's pixels are none of ours.
    pub fn new(connection: Arc<RustConnection>) -> Result<Self, PaintError> {
        if connection.setup().image_byte_order != ImageOrder::LSB_FIRST {
            return Err(PaintError::Missing("X server with pixels in little-endian order"));
        }
        let shared = can_share(&connection);
        let name = if shared { "software (MIT-SHM)" } else { "software (X connection)" };
        Ok(Self { connection, shared, name })
    }
}

/// Descriptors can be handed over, and the X server can map them.
fn can_share(connection: &RustConnection) -> bool {
    let version = shm::query_version(connection).ok().and_then(|cookie| cookie.reply().ok());
    if version.is_none_or(|version| (version.major_version, version.minor_version) < (1, 2)) {
        return false;
    }
    let attach = || {
        let probe = Segment::new(PIXEL as usize).ok()?;
        let descriptor = probe.descriptor().try_clone_to_owned().ok()?;
        let id = connection.generate_id().ok()?;
        connection.shm_attach_fd(id, descriptor, true).ok()?.check().ok()?;
        connection.shm_detach(id).ok()?.check().ok()
    };
    attach().is_some()
}

impl Painter for Software {
    fn name(&self) -> &str {
        self.name
    }

    fn open(&mut self, target: &Target) -> Result<Box<dyn Surface>, PaintError> {
        let gc = self.connection.generate_id()?;
        self.connection.create_gc(gc, target.id, &CreateGCAux::new().graphics_exposures(0))?;
        Ok(Box::new(Copied {
            connection: Arc::clone(&self.connection),
            window: target.id,
            depth: target.depth,
            gc,
            shared: self.shared,
            attached: None,
            unshared: 0,
            border: None,
        }))
    }
}

/// A window that the X server copies into.
struct Copied {
    connection: Arc<RustConnection>,
    window: u32,
    depth: u8,
    gc: Gcontext,
    shared: bool,
    /// Serial of the segment that the X server has mapped, and its id there.
    attached: Option<(u64, shm::Seg)>,
    /// Segments that could not be handed over.
    unshared: u64,
    /// Border, window and content that were drawn last.
    border: Option<Border>,
}

/// What a border was drawn of.
#[derive(PartialEq)]
struct Border {
    decoration: Decoration,
    window: [u32; 2],
    content: Option<(u32, u32)>,
}

impl Surface for Copied {
    fn draw(&mut self, frame: &Frame<'_>) -> Result<Drawn, PaintError> {
        let (width, height) = (frame.width, frame.height);
        let size = frame.content_size();
        let border =
            Border { decoration: frame.decoration.clone(), window: [width, height], content: size };
        let as_before = self.border.as_ref() == Some(&border);
        if frame.whole || !as_before {
            self.draw_border(frame)?;
            self.border = Some(border);
        }
        let shown = frame.decoration.shown(width, height, size);
        let mut copying = false;
        if let (Some(at), Some(content)) = (shown, frame.content) {
            let whole = [content.area()];
            let areas = if frame.whole || !as_before { &whole } else { frame.fresh };
            let seen: Vec<Area> = areas.iter().filter_map(|area| cut(area, &at)).collect();
            for (index, area) in seen.iter().enumerate() {
                let last = index + 1 == seen.len();
                copying |= self.put(content, area, &at, last)?;
            }
        }
        self.connection.flush()?;
        Ok(if copying { Drawn::Copying } else { Drawn::Done })
    }
}

/// What of `area`, relative to the content, is seen where the content is at `at`.
fn cut(area: &Area, at: &Area) -> Option<Area> {
    let width = area.width.min(at.width.checked_sub(area.x)?);
    let height = area.height.min(at.height.checked_sub(area.y)?);
    (width > 0 && height > 0).then_some(Area { width, height, ..*area })
}

/// Coordinates of X11 have 16 bits; windows do not reach beyond.
fn short(number: u32) -> i16 {
    i16::try_from(number).unwrap_or(i16::MAX)
}

fn size(number: u32) -> u16 {
    u16::try_from(number).unwrap_or(u16::MAX)
}

impl Copied {
    fn draw_border(&self, frame: &Frame<'_>) -> Result<(), PaintError> {
        let decoration = frame.decoration;
        let colour = x11rb::protocol::xproto::ChangeGCAux::new()
            .foreground(u32::from_le_bytes(decoration.colour.pixel()));
        self.connection.change_gc(self.gc, &colour)?;
        let strips: Vec<Rectangle> = decoration
            .strips(frame.width, frame.height, frame.content_size())
            .iter()
            .map(|area| Rectangle {
                x: short(area.x),
                y: short(area.y),
                width: size(area.width),
                height: size(area.height),
            })
            .collect();
        self.connection.poly_fill_rectangle(self.window, self.gc, &strips)?;
        if let Some((label, at)) = decoration.label_area(frame.width, frame.height) {
            // Beyond the window it is cut by the X server.
            self.connection.put_image(
                ImageFormat::Z_PIXMAP,
                self.window,
                self.gc,
                size(label.width),
                size(at.height),
                short(at.x),
                short(at.y),
                0,
                self.depth,
                &label.pixels[..(label.width * at.height * PIXEL) as usize],
            )?;
        }
        Ok(())
    }

    /// True when the X server will tell that it has read the pixels.
    fn put(
        &mut self,
        content: &Content,
        area: &Area,
        at: &Area,
        last: bool,
    ) -> Result<bool, PaintError> {
        let (x, y) = (short(at.x + area.x), short(at.y + area.y));
        if let Some(segment) = self.attach(content.segment())? {
            shm::put_image(
                &*self.connection,
                self.window,
                self.gc,
                size(content.width()),
                size(content.height()),
                size(area.x),
                size(area.y),
                size(area.width),
                size(area.height),
                x,
                y,
                self.depth,
                ImageFormat::Z_PIXMAP.into(),
                last,
                segment,
                0,
            )?;
            return Ok(last);
        }
        // A request's head has 24 bytes, 28 with a long length.
        let room = self.connection.maximum_request_bytes().saturating_sub(28);
        let row = (area.width * PIXEL) as usize;
        let rows = u32::try_from(room / row).unwrap_or(u32::MAX).clamp(1, area.height);
        for from in (0..area.height).step_by(rows as usize) {
            let rows = rows.min(area.height - from);
            let pixels: Vec<u8> = (from..from + rows)
                .flat_map(|y| content.row(area.y + y, area.x, area.width))
                .copied()
                .collect();
            self.connection.put_image(
                ImageFormat::Z_PIXMAP,
                self.window,
                self.gc,
                size(area.width),
                size(rows),
                x,
                y.saturating_add(short(from)),
                0,
                self.depth,
                &pixels,
            )?;
        }
        Ok(false)
    }

    /// None where the pixels have to go over the connection.
    fn attach(&mut self, segment: &Segment) -> Result<Option<shm::Seg>, PaintError> {
        if !self.shared {
            return Ok(None);
        }
        match self.attached {
            Some((serial, id)) if serial == segment.serial() => return Ok(Some(id)),
            Some((_, id)) => {
                self.connection.shm_detach(id)?;
                self.attached = None;
            }
            None => {}
        }
        // Descriptors are short at times, for the guest's connections too: that is no loss of the painter.
        let descriptor = match segment.descriptor().try_clone_to_owned() {
            Ok(descriptor) => descriptor,
            Err(error) => {
                self.unshared = self.unshared.saturating_add(1);
                if self.unshared.is_power_of_two() {
                    let count = self.unshared;
                    tracing::warn!(count, "pixels go over the connection to the X server: {error}");
                }
                return Ok(None);
            }
        };
        let id = self.connection.generate_id()?;
        self.connection.shm_attach_fd(id, descriptor, true)?;
        self.attached = Some((segment.serial(), id));
        Ok(Some(id))
    }
}

impl Drop for Copied {
    fn drop(&mut self) {
        // The connection may be gone, and all of it with it.
        if let Some((_, id)) = self.attached {
            let _ = self.connection.shm_detach(id);
        }
        let _ = self.connection.free_gc(self.gc);
    }
}
