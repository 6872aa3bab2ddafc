//! A film of a desktop that nobody looks at: an animated PNG, which browsers and code sites play.
//!
//! Pictures are taken as fast as it goes, at most ten a second. Of each one only the part is kept that differs from
//! the one before. A guest on a software CPU makes one wait: a picture stays for a second at most.

use crate::failure::{Context, Failure, Result};
use std::collections::HashMap;
use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Between two pictures at least.
const PAUSE: Duration = Duration::from_millis(100);
/// A picture stays so long at most, the last one a little longer.
const LONGEST: Duration = Duration::from_secs(1);
/// Of the last one.
const LAST: Duration = Duration::from_secs(3);
/// Colours of an indexed picture (PNG, 11.2.3).
const COLOURS: usize = 256;
/// Bytes of a pixel: red, green, blue.
const PIXEL: usize = 3;

/// Pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Area {
    x: usize,
    y: usize,
    width: usize,
    height: usize,
}

/// What is new since the one before.
struct Shot {
    at: Instant,
    area: Area,
    pixels: Vec<[u8; PIXEL]>,
}

/// Takes pictures until it is stopped.
pub(super) struct Camera {
    stops: Arc<AtomicBool>,
    thread: JoinHandle<Result<Vec<Shot>>>,
    size: [usize; 2],
}

impl Camera {
    /// Before a display with a screen of this size.
    pub(super) fn start(display: &Path, size: [u16; 2]) -> Self {
        let size = size.map(usize::from);
        let (display, stops) = (display.to_owned(), Arc::new(AtomicBool::new(false)));
        let stop = Arc::clone(&stops);
        let thread = std::thread::spawn(move || {
            let mut shots: Vec<Shot> = Vec::new();
            let mut before: Option<Vec<[u8; PIXEL]>> = None;
            while !stop.load(Ordering::Relaxed) {
                let at = Instant::now();
                let now = look(&display, size)?;
                if let Some(area) = changed(before.as_deref(), &now, size[0]) {
                    shots.push(Shot { at, area, pixels: cut(&now, size[0], area) });
                    before = Some(now);
                }
                std::thread::sleep(PAUSE.saturating_sub(at.elapsed()));
            }
            Ok(shots)
        });
        Self { stops, thread, size }
    }

    /// Writes what it has seen.
    pub(super) fn stop(self, file: &Path) -> Result {
        self.stops.store(true, Ordering::Relaxed);
        let taken = self.thread.join().map_err(|_| Failure::new("the camera broke"))?;
        let film = encode(&taken?, self.size).context(|| "make a film".to_owned())?;
        std::fs::write(file, film).context(|| format!("write {}", file.display()))
    }
}

/// The whole screen (import(1) of ImageMagick).
fn look(display: &Path, size: [usize; 2]) -> Result<Vec<[u8; PIXEL]>> {
    let taken = Command::new("import")
        .args(["-window", "root", "-depth", "8", "rgb:-"].map(OsStr::new))
        .env("DISPLAY", display)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .context(|| "run import".to_owned())?;
    let (pixels, rest) = taken.stdout.as_chunks::<PIXEL>();
    if pixels.len() != size[0] * size[1] || !rest.is_empty() {
        return Err(Failure::new(format!("import gave {} bytes", taken.stdout.len())));
    }
    Ok(pixels.to_vec())
}

/// The smallest area with all that differs; none where nothing does. Without a picture before it is all.
fn changed(before: Option<&[[u8; PIXEL]]>, now: &[[u8; PIXEL]], width: usize) -> Option<Area> {
    let height = now.len() / width;
    let Some(before) = before else { return Some(Area { x: 0, y: 0, width, height }) };
    let (mut left, mut right, mut top, mut bottom) = (width, 0, height, 0);
    for (y, (was, is)) in before.chunks(width).zip(now.chunks(width)).enumerate() {
        let differs = |at: &usize| was[*at] != is[*at];
        let Some(first) = (0..width).find(differs) else { continue };
        let last = (0..width).rev().find(differs).unwrap_or(first);
        (left, right) = (left.min(first), right.max(last + 1));
        (top, bottom) = (top.min(y), y + 1);
    }
    (left < right).then(|| Area { x: left, y: top, width: right - left, height: bottom - top })
}

fn cut(pixels: &[[u8; PIXEL]], width: usize, area: Area) -> Vec<[u8; PIXEL]> {
    let rows = pixels.chunks(width).skip(area.y).take(area.height);
    rows.flat_map(|row| &row[area.x..area.x + area.width]).copied().collect()
}

/// The colours that are seen most, and for each colour the one that stands for it.
struct Palette {
    colours: Vec<[u8; PIXEL]>,
    of: HashMap<[u8; PIXEL], u8>,
}

impl Palette {
    fn of(shots: &[Shot]) -> Self {
        let mut seen: HashMap<[u8; PIXEL], usize> = HashMap::new();
        for pixel in shots.iter().flat_map(|shot| &shot.pixels) {
            *seen.entry(*pixel).or_default() += 1;
        }
        let mut sorted: Vec<_> = seen.into_iter().collect();
        sorted.sort_unstable_by_key(|(colour, count)| (std::cmp::Reverse(*count), *colour));
        let colours: Vec<_> = sorted.iter().take(COLOURS).map(|(colour, _)| *colour).collect();
        let nearest = |colour: &[u8; PIXEL]| {
            let distance = |other: &[u8; PIXEL]| -> u32 {
                colour
                    .iter()
                    .zip(other)
                    .map(|(one, two)| u32::from(one.abs_diff(*two)).pow(2))
                    .sum()
            };
            let found = colours.iter().enumerate().min_by_key(|(_, other)| distance(other));
            found.and_then(|(at, _)| u8::try_from(at).ok()).unwrap_or(0)
        };
        let of = sorted.iter().map(|(colour, _)| (*colour, nearest(colour))).collect();
        Self { colours, of }
    }
}

fn encode(shots: &[Shot], size: [usize; 2]) -> std::io::Result<Vec<u8>> {
    let other = std::io::Error::other::<png::EncodingError>;
    let number = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
    let palette = Palette::of(shots);
    let mut film = Vec::new();
    let mut encoder = png::Encoder::new(&mut film, number(size[0]), number(size[1]));
    encoder.set_color(png::ColorType::Indexed);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_palette(palette.colours.concat());
    encoder.set_compression(png::Compression::High);
    encoder.set_animated(number(shots.len()), 0).map_err(other)?;
    let mut writer = encoder.write_header().map_err(other)?;
    for (index, shot) in shots.iter().enumerate() {
        let stays = shots.get(index + 1).map_or(LAST, |next| (next.at - shot.at).min(LONGEST));
        let stays = u16::try_from(stays.as_millis()).unwrap_or(u16::MAX);
        let Area { x, y, width, height } = shot.area;
        if index > 0 {
            // The new size is held against the old place.
            writer.reset_frame_position().map_err(other)?;
            writer.set_frame_dimension(number(width), number(height)).map_err(other)?;
            writer.set_frame_position(number(x), number(y)).map_err(other)?;
        }
        writer.set_frame_delay(stays, 1000).map_err(other)?;
        let pixels: Vec<u8> = shot.pixels.iter().map(|pixel| palette.of[pixel]).collect();
        writer.write_image_data(&pixels).map_err(other)?;
    }
    writer.finish().map_err(other)?;
    Ok(film)
}

#[cfg(test)]
mod tests {
    use super::{Area, COLOURS, Palette, Shot, changed, cut, encode};
    use std::time::{Duration, Instant};

    #[test]
    fn only_what_differs_is_kept() {
        let before = vec![[0; 3]; 12];
        let mut now = before.clone();
        assert_eq!(changed(Some(&before), &now, 4), None);
        (now[5], now[11]) = ([1, 2, 3], [4, 5, 6]);
        let area = changed(Some(&before), &now, 4).expect("it differs");
        assert_eq!(area, Area { x: 1, y: 1, width: 3, height: 2 });
        assert_eq!(cut(&now, 4, area)[..3], [[1, 2, 3], [0; 3], [0; 3]]);
        assert_eq!(changed(None, &now, 4), Some(Area { x: 0, y: 0, width: 4, height: 3 }));
    }

    #[test]
    fn a_film_has_its_pictures_at_their_places_and_times() {
        let start = Instant::now();
        let whole = Area { x: 0, y: 0, width: 4, height: 2 };
        let part = Area { x: 2, y: 1, width: 2, height: 1 };
        let shots = [
            Shot { at: start, area: whole, pixels: vec![[9, 8, 7]; 8] },
            Shot {
                at: start + Duration::from_millis(250),
                area: part,
                pixels: vec![[200, 1, 2], [0, 0, 0]],
            },
        ];
        let film = encode(&shots, [4, 2]).expect("a film");
        let mut decoder = png::Decoder::new(std::io::Cursor::new(film));
        decoder.set_transformations(png::Transformations::EXPAND);
        let mut reader = decoder.read_info().expect("a picture");
        assert_eq!(reader.info().animation_control().map(|control| control.num_frames), Some(2));
        let mut pixels = vec![0; 4 * 2 * 3];
        reader.next_frame(&mut pixels).expect("the first");
        assert_eq!(pixels, [9, 8, 7].repeat(8));
        let control = *reader.info().frame_control().expect("its time");
        assert_eq!((control.delay_num, control.delay_den), (250, 1000));
        let info = reader.next_frame(&mut pixels).expect("the second");
        let control = *reader.info().frame_control().expect("its place");
        assert_eq!((control.x_offset, control.y_offset), (2, 1));
        assert_eq!((info.width, info.height), (2, 1));
        assert_eq!(pixels[..6], [200, 1, 2, 0, 0, 0]);
    }

    #[test]
    fn a_large_picture_comes_after_one_at_the_edge() {
        let at = Instant::now();
        let whole = Area { x: 0, y: 0, width: 4, height: 2 };
        let edge = Area { x: 3, y: 1, width: 1, height: 1 };
        let shot =
            |area: Area| Shot { at, area, pixels: vec![[1, 2, 3]; area.width * area.height] };
        encode(&[shot(whole), shot(edge), shot(whole)], [4, 2]).expect("a film");
    }

    #[test]
    fn of_more_colours_than_a_picture_has_the_nearest_stand_for_the_rest() {
        let pixels: Vec<[u8; 3]> =
            (0..=255).flat_map(|red| [[red, 0, 0]; 2]).chain([[255, 9, 0]]).collect();
        let area = Area { x: 0, y: 0, width: pixels.len(), height: 1 };
        let palette = Palette::of(&[Shot { at: Instant::now(), area, pixels }]);
        assert_eq!(palette.colours.len(), COLOURS);
        assert_eq!(palette.colours[usize::from(palette.of[&[255, 9, 0]])], [255, 0, 0]);
    }
}
