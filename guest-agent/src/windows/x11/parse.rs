//! What properties of windows say. Their content is any program's: every function takes any bytes.

use proto::v1::{Extents, SizeHints};

/// Text of a property: UTF-8 where it says so, else Latin 1, of which COMPOUND_TEXT's common part consists
/// (ICCCM 2.7.1). What is no UTF-8 becomes replacement characters.
#[must_use]
pub fn text(bytes: &[u8], utf8: bool) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    let bytes = &bytes[..end];
    match utf8 || (std::str::from_utf8(bytes).is_ok() && !bytes.is_ascii()) {
        true => String::from_utf8_lossy(bytes).into_owned(),
        false => bytes.iter().map(|byte| char::from(*byte)).collect(),
    }
}

/// WM_CLASS: instance and class (ICCCM 4.1.2.5).
#[must_use]
pub fn class(bytes: &[u8]) -> (String, String) {
    let mut parts = bytes.split(|byte| *byte == 0);
    let mut next = || text(parts.next().unwrap_or_default(), false);
    (next(), next())
}

/// WM_NORMAL_HINTS as far as it is used (ICCCM 4.1.2.3).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct NormalHints {
    /// The user has chosen the position.
    pub user_position: bool,
    /// The program has.
    pub program_position: bool,
    /// For the host.
    pub sizes: SizeHints,
    /// What stays at its place when a frame is put around (ICCCM: win_gravity); 0 when not given.
    pub gravity: u32,
}

/// Reads WM_NORMAL_HINTS.
#[must_use]
pub fn normal_hints(values: &[u32]) -> NormalHints {
    let flags = values.first().copied().unwrap_or_default();
    let has = |bit: u32| flags & (1 << bit) != 0;
    // Fields are signed; a negative size is none.
    let value = |n: usize| {
        let value = values.get(n).copied().unwrap_or_default();
        if value > i32::MAX as u32 { 0 } else { value }
    };
    let pair = |bit: u32, n: usize| if has(bit) { (value(n), value(n + 1)) } else { (0, 0) };
    let (min_width, min_height) = pair(4, 5);
    let (max_width, max_height) = pair(5, 7);
    let (width_increment, height_increment) = pair(6, 9);
    let (base_width, base_height) = pair(8, 15);
    NormalHints {
        user_position: has(0),
        program_position: has(2),
        sizes: SizeHints {
            min_width,
            min_height,
            max_width,
            max_height,
            base_width,
            base_height,
            width_increment,
            height_increment,
        },
        gravity: if has(9) { value(17) } else { 0 },
    }
}

/// WM_HINTS as far as it is used (ICCCM 4.1.2.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hints {
    /// The window takes the keyboard when it is given to it.
    pub input: bool,
    /// It wants to be looked at.
    pub urgent: bool,
    /// It begins minimized.
    pub iconic: bool,
    /// Pixmaps of its icon: the picture and where it is opaque; 0 for none.
    pub icon: (u32, u32),
}

/// Reads WM_HINTS; what is not said is as most programs want it.
#[must_use]
pub fn hints(values: &[u32]) -> Hints {
    let value = |n: usize| values.get(n).copied().unwrap_or_default();
    let flags = value(0);
    Hints {
        input: flags & 1 == 0 || value(1) != 0,
        urgent: flags & (1 << 8) != 0,
        iconic: flags & (1 << 1) != 0 && value(2) == 3,
        icon: (
            if flags & (1 << 2) != 0 { value(3) } else { 0 },
            if flags & (1 << 5) != 0 { value(7) } else { 0 },
        ),
    }
}

/// Whether _MOTIF_WM_HINTS asks for no frame: flags, functions, decorations.
#[must_use]
pub fn motif_undecorated(values: &[u32]) -> bool {
    let value = |n: usize| values.get(n).copied().unwrap_or_default();
    value(0) & 2 != 0 && value(2) == 0
}

/// _GTK_FRAME_EXTENTS: left, right, top, bottom.
#[must_use]
pub fn extents(values: &[u32]) -> Option<Extents> {
    match *values {
        [left, right, top, bottom, ..] => Some(Extents { left, right, top, bottom }),
        _ => None,
    }
}

/// Pixels of an icon or cursor as the protocol has them: blue first.
#[must_use]
pub fn pixels(argb: &[u32]) -> Vec<u8> {
    argb.iter().flat_map(|pixel| pixel.to_le_bytes()).collect()
}

/// Pixels of one in a list of icons that are asked for: offset in the property, in its units, with the size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IconAt {
    /// Of the first pixel, in 32-bit units.
    pub offset: u32,
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
}

/// Where the icon after this one begins, or none when the header makes no sense.
#[must_use]
pub fn icon(at: u32, header: &[u32], length: u32) -> Option<(IconAt, u32)> {
    let [width, height, ..] = *header else { return None };
    let offset = at.checked_add(2)?;
    let next = width.checked_mul(height).filter(|size| *size > 0)?.checked_add(offset)?;
    (next <= length).then_some((IconAt { offset, width, height }, next))
}

/// All of them at once, for the fuzzer.
pub fn everything(bytes: &[u8]) {
    let values: Vec<u32> = bytes
        .chunks_exact(4)
        .map(|chunk| u32::from_le_bytes([chunk[0], chunk[1], chunk[2], chunk[3]]))
        .collect();
    let mut window = proto::v1::Window {
        title: text(bytes, bytes.len().is_multiple_of(2)),
        size_hints: Some(normal_hints(&values).sizes),
        shadow: extents(&values),
        undecorated: motif_undecorated(&values),
        ..proto::v1::Window::default()
    };
    (window.instance, window.class) = class(bytes);
    let hints = hints(&values);
    window.no_focus = !hints.input;
    let mut at = 0;
    let length = u32::try_from(values.len()).unwrap_or(u32::MAX);
    while let Some((_, next)) = icon(at, values.get(at as usize..).unwrap_or_default(), length) {
        assert!(next > at);
        at = next;
    }
    crate::windows::record::clean(&mut window);
    assert!(window.title.len() <= window_link::limits::TITLE);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_bytes_are_read(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            everything(&bytes);
        }
    }

    #[test]
    fn text_is_utf8_where_it_says_so_or_is_nothing_else() {
        assert_eq!(text("Zürich".as_bytes(), true), "Zürich");
        assert_eq!(text(b"Z\xfcrich", false), "Zürich");
        assert_eq!(text("Zürich".as_bytes(), false), "Zürich");
        assert_eq!(text(b"a\xffb\0c", true), "a\u{fffd}b");
    }

    #[test]
    fn class_has_two_parts() {
        assert_eq!(class(b"xterm\0XTerm\0"), ("xterm".into(), "XTerm".into()));
        assert_eq!(class(b"one"), ("one".into(), String::new()));
        assert_eq!(class(b""), (String::new(), String::new()));
    }

    #[test]
    fn xterms_hints_are_read() {
        // Of an xterm with 80 columns: xprop -id ID 32x WM_NORMAL_HINTS.
        let values = [0x350, 0, 0, 484, 316, 10, 17, 0, 0, 6, 13, 0, 0, 0, 0, 4, 4, 1]
            .map(|value: u32| value);
        let hints = normal_hints(&values);
        assert_eq!((hints.sizes.min_width, hints.sizes.min_height), (10, 17));
        assert_eq!((hints.sizes.max_width, hints.sizes.max_height), (0, 0));
        assert_eq!((hints.sizes.width_increment, hints.sizes.height_increment), (6, 13));
        assert_eq!((hints.sizes.base_width, hints.sizes.base_height), (4, 4));
        assert_eq!(hints.gravity, 1);
        assert!(!hints.user_position && !hints.program_position);
        let negative = normal_hints(&[0x10, 0, 0, 0, 0, u32::MAX, 5]);
        assert_eq!((negative.sizes.min_width, negative.sizes.min_height), (0, 5));
    }

    #[test]
    fn a_list_of_icons_ends_where_it_makes_no_sense() {
        let two = [2, 1, 7, 7, 1, 1, 9];
        assert_eq!(icon(0, &two, 7), Some((IconAt { offset: 2, width: 2, height: 1 }, 4)));
        assert_eq!(icon(4, &two[4..], 7), Some((IconAt { offset: 6, width: 1, height: 1 }, 7)));
        assert_eq!(icon(7, &[], 7), None);
        assert_eq!(icon(0, &[3, 3], 7), None);
        assert_eq!(icon(0, &[u32::MAX, u32::MAX], u32::MAX), None);
        assert_eq!(icon(0, &[0, 5], 7), None);
    }
}
