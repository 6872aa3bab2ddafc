//! The picture of a notification as a PNG of the size the host takes, from any of the ways in which a program
//! may give one (Desktop Notifications Specification 1.2, "Icons and Images").

use std::collections::HashMap;
use std::io::{Cursor, Read};
use std::path::{Path, PathBuf};

use zbus::{OwnedVariant, Structure};

/// Limits of `Notification.icon`, as the protocol says.
const LONGEST: usize = 256 << 10;
const EDGE: u32 = 256;
/// Largest picture that is read and made smaller.
const LARGEST_EDGE: u32 = 4096;
const LARGEST_FILE: u64 = 8 << 20;
/// Themes and sizes in which a named icon is looked for: the theme that all fall back to, and the one that has
/// the icons of notifications.
const THEMES: [&str; 2] = ["hicolor", "Adwaita"];
const SIZES: [&str; 6] = ["64x64", "48x48", "96x96", "128x128", "256x256", "32x32"];

/// Why there is no picture.
#[derive(Debug, thiserror::Error)]
pub(super) enum PictureError {
    #[error("the image data is not what it says")]
    Raw,
    #[error("the picture has {0} times {1} pixels")]
    Size(u32, u32),
    #[error("{}: {error}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system answered.
        error: std::io::Error,
    },
    #[error("not a PNG file: {0}")]
    Png(#[from] png::DecodingError),
    #[error("cannot be encoded: {0}")]
    Encode(#[from] png::EncodingError),
    #[error("the icon {0:?} is not there as PNG")]
    Icon(String),
}

/// Rows of red, green, blue and opacity.
struct Pixels {
    width: u32,
    height: u32,
    bytes: Vec<u8>,
}

/// The picture that the hints or the application's icon name; empty when there is none.
pub(super) fn of(
    hints: &HashMap<String, OwnedVariant>,
    app_icon: &str,
) -> Result<Vec<u8>, PictureError> {
    // The order is the specification's, with its older names.
    for name in ["image-data", "image_data"] {
        if let Some(hint) = hints.get(name) {
            return encode(&raw(hint).ok_or(PictureError::Raw)?);
        }
    }
    for name in ["image-path", "image_path"] {
        if let Some(path) = hints.get(name).and_then(|hint| hint.downcast_ref::<&str>().ok()) {
            return named(path);
        }
    }
    if !app_icon.is_empty() {
        return named(app_icon);
    }
    match hints.get("icon_data") {
        Some(hint) => encode(&raw(hint).ok_or(PictureError::Raw)?),
        None => Ok(Vec::new()),
    }
}

/// Structure `(iiibiiay)`: width, height, bytes of a row, has opacity, bits of a sample, samples, rows.
fn raw(hint: &OwnedVariant) -> Option<Pixels> {
    let structure = hint.downcast_ref::<&Structure<'_>>().ok()?;
    let [width, height, stride, opacity, bits, samples, bytes] = structure.fields() else {
        return None;
    };
    let number = |value: &zbus::Variant<'_>| u32::try_from(value.downcast_ref::<i32>().ok()?).ok();
    let (width, height, stride) = (number(width)?, number(height)?, number(stride)?);
    let samples = match (number(bits)?, number(samples)?, opacity.downcast_ref::<bool>().ok()?) {
        (8, 4, true) => 4,
        (8, 3, false) => 3,
        _ => return None,
    };
    let within = 1..=LARGEST_EDGE;
    if !within.contains(&width) || !within.contains(&height) || stride < width * samples {
        return None;
    }
    let bytes = bytes.downcast_ref::<&zbus::Array<'_>>().ok()?;
    let bytes: Vec<u8> =
        bytes.iter().map(|byte| byte.downcast_ref::<u8>().ok()).collect::<Option<_>>()?;
    let mut pixels = Vec::with_capacity((width * height * 4) as usize);
    for row in 0..height as usize {
        // The last row may lack its padding.
        let start = row.checked_mul(stride as usize)?;
        let row = bytes.get(start..start.checked_add((width * samples) as usize)?)?;
        for pixel in row.chunks_exact(samples as usize) {
            pixels.extend(&pixel[..3]);
            pixels.push(pixel.get(3).copied().unwrap_or(u8::MAX));
        }
    }
    Some(Pixels { width, height, bytes: pixels })
}

/// A `file` URL, a path, or a name in the icon theme.
fn named(name: &str) -> Result<Vec<u8>, PictureError> {
    let unknown = || PictureError::Icon(name.to_owned());
    let path = if name.starts_with("file:") {
        let url = url::Url::parse(name).map_err(|_| unknown())?;
        url.to_file_path().map_err(|()| unknown())?
    } else if name.starts_with('/') {
        PathBuf::from(name)
    } else {
        in_theme(&data_folders(), name).ok_or_else(unknown)?
    };
    encode(&read(&path)?)
}

/// Folders of data (XDG base directory specification).
fn data_folders() -> Vec<PathBuf> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    let home = variable("XDG_DATA_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(variable("HOME")?).join(".local/share")));
    let others = variable("XDG_DATA_DIRS").unwrap_or_else(|| "/usr/local/share:/usr/share".into());
    home.into_iter().chain(std::env::split_paths(&others)).collect()
}

/// The PNG of a named icon.
fn in_theme(data: &[PathBuf], name: &str) -> Option<PathBuf> {
    if name.contains('/') {
        return None;
    }
    let file = format!("{name}.png");
    for (theme, size) in THEMES.iter().flat_map(|theme| SIZES.map(|size| (theme, size))) {
        for folder in data {
            // One for each context: applications, status, devices.
            let contexts = std::fs::read_dir(folder.join("icons").join(theme).join(size));
            let found = contexts.into_iter().flatten().flatten();
            if let Some(path) =
                found.map(|context| context.path().join(&file)).find(|path| path.is_file())
            {
                return Some(path);
            }
        }
    }
    data.iter().map(|folder| folder.join("pixmaps").join(&file)).find(|path| path.is_file())
}

fn read(path: &Path) -> Result<Pixels, PictureError> {
    let failed = |error| PictureError::File { path: path.to_owned(), error };
    let file = std::fs::File::open(path).map_err(failed)?;
    let kind = file.metadata().map_err(failed)?;
    if !kind.is_file() {
        return Err(failed(std::io::ErrorKind::InvalidInput.into()));
    }
    let mut bytes = Vec::new();
    file.take(LARGEST_FILE).read_to_end(&mut bytes).map_err(failed)?;
    decode(&bytes)
}

fn decode(bytes: &[u8]) -> Result<Pixels, PictureError> {
    let mut decoder = png::Decoder::new(Cursor::new(bytes));
    decoder.set_transformations(
        png::Transformations::normalize_to_color8() | png::Transformations::ALPHA,
    );
    let mut reader = decoder.read_info()?;
    let (width, height) = (reader.info().width, reader.info().height);
    if width > LARGEST_EDGE || height > LARGEST_EDGE {
        return Err(PictureError::Size(width, height));
    }
    let length = reader.output_buffer_size().ok_or(PictureError::Size(width, height))?;
    let mut decoded = vec![0; length];
    let frame = reader.next_frame(&mut decoded)?;
    let bytes = match frame.color_type {
        png::ColorType::GrayscaleAlpha => decoded
            .chunks_exact(2)
            .flat_map(|pixel| [pixel[0], pixel[0], pixel[0], pixel[1]])
            .collect(),
        _ => decoded,
    };
    Ok(Pixels { width, height, bytes })
}

/// As PNG, made smaller until it is within the limits.
fn encode(pixels: &Pixels) -> Result<Vec<u8>, PictureError> {
    let mut edge = EDGE;
    loop {
        let smaller = shrink(pixels, edge);
        let mut encoded = Vec::new();
        let mut encoder = png::Encoder::new(&mut encoded, smaller.width, smaller.height);
        encoder.set_color(png::ColorType::Rgba);
        encoder.set_depth(png::BitDepth::Eight);
        encoder.write_header()?.write_image_data(&smaller.bytes)?;
        if encoded.len() <= LONGEST {
            return Ok(encoded);
        }
        edge /= 2;
    }
}

/// At most `edge` pixels each way, each the mean of those it stands for.
fn shrink(pixels: &Pixels, edge: u32) -> Pixels {
    let largest = pixels.width.max(pixels.height);
    if largest <= edge {
        return Pixels { width: pixels.width, height: pixels.height, bytes: pixels.bytes.clone() };
    }
    let scaled = |length: u32| (length * edge / largest).max(1);
    let (width, height) = (scaled(pixels.width), scaled(pixels.height));
    let mut bytes = Vec::with_capacity((width * height * 4) as usize);
    for y in 0..height {
        let rows = y * pixels.height / height..((y + 1) * pixels.height).div_ceil(height);
        for x in 0..width {
            let columns = x * pixels.width / width..((x + 1) * pixels.width).div_ceil(width);
            let mut sums = [0_u64; 4];
            for row in rows.clone() {
                for column in columns.clone() {
                    let at = ((row * pixels.width + column) * 4) as usize;
                    let opacity = u64::from(pixels.bytes[at + 3]);
                    // What is not seen has no colour.
                    for (sum, value) in sums.iter_mut().zip(&pixels.bytes[at..at + 3]) {
                        *sum += u64::from(*value) * opacity;
                    }
                    sums[3] += opacity;
                }
            }
            let count = u64::from(rows.len() as u32) * u64::from(columns.len() as u32);
            let [red, green, blue, opacity] = sums;
            let mean = |sum: u64| u8::try_from(sum / opacity.max(1)).unwrap_or(u8::MAX);
            bytes.extend([
                mean(red),
                mean(green),
                mean(blue),
                u8::try_from(opacity / count).unwrap_or(u8::MAX),
            ]);
        }
    }
    Pixels { width, height, bytes }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zbus::Variant;

    /// As a program gives them.
    fn hint(
        width: i32,
        height: i32,
        stride: i32,
        opacity: bool,
        samples: i32,
        bytes: Vec<u8>,
    ) -> OwnedVariant {
        let value = Variant::from((width, height, stride, opacity, 8_i32, samples, bytes));
        OwnedVariant::try_from(value).unwrap()
    }

    fn hints(name: &str, value: OwnedVariant) -> HashMap<String, OwnedVariant> {
        HashMap::from([(name.to_owned(), value)])
    }

    #[test]
    fn image_data_becomes_a_png_with_the_same_pixels() {
        let rows = vec![1, 2, 3, 9, 9, 4, 5, 6];
        let png = of(&hints("image-data", hint(1, 2, 5, false, 3, rows)), "").unwrap();
        let pixels = decode(&png).unwrap();
        assert_eq!((pixels.width, pixels.height), (1, 2));
        assert_eq!(pixels.bytes, [1, 2, 3, 255, 4, 5, 6, 255]);
    }

    #[test]
    fn image_data_that_lies_is_refused() {
        for lie in [
            hint(2, 2, 8, true, 4, vec![0; 15]),
            hint(2, 2, 7, true, 4, vec![0; 64]),
            hint(-1, 2, 8, true, 4, vec![0; 64]),
            hint(0, 2, 8, true, 4, vec![0; 64]),
            hint(100_000, 100_000, 400_000, true, 4, vec![0; 64]),
            hint(2, 2, 8, false, 4, vec![0; 64]),
            hint(2, 2, 8, true, 3, vec![0; 64]),
            OwnedVariant::from(7_u32),
        ] {
            assert!(matches!(of(&hints("image-data", lie), ""), Err(PictureError::Raw)));
        }
    }

    #[test]
    fn a_large_picture_is_made_smaller_and_stays_in_shape() {
        let bytes = [200, 100, 50, 255].repeat(1000 * 500);
        let png = of(&hints("image_data", hint(1000, 500, 4000, true, 4, bytes)), "").unwrap();
        let pixels = decode(&png).unwrap();
        assert_eq!((pixels.width, pixels.height), (256, 128));
        assert!(pixels.bytes.chunks(4).all(|pixel| pixel == [200, 100, 50, 255]));
        // Noise, which does not compress.
        let mut state = 1_u32;
        let noise: Vec<u8> = (0..256 * 256 * 4)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 24) as u8 | 1
            })
            .collect();
        let png = of(&hints("image-data", hint(256, 256, 1024, true, 4, noise)), "").unwrap();
        assert!(png.len() <= LONGEST, "{}", png.len());
    }

    #[test]
    fn a_named_icon_is_found_in_the_theme_and_nowhere_else() {
        let folder = tempfile::tempdir().unwrap();
        let data = [folder.path().join("none"), folder.path().to_owned()];
        let make = |place: &str| {
            let path = folder.path().join(place);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, "").unwrap();
            path
        };
        let pixmap = make("pixmaps/mail.png");
        assert_eq!(in_theme(&data, "mail"), Some(pixmap));
        make("icons/hicolor/32x32/apps/mail.png");
        let large = make("icons/hicolor/64x64/status/mail.png");
        assert_eq!(in_theme(&data, "mail"), Some(large));
        assert_eq!(in_theme(&data, "../apps/mail"), None);
        assert_eq!(in_theme(&data, "other"), None);
    }

    #[test]
    fn files_are_read_by_path_and_url_and_others_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a b.png");
        let rows = vec![7; 12];
        std::fs::write(&path, of(&hints("image-data", hint(2, 2, 6, false, 3, rows)), "").unwrap())
            .unwrap();
        let url = url::Url::from_file_path(&path).unwrap();
        for name in [path.to_str().unwrap(), url.as_str()] {
            assert_eq!(decode(&of(&HashMap::new(), name).unwrap()).unwrap().width, 2);
        }
        std::fs::write(&path, "GIF89a").unwrap();
        for name in
            [path.to_str().unwrap(), "/dev/zero", "/no/such", "file://host/x", "no such icon"]
        {
            assert!(of(&HashMap::new(), name).is_err(), "{name}");
        }
        assert!(of(&HashMap::new(), "").unwrap().is_empty());
    }
}
