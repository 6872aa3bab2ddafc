//! The device as a driver sees it, well-behaved and otherwise.

use super::protocol::{
    CURSOR_SIDE, F_EDID, F_RESOURCE_BLOB, PIXEL, Refusal, bytes, command, response,
};
use super::resource::{MOST_BYTES, MOST_RESOURCES};
use super::worker::TURN_BYTES;
use super::{Gpu, GpuControl, Mode};
use crate::test_support::{Buffer, Random, TestDriver, TestInterrupts, Used, attack};
use crate::{Device, RING_FEATURES, Session};
use display::{CursorImage, FrameError, Rectangle, Scanout, Size};
use std::sync::{Arc, Mutex};
use vm_memory::{Bytes, GuestAddress, GuestAddressSpace};

/// Guest memory for pixels, away from where the driver puts its requests.
const PIXELS: u64 = 0xc0_0000;

/// What a screen was told.
#[derive(Default)]
struct Seen {
    size: Option<Size>,
    pixels: Vec<u8>,
    painted: Vec<Rectangle>,
    cursor: Option<CursorImage>,
    position: (i32, i32),
}

#[derive(Clone, Default)]
struct Record(Arc<Mutex<Seen>>);

impl Scanout for Record {
    fn configure(&mut self, size: Option<Size>) -> Result<(), FrameError> {
        let mut seen = self.0.lock().unwrap();
        if seen.size != size {
            let pixels = size.map_or(0, |s| s.width as usize * s.height as usize * PIXEL);
            if pixels > display::MOST_FRAME_BYTES {
                let Size { width, height } = size.unwrap();
                return Err(FrameError::TooLarge { width, height });
            }
            seen.pixels = vec![0; pixels];
        }
        seen.size = size;
        Ok(())
    }

    fn paint(&mut self, area: Rectangle, fill: &mut dyn FnMut(u32, u32, &mut [u8])) {
        let seen = &mut *self.0.lock().unwrap();
        let Some(size) = seen.size else {
            return;
        };
        assert!(area.is_inside(&size.whole()), "{area:?} in {size:?}");
        for y in area.y..area.y + area.height {
            let start = (y as usize * size.width as usize + area.x as usize) * PIXEL;
            fill(y, area.x, &mut seen.pixels[start..start + area.width as usize * PIXEL]);
        }
        seen.painted.push(area);
    }

    fn set_cursor(&mut self, image: Option<CursorImage>) {
        self.0.lock().unwrap().cursor = image;
    }

    fn move_cursor(&mut self, x: i32, y: i32) {
        self.0.lock().unwrap().position = (x, y);
    }
}

struct Guest {
    driver: TestDriver,
    screen: Record,
    control: GpuControl,
}

fn size(width: u32, height: u32) -> Size {
    Size::new(width, height).unwrap()
}

fn gpu() -> (Gpu, GpuControl, Record) {
    let screen = Record::default();
    let mode = Mode::new(size(1280, 800));
    let (gpu, control) = Gpu::new("gpu0", mode, Box::new(screen.clone())).unwrap();
    (gpu, control, screen)
}

impl Guest {
    fn new() -> Self {
        let (gpu, control, screen) = gpu();
        Self { driver: TestDriver::start(Box::new(gpu)), screen, control }
    }

    fn with(features: u64) -> Self {
        let (gpu, control, screen) = gpu();
        Self { driver: TestDriver::start_with(Box::new(gpu), features), screen, control }
    }

    fn send(&mut self, queue: u16, kind: u32, body: &[u32], room: usize) -> Used {
        let request = bytes_of(kind, body);
        self.driver.request(queue, &[Buffer::Out(&request), Buffer::In(room)])
    }

    /// The number of the answer.
    fn says(&mut self, kind: u32, body: &[u32]) -> u32 {
        let used = self.send(0, kind, body, 24);
        assert_eq!(used.length, 24);
        word(&used.data, 0)
    }

    fn does(&mut self, kind: u32, body: &[u32]) {
        assert_eq!(self.says(kind, body), response::OK_NODATA, "command {kind:#x} {body:?}");
    }

    fn refuses(&mut self, kind: u32, body: &[u32], refusal: Refusal) {
        let refused = self.refused();
        assert_eq!(self.says(kind, body), refusal as u32, "command {kind:#x} {body:?}");
        assert_eq!(self.refused(), refused + 1);
    }

    fn refused(&mut self) -> u64 {
        let counters = self.driver.device().counters();
        counters.iter().find(|(name, _)| *name == "refused").unwrap().1
    }

    fn write(&self, address: u64, data: &[u8]) {
        self.driver.memory().memory().write_slice(data, GuestAddress(address)).unwrap();
    }

    /// A picture whose backing is one piece at [`PIXELS`].
    fn picture(&mut self, id: u32, format: u32, width: u32, height: u32) {
        self.does(command::RESOURCE_CREATE_2D, &[id, format, width, height]);
        let length = width * height * PIXEL as u32;
        self.does(command::RESOURCE_ATTACH_BACKING, &[id, 1, PIXELS as u32, 0, length, 0]);
    }

    fn painted(&self) -> Vec<Rectangle> {
        std::mem::take(&mut self.screen.0.lock().unwrap().painted)
    }

    fn pixels(&self) -> Vec<u8> {
        self.screen.0.lock().unwrap().pixels.clone()
    }

    fn shows(&self) -> Option<Size> {
        self.screen.0.lock().unwrap().size
    }
}

fn word(bytes: &[u8], index: usize) -> u32 {
    u32::from_le_bytes(bytes[4 * index..4 * index + 4].try_into().unwrap())
}

fn part(x: u32, y: u32, width: u32, height: u32) -> Rectangle {
    Rectangle { x, y, width, height }
}

#[test]
fn a_picture_of_each_format_comes_to_the_screen_in_its_colours() {
    // Blue 1, green 2, red 3, alpha 4, as the names of the formats order them in memory.
    let formats = [
        (1, [1, 2, 3, 4]),
        (2, [1, 2, 3, 4]),
        (3, [4, 3, 2, 1]),
        (4, [4, 3, 2, 1]),
        (67, [3, 2, 1, 4]),
        (68, [4, 1, 2, 3]),
        (121, [4, 1, 2, 3]),
        (134, [3, 2, 1, 4]),
    ];
    let mut guest = Guest::new();
    for (format, pixel) in formats {
        guest.picture(7, format, 4, 2);
        guest.write(PIXELS, &pixel.repeat(8));
        guest.does(command::TRANSFER_TO_HOST_2D, &[0, 0, 4, 2, 0, 0, 7, 0]);
        guest.does(command::SET_SCANOUT, &[0, 0, 4, 2, 0, 7]);
        guest.does(command::RESOURCE_FLUSH, &[0, 0, 4, 2, 7, 0]);
        let pixels = guest.pixels();
        assert!(pixels.chunks(4).all(|p| p[..3] == [1, 2, 3]), "format {format}: {pixels:?}");
        guest.does(command::RESOURCE_UNREF, &[7, 0]);
        assert_eq!(guest.shows(), None);
    }
    guest.refuses(command::RESOURCE_CREATE_2D, &[7, 5, 4, 2], Refusal::InvalidParameter);
}

#[test]
fn parts_are_copied_from_scattered_memory_and_only_what_is_shown_is_painted() {
    let mut guest = Guest::new();
    guest.does(command::RESOURCE_CREATE_2D, &[1, 2, 8, 8]);
    // 256 bytes in three pieces, out of order in memory.
    let at = PIXELS as u32;
    let entries = [1, 3, at + 4096, 0, 100, 0, at, 0, 28, 0, at + 8192, 0, 128, 0];
    guest.does(command::RESOURCE_ATTACH_BACKING, &entries);
    let image: Vec<u8> = (0..=255).collect();
    guest.write(PIXELS + 4096, &image[..100]);
    guest.write(PIXELS, &image[100..128]);
    guest.write(PIXELS + 8192, &image[128..]);
    // Columns 2 to 4 of rows 1 to 6; the rest of the picture stays black.
    guest.does(command::TRANSFER_TO_HOST_2D, &[2, 1, 3, 6, 32 + 8, 0, 1, 0]);
    guest.does(command::SET_SCANOUT, &[1, 1, 6, 7, 0, 1]);
    assert_eq!(guest.painted(), [part(0, 0, 6, 7)]);
    let pixels = guest.pixels();
    for y in 0..7_usize {
        for x in 0..6_usize {
            let (source_x, source_y) = (x + 1, y + 1);
            let transferred = (2..5).contains(&source_x) && (1..7).contains(&source_y);
            let first = (source_y * 32 + source_x * 4) as u8;
            let wanted = if transferred { [first, first + 1, first + 2] } else { [0; 3] };
            assert_eq!(pixels[(y * 6 + x) * 4..][..3], wanted, "{x}, {y}");
        }
    }
    guest.does(command::RESOURCE_FLUSH, &[0, 0, 3, 3, 1, 0]);
    guest.does(command::RESOURCE_FLUSH, &[0, 0, 1, 8, 1, 0]);
    guest.does(command::RESOURCE_FLUSH, &[6, 7, 2, 1, 1, 0]);
    guest.does(command::RESOURCE_FLUSH, &[7, 0, 1, 8, 1, 0]);
    assert_eq!(guest.painted(), [part(0, 0, 2, 2), part(5, 6, 1, 1)]);
    // A transfer past the end of the backing, by a byte.
    let past = [0, 0, 8, 8, 1, 0, 1, 0];
    guest.refuses(command::TRANSFER_TO_HOST_2D, &past, Refusal::InvalidParameter);
}

#[test]
fn the_size_the_host_wants_is_told_and_a_new_one_announced() {
    let mut guest = Guest::new();
    let info = guest.send(0, command::GET_DISPLAY_INFO, &[], 408);
    assert_eq!(word(&info.data, 0), response::OK_DISPLAY_INFO);
    assert_eq!([8, 9, 10, 11].map(|n| word(&info.data, n)), [1280, 800, 1, 0]);
    assert!(info.data[48..].iter().all(|byte| *byte == 0));
    let mut config = [0; 16];
    guest.driver.device().read_config(0, &mut config);
    assert_eq!(config[..], bytes(&[0, 0, 1, 0]));

    let mode = Mode { size: size(1024, 768), width_mm: 300, height_mm: 200 };
    guest.control.set_mode(mode);
    guest.driver.interrupts().wait("the change", |seen| seen.config == 1);
    guest.driver.device().read_config(0, &mut config);
    assert_eq!(word(&config, 0), 1);
    // The same again is no change.
    guest.control.set_mode(mode);
    let edid = guest.send(0, command::GET_EDID, &[0, 0], 24 + 8 + 1024);
    assert_eq!((edid.length, word(&edid.data, 0)), (1056, response::OK_EDID));
    assert_eq!(word(&edid.data, 6), 128);
    assert_eq!(edid.data[32..], {
        let mut wanted = super::edid::edid(size(1024, 768), 300, 200);
        wanted.resize(1024, 0);
        wanted
    });
    let info = guest.send(0, command::GET_DISPLAY_INFO, &[], 408);
    assert_eq!([8, 9].map(|n| word(&info.data, n)), [1024, 768]);
    assert_eq!(guest.driver.interrupts().seen().config, 1);

    guest.driver.device().write_config(4, &2_u32.to_le_bytes());
    guest.driver.device().read_config(0, &mut config);
    assert_eq!(word(&config, 0), 1, "another bit was cleared");
    guest.driver.device().write_config(0, &bytes(&[9, 1, 9, 9]));
    guest.driver.device().read_config(0, &mut config);
    assert_eq!(config[..], bytes(&[0, 0, 1, 0]));
}

#[test]
fn a_fence_is_signalled_with_the_answer_also_of_a_refusal() {
    let mut guest = Guest::new();
    for (command, answer) in
        [(command::SET_SCANOUT, response::OK_NODATA), (0x0200, Refusal::Unspecified as u32)]
    {
        // Fenced, with more flags than are known; fence, context and ring.
        let mut request = bytes(&[command, 0xff, 0x1111, 0x2222, 3, 4]);
        request.extend_from_slice(&[0; 24]);
        let used = guest.driver.request(0, &[Buffer::Out(&request), Buffer::In(24)]);
        assert_eq!(used.data, bytes(&[answer, 1, 0x1111, 0x2222, 3, 0]));
    }
    let unfenced = guest.send(0, command::SET_SCANOUT, &[0; 6], 24);
    assert_eq!(unfenced.data, bytes(&[response::OK_NODATA, 0, 0, 0, 0, 0]));
}

#[test]
fn what_cannot_be_done_is_refused_with_the_right_word() {
    use Refusal::{InvalidParameter, InvalidResource, InvalidScanout, OutOfMemory, Unspecified};
    let mut guest = Guest::new();
    guest.picture(1, 1, 16, 16);
    guest.does(command::RESOURCE_CREATE_2D, &[2, 1, 16, 16]);
    let at = PIXELS as u32;
    let most = u32::MAX;
    let refusals: &[(u32, &[u32], Refusal)] = &[
        (command::RESOURCE_CREATE_2D, &[0, 1, 4, 4], InvalidResource),
        (command::RESOURCE_CREATE_2D, &[1, 1, 4, 4], InvalidResource),
        (command::RESOURCE_CREATE_2D, &[3, 0, 4, 4], InvalidParameter),
        (command::RESOURCE_CREATE_2D, &[3, 1, 0, 4], InvalidParameter),
        (command::RESOURCE_CREATE_2D, &[3, 1, most, most], InvalidParameter),
        (command::RESOURCE_CREATE_2D, &[3, 1, 16384, 16384], OutOfMemory),
        (command::RESOURCE_CREATE_2D, &[3, 1, 4], InvalidParameter),
        (command::RESOURCE_UNREF, &[9, 0], InvalidResource),
        (command::RESOURCE_ATTACH_BACKING, &[9, 0], InvalidResource),
        (command::RESOURCE_ATTACH_BACKING, &[1, 1, at, 0, 64, 0], Unspecified),
        (command::RESOURCE_ATTACH_BACKING, &[2, 2, at, 0, 64, 0], InvalidParameter),
        (command::RESOURCE_ATTACH_BACKING, &[2, most], OutOfMemory),
        (command::RESOURCE_ATTACH_BACKING, &[2, 1, at, 0, 0, 0], InvalidParameter),
        (command::RESOURCE_ATTACH_BACKING, &[2, 1, at, 9, 64, 0], InvalidParameter),
        (command::RESOURCE_ATTACH_BACKING, &[2, 1, most, most, most, 0], InvalidParameter),
        (command::RESOURCE_DETACH_BACKING, &[2, 0], Unspecified),
        (command::RESOURCE_DETACH_BACKING, &[9, 0], InvalidResource),
        (command::SET_SCANOUT, &[0, 0, 16, 16, 1, 1], InvalidScanout),
        (command::SET_SCANOUT, &[0, 0, 16, 16, 0, 9], InvalidResource),
        (command::SET_SCANOUT, &[0, 0, 17, 16, 0, 1], InvalidParameter),
        (command::SET_SCANOUT, &[1, 0, 16, 16, 0, 1], InvalidParameter),
        (command::SET_SCANOUT, &[most, most, most, most, 0, 1], InvalidParameter),
        (command::SET_SCANOUT, &[2, 2, 0, 5, 0, 1], InvalidParameter),
        (command::TRANSFER_TO_HOST_2D, &[0, 0, 16, 16, 0, 0, 9, 0], InvalidResource),
        (command::TRANSFER_TO_HOST_2D, &[0, 0, 16, 16, 0, 0, 2, 0], Unspecified),
        (command::TRANSFER_TO_HOST_2D, &[0, 0, 16, 17, 0, 0, 1, 0], InvalidParameter),
        (command::TRANSFER_TO_HOST_2D, &[most, 0, 2, 2, 0, 0, 1, 0], InvalidParameter),
        (command::TRANSFER_TO_HOST_2D, &[0, 0, 1, 1, most, most, 1, 0], InvalidParameter),
        (command::RESOURCE_FLUSH, &[0, 0, 16, 16, 9, 0], InvalidResource),
        (command::RESOURCE_FLUSH, &[0, 1, 16, 16, 1, 0], InvalidParameter),
        (command::RESOURCE_CREATE_BLOB, &[1, 1, 0, 1, 0, 0, 64, 0, at, 0, 64, 0], InvalidResource),
        (command::RESOURCE_CREATE_BLOB, &[3, 2, 0, 1, 0, 0, 64, 0, at, 0, 64, 0], InvalidParameter),
        (command::RESOURCE_CREATE_BLOB, &[3, 1, 0, 1, 0, 0, 65, 0, at, 0, 64, 0], InvalidParameter),
        (command::RESOURCE_CREATE_BLOB, &[3, 1, 0, 0, 0, 0, 0, 0], InvalidParameter),
        (command::GET_EDID, &[1, 0], InvalidScanout),
        (command::UPDATE_CURSOR, &[1, 0, 0, 0, 0, 0, 0, 0], InvalidScanout),
        (command::UPDATE_CURSOR, &[0, 0, 0, 0, 9, 0, 0, 0], InvalidResource),
        (command::UPDATE_CURSOR, &[0, 0, 0, 0, 1, 0, 0, 0], InvalidParameter),
        (command::UPDATE_CURSOR, &[0, 0, 0, 0, 1, 64, 0, 0], InvalidParameter),
        (command::MOVE_CURSOR, &[1, 0, 0, 0], InvalidScanout),
        // Capability sets, identifiers, 3D, and nothing at all.
        (0x0108, &[0; 8], Unspecified),
        (0x010b, &[1, 0], Unspecified),
        (0x0200, &[0; 24], Unspecified),
        (0, &[], Unspecified),
        (most, &[], Unspecified),
    ];
    for (kind, body, refusal) in refusals {
        guest.refuses(*kind, body, *refusal);
    }
    assert_eq!(guest.shows(), None);
    // No header: nothing to answer.
    let used = guest.driver.request(0, &[Buffer::Out(&[1; 23]), Buffer::In(24)]);
    assert_eq!(used.length, 0);
}

#[test]
fn commands_of_features_nobody_agreed_on_are_not_known() {
    let mut guest = Guest::with(RING_FEATURES);
    let at = PIXELS as u32;
    guest.refuses(command::GET_EDID, &[0, 0], Refusal::Unspecified);
    let blob = [3, 1, 0, 1, 0, 0, 64, 0, at, 0, 64, 0];
    guest.refuses(command::RESOURCE_CREATE_BLOB, &blob, Refusal::Unspecified);
    guest.refuses(command::SET_SCANOUT_BLOB, &[0; 18], Refusal::Unspecified);
    drop(guest);
    let mut guest = Guest::with(RING_FEATURES | F_EDID | F_RESOURCE_BLOB);
    guest.does(command::RESOURCE_CREATE_BLOB, &blob);
}

#[test]
fn host_memory_has_a_quota_and_what_is_given_back_can_be_had_again() {
    let mut guest = Guest::new();
    // 64 MiB each.
    for round in 0..3 {
        for id in 1..=MOST_BYTES as u32 >> 26 {
            guest.does(command::RESOURCE_CREATE_2D, &[id, 1, 4096, 4096]);
        }
        guest.refuses(command::RESOURCE_CREATE_2D, &[99, 1, 1, 1], Refusal::OutOfMemory);
        for id in 1..=MOST_BYTES as u32 >> 26 {
            guest.does(command::RESOURCE_UNREF, &[id, 0]);
        }
        if round == 1 {
            guest.driver.reset();
        }
    }
    for id in 1..=MOST_RESOURCES as u32 {
        guest.does(command::RESOURCE_CREATE_2D, &[id, 1, 1, 1]);
    }
    guest.refuses(command::RESOURCE_CREATE_2D, &[9999, 1, 1, 1], Refusal::OutOfMemory);
}

#[test]
fn what_a_resource_costs_is_what_its_end_gives_back() {
    let mut quota = super::resource::Quota::default();
    let picture = super::resource::Picture::new(10, 10, 1, &mut quota).unwrap();
    let backing = super::resource::Backing::new(&[(0, 64), (4096, 64)], &mut quota).unwrap();
    let kind = super::resource::Kind::Picture(picture);
    let resource = super::resource::Resource { kind, backing: Some(backing) };
    assert!(quota.used() > 400);
    quota.release(resource.cost());
    assert_eq!(quota.used(), 0);
}

#[test]
fn a_blob_is_shown_straight_from_guest_memory() {
    let mut guest = Guest::new();
    let at = PIXELS as u32;
    // 2 + 4 rows of 40 bytes, in two pieces.
    let blob = [5, 1, 0, 2, 0, 0, 240, 0, at, 0, 100, 0, at + 4096, 0, 140, 0];
    guest.does(command::RESOURCE_CREATE_BLOB, &blob);
    let image: Vec<u8> = (0..240).collect();
    guest.write(PIXELS, &image[..100]);
    guest.write(PIXELS + 4096, &image[100..]);
    let scanout = |rectangle: [u32; 4], offset: u32, stride: u32| {
        let mut body = rectangle.to_vec();
        body.extend([0, 5, 8, 4, 2, 0, stride, 0, 0, 0, offset, 0, 0, 0]);
        body
    };
    guest.does(command::SET_SCANOUT_BLOB, &scanout([1, 0, 4, 3], 80, 40));
    assert_eq!(guest.shows(), Some(size(4, 3)));
    assert_eq!(guest.painted(), [part(0, 0, 4, 3)]);
    let shown = |guest: &Guest, x: usize, y: usize| guest.pixels()[(y * 4 + x) * 4];
    assert_eq!(shown(&guest, 0, 0), 84);
    assert_eq!(shown(&guest, 3, 2), 80 + 80 + 16);
    // The guest paints; a transfer is not needed and changes nothing.
    guest.write(PIXELS + 4096, &[9; 140]);
    guest.does(command::TRANSFER_TO_HOST_2D, &[0, 0, 99, 99, 0, 0, 5, 0]);
    assert_eq!(shown(&guest, 3, 2), 176);
    guest.does(command::RESOURCE_FLUSH, &[0, 1, 99, 99, 5, 0]);
    assert_eq!(guest.painted(), [part(0, 1, 4, 2)]);
    assert_eq!((shown(&guest, 3, 2), shown(&guest, 0, 0)), (9, 84));

    for (rectangle, offset, stride) in [
        ([0, 0, 9, 1], 0, 40),
        ([0, 0, 8, 5], 0, 40),
        ([0, 0, 0, 4], 0, 40),
        ([0, 0, 8, 4], 0, 31),
        ([0, 0, 8, 4], 89, 40),
        ([0, 0, 8, 4], u32::MAX, u32::MAX),
        ([u32::MAX, u32::MAX, u32::MAX, u32::MAX], 0, 40),
    ] {
        let body = scanout(rectangle, offset, stride);
        guest.refuses(command::SET_SCANOUT_BLOB, &body, Refusal::InvalidParameter);
    }
    guest.does(command::SET_SCANOUT_BLOB, &scanout([0, 0, 8, 4], 88, 40));
    guest.refuses(command::SET_SCANOUT, &[0, 0, 1, 1, 0, 5], Refusal::InvalidResource);
    // Without its memory the last picture stays.
    guest.does(command::RESOURCE_DETACH_BACKING, &[5, 0]);
    guest.painted();
    guest.does(command::RESOURCE_FLUSH, &[0, 0, 8, 4, 5, 0]);
    assert_eq!(guest.painted(), []);
}

#[test]
fn the_pointer_has_an_image_and_a_place() {
    let mut guest = Guest::new();
    let side = CURSOR_SIDE;
    guest.picture(3, 67, side, side);
    guest.write(PIXELS, &[3, 2, 1, 4].repeat((side * side) as usize));
    guest.does(command::TRANSFER_TO_HOST_2D, &[0, 0, side, side, 0, 0, 3, 0]);
    // Linux gives no room for an answer.
    let mut request = bytes(&[command::UPDATE_CURSOR, 0, 0, 0, 0, 0]);
    request.extend(bytes(&[0, 10, u32::MAX, 0, 3, 5, 6, 0]));
    let used = guest.driver.request(1, &[Buffer::Out(&request)]);
    assert_eq!(used.length, 0);
    let seen = guest.screen.0.lock().unwrap();
    let image = seen.cursor.clone().unwrap();
    assert_eq!((image.size, image.hot_x, image.hot_y), (size(64, 64), 5, 6));
    assert!(image.pixels.chunks(4).all(|pixel| pixel == [1, 2, 3, 4]));
    assert_eq!(seen.position, (10, -1));
    drop(seen);
    let used = guest.send(1, command::MOVE_CURSOR, &[0, 30, 40, 0, 0, 0, 0, 0], 24);
    assert_eq!(word(&used.data, 0), response::OK_NODATA);
    assert_eq!(guest.screen.0.lock().unwrap().position, (30, 40));
    // From a blob.
    let bytes = side * side * PIXEL as u32;
    let blob = [4, 1, 0, 1, 0, 0, bytes, 0, PIXELS as u32, 0, bytes, 0];
    guest.does(command::RESOURCE_CREATE_BLOB, &blob);
    guest.send(1, command::UPDATE_CURSOR, &[0, 0, 0, 0, 4, 0, 0, 0], 24);
    let image = guest.screen.0.lock().unwrap().cursor.clone().unwrap();
    assert_eq!(image.pixels[..4], [3, 2, 1, 4]);
    guest.send(1, command::UPDATE_CURSOR, &[0, 0, 0, 0, 0, 0, 0, 0], 24);
    assert_eq!(guest.screen.0.lock().unwrap().cursor, None);
}

#[test]
fn a_pause_keeps_everything_and_a_reset_nothing() {
    let mut guest = Guest::new();
    guest.picture(1, 2, 4, 4);
    guest.does(command::SET_SCANOUT, &[0, 0, 4, 4, 0, 1]);
    guest.driver.stop();
    guest.driver.resume();
    assert_eq!(guest.shows(), Some(size(4, 4)));
    guest.does(command::RESOURCE_FLUSH, &[0, 0, 4, 4, 1, 0]);
    guest.driver.reset();
    assert_eq!(guest.shows(), None);
    guest.refuses(command::RESOURCE_FLUSH, &[0, 0, 4, 4, 1, 0], Refusal::InvalidResource);
}

#[test]
fn a_saved_device_shows_the_same_again() {
    let mut guest = Guest::new();
    guest.picture(1, 2, 4, 4);
    guest.write(PIXELS, &[77; 64]);
    guest.does(command::TRANSFER_TO_HOST_2D, &[0, 0, 4, 4, 0, 0, 1, 0]);
    guest.does(command::SET_SCANOUT, &[0, 0, 4, 4, 0, 1]);
    guest.control.set_mode(Mode::new(size(640, 480)));
    guest.driver.stop();
    let saved = guest.driver.device().save();

    let (mut gpu, control, screen) = gpu();
    gpu.restore(&saved).unwrap();
    assert_eq!(gpu.save(), saved);
    assert_eq!(control.mode(), Mode::new(size(640, 480)));
    let mut other = Guest { driver: TestDriver::start(Box::new(gpu)), screen, control };
    other.does(command::RESOURCE_FLUSH, &[0, 0, 1, 1, 1, 0]);
    assert!(other.pixels().chunks(4).all(|pixel| pixel[..3] == [77; 3]));
    assert_eq!(other.pixels().len(), 64);
}

#[test]
fn a_state_that_no_device_could_have_saved_is_refused() {
    let mut guest = Guest::new();
    guest.picture(1, 2, 4, 4);
    guest.does(command::SET_SCANOUT, &[0, 0, 4, 4, 0, 1]);
    guest.driver.stop();
    let saved = guest.driver.device().save();
    let change = |path: &str, value: serde_json::Value| {
        let mut state = saved.clone();
        *state.pointer_mut(path).unwrap() = value;
        let (mut gpu, _, _) = gpu();
        gpu.restore(&state).expect_err(path);
    };
    change("/version", 2.into());
    change("/mode/0", 0.into());
    change("/resources/0/id", 0.into());
    change("/resources/0/picture/width", 5.into());
    change("/resources/0/picture/height", 16385.into());
    change("/resources/0/picture/pixels", "?".into());
    change("/resources/0/blob", 4.into());
    change("/resources/0/backing/0/1", 0.into());
    change("/shown/resource", 2.into());
    change("/shown/area/2", 5.into());
    change("/shown/layout", serde_json::json!([1, 16, 0]));
    change("", "nothing of the kind".into());
}

/// A request that gets past the first checks now and then.
fn shape(_queue: u16, random: &mut Random) -> Vec<u8> {
    let commands = [
        0x100, 0x101, 0x101, 0x102, 0x103, 0x103, 0x104, 0x104, 0x105, 0x105, 0x106, 0x106, 0x107,
        0x10a, 0x10c, 0x10c, 0x10d, 0x10d, 0x300, 0x301, 0x108, 0x200,
    ];
    let kind = random.pick(&commands);
    let mut words = vec![kind, random.below(4) as u32, 7, 0, 0, 0];
    let small = |random: &mut Random| random.below(9) as u32;
    let mut body: Vec<u32> = (0..26).map(|_| small(random)).collect();
    let (id, side) = (1 + small(random) % 4, random.pick(&[1, 4, 64]));
    match kind {
        0x101 => body[..4].copy_from_slice(&[id, 1 + small(random) % 4, side, side]),
        0x103 => body[..6].copy_from_slice(&[0, 0, side, side, 0, id]),
        0x104 => body[..5].copy_from_slice(&[0, 0, side, side, id]),
        0x105 => body[..7].copy_from_slice(&[0, 0, side, side, 0, 0, id]),
        0x106 => body[..6].copy_from_slice(&[id, 1, PIXELS as u32, 0, 0x4000, 0]),
        0x10c => {
            body[..12].copy_from_slice(&[
                id,
                1,
                0,
                1,
                0,
                0,
                0x4000,
                0,
                PIXELS as u32,
                0,
                0x4000,
                0,
            ]);
        }
        0x10d => {
            let layout = [0, 0, side, side, 0, id, side, side, 1, 0, side * 4, 0, 0, 0, 0];
            body[..15].copy_from_slice(&layout);
        }
        0x300 => body[..7].copy_from_slice(&[0, 1, 2, 0, id, 3, 4]),
        _ => {}
    }
    if random.one_in(4) {
        let place = random.below(26) as usize;
        body[place] = random.pick(&[0, u32::MAX, 0x8000_0000, 65, 4096, 16384]);
    }
    words.extend(body);
    bytes(&words)
}

#[test]
fn a_turn_ends_after_some_pixels_and_the_rest_of_the_queue_rings_again() {
    let mut guest = Guest::new();
    let side = 1024;
    guest.picture(1, 1, side, side);
    let bytes = u64::from(side * side) * PIXEL as u64;
    guest.does(command::SET_SCANOUT, &[0, 0, side, side, 0, 1]);
    guest.driver.stop();
    let turn = TURN_BYTES / bytes;
    let mut request = bytes_of(command::TRANSFER_TO_HOST_2D, &[0, 0, side, side, 0, 0, 1, 0]);
    for index in 0..turn + 3 {
        if index == 5 {
            // What is brought to the screen counts as well.
            request = bytes_of(command::RESOURCE_FLUSH, &[0, 0, side, side, 1, 0]);
        }
        guest.driver.add(0, &[Buffer::Out(&request), Buffer::In(24)]);
    }
    let session = Session {
        memory: guest.driver.memory().clone(),
        features: RING_FEATURES,
        queues: vec![guest.driver.ring(0).queue(), guest.driver.ring(1).queue()],
        interrupts: Arc::new(TestInterrupts::default()),
    };
    let mut workers = guest.driver.device().start(session).unwrap();
    let requests = |guest: &mut Guest| {
        let counters = guest.driver.device().counters();
        counters.iter().find(|(name, _)| *name == "requests").unwrap().1
    };
    let before = requests(&mut guest);
    guest.driver.ring(0).kick();
    workers[0].ready(0).unwrap();
    assert_eq!(requests(&mut guest), before + turn);
    assert!(guest.driver.ring(0).doorbell().read().is_ok(), "what is left rings again");
    workers[0].ready(0).unwrap();
    assert_eq!(requests(&mut guest), before + turn + 3);
    assert!(guest.driver.ring(0).doorbell().read().is_err(), "nothing is left");
    guest.driver.device().stop(workers);
}

fn bytes_of(kind: u32, body: &[u32]) -> Vec<u8> {
    let mut request = bytes(&[kind, 0, 0, 0, 0, 0]);
    request.extend_from_slice(&bytes(body));
    request
}

#[test]
fn a_hostile_driver_harms_only_itself() {
    for seed in 0..8 {
        let (gpu, control, _) = gpu();
        attack(Box::new(gpu), seed, |queue, random| {
            if random.one_in(20) {
                let side = 1 + random.below(5000) as u32;
                control.set_mode(Mode::new(size(side, side)));
            }
            shape(queue, random)
        });
    }
}
