//! Icons of pixels: a guest's PNG is decoded here under limits, brought to a size that icon themes have, and
//! encoded anew. No byte of the guest's file is in the result, only its pixels.

use super::limits;
use crate::untrusted::Untrusted;
use std::io::Cursor;

/// The largest icon that is kept, in pixels each way: what is asked for.
pub const EDGE: u32 = 128;
/// Sizes that the theme `hicolor` has folders for, up to that.
pub const SIZES: [u32; 10] = [16, 22, 24, 32, 36, 48, 64, 72, 96, EDGE];
/// What stands in each as its `Software` text, so that our files are known.
pub(super) const MARK: &str = "macrohard-hypervisor";

/// Memory for the decoder's own needs: some rows, a palette, a window of 32 KiB.
const DECODER_BYTES: usize = 1 << 20;
const CHANNELS: usize = 4;

/// A PNG that is not used.
#[derive(Debug, thiserror::Error)]
pub enum PictureProblem {
    /// Too many bytes.
    #[error("the PNG has {0} bytes; allowed: {most}", most = limits::PICTURE)]
    Long(usize),
    /// Too many pixels, or none.
    #[error("the PNG has {0} by {1} pixels; allowed: 1 to {most} each way", most = limits::PICTURE_EDGE)]
    Large(u32, u32),
    /// Not one, or broken.
    #[error("the PNG cannot be decoded")]
    Broken,
}

/// A square icon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    /// Pixels each way; one of [`SIZES`].
    pub size: u32,
    /// The file.
    pub png: Vec<u8>,
}

/// Pixels in red, green, blue and opacity.
struct Pixels {
    width: u32,
    height: u32,
    bytes: Vec<u8>,
}

/// The icon in a guest's PNG.
///
/// # Errors
/// It breaks a limit or cannot be decoded.
pub fn check(bytes: Untrusted<Vec<u8>>) -> Result<Picture, PictureProblem> {
    bytes.check(|bytes| {
        let pixels = decode(&bytes)?;
        let edge = pixels.width.max(pixels.height);
        let [smallest, ..] = SIZES;
        let size = SIZES.into_iter().rev().find(|size| *size <= edge).unwrap_or(smallest);
        let png = encode(size, &fit(&pixels, size)).map_err(|_| PictureProblem::Broken)?;
        Ok(Picture { size, png })
    })
}

fn decode(bytes: &[u8]) -> Result<Pixels, PictureProblem> {
    use png::{ColorType, Decoder, Limits, Transformations};
    if bytes.len() > limits::PICTURE {
        return Err(PictureProblem::Long(bytes.len()));
    }
    let broken = |_| PictureProblem::Broken;
    let mut decoder = Decoder::new_with_limits(Cursor::new(bytes), Limits { bytes: DECODER_BYTES });
    // Compressed texts and colour profiles are never inflated.
    decoder.set_ignore_text_chunk(true);
    decoder.set_ignore_iccp_chunk(true);
    decoder.set_transformations(
        Transformations::EXPAND | Transformations::STRIP_16 | Transformations::ALPHA,
    );
    let (width, height) = decoder.read_header_info().map_err(broken)?.size();
    let allowed = 1..=limits::PICTURE_EDGE;
    if !allowed.contains(&width) || !allowed.contains(&height) {
        return Err(PictureProblem::Large(width, height));
    }
    let mut reader = decoder.read_info().map_err(broken)?;
    let length = reader.output_buffer_size().ok_or(PictureProblem::Broken)?;
    let mut decoded = vec![0; length];
    // The first picture, if it moves.
    let told = reader.next_frame(&mut decoded).map_err(broken)?;
    if (told.width, told.height) != (width, height) {
        return Err(PictureProblem::Broken);
    }
    let bytes = match told.color_type {
        ColorType::Rgba => decoded,
        ColorType::GrayscaleAlpha => {
            let pixels = decoded.as_chunks::<2>().0;
            pixels.iter().flat_map(|[grey, opacity]| [*grey, *grey, *grey, *opacity]).collect()
        }
        _ => return Err(PictureProblem::Broken),
    };
    Ok(Pixels { width, height, bytes })
}

/// The picture in the middle of a square, as large as fits and never enlarged: each pixel is the mean of
/// those it covers, by their opacity.
fn fit(from: &Pixels, size: u32) -> Vec<u8> {
    let edge = from.width.max(from.height).max(size);
    let scaled = |length: u32| (length * size / edge).max(1);
    let (width, height) = (scaled(from.width), scaled(from.height));
    let (left, top) = ((size - width) / 2, (size - height) / 2);
    // The pixels of the source that pixel `at` of `count` covers.
    let covered = |at: u32, count: u32, whole: u32| {
        let first = at * whole / count;
        first..((at + 1) * whole / count).max(first + 1)
    };
    let mut square = vec![0; (size * size) as usize * CHANNELS];
    for y in 0..height {
        for x in 0..width {
            let mut sums = [0_u64; CHANNELS];
            let mut count = 0;
            for row in covered(y, height, from.height) {
                for column in covered(x, width, from.width) {
                    let at = (row * from.width + column) as usize * CHANNELS;
                    let Some([red, green, blue, opacity]) = from.bytes.get(at..at + CHANNELS)
                    else {
                        continue;
                    };
                    let weight = u64::from(*opacity);
                    for (sum, channel) in sums.iter_mut().zip([red, green, blue]) {
                        *sum += u64::from(*channel) * weight;
                    }
                    sums[3] += weight;
                    count += 1;
                }
            }
            let [red, green, blue, opacity] = sums;
            let mean = |sum: u64, over: u64| {
                u8::try_from((sum + over / 2).checked_div(over).unwrap_or(0)).unwrap_or(u8::MAX)
            };
            let pixel = [
                mean(red, opacity),
                mean(green, opacity),
                mean(blue, opacity),
                mean(opacity, count),
            ];
            let at = ((top + y) * size + left + x) as usize * CHANNELS;
            if let Some(place) = square.get_mut(at..at + CHANNELS) {
                place.copy_from_slice(&pixel);
            }
        }
    }
    square
}

fn encode(size: u32, pixels: &[u8]) -> Result<Vec<u8>, png::EncodingError> {
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, size, size);
    encoder.set_color(png::ColorType::Rgba);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.add_text_chunk("Software".to_owned(), MARK.to_owned())?;
    let mut writer = encoder.write_header()?;
    writer.write_image_data(pixels)?;
    writer.finish()?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn png(width: u32, height: u32, color: png::ColorType, pixel: &[u8]) -> Vec<u8> {
        let mut file = Vec::new();
        let mut encoder = png::Encoder::new(&mut file, width, height);
        encoder.set_color(color);
        encoder.set_depth(png::BitDepth::Eight);
        let mut writer = encoder.write_header().unwrap();
        writer.write_image_data(&pixel.repeat((width * height) as usize)).unwrap();
        writer.finish().unwrap();
        file
    }

    fn red(width: u32, height: u32) -> Vec<u8> {
        png(width, height, png::ColorType::Rgba, &[255, 0, 0, 255])
    }

    fn checked(bytes: Vec<u8>) -> Result<Picture, PictureProblem> {
        check(Untrusted::new(bytes))
    }

    /// The pixel in the middle of an icon, and that in its corner.
    fn pixels(picture: &Picture) -> ([u8; 4], [u8; 4]) {
        let decoded = decode(&picture.png).unwrap();
        assert_eq!((decoded.width, decoded.height), (picture.size, picture.size));
        let at = |x: u32, y: u32| {
            let at = ((y * picture.size + x) * 4) as usize;
            decoded.bytes[at..at + 4].try_into().unwrap()
        };
        (at(picture.size / 2, picture.size / 2), at(0, 0))
    }

    #[test]
    fn an_icon_gets_a_size_that_themes_have() {
        for (width, height, size) in [
            (128, 128, 128),
            (1024, 1024, 128),
            (1, 1, 16),
            (50, 50, 48),
            (1024, 1, 128),
            (130, 127, 128),
        ] {
            let picture = checked(red(width, height)).unwrap();
            assert_eq!(picture.size, size, "{width} by {height}");
            let pixels = decode(&picture.png).unwrap().bytes;
            let shown = pixels.as_chunks::<4>().0.iter().filter(|pixel| pixel[3] > 0);
            let shown: BTreeSet<[u8; 3]> = shown.map(|[r, g, b, _]| [*r, *g, *b]).collect();
            assert_eq!(shown, BTreeSet::from([[255, 0, 0]]), "{width} by {height}");
        }
        let wide = checked(red(100, 50)).unwrap();
        assert_eq!(pixels(&wide), ([255, 0, 0, 255], [0, 0, 0, 0]));
    }

    #[test]
    fn every_kind_of_pixel_becomes_the_same_kind() {
        use png::ColorType;
        for (color, pixel, expected) in [
            (ColorType::Rgb, &[1, 2, 3][..], [1, 2, 3, 255]),
            (ColorType::Grayscale, &[7], [7, 7, 7, 255]),
            (ColorType::GrayscaleAlpha, &[7, 9], [7, 7, 7, 9]),
        ] {
            assert_eq!(
                pixels(&checked(png(64, 64, color, pixel)).unwrap()).0,
                expected,
                "{color:?}"
            );
        }
        let mut file = Vec::new();
        let mut encoder = png::Encoder::new(&mut file, 32, 32);
        encoder.set_color(ColorType::Indexed);
        encoder.set_palette(vec![9, 8, 7]);
        encoder.set_depth(png::BitDepth::One);
        encoder.write_header().unwrap().write_image_data(&[0; 4 * 32]).unwrap();
        assert_eq!(pixels(&checked(file).unwrap()).0, [9, 8, 7, 255]);
    }

    #[test]
    fn what_is_too_large_is_refused_before_it_is_decoded() {
        assert!(matches!(checked(vec![0; (1 << 20) + 1]), Err(PictureProblem::Long(_))));
        assert!(matches!(checked(red(1025, 1)), Err(PictureProblem::Large(1025, 1))));
        // A header that promises 4 GiB of pixels.
        let mut lying = red(16, 16);
        lying[16..24].copy_from_slice(&[0, 0, 0xff, 0xff, 0, 0, 0xff, 0xff]);
        assert!(checked(lying).is_err());
    }

    #[test]
    fn what_is_broken_is_refused() {
        let good = red(64, 64);
        for bytes in
            [Vec::new(), b"\x89PNG\r\n\x1a\n".to_vec(), b"GIF89a".to_vec(), good[..60].to_vec()]
        {
            assert!(matches!(checked(bytes), Err(PictureProblem::Broken)));
        }
    }

    #[test]
    fn nothing_but_pixels_is_taken_over() {
        let mut file = Vec::new();
        let mut encoder = png::Encoder::new(&mut file, 32, 32);
        encoder.add_text_chunk("Comment".into(), "hidden words".into()).unwrap();
        // Inflates to 4 MiB.
        encoder.add_ztxt_chunk("Bomb".into(), "x".repeat(4 << 20)).unwrap();
        encoder.set_color(png::ColorType::Rgba);
        encoder.write_header().unwrap().write_image_data(&[1; 32 * 32 * 4]).unwrap();
        file.extend_from_slice(b"hidden words");
        let picture = checked(file).unwrap().png;
        let contains = |words: &[u8]| picture.windows(words.len()).any(|part| part == words);
        assert!(contains(MARK.as_bytes()) && !contains(b"hidden") && !contains(b"Bomb"));
    }
}
