//! What the commands do (virtio 1.2, 5.7.6).

use super::edid::edid;
use super::protocol::{
    BLOB_MEM_GUEST, CURSOR_SIDE, EDID_ROOM, F_EDID, F_RESOURCE_BLOB, Format, HEADER, Header,
    MOST_SCANOUTS, PIXEL, Refusal, bytes, command, rectangle, response, words,
};
use super::resource::{Backing, Kind, MOST_RESOURCES, Picture, Quota, Resource};
use super::{Counters, Mode};
use crate::scatter::{Buffers, Readable};
use display::{CursorImage, Rectangle, Scanout, Size};
use std::collections::BTreeMap;
use vm_memory::GuestMemoryMmap;

/// The one scanout there is.
const SCANOUT: u32 = 0;

/// Everything the driver set up, and the screen it shows on.
pub(super) struct State {
    pub(super) screen: Box<dyn Scanout>,
    pub(super) features: u64,
    pub(super) resources: BTreeMap<u32, Resource>,
    pub(super) quota: Quota,
    pub(super) shown: Option<Shown>,
    pub(super) counters: Counters,
    /// Bytes of pixels that were copied, read or filled in this turn of the worker.
    pub(super) moved: u64,
    /// Room for a row of a blob.
    row: Vec<u8>,
}

/// What the scanout shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shown {
    pub(super) resource: u32,
    /// The part of the resource.
    pub(super) area: Rectangle,
    /// How a blob is to be read; a picture knows itself.
    pub(super) blob: Option<BlobLayout>,
}

/// How pixels lie in a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BlobLayout {
    pub(super) format: Format,
    pub(super) stride: u32,
    pub(super) offset: u32,
}

/// An answer without its header.
struct Answer {
    kind: u32,
    body: Vec<u8>,
}

const DONE: Result<Answer, Refusal> = Ok(Answer { kind: response::OK_NODATA, body: Vec::new() });

impl State {
    pub(super) fn new(screen: Box<dyn Scanout>, counters: Counters) -> Self {
        Self {
            screen,
            features: 0,
            resources: BTreeMap::new(),
            quota: Quota::default(),
            shown: None,
            counters,
            moved: 0,
            row: Vec::new(),
        }
    }

    /// Forgets everything the driver set up.
    pub(super) fn reset(&mut self) {
        self.resources.clear();
        self.quota = Quota::default();
        self.hide();
        self.screen.set_cursor(None);
    }

    /// Does one command of either queue; says how many bytes of answer were written.
    pub(super) fn execute(
        &mut self,
        memory: &GuestMemoryMmap,
        mode: Mode,
        mut buffers: Buffers<'_>,
    ) -> u32 {
        self.counters.requests.add(1);
        let request = &mut buffers.readable;
        let Some(header) = Header::read(request) else {
            // Not even a place for the number of the fence.
            self.counters.refused.add(1);
            return 0;
        };
        let answer = match self.command(header.kind, memory, mode, request) {
            Ok(Answer { kind, body }) => {
                let mut answer = header.answer(kind);
                answer.extend_from_slice(&body);
                answer
            }
            Err(refusal) => {
                self.counters.refused.add(1);
                tracing::debug!(command = header.kind, ?refusal, "virtio-gpu: command refused");
                header.answer(refusal as u32)
            }
        };
        // Commands of the cursor queue come without room for an answer.
        buffers.writable.copy_from(&answer) as u32
    }

    fn command(
        &mut self,
        kind: u32,
        memory: &GuestMemoryMmap,
        mode: Mode,
        request: &mut Readable<'_>,
    ) -> Result<Answer, Refusal> {
        let blobs = self.features & F_RESOURCE_BLOB != 0;
        match kind {
            command::GET_DISPLAY_INFO => Ok(display_info(mode.size)),
            command::GET_EDID if self.features & F_EDID != 0 => identity(request, mode),
            command::RESOURCE_CREATE_2D => self.create_picture(request),
            command::RESOURCE_CREATE_BLOB if blobs => self.create_blob(request, memory),
            command::RESOURCE_UNREF => self.remove(request),
            command::RESOURCE_ATTACH_BACKING => self.attach(request, memory),
            command::RESOURCE_DETACH_BACKING => self.detach(request),
            command::SET_SCANOUT => self.set_scanout(request, memory),
            command::SET_SCANOUT_BLOB if blobs => self.set_scanout_blob(request, memory),
            command::TRANSFER_TO_HOST_2D => self.transfer(request, memory),
            command::RESOURCE_FLUSH => self.flush(request, memory),
            command::UPDATE_CURSOR => self.update_cursor(request, memory),
            command::MOVE_CURSOR => self.move_cursor(request),
            _ => Err(Refusal::Unspecified),
        }
    }

    /// A number for a new resource.
    fn free(&self, id: u32) -> Result<u32, Refusal> {
        if id == 0 || self.resources.contains_key(&id) {
            return Err(Refusal::InvalidResource);
        }
        if self.resources.len() >= MOST_RESOURCES {
            return Err(Refusal::OutOfMemory);
        }
        Ok(id)
    }

    fn resource(&mut self, id: u32) -> Result<&mut Resource, Refusal> {
        self.resources.get_mut(&id).ok_or(Refusal::InvalidResource)
    }

    fn create_picture(&mut self, request: &mut Readable<'_>) -> Result<Answer, Refusal> {
        let [id, format, width, height] = words(request)?;
        let id = self.free(id)?;
        let picture = Picture::new(width, height, format, &mut self.quota)?;
        self.resources.insert(id, Resource { kind: Kind::Picture(picture), backing: None });
        DONE
    }

    fn create_blob(
        &mut self,
        request: &mut Readable<'_>,
        memory: &GuestMemoryMmap,
    ) -> Result<Answer, Refusal> {
        let [id, place, _flags, entries, _, _, low, high] = words(request)?;
        let id = self.free(id)?;
        let size = u64::from(low) | u64::from(high) << 32;
        if place != BLOB_MEM_GUEST || size == 0 {
            return Err(Refusal::InvalidParameter);
        }
        let backing = Backing::read_entries(request, entries, memory, &mut self.quota)?;
        if backing.len() < size {
            self.quota.release(backing.cost());
            return Err(Refusal::InvalidParameter);
        }
        self.resources.insert(id, Resource { kind: Kind::Blob(size), backing: Some(backing) });
        DONE
    }

    fn remove(&mut self, request: &mut Readable<'_>) -> Result<Answer, Refusal> {
        let [id, _] = words(request)?;
        let resource = self.resources.remove(&id).ok_or(Refusal::InvalidResource)?;
        self.quota.release(resource.cost());
        if self.shown.is_some_and(|shown| shown.resource == id) {
            self.hide();
        }
        DONE
    }

    fn attach(
        &mut self,
        request: &mut Readable<'_>,
        memory: &GuestMemoryMmap,
    ) -> Result<Answer, Refusal> {
        let [id, entries] = words(request)?;
        if self.resource(id)?.backing.is_some() {
            return Err(Refusal::Unspecified);
        }
        let backing = Backing::read_entries(request, entries, memory, &mut self.quota)?;
        self.resource(id)?.backing = Some(backing);
        DONE
    }

    fn detach(&mut self, request: &mut Readable<'_>) -> Result<Answer, Refusal> {
        let [id, _] = words(request)?;
        let backing = self.resource(id)?.backing.take().ok_or(Refusal::Unspecified)?;
        self.quota.release(backing.cost());
        DONE
    }

    fn set_scanout(
        &mut self,
        request: &mut Readable<'_>,
        memory: &GuestMemoryMmap,
    ) -> Result<Answer, Refusal> {
        let [x, y, width, height, scanout, id] = words(request)?;
        if scanout != SCANOUT {
            return Err(Refusal::InvalidScanout);
        }
        if id == 0 {
            self.hide();
            return DONE;
        }
        let area = rectangle([x, y, width, height]);
        match &self.resource(id)?.kind {
            Kind::Picture(picture) if area.is_inside(&picture.size.whole()) => {}
            Kind::Picture(_) => return Err(Refusal::InvalidParameter),
            // A blob has no rows of its own: `SET_SCANOUT_BLOB` gives them.
            Kind::Blob(_) => return Err(Refusal::InvalidResource),
        }
        self.show(Shown { resource: id, area, blob: None }, memory)
    }

    fn set_scanout_blob(
        &mut self,
        request: &mut Readable<'_>,
        memory: &GuestMemoryMmap,
    ) -> Result<Answer, Refusal> {
        let place: [u32; 4] = words(request)?;
        let [scanout, id, width, height, format, _padding] = words(request)?;
        let [stride, _, _, _, offset, _, _, _] = words(request)?;
        if scanout != SCANOUT {
            return Err(Refusal::InvalidScanout);
        }
        if id == 0 {
            self.hide();
            return DONE;
        }
        let Kind::Blob(bytes) = self.resource(id)?.kind else {
            return Err(Refusal::InvalidResource);
        };
        let layout = BlobLayout { format: Format::from_number(format)?, stride, offset };
        let area = rectangle(place);
        let size = Size::new(width, height).ok_or(Refusal::InvalidParameter)?;
        let fits =
            area.is_inside(&size.whole()) && u64::from(stride) >= u64::from(width) * PIXEL as u64;
        if !fits || !layout.holds(area, bytes) {
            return Err(Refusal::InvalidParameter);
        }
        self.show(Shown { resource: id, area, blob: Some(layout) }, memory)
    }

    fn show(&mut self, shown: Shown, memory: &GuestMemoryMmap) -> Result<Answer, Refusal> {
        let Rectangle { width, height, .. } = shown.area;
        let size = Size::new(width, height).ok_or(Refusal::InvalidParameter)?;
        if let Err(error) = self.screen.configure(Some(size)) {
            tracing::warn!(%error, "virtio-gpu: nothing is shown");
            self.shown = None;
            return Err(Refusal::OutOfMemory);
        }
        self.shown = Some(shown);
        self.paint(shown.resource, shown.area, memory);
        DONE
    }

    pub(super) fn hide(&mut self) {
        self.shown = None;
        // Showing nothing takes no memory.
        let _ = self.screen.configure(None);
    }

    fn transfer(
        &mut self,
        request: &mut Readable<'_>,
        memory: &GuestMemoryMmap,
    ) -> Result<Answer, Refusal> {
        let [x, y, width, height, low, high, id, _padding] = words(request)?;
        let offset = u64::from(low) | u64::from(high) << 32;
        let area = rectangle([x, y, width, height]);
        let Resource { kind, backing } = self.resource(id)?;
        match kind {
            Kind::Picture(picture) => {
                let backing = backing.as_ref().ok_or(Refusal::Unspecified)?;
                picture.transfer(memory, backing, area, offset)?;
                let bytes = u64::from(width) * u64::from(height) * PIXEL as u64;
                self.counters.transferred.add(bytes);
                self.moved = self.moved.saturating_add(bytes);
            }
            // Its pixels are where they belong already.
            Kind::Blob(_) => {}
        }
        DONE
    }

    fn flush(
        &mut self,
        request: &mut Readable<'_>,
        memory: &GuestMemoryMmap,
    ) -> Result<Answer, Refusal> {
        let [x, y, width, height, id, _padding] = words(request)?;
        let area = rectangle([x, y, width, height]);
        if let Kind::Picture(picture) = &self.resource(id)?.kind
            && !area.is_inside(&picture.size.whole())
        {
            return Err(Refusal::InvalidParameter);
        }
        self.counters.flushes.add(1);
        self.paint(id, area, memory);
        DONE
    }

    /// Brings what of `area` is shown to the screen.
    pub(super) fn paint(&mut self, id: u32, area: Rectangle, memory: &GuestMemoryMmap) {
        let Some(shown) = self.shown.filter(|shown| shown.resource == id) else {
            return;
        };
        let Some(resource) = self.resources.get(&id) else {
            return;
        };
        let part = area.intersection(&shown.area);
        if part.is_empty() {
            return;
        }
        let bytes = u64::from(part.width) * u64::from(part.height) * PIXEL as u64;
        self.moved = self.moved.saturating_add(bytes);
        let (left, top) = (shown.area.x, shown.area.y);
        let target = Rectangle { x: part.x - left, y: part.y - top, ..part };
        let (room, refused) = (&mut self.row, &self.counters.refused);
        match (&resource.kind, shown.blob, &resource.backing) {
            (Kind::Picture(picture), _, _) => {
                self.screen.paint(target, &mut |y, x, row| {
                    let width = (row.len() / PIXEL) as u32;
                    picture.format.convert(picture.row(x + left, y + top, width), row);
                });
            }
            (Kind::Blob(_), Some(layout), Some(backing)) => {
                self.screen.paint(target, &mut |y, x, row| {
                    room.resize(row.len(), 0);
                    if backing.read(memory, layout.at(x + left, y + top), room) {
                        layout.format.convert(room, row);
                    } else {
                        refused.add(1);
                    }
                });
            }
            // Its memory was taken away: what was shown last stays.
            (Kind::Blob(_), _, _) => {}
        }
    }

    fn update_cursor(
        &mut self,
        request: &mut Readable<'_>,
        memory: &GuestMemoryMmap,
    ) -> Result<Answer, Refusal> {
        let [scanout, x, y, _, id, hot_x, hot_y, _] = words(request)?;
        if scanout != SCANOUT {
            return Err(Refusal::InvalidScanout);
        }
        let image = if id == 0 {
            None
        } else {
            if hot_x >= CURSOR_SIDE || hot_y >= CURSOR_SIDE {
                return Err(Refusal::InvalidParameter);
            }
            Some(self.cursor_image(id, hot_x, hot_y, memory)?)
        };
        self.screen.set_cursor(image);
        self.screen.move_cursor(x.cast_signed(), y.cast_signed());
        DONE
    }

    fn cursor_image(
        &mut self,
        id: u32,
        hot_x: u32,
        hot_y: u32,
        memory: &GuestMemoryMmap,
    ) -> Result<CursorImage, Refusal> {
        let size = Size { width: CURSOR_SIDE, height: CURSOR_SIDE };
        let mut pixels = vec![0; (CURSOR_SIDE * CURSOR_SIDE) as usize * PIXEL];
        let Resource { kind, backing } = self.resource(id)?;
        match (kind, backing) {
            (Kind::Picture(picture), _) if picture.size == size => {
                picture.format.convert(&picture.pixels, &mut pixels);
            }
            (Kind::Picture(_), _) => return Err(Refusal::InvalidParameter),
            // As drivers have it: rows without gaps of blue, green, red, alpha.
            (Kind::Blob(bytes), Some(backing)) if *bytes >= pixels.len() as u64 => {
                if !backing.read(memory, 0, &mut pixels) {
                    return Err(Refusal::Unspecified);
                }
            }
            (Kind::Blob(_), _) => return Err(Refusal::InvalidParameter),
        }
        Ok(CursorImage { size, hot_x, hot_y, pixels })
    }

    fn move_cursor(&mut self, request: &mut Readable<'_>) -> Result<Answer, Refusal> {
        let [scanout, x, y, _] = words(request)?;
        if scanout != SCANOUT {
            return Err(Refusal::InvalidScanout);
        }
        self.screen.move_cursor(x.cast_signed(), y.cast_signed());
        DONE
    }
}

impl BlobLayout {
    /// All pixels of `area` lie in the first `bytes`, and it has some.
    pub(super) fn holds(&self, area: Rectangle, bytes: u64) -> bool {
        let Some(last_row) = area.bottom().checked_sub(1) else {
            return false;
        };
        let side = |end: u64| u32::try_from(end).ok();
        let (Some(right), Some(last_row)) = (side(area.right()), side(last_row)) else {
            return false;
        };
        !area.is_empty() && self.at(right, last_row) <= bytes
    }

    /// Where the pixel is, in bytes; no product of 32-bit numbers is too large for it.
    fn at(&self, x: u32, y: u32) -> u64 {
        let rows = u64::from(y) * u64::from(self.stride);
        u64::from(self.offset) + rows + u64::from(x) * PIXEL as u64
    }
}

/// 5.7.6.8, `GET_DISPLAY_INFO`: the size the host would like, for the one scanout that is enabled.
fn display_info(size: Size) -> Answer {
    let mut body = bytes(&[0, 0, size.width, size.height, 1, 0]);
    body.resize(MOST_SCANOUTS * HEADER, 0);
    Answer { kind: response::OK_DISPLAY_INFO, body }
}

/// 5.7.6.8, `GET_EDID`.
fn identity(request: &mut Readable<'_>, mode: Mode) -> Result<Answer, Refusal> {
    let [scanout, _padding] = words(request)?;
    if scanout != SCANOUT {
        return Err(Refusal::InvalidScanout);
    }
    let edid = edid(mode.size, mode.width_mm, mode.height_mm);
    let mut body = bytes(&[edid.len() as u32, 0]);
    body.extend_from_slice(&edid);
    body.resize(8 + EDID_ROOM, 0);
    Ok(Answer { kind: response::OK_EDID, body })
}
