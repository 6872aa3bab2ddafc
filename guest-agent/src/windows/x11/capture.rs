//! Copying pixels of windows into window memory.
//!
//! The X server writes into the memory itself (MIT-SHM, `ShmAttachFd`). A server that cannot map it sends
//! the pixels through its connection instead.

use std::sync::Arc;

use window_memory::{Area, WindowMemory};
use x11rb::NONE;
use x11rb::connection::Connection;
use x11rb::errors::ConnectionError;
use x11rb::protocol::damage::ConnectionExt as _;
use x11rb::protocol::shm::{ConnectionExt as _, Seg};
use x11rb::protocol::xproto::{ConnectionExt as _, ImageFormat};
use x11rb::rust_connection::RustConnection;

use super::{Lost, X11, answer};
use crate::windows::screen::Capture;

/// Bytes of a pixel.
const PIXEL: u32 = 4;
/// `ShmAttachFd` came with this version of MIT-SHM.
const BY_DESCRIPTOR: (u16, u16) = (1, 2);

/// Gives the memory to the server; none when it cannot take it.
pub(super) fn attach(x: &RustConnection, memory: &Arc<WindowMemory>) -> Result<Option<Seg>, Lost> {
    let version = match x.shm_query_version() {
        Ok(asked) => answer(asked.reply())?,
        Err(ConnectionError::UnsupportedExtension) => None,
        Err(error) => return Err(error.into()),
    };
    let version = version.map(|version| (version.major_version, version.minor_version));
    if version.is_none_or(|version| version < BY_DESCRIPTOR) {
        tracing::warn!("the X server cannot write into window memory: windows are slower");
        return Ok(None);
    }
    let descriptor =
        memory.descriptor().try_clone_to_owned().map_err(|error| Lost(error.to_string()))?;
    let segment = x.generate_id()?;
    let attached = answer(x.shm_attach_fd(segment, descriptor, false)?.check())?;
    if attached.is_none() {
        tracing::warn!("the X server does not map window memory: windows are slower");
    }
    Ok(attached.map(|()| segment))
}

impl X11 {
    /// Copies these; for each whether its pixels are there.
    pub(super) fn copy(&mut self, captures: &[Capture<'_>]) -> Result<Vec<bool>, Lost> {
        // What is drawn from here on is reported anew; what was drawn before is copied.
        for capture in captures {
            if let Some(damage) = self.clients.get(&capture.window).and_then(|client| client.damage)
            {
                self.x.damage_subtract(damage, NONE, NONE)?;
            }
        }
        match self.segment {
            Some(segment) => self.copy_shared(segment, captures),
            None => self.copy_sent(captures),
        }
    }

    fn copy_shared(&self, segment: Seg, captures: &[Capture<'_>]) -> Result<Vec<bool>, Lost> {
        // All are asked for before the first answer is awaited.
        let mut asked = Vec::with_capacity(captures.len());
        for capture in captures {
            let pixmap = self.clients.get(&capture.window).and_then(|client| client.pixmap);
            let numbers = numbers(capture);
            let (Some(pixmap), Some((width, top, rows))) = (pixmap, numbers) else {
                asked.push(None);
                continue;
            };
            let row = u64::from(capture.width) * u64::from(PIXEL);
            let offset = capture.span.offset() + u64::from(capture.top) * row;
            let end = (u64::from(capture.top) + u64::from(capture.rows)) * row;
            let Ok(offset) = u32::try_from(offset) else {
                asked.push(None);
                continue;
            };
            if end > capture.span.len() {
                asked.push(None);
                continue;
            }
            let format = ImageFormat::Z_PIXMAP.into();
            let image =
                self.x.shm_get_image(pixmap, 0, top, width, rows, !0, format, segment, offset)?;
            asked.push(Some(image));
        }
        let mut there = Vec::with_capacity(captures.len());
        for asked in asked {
            there.push(match asked {
                Some(asked) => answer(asked.reply())?.is_some(),
                None => false,
            });
        }
        Ok(there)
    }

    fn copy_sent(&self, captures: &[Capture<'_>]) -> Result<Vec<bool>, Lost> {
        let mut there = Vec::with_capacity(captures.len());
        for capture in captures {
            let pixmap = self.clients.get(&capture.window).and_then(|client| client.pixmap);
            let (Some(pixmap), Some((width, top, rows))) = (pixmap, numbers(capture)) else {
                there.push(false);
                continue;
            };
            let format = ImageFormat::Z_PIXMAP;
            let asked = self.x.get_image(format, pixmap, 0, top, width, rows, !0)?;
            let stride = (capture.width * PIXEL) as usize;
            let area = Area { x: 0, y: capture.top, width: capture.width, height: capture.rows };
            let image = answer(asked.reply())?;
            let whole = image.filter(|image| image.data.len() >= stride * capture.rows as usize);
            if let Some(image) = &whole {
                self.memory.copy_in(capture.span, stride, area, &image.data, stride);
            }
            there.push(whole.is_some());
        }
        Ok(there)
    }
}

/// Width, top and rows as X has them.
fn numbers(capture: &Capture<'_>) -> Option<(u16, i16, u16)> {
    Some((
        u16::try_from(capture.width).ok()?,
        i16::try_from(capture.top).ok()?,
        u16::try_from(capture.rows).ok()?,
    ))
}
