//! The icon of an item, drawn here: no theme has one in the VM's colour.

use crate::daemon::integration::windows::Looks;

/// `#` is the VM's colour, `o` white, `.` nothing.
type Drawing = [&'static [u8; 12]; 12];

/// Windows of their own.
const SEAMLESS: Drawing = [
    b".##########.",
    b"############",
    b"#ooooooo####",
    b"#o#####o####",
    b"#o##ooooooo#",
    b"#o##o#####o#",
    b"#o##o#####o#",
    b"#oooo#####o#",
    b"####o#####o#",
    b"####ooooooo#",
    b"############",
    b".##########.",
];

/// One screen.
const DESKTOP: Drawing = [
    b".##########.",
    b"############",
    b"#oooooooooo#",
    b"#o########o#",
    b"#o########o#",
    b"#o########o#",
    b"#o########o#",
    b"#oooooooooo#",
    b"#####oo#####",
    b"###oooooo###",
    b"############",
    b".##########.",
];

/// Pixels for each of a drawing's, for trays of 24 and of 48 pixels.
const SCALES: [usize; 2] = [2, 4];

/// `(iiay)` of the specification: width, height, and rows of opacity, red, green, blue, 8 bits each.
pub(super) type Pixmap = (i32, i32, Vec<u8>);

/// In several sizes.
pub(super) fn pixmaps(looks: Looks) -> Vec<Pixmap> {
    let drawing = if looks.seamless { &SEAMLESS } else { &DESKTOP };
    SCALES.map(|scale| pixmap(drawing, looks.colour, scale)).into()
}

fn pixmap(drawing: &Drawing, [red, green, blue]: [u8; 3], scale: usize) -> Pixmap {
    let mut bytes = Vec::new();
    for line in drawing {
        let mut row = Vec::new();
        for cell in *line {
            let pixel = match cell {
                b'#' => [255, red, green, blue],
                b'o' => [255; 4],
                _ => [0; 4],
            };
            row.extend(pixel.repeat(scale));
        }
        bytes.extend(row.repeat(scale));
    }
    // At most 48.
    let side = i32::try_from(drawing.len() * scale).unwrap_or(i32::MAX);
    (side, side, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_icon_has_the_vms_colour_and_says_how_its_windows_are_shown() {
        let colour = [0x12, 0x34, 0x56];
        let [seamless, desktop] = [true, false].map(|seamless| pixmaps(Looks { colour, seamless }));
        assert_ne!(seamless, desktop);
        for (width, height, bytes) in seamless.into_iter().chain(desktop) {
            assert_eq!(bytes.len(), usize::try_from(width * height * 4).unwrap());
            assert_eq!(bytes[..4], [0; 4], "corners are not drawn");
            let row = usize::try_from(width * 4).unwrap();
            // Second row of the drawing, first pixel.
            let scale = usize::try_from(width).unwrap() / 12;
            assert_eq!(bytes[row * scale..][..4], [255, 0x12, 0x34, 0x56]);
            assert!(bytes.chunks(4).any(|pixel| pixel == [255; 4]));
        }
    }
}
