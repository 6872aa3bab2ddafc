//! How much content may be, and what it must look like.

use clipboard::{FetchError, Format};

use crate::files;

/// PNG 5.2: the signature; 11.2.2: the header, which comes first and has 13 bytes.
const PNG_START: &[u8] = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR";
/// Pixels along an edge.
const LONGEST_EDGE: u32 = 32_767;
/// Pixels of a picture: 256 MiB where each has four bytes.
const MOST_PIXELS: u64 = 64 << 20;

/// Most bytes of a format.
#[must_use]
pub fn most(format: Format) -> usize {
    match format {
        Format::Text | Format::Html => 1 << 20,
        Format::Png => 32 << 20,
        Format::Files => files::MOST_BYTES,
    }
}

/// Whether these bytes are of this format, as far as it can be told without decoding all of them.
///
/// # Errors
/// They are not.
pub fn check(format: Format, bytes: &[u8]) -> Result<(), FetchError> {
    if bytes.len() > most(format) {
        return Err(FetchError::Large(most(format)));
    }
    match format {
        Format::Text | Format::Html if std::str::from_utf8(bytes).is_err() => {
            Err(FetchError::Failed("the text is not UTF-8".to_owned()))
        }
        Format::Text | Format::Html => Ok(()),
        Format::Png => png(bytes),
        Format::Files => files::decode(bytes).map(drop).map_err(|problem| {
            FetchError::Failed(format!("the list of files is not taken: {problem}"))
        }),
    }
}

fn png(bytes: &[u8]) -> Result<(), FetchError> {
    let wrong = |what: &str| Err(FetchError::Failed(format!("the picture is not taken: {what}")));
    let Some(rest) = bytes.strip_prefix(PNG_START) else {
        return wrong("it is not PNG");
    };
    let [w0, w1, w2, w3, h0, h1, h2, h3, depth, color, ..] = *rest else {
        return wrong("it ends within its header");
    };
    let (width, height) =
        (u32::from_be_bytes([w0, w1, w2, w3]), u32::from_be_bytes([h0, h1, h2, h3]));
    let edges = 1..=LONGEST_EDGE;
    if !edges.contains(&width)
        || !edges.contains(&height)
        || u64::from(width) * u64::from(height) > MOST_PIXELS
    {
        return wrong(&format!("it is {width} by {height} pixels large"));
    }
    // PNG 11.2.2, table 11.1.
    let known = match color {
        0 => matches!(depth, 1 | 2 | 4 | 8 | 16),
        3 => matches!(depth, 1 | 2 | 4 | 8),
        2 | 4 | 6 => matches!(depth, 8 | 16),
        _ => false,
    };
    if known { Ok(()) } else { wrong("its header has unknown colours") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(width: u32, height: u32, depth: u8, color: u8) -> Vec<u8> {
        let mut bytes = PNG_START.to_vec();
        bytes.extend(width.to_be_bytes());
        bytes.extend(height.to_be_bytes());
        bytes.extend([depth, color, 0, 0, 0]);
        bytes
    }

    #[test]
    fn text_is_utf_8_and_not_too_long() {
        assert_eq!(check(Format::Text, "Grüße".as_bytes()), Ok(()));
        assert_eq!(check(Format::Html, b""), Ok(()));
        assert!(check(Format::Text, b"\xff").is_err());
        assert_eq!(check(Format::Text, &vec![b'a'; 1 << 20]), Ok(()));
        let long = check(Format::Text, &vec![b'a'; (1 << 20) + 1]);
        assert_eq!(long, Err(FetchError::Large(1 << 20)));
    }

    #[test]
    fn a_picture_says_at_its_start_that_it_can_be_shown() {
        assert_eq!(check(Format::Png, &picture(1, 1, 8, 6)), Ok(()));
        assert_eq!(check(Format::Png, &picture(8192, 8192, 8, 2)), Ok(()));
        for wrong in [
            picture(0, 1, 8, 6),
            picture(1, 0, 8, 6),
            picture(LONGEST_EDGE + 1, 1, 8, 6),
            picture(8192, 8193, 8, 6),
            picture(u32::MAX, u32::MAX, 8, 6),
            picture(1, 1, 3, 6),
            picture(1, 1, 16, 3),
            picture(1, 1, 8, 9),
            picture(1, 1, 8, 6)[..20].to_vec(),
            b"GIF89a".to_vec(),
            Vec::new(),
        ] {
            assert!(matches!(check(Format::Png, &wrong), Err(FetchError::Failed(_))), "{wrong:?}");
        }
    }
}
